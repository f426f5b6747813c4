"""A similarity map against a mask: pixels above every threshold at once, pointing game, contrast to noise.

Shapes: H W pixels, T thresholds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = np.linspace(-1.0, 1.0, 2001).astype(np.float32)  # thresholds that are tried, 0.001 apart
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Asked:
    """A map against a mask, reduced to what every threshold needs: pixels above each level."""

    pred_px: NDArray[np.int64]  # (T,)
    both_px: NDArray[np.int64]  # (T,), of them inside the mask
    true_px: int
    num_px: int
    pointing: float
    cnr: float

    def overlap(self, at: int | slice) -> tuple[Any, Any, Any]:
        """Dice, IoU and recall at one level, or at many."""
        both, total = self.both_px[at], self.pred_px[at] + self.true_px
        return 2 * both / total, both / (total - both), both / self.true_px


def measure(similarity_map: FloatArray, mask: BoolArray, levels: FloatArray = LEVELS) -> Asked:
    """(H, W) and (H, W) with at least one pixel -> what `Asked` holds, at rising `levels`."""
    inside = np.asarray(similarity_map[mask], dtype=np.float64)
    outside = np.asarray(similarity_map[~mask], dtype=np.float64)
    # The number of levels below a value: a pixel is predicted at all of those.
    place = np.searchsorted(levels, similarity_map, side="left")
    return Asked(
        pred_px=_above(place.ravel(), len(levels)),
        both_px=_above(place[mask], len(levels)),
        true_px=len(inside),
        num_px=mask.size,
        pointing=pointing_game(similarity_map, mask),
        cnr=contrast_to_noise(inside, outside),
    )


def contrast_to_noise(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """(mu_in - mu_out) / sqrt(var_in + var_out) of two sets of values, with its sign (Boecking et al., ECCV 2022, give
    the magnitude). NaN where a set is empty or neither varies."""
    if not len(inside) or not len(outside):
        return math.nan
    noise = float(inside.var() + outside.var())
    return float(inside.mean() - outside.mean()) / math.sqrt(noise) if noise > 0 else math.nan


def pointing_game(similarity_map: FloatArray, mask: BoolArray) -> float:
    """Share of the highest places that lie in the mask: 0 or 1 unless several are equally high."""
    highest = similarity_map >= similarity_map.max()
    return float((highest & mask).sum() / highest.sum())


def _above(place: NDArray[np.int_], num_levels: int) -> NDArray[np.int64]:
    """How many of `place` lie above each level: (n,) -> (T,)."""
    counts = np.bincount(place, minlength=num_levels + 1)
    return np.asarray(counts[::-1].cumsum()[::-1][1:], dtype=np.int64)
