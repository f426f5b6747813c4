"""Overlap, surface and lesion metrics of one predicted mask against one true mask.

Masks are bool, (H, W), on the native grid, or (n, H, W) of all slices of a volume, whose "pixels" are voxels; nothing
here changes its input. Distances are exact: px always, mm where the pixel spacing (row, column) is known. The
definitions are MONAI's (edge pixels by 4-neighbour erosion, of a volume by 6 neighbours, HD95 the larger of the two
directed 95th percentiles, ASSD the mean over both directions); a test holds them equal. MONAI itself is not called,
because importing it takes longer than evaluating a thousand masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
EmptyMask = Literal["one", "zero", "skip"]

LESION_MIN_IOU = 0.1


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixel counts: in both masks, in the true one, in the predicted one."""

    tp_px: int
    true_px: int
    pred_px: int


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """95th percentile Hausdorff distance and average symmetric surface distance. NaN where one side is empty, and in mm
    where the spacing is unknown."""

    hd95_px: float = math.nan
    hd95_mm: float = math.nan
    assd_px: float = math.nan
    assd_mm: float = math.nan


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """8-connected components (of a volume 26-connected): of the true mask, of the predicted one, and pairs matched one
    to one."""

    true_lesions: int
    pred_lesions: int
    matched_lesions: int


def count_pixels(pred_mask: BoolArray, true_mask: BoolArray) -> Counts:
    """Counts of two (H, W) or (n, H, W) bool masks of the same shape."""
    _check(pred_mask, true_mask)
    both = int(np.count_nonzero(pred_mask & true_mask))
    return Counts(both, int(np.count_nonzero(true_mask)), int(np.count_nonzero(pred_mask)))


def dice(counts: Counts, empty_mask: EmptyMask = "one") -> float:
    """2 |A and B| / (|A| + |B|) in [0, 1]; when both masks are empty 1, 0, or NaN for `skip`."""
    total = counts.true_px + counts.pred_px
    return 2 * counts.tp_px / total if total else _empty(empty_mask)


def iou(counts: Counts, empty_mask: EmptyMask = "one") -> float:
    """|A and B| / |A or B| in [0, 1]; when both masks are empty 1, 0, or NaN for `skip`."""
    union = counts.true_px + counts.pred_px - counts.tp_px
    return counts.tp_px / union if union else _empty(empty_mask)


def surface_distances(
    pred_mask: BoolArray, true_mask: BoolArray, spacing_mm: tuple[float, ...] | None = None
) -> SurfaceDistances:
    """HD95 and ASSD of two (H, W) or (n, H, W) bool masks; all NaN where either is empty.

    Args:
        spacing_mm: (row, column) size of a pixel, or (slice, row, column); None leaves the mm values NaN.
    """
    _check(pred_mask, true_mask)
    pred_edge, true_edge = edge_coordinates(pred_mask), edge_coordinates(true_mask)
    if len(pred_edge) == 0 or len(true_edge) == 0:
        return SurfaceDistances()
    hd95_px, assd_px = _hd95_assd(pred_edge, true_edge)
    if spacing_mm is None:
        return SurfaceDistances(hd95_px=hd95_px, assd_px=assd_px)
    if len(set(spacing_mm)) == 1:
        return SurfaceDistances(hd95_px, hd95_px * spacing_mm[0], assd_px, assd_px * spacing_mm[0])
    scale = np.asarray(spacing_mm, dtype=np.float64)
    hd95_mm, assd_mm = _hd95_assd(pred_edge * scale, true_edge * scale)
    return SurfaceDistances(hd95_px, hd95_mm, assd_px, assd_mm)


def edge_coordinates(mask: BoolArray) -> FloatArray:
    """(k, 2) row, column of the mask's pixels that have a 4-neighbour outside it; beyond the image is outside.

    Of a volume (k, 3) slice, row, column, by 6 neighbours.
    """
    inner = np.ones_like(mask)
    for axis in range(mask.ndim):
        padded = np.moveaxis(np.pad(mask, [(int(i == axis),) * 2 for i in range(mask.ndim)]), axis, 0)
        inner &= np.moveaxis(padded[:-2] & padded[2:], 0, axis)
    return np.argwhere(mask & ~inner).astype(np.float64)


def count_lesions(pred_mask: BoolArray, true_mask: BoolArray, min_iou: float = LESION_MIN_IOU) -> LesionCounts:
    """Match 8-connected components one to one, at the largest summed IoU; pairs below `min_iou` do not match.

    Sensitivity is matched / true, precision matched / predicted. One predicted blob over two true lesions finds one.
    """
    _check(pred_mask, true_mask)
    connected = np.ones((3,) * true_mask.ndim, dtype=bool)  # 8 neighbours, of a volume 26
    true_labels, num_true = ndimage.label(true_mask, structure=connected)
    pred_labels, num_pred = ndimage.label(pred_mask, structure=connected)
    both = true_mask & pred_mask
    # One number per pair of labels: sorting those is much faster than sorting pairs.
    code = true_labels[both].astype(np.int64) * (num_pred + 1) + pred_labels[both]
    pairs, overlap = np.unique(code, return_counts=True)
    true_of, pred_of = np.divmod(pairs, num_pred + 1)
    true_size = np.bincount(true_labels.ravel(), minlength=num_true + 1)
    pred_size = np.bincount(pred_labels.ravel(), minlength=num_pred + 1)
    pair_iou = overlap / (true_size[true_of] + pred_size[pred_of] - overlap)
    near = pair_iou >= min_iou
    rows, row_of = np.unique(true_of[near], return_inverse=True)
    columns, column_of = np.unique(pred_of[near], return_inverse=True)
    table = np.zeros((len(rows), len(columns)))
    table[row_of, column_of] = pair_iou[near]
    chosen = linear_sum_assignment(table, maximize=True)
    return LesionCounts(num_true, num_pred, int(np.count_nonzero(table[chosen])))


def _hd95_assd(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    a_to_b: FloatArray = cKDTree(b).query(a)[0]
    b_to_a: FloatArray = cKDTree(a).query(b)[0]
    hd95 = max(float(np.percentile(a_to_b, 95)), float(np.percentile(b_to_a, 95)))
    return hd95, float(np.concatenate([a_to_b, b_to_a]).mean())


def _empty(empty_mask: EmptyMask) -> float:
    return {"one": 1.0, "zero": 0.0, "skip": math.nan}[empty_mask]


def _check(pred_mask: BoolArray, true_mask: BoolArray) -> None:
    for name, mask in (("pred_mask", pred_mask), ("true_mask", true_mask)):
        if mask.dtype != np.bool_ or mask.ndim not in (2, 3):
            raise ValueError(f"{name} is {mask.dtype} of shape {mask.shape}; expected bool of shape (H, W)")
    if pred_mask.shape != true_mask.shape:
        raise ValueError(f"pred_mask is {pred_mask.shape}, true_mask {true_mask.shape}; expected the same (H, W)")
