"""Text-guided segmentation: joins network, text encoder and the supervised objective.

Shapes: B images, N rows (phrases), L tokens, D text features, K classes, H W the model's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvl.config import Config
from medvl.core.device import full_floats
from medvl.core.errors import InputError
from medvl.core.learner import Task
from medvl.data.context import ContextRules
from medvl.data.dataset import Batch
from medvl.data.text_input import TextInput
from medvl.losses.segmentation import deep_supervision, segmentation_loss, weighted_terms
from medvl.models.context_tokens import ContextTokens
from medvl.models.registry import MODELS, build_model, model_keys, option_names
from medvl.text.base import TextEncoder
from medvl.text.registry import configured_encoder

Array = TypeVar("Array", Tensor, NDArray[Any])


class TextGuidedSegmenter(nn.Module):
    """A network and, where the text encoder learns with it, that encoder: what is optimised and saved together.

    A frozen encoder stands outside (its features come ready-made from a cache), so that it is neither trained nor
    stored a second time.
    """

    def __init__(
        self, network: nn.Module, text_encoder: TextEncoder | None, context: ContextRules | None = None
    ) -> None:
        """`context`: how the clinical variables beside the text are read; as tokens, they have a layer here."""
        super().__init__()
        self.context = context
        self.network: Any = network  # LViT, UNet: encode_image, decode, uses_text
        self.text_encoder = text_encoder if text_encoder is not None and not text_encoder.frozen else None
        self._frozen: tuple[str, ...] = ()
        self.context_tokens: ContextTokens | None = None
        if context is not None and context.mode == "tokens":  # made last: the network starts as it does without them
            self.context_tokens = ContextTokens(context.num_categories, int(network.text_dim))  # type: ignore[arg-type]

    def freeze(self, *parts: str) -> None:
        """Parts of the network (names of its submodules) that keep weights and statistics from now on.

        Raises:
            InputError: the network has no such part.
        """
        for part in parts:
            if not isinstance(getattr(self.network, part, None), nn.Module):
                raise InputError.unknown(
                    f"{type(self.network).__name__} has no {part} to freeze", remedy="train.freeze_encoder: false"
                )
            getattr(self.network, part).requires_grad_(False)
        self._frozen = parts
        self.train(self.training)

    def train(self, mode: bool = True) -> TextGuidedSegmenter:
        """What is frozen stays in eval mode."""
        super().train(mode)
        for part in self._frozen:
            getattr(self.network, part).eval()
        return self

    @property
    def uses_text(self) -> bool:
        """Whether the network takes text at all."""
        return bool(self.network.uses_text)

    def encode_text(self, text: Tensor | None, text_mask: Tensor | None) -> Tensor | None:
        """Tokens (N, L) -> features (N, L, D); features of a frozen encoder stay as they are.

        Features given to an encoder that is frozen in part are those of its frozen layers: the others follow here.
        """
        if self.text_encoder is None or text is None:
            return text
        if text.is_floating_point():
            assert text_mask is not None
            return self.text_encoder.suffix(text, text_mask)
        features: Tensor = self.text_encoder(text, text_mask)
        return features

    def text_features(
        self, text: Tensor | None, text_mask: Tensor | None, context: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """`encode_text`, with the context's tokens before those of the text: (N, k + L, D) and (N, k + L).

        Args:
            context: (N, k) values of the clinical variables, NaN = missing; None for a model without their tokens.
        """
        features = self.encode_text(text, text_mask)
        if self.context_tokens is None or features is None:
            return features, text_mask
        assert context is not None and text_mask is not None
        return self.context_tokens.before(features, text_mask, context)

    def forward(
        self,
        image: Tensor,
        image_index: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        context: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W), (N,), tokens (N, L) or features (N, L, D), (N, L), (N, k) -> logits (N, K, H, W)."""
        features, text_mask = self.text_features(text, text_mask, context)
        logits = self.network(image, features, text_mask, image_index)
        assert isinstance(logits, Tensor)
        return logits


def build_segmenter(
    config: Config,
    num_classes: int,
    texts: Iterable[str],
    context: ContextRules | None = None,
    patients: Sequence[str] | None = None,
) -> tuple[TextGuidedSegmenter, TextEncoder | None]:
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
    return TextGuidedSegmenter(network, encoder, context), encoder


def network_options(config: Config, num_classes: int, encoder: TextEncoder | None) -> dict[str, Any]:
    """The constructor arguments of a configuration's network."""
    options = dict(config.model.options)
    if "text_dim" in option_names(config.model.name):
        if encoder is not None:
            options["text_dim"] = encoder.dim
        elif config.model.name == "lvit":
            options["text_merge"] = "none"  # LViT-TW
        else:
            raise InputError.missing(
                f"model {config.model.name} is guided by text and text.encoder is none",
                expected="text.encoder: builtin, minilm or hf:ID-or-folder",
                remedy="model.name: unet has no text",
            )
    return {
        **model_keys(MODELS[config.model.name], config.model),
        "in_channels": config.data.in_channels,
        "num_classes": num_classes + (config.objective.mode == "multiclass"),  # class 0 is then the background
        "image_size": config.data.image_size,
        **options,
    }


