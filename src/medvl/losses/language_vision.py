"""The LV loss of LViT (Eq. 16 to 18): a prediction should look like the mask of the most similar text.

    c* = argmax over the contrastive bank of TextSim(text, c);   L_LV = 1 - cos(prediction, mask of c*)

The released program has only fragments of it (a similarity computed on pictures outside the graph). Here it is
differentiable in the prediction, on unlabelled records only.

Shapes: N rows, K classes, H W the model's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.core.device import full_floats
from medvl.core.errors import InputError

FloatArray = NDArray[np.float32]
EPSILON = 1e-6
TIE = 1e-6  # similarities this close are equal


def lv_loss(probs: Tensor, bank_mask: Tensor, counted: Tensor) -> Tensor:
    """1 - cos(probs, mask) over the pixels of each counted (row, class) pair, averaged; 0 where none is counted.

    Args:
        probs: (N, K, H, W) in [0, 1], with graph.
        bank_mask: (N, K, H, W) in [0, 1]. A pair whose mask is empty has no direction to follow and is not counted.
        counted: (N, K) bool.
    """
    p, m = full_floats(probs).flatten(2), full_floats(bank_mask).flatten(2)  # (N, K, H*W)
    norm = (p.square().sum(dim=2) * m.square().sum(dim=2) + EPSILON).sqrt()
    loss = 1 - (p * m).sum(dim=2) / norm  # (N, K)
    keep = counted & (m > 0).any(dim=2)
    return torch.where(keep, loss, 0).sum() / keep.sum().clamp(min=1)


def empty_bank() -> InputError:
    """The error of a bank without an entry."""
    return InputError.empty(
        "the contrastive bank of the LV loss is empty",
        expected="labelled records with a text and a mask that is not empty",
        remedy="semi.lv_bank: captions, or none",
    )


class ContrastiveBank:
    """Texts with masks, and for each query the mask of the most similar of them.

    Several entries that are equally similar (the same sentence about many images, above all) give the mean of their
    masks: the shape that the sentence has on average, independent of the entries' order. Masks are on the model's grid
    before augmentation; they follow the affine of the query's record afterwards, as everything of that record does.
    """

    def __init__(self, texts: Sequence[str], masks: Sequence[FloatArray]) -> None:
        """`masks` (K, H, W) each. Entries whose mask is empty in all classes are left out: nothing can look like them.

        Raises:
            InputError: no entry is left.
        """
        kept = [i for i, mask in enumerate(masks) if mask.any()]
        if not kept:
            raise empty_bank()
        sums: dict[str, FloatArray] = {}
        counts: dict[str, int] = {}
        for i in kept:  # one entry per distinct text: the mean of its masks and how many there were
            sums[texts[i]] = sums.get(texts[i], np.zeros_like(masks[i], dtype=np.float32)) + masks[i]
            counts[texts[i]] = counts.get(texts[i], 0) + 1
        self.texts = tuple(sums)
        self._sums, self._counts = list(sums.values()), list(counts.values())
        self.nearest: dict[
            str, Sequence[int]
        ] = {}  # entries by text, as `retrieve` finds them; a resumed run keeps them

    def retrieve(self, texts: Sequence[str], similarity: Tensor) -> None:
        """Remember the most similar entries of each text.

        Args:
            similarity: (len(texts), len(self.texts)). A text that is like no entry (at most 0) gets none.
        """
        best = similarity.max(dim=1).values
        near = similarity >= best[:, None] - TIE
        for text, row, value in zip(texts, near.tolist(), best.tolist(), strict=True):
            self.nearest[text] = [i for i, is_near in enumerate(row) if is_near] if value > 0 else []

    def mask(self, text: str) -> FloatArray | None:
        """(K, H, W) in [0, 1]: the mean mask of the entries nearest to a text; None without any."""
        nearest = self.nearest.get(text)
        if not nearest:
            return None
        total = np.sum([self._sums[i] for i in nearest], axis=0)
        return np.asarray(total / sum(self._counts[i] for i in nearest), dtype=np.float32)


# The areas of one lung in the drawings, from top to bottom: (upper, middle, lower).
_AREAS = ("upper", "middle", "lower")
_DRAWINGS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (  # (areas of the left lung, of the right lung)
    (("all",), ()), (("upper", "lower"), ()), (_AREAS, ()),
    ((), ("all",)), ((), ("upper", "lower")), ((), _AREAS),
    (("all",), ("all",)),
    (("all",), ("upper", "middle")), (("all",), ("middle", "lower")),
    (("upper", "middle"), ("all",)), (("middle", "lower"), ("all",)),
    (("all",), _AREAS), (_AREAS, ("all",)), (("upper", "lower"), ("upper", "lower")),
)  # fmt: skip
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def caption_bank(size: tuple[int, int], laterality: str) -> tuple[list[str], list[FloatArray]]:
    """Fourteen captions in the manner of QaTa-COV19 with drawings of ellipses, made by rule: (texts, (1, H, W) masks).

    Args:
        size: (H, W).
        laterality: "viewer" and "image" draw the left lung on the picture's left, "patient" on its right.
    """
    texts, masks = [], []
    for left, right in _DRAWINGS:
        parts = [f"{' '.join(areas)} {side} lung" for side, areas in (("left", left), ("right", right)) if areas]
        number = len(left) + len(right)
        head = "Bilateral" if len(parts) == 2 else "Unilateral"
        noun = "area" if number == 1 else "areas"
        texts.append(f"{head} pulmonary infection, {_NUMBERS[number]} infected {noun}, {' and '.join(parts)}.")
        mask = np.zeros(size, dtype=np.float32)
        for side, areas in (("left", left), ("right", right)):
            on_left = (side == "left") != (laterality == "patient")
            for area in areas:
                _draw_ellipse(mask, 0.31 if on_left else 0.69, area)
        masks.append(mask[None])
    return texts, masks


def _draw_ellipse(mask: FloatArray, centre_x: float, area: str) -> None:
    """A whole lung or one of its thirds, in fractions of the picture."""
    height, width = mask.shape
    centre_y, half_y = (0.5, 0.32) if area == "all" else (0.28 + 0.22 * _AREAS.index(area), 0.1)
    half_x = 0.1 if area == "all" else 0.09
    # As a polygon of the exact outline: cv2's own ellipse rounds its axes to whole pixels.
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    points = np.stack([(centre_x + half_x * np.cos(angle)) * width, (centre_y + half_y * np.sin(angle)) * height], 1)
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], 1.0)
