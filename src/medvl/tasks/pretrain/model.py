"""The model of `task: pretrain`: G2D and its text encoder.

Shapes: B pairs, L tokens, D text features, d joint width, k clinical variables, C channels, H W the model's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from medvl.config import Config
from medvl.core.errors import InputError
from medvl.data.context import ContextRules
from medvl.models.g2d import G2D, ImageOutput
from medvl.models.module import TextModule
from medvl.models.registry import configured_options, construct
from medvl.text.base import TextEncoder
from medvl.text.registry import configured_encoder


class G2DModel(TextModule):
    """G2D and, where any of it learns, the text encoder: what is optimised and saved together."""

    network: G2D

    def forward(
        self, image: Tensor, text: Tensor, text_mask: Tensor, decode: bool = True, context: Tensor | None = None
    ) -> tuple[ImageOutput, Tensor]:
        """(B, C, H, W), tokens (B, L) or features (B, L, D), (B, L), (B, k) -> what G2D says, texts' vectors (B, d)."""
        features, mask = self.text_features(text, text_mask, context)
        output, vectors = self.network(image, features, mask, decode)
        assert isinstance(output, ImageOutput) and isinstance(vectors, Tensor)
        return output, vectors


def build_g2d_model(
    config: Config,
    texts: Iterable[str],
    context: ContextRules | None = None,
    patients: Sequence[str] | None = None,
) -> tuple[G2DModel, TextEncoder]:
    """G2D and text encoder of a configuration, initialised from `train.seed`.

    Args:
        texts: the training texts, one per row, of which the built-in encoder learns its vocabulary.
        context: how the clinical variables beside the text are read.
        patients: whose each text is; None = every text is of a patient of its own.
    """
    torch.manual_seed(config.train.seed)
    encoder = configured_encoder(config.text, list(texts), config.train.seed, patients)
    if encoder is None:
        raise InputError.missing("text.encoder is none", expected="a text encoder: pre-training is on images and texts")
    return G2DModel(construct(G2D, "g2d", g2d_options(config, encoder)), encoder, context), encoder


def g2d_options(config: Config, encoder: TextEncoder) -> dict[str, Any]:
    """The constructor arguments of a configuration's G2D. InputError on an option that G2D does not have."""
    options, pretrain = config.model.options, config.pretrain
    if pretrain.mask.source == "evidence" and pretrain.mask.domain == "image":
        raise InputError.conflict(
            "pretrain.mask.source: evidence with domain: image", expected="domain: body",
            remedy="evidence may be negative, so that 0 outside the body would not be the lowest value",
        )  # fmt: skip
    if pretrain.decoder == "pseudo_mask" and options.get("pool", "attention") != "attention":
        raise InputError.conflict(
            "model.options.pool: average has no attention to make a pseudo mask of", expected="attention"
        )
    heads = options.get("heads", 4)
    outputs = {"pseudo_mask": 1 if pretrain.mask.aggregate else heads, "reconstruction": config.data.in_channels}
    set_elsewhere = {
        "in_channels": config.data.in_channels,
        "num_outputs": outputs.get(pretrain.decoder, 1),
        "text_dim": encoder.dim,
        "image_size": config.data.image_size,
        "decoder": "none" if pretrain.decoder == "none" else "unet",
    }
    return configured_options(G2D, config.model, set_elsewhere)