def probs_from_logits(logits: Tensor, mode: str) -> Tensor:
    """Logits (N, K or K+1, H, W) -> probabilities (N, K, H, W) of the named classes, float32 at least."""
    logits = full_floats(logits)
    if mode == "multiclass":
        return logits.softmax(dim=1)[:, 1:]
    return logits.sigmoid()


def class_masks(probs: Array, mode: str, threshold: float = 0.5) -> Array:
    """Probabilities (..., K, H, W) of the named classes, a tensor or an array -> masks of the same shape, bool.

    Above `threshold`; with mode "multiclass" the most probable of background and classes, whatever the threshold: of
    one softmax the likeliest class may well be below one half. (Background is what the classes leave of 1; of equal
    ones it comes first, then the first class.)
    """
    if mode != "multiclass":
        return probs > threshold
    background = 1 - probs.sum(-3)  # (..., H, W)
    best = probs.argmax(-3)
    kinds = range(probs.shape[-3])
    masks = [(best == k) & (probs[..., k, :, :] > background) for k in kinds]
    return torch.stack(masks, -3) if isinstance(probs, Tensor) else np.stack(masks, -3)


def exclusive_threshold(threshold: float | str) -> InputError:
    """The error of a threshold for a model of exclusive classes."""
    return InputError.conflict(
        f"threshold {threshold} where the most probable class is taken",
        expected="none: the model has one class per pixel (objective.mode: multiclass)",
        remedy="leave out the threshold",
    )


def dice_per_row(predicted: Tensor, target: Tensor) -> Tensor:
    """Dice of each (row, class) on the model's grid, both empty = 1: (N, K, H, W) bool and {0, 1} -> (N, K)."""
    true = target > 0.5
    both = (predicted & true).flatten(2).sum(dim=2).double()  # (N, K)
    total = (predicted.flatten(2).sum(dim=2) + true.flatten(2).sum(dim=2)).double()  # (N, K)
    return torch.where(total > 0, 2 * both / total.clamp(min=1), torch.ones_like(total))


class SegmentTask(Task):
    """The supervised task."""

    metric = "dice_per_image"
    module: TextGuidedSegmenter

    def __init__(self, config: Config, module: TextGuidedSegmenter, text: TextInput) -> None:
        """InputError where `objective` names a term or an option that there is not."""
        self.config, self.module, self.text = config, module, text
        self.terms = weighted_terms(config.objective)

    def logits(self, batch: Batch, module: nn.Module | None = None) -> Tensor:
        """Logits (N, K, H, W) of a batch, by `module` (e.g. the averaged weights) or the task's own."""
        tokens, mask = self.text(batch.texts, batch.image.device, batch.context)
        context = self.text.context_values(len(batch.texts), batch.context, batch.image.device)
        result = (module or self.module)(batch.image, batch.image_index, tokens, mask, context)
        assert isinstance(result, Tensor)
        return result

    def training_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """`loss` (scalar, with graph) and its parts (scalars, detached)."""
        return self._loss(self.logits(batch, module), batch)

    def validation_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """Sums over the annotated (row, class) pairs: `dice_sum`, `num`, and `loss` times `num`."""
        logits = self.logits(batch, module)
        mode = self.config.objective.mode
        dice = dice_per_row(class_masks(probs_from_logits(logits, mode), mode), torch.nan_to_num(batch.target))
        num = batch.annotated.sum().double()
        loss = self._loss(logits, batch)["loss"].double()
        return {"dice_sum": (dice * batch.annotated).sum(), "num": num, "loss_sum": loss * num}

    def validation_values(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """`dice_per_image` and `loss`, means over the annotated (row, class) pairs."""
        num = max(float(totals["num"]), 1.0)
        return {self.metric: float(totals["dice_sum"]) / num, "loss": float(totals["loss_sum"]) / num}

    def twin(self, device: torch.device) -> SegmentTask:
        """A copy on `device` to time steps with; what it does leaves no trace in this one."""
        return SegmentTask(self.config, deepcopy(self.module).to(device), deepcopy(self.text))

    def _loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        mode = self.config.objective.mode
        loss = partial(segmentation_loss, target=batch.target, annotated=batch.annotated, mode=mode, terms=self.terms)
        return deep_supervision(loss, logits)  # networks with one head give (N, K, H, W)
