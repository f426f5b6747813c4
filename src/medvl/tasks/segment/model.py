"""The model of `task: segment`: a segmentation network and its text encoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from medvl.config import Config
from medvl.core.errors import InputError
from medvl.data.context import ContextRules
from medvl.models.module import SegmentModel
from medvl.models.registry import MODELS, build_model, configured_options, option_names
from medvl.text.base import TextEncoder
from medvl.text.registry import configured_encoder


def build_segmenter(
    config: Config,
    num_classes: int,
    texts: Iterable[str],
    context: ContextRules | None = None,
    patients: Sequence[str] | None = None,
) -> tuple[SegmentModel, TextEncoder | None]:
    """Network and text encoder of a configuration, initialised from `train.seed`.

    Args:
        texts: the training texts, one per row, of which the built-in encoder learns its vocabulary.
        context: how the clinical variables beside the text are read.
        patients: whose each text is; None = every text is of a patient of its own.
    """
    torch.manual_seed(config.train.seed)
    takes_text = "text_dim" in option_names(config.model.name) and config.model.options.get("text_merge") != "none"
    text = config.text if takes_text else replace(config.text, encoder="none")
    encoder = configured_encoder(text, list(texts), config.train.seed, patients)
    network = build_model(config.model.name, **network_options(config, num_classes, encoder))
    return SegmentModel(network, encoder, context), encoder


def network_options(config: Config, num_classes: int, encoder: TextEncoder | None) -> dict[str, Any]:
    """The constructor arguments of a configuration's network."""
    set_elsewhere = {
        "in_channels": config.data.in_channels,
        "num_classes": num_classes + (config.objective.mode == "multiclass"),  # class 0 is then the background
        "image_size": config.data.image_size,
    }
    instead: dict[str, Any] = {}
    if "text_dim" in option_names(config.model.name):
        if encoder is not None:
            set_elsewhere["text_dim"] = encoder.dim
        elif config.model.name == "lvit":
            instead["text_merge"] = "none"  # LViT-TW
        else:
            raise InputError.missing(
                f"model {config.model.name} is guided by text and text.encoder is none",
                expected="text.encoder: builtin, minilm or hf:ID-or-folder",
                remedy="model.name: unet has no text",
            )
    return configured_options(MODELS[config.model.name], config.model, set_elsewhere, **instead)
