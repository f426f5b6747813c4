"""Text-guided segmentation: joins network, text encoder and the supervised objective.

Shapes: B images, N rows (phrases), L tokens, D text features, K classes, H W the model's grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from medvl.config import Config
from medvl.core.learner import Learner
from medvl.data.dataset import Batch
from medvl.data.text_input import TextInput
from medvl.losses.segmentation import deep_supervision, segmentation_loss, weighted_terms
from medvl.models.masks import class_masks, probs_from_logits
from medvl.models.module import SegmentModel


def dice_per_row(predicted: Tensor, target: Tensor) -> Tensor:
    """Dice of each (row, class) on the model's grid, both empty = 1: (N, K, H, W) bool and {0, 1} -> (N, K)."""
    true = target > 0.5
    both = (predicted & true).flatten(2).sum(dim=2).double()  # (N, K)
    total = (predicted.flatten(2).sum(dim=2) + true.flatten(2).sum(dim=2)).double()  # (N, K)
    return torch.where(total > 0, 2 * both / total.clamp(min=1), torch.ones_like(total))


class SegmentLearner(Learner):
    """The supervised task."""

    metric = "dice_per_image"
    module: SegmentModel

    def __init__(self, config: Config, module: SegmentModel, text: TextInput) -> None:
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

    def twin(self, module: nn.Module) -> SegmentLearner:
        """A learner of this kind round `module`, to time steps with; what it does leaves no trace in this one."""
        return SegmentLearner(self.config, module, replace(self.text))  # type: ignore[arg-type]  # of the same class

    def _loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        mode = self.config.objective.mode
        loss = partial(segmentation_loss, target=batch.target, annotated=batch.annotated, mode=mode, terms=self.terms)
        return deep_supervision(loss, logits)  # networks with one head give (N, K, H, W)
