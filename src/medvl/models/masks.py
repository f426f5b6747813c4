"""Logits -> probabilities -> masks.

Shapes: N rows (prompts), K classes, H W pixels.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.core.device import full_floats
from medvl.core.errors import InputError

Array = TypeVar("Array", Tensor, NDArray[Any])


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
