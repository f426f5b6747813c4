"""Text-guided segmentation: joins network, text encoder and the supervised objective.

Shapes: B images, N rows (phrases), L tokens, D text features, K classes, H W the model's grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medvl.config import Config
from medvl.data.dataset import Batch
from medvl.errors import InputError
from medvl.models.registry import build_model, option_names
from medvl.objectives.overlap import deep_supervision, segmentation_loss
from medvl.text.cache import FeatureCache
from medvl.text.encoder import TextEncoder, build_text_encoder


class TextGuidedSegmenter(nn.Module):
    """A network and, where the text encoder learns with it, that encoder: what is optimised and saved together.

    A frozen encoder stands outside (its features come ready-made from a cache), so that it is neither trained nor
    stored a second time.
    """

    def __init__(self, network: nn.Module, text_encoder: TextEncoder | None) -> None:
        super().__init__()
        self.network: Any = network  # LViT, UNet: encode_image, decode, uses_text
        self.text_encoder = text_encoder if text_encoder is not None and not text_encoder.frozen else None

    @property
    def uses_text(self) -> bool:
        """Whether the network takes text at all."""
        return bool(self.network.uses_text)

    def forward(self, image: Tensor, image_index: Tensor, text: Tensor | None, text_mask: Tensor | None) -> Tensor:
        """(B, C, H, W), (N,), tokens (N, L) or features (N, L, D), (N, L) -> logits (N, K, H, W)."""
        if self.text_encoder is not None and text is not None:
            text = self.text_encoder(text, text_mask)  # (N, L, D)
        logits = self.network(image, text, text_mask, image_index)
        assert isinstance(logits, Tensor)
        return logits


@dataclass
class TextInput:
    """Texts -> what `TextGuidedSegmenter.forward` takes: tokens of a trained encoder, features of a frozen one."""

    encoder: TextEncoder | None
    cache: FeatureCache | None
    uses_text: bool
    num_truncated: int = 0

    def __call__(self, texts: Iterable[str], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """-> (ids (N, L) or features (N, L, D), mask (N, L)), or (None, None) for a network without text."""
        if not self.uses_text or self.encoder is None:
            return None, None
        if self.cache is not None:
            features, mask = self.cache.features(list(texts))
            return features.to(device), mask.to(device)
        tokens = self.encoder.tokenize(list(texts))
        self.num_truncated += tokens.num_truncated
        return tokens.ids.to(device), tokens.mask.to(device)


def build_segmenter(
    config: Config, num_classes: int, texts: Iterable[str]
) -> tuple[TextGuidedSegmenter, TextEncoder | None]:
    """Network and text encoder of a configuration, initialised from `train.seed`.

    Args:
        texts: the training texts, of which the built-in encoder learns its vocabulary.
    """
    torch.manual_seed(config.train.seed)
    takes_text = "text_dim" in option_names(config.model.name) and config.model.options.get("text_merge") != "none"
    encoder = build_text_encoder(
        config.text.encoder if takes_text else "none",
        texts=list(texts),
        dim=config.text.dim,
        max_tokens=config.text.max_tokens,
        seed=config.train.seed,
    )
    network = build_model(config.model.name, **network_options(config, num_classes, encoder))
    return TextGuidedSegmenter(network, encoder), encoder


def network_options(config: Config, num_classes: int, encoder: TextEncoder | None) -> dict[str, Any]:
    """The constructor arguments of a configuration's network."""
    options = dict(config.model.options)
    if "text_dim" in option_names(config.model.name):
        if encoder is not None:
            options["text_dim"] = encoder.dim
        elif config.model.name == "lvit":
            options["text_merge"] = "none"  # LViT-TW
        else:
            raise InputError(
                f"model {config.model.name} is guided by text and text.encoder is none",
                expected="text.encoder: builtin, minilm or hf:ID-or-folder",
                remedy="model.name: unet has no text",
            )
    return {
        "size": config.model.size,
        "in_channels": config.data.in_channels,
        "num_classes": num_classes + (config.objective.mode == "multiclass"),  # class 0 is then the background
        "image_size": config.data.image_size,
        **options,
    }


def probs_from_logits(logits: Tensor, mode: str) -> Tensor:
    """Logits (N, K or K+1, H, W) -> probabilities (N, K, H, W) of the named classes."""
    if mode == "multiclass":
        return logits.softmax(dim=1)[:, 1:]
    return logits.sigmoid()


def dice_per_row(probs: Tensor, target: Tensor, threshold: float = 0.5) -> Tensor:
    """Dice of each (row, class) at `threshold` on the model's grid, both empty = 1: (N, K, H, W) x 2 -> (N, K)."""
    predicted = probs > threshold
    true = target > 0.5
    both = (predicted & true).flatten(2).sum(dim=2).double()  # (N, K)
    total = (predicted.flatten(2).sum(dim=2) + true.flatten(2).sum(dim=2)).double()  # (N, K)
    return torch.where(total > 0, 2 * both / total.clamp(min=1), torch.ones_like(total))


class SegmentTask:
    """The supervised task: one `training_step`, one `validation_step`, and hooks that other tasks fill.

    The loop sets `progress` (0 to 1) before each step and knows nothing else.
    """

    metric = "dice_per_image"
    progress = 0.0

    def __init__(self, config: Config, module: TextGuidedSegmenter, text: TextInput) -> None:
        self.config, self.module, self.text = config, module, text

    def logits(self, batch: Batch, module: nn.Module | None = None) -> Tensor:
        """Logits (N, K, H, W) of a batch, by `module` (e.g. the averaged weights) or the task's own."""
        tokens, mask = self.text(batch.texts, batch.image.device)
        result = (module or self.module)(batch.image, batch.image_index, tokens, mask)
        assert isinstance(result, Tensor)
        return result

    def training_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """`loss` (scalar, with graph) and its parts (scalars, detached)."""
        return self._loss(self.logits(batch, module), batch)

    def validation_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """Sums over the annotated (row, class) pairs: `dice_sum`, `num`, and `loss` times `num`."""
        logits = self.logits(batch, module)
        dice = dice_per_row(probs_from_logits(logits, self.config.objective.mode), torch.nan_to_num(batch.target))
        num = batch.annotated.sum().double()
        loss = self._loss(logits, batch)["loss"].double()
        return {"dice_sum": (dice * batch.annotated).sum(), "num": num, "loss_sum": loss * num}

    def twin(self, device: torch.device) -> SegmentTask:
        """A copy on `device` to time steps with; what it does leaves no trace in this one."""
        return SegmentTask(self.config, deepcopy(self.module).to(device), deepcopy(self.text))

    def begin(self, state: dict[str, Any] | None, step: int) -> None:
        """Before the first step; `state` is what `state_dict` gave when an interrupted run saved its step `step`."""

    def after_step(self, step: int) -> None:
        """After the optimizer's step."""

    def after_epoch(self) -> dict[str, float]:
        """-> values to log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the task itself must keep to be resumed."""
        return {}

    def saved(self, step: int) -> None:
        """The run's state of `step` is on disk."""

    def _loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        objective = self.config.objective
        loss = partial(
            segmentation_loss,
            target=batch.target,
            annotated=batch.annotated,
            mode=objective.mode,
            dice_weight=objective.dice_weight,
            ce_weight=objective.ce_weight,
            ce_balance=objective.ce_balance,
        )
        return deep_supervision(loss, logits)  # networks with one head give (N, K, H, W)
