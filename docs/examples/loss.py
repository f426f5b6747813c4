"""A loss of segmentation: import this file, and `objective.terms: [{name: focal_tversky, alpha: 0.8}]` trains with it.

Inside medvl it is one function in src/medvl/losses/segmentation.py.
"""

from __future__ import annotations

from torch import Tensor

from medvl.config.objective import Mode
from medvl.config.ranges import Positive, Weight
from medvl.losses.segmentation import known_pairs, loss_term, mean_where
from medvl.models.masks import probs_from_logits


@loss_term("focal_tversky")
def focal_tversky_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor | None = None,
    *,
    mode: Mode = "binary",
    alpha: Weight = 0.7,
    beta: Weight = 0.3,
    gamma: Positive = 4 / 3,
) -> Tensor:
    """(1 - T) ** (1 / gamma), T = TP / (TP + alpha FN + beta FP) of each (row, class): arXiv 1810.07842."""
    logits, target, annotated = known_pairs(logits, target, annotated, mode)
    p, t = probs_from_logits(logits, mode).flatten(2), target.flatten(2)  # (N, K, H*W)
    hit, missed, false = (p * t).sum(2), ((1 - p) * t).sum(2), (p * (1 - t)).sum(2)  # (N, K)
    index = (hit + 1e-5) / (hit + alpha * missed + beta * false + 1e-5)
    return mean_where((1 - index).clamp(min=1e-7) ** (1 / gamma), annotated)
