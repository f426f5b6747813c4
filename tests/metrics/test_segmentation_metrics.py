from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from medvl.metrics.segmentation import Counts, count_lesions, count_pixels, dice, iou, surface_distances

MASK = arrays(np.bool_, (7, 9))


def lesions(pred: np.ndarray, true: np.ndarray) -> tuple[int, int, int]:
    """True ones, predicted ones, matched ones."""
    found = count_lesions(pred, true)
    return found.true_lesions, found.pred_lesions, found.matched_lesions


def square(top: int, left: int, height: int, width: int, size: tuple[int, int] = (20, 20)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_counts_dice_iou_by_hand() -> None:
    true, pred = square(0, 0, 4, 4), square(0, 2, 4, 4)
    counts = count_pixels(pred, true)
    assert counts == Counts(tp_px=8, true_px=16, pred_px=16)
    assert dice(counts) == 0.5
    assert iou(counts) == pytest.approx(8 / 24)


def test_empty_masks_follow_the_convention() -> None:
    both = Counts(0, 0, 0)
    assert (dice(both, "one"), iou(both, "one")) == (1.0, 1.0)
    assert (dice(both, "zero"), iou(both, "zero")) == (0.0, 0.0)
    assert math.isnan(dice(both, "skip")) and math.isnan(iou(both, "skip"))
    # Only one side empty is a miss under every convention.
    assert [dice(Counts(0, 5, 0), rule) for rule in ("one", "zero", "skip")] == [0.0, 0.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(MASK, MASK)
def test_one_case_satisfies_the_identity_and_leaves_its_input_alone(pred: np.ndarray, true: np.ndarray) -> None:
    before = pred.copy(), true.copy()
    counts = count_pixels(pred, true)
    d, j = dice(counts), iou(counts)
    assert d == pytest.approx(2 * j / (1 + j))
    surface_distances(pred, true, (0.5, 0.7))
    count_lesions(pred, true)
    assert np.array_equal(pred, before[0]) and np.array_equal(true, before[1])


def test_surface_distances_of_a_shifted_line() -> None:
    true, pred = square(5, 2, 1, 10), square(8, 2, 1, 10)
    nan = pytest.approx(math.nan, nan_ok=True)
    # The shift is along rows: only the row spacing counts.
    for spacing_mm, in_mm in ((None, nan), ((0.5, 0.5), 1.5), ((2.0, 10.0), 6.0)):
        found = surface_distances(pred, true, spacing_mm)
        assert (found.hd95_px, found.assd_px, found.hd95_mm, found.assd_mm) == (3.0, 3.0, in_mm, in_mm)


def test_surface_distances_need_both_masks() -> None:
    empty, some = square(0, 0, 0, 0), square(3, 3, 4, 4)
    for pred, true in ((empty, some), (some, empty), (empty, empty)):
        found = surface_distances(pred, true, (1.0, 1.0))
        assert all(math.isnan(v) for v in (found.hd95_px, found.hd95_mm, found.assd_px, found.assd_mm))


def test_hd95_is_a_percentile_and_not_the_maximum() -> None:
    true = square(5, 0, 1, 100, (20, 100))
    pred = true.copy()
    pred[15, 0] = True  # one stray pixel among 101
    found = surface_distances(pred, true)
    assert found.hd95_px == 0.0
    assert found.assd_px == pytest.approx(10 / 201)


ROWS, COLUMNS = np.mgrid[:48, :64]


def disk(row: int, column: int, radius: int) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 < radius**2


SPECKS = (ROWS * 7 + COLUMNS * 11) % 97 == 0
# compute_hausdorff_distance(percentile=95) and compute_average_surface_distance(symmetric=True) of MONAI 1.6.1, in px
# and with spacing (0.5, 1.3). Kept as numbers because importing MONAI takes longer than all other tests here.
MONAI = {
    "disks": (disk(20, 25, 12), disk(26, 30, 15), (10.6301460, 5.2169509), (10.4986687, 3.9309297)),
    "specks": (disk(20, 25, 12) ^ SPECKS, disk(26, 30, 15), (16.3522606, 4.7632284), (16.4874172, 3.6563158)),
    "border": (disk(2, 60, 14), disk(0, 50, 9), (10.1186895, 3.4258571), (7.7142262, 2.9150243)),
    "ring": (disk(24, 30, 14) & ~disk(24, 30, 6), disk(24, 30, 14), (7.0710678, 1.3310330), (5.2249985, 0.8182117)),
}


@pytest.mark.parametrize("name", MONAI)
def test_surface_distances_equal_monai(name: str) -> None:
    pred, true, in_px, in_mm = MONAI[name]
    found = surface_distances(pred, true, (0.5, 1.3))
    assert (found.hd95_px, found.assd_px) == pytest.approx(in_px, rel=1e-6)
    assert (found.hd95_mm, found.assd_mm) == pytest.approx(in_mm, rel=1e-6)
    isotropic = surface_distances(pred, true, (0.7, 0.7))
    assert (isotropic.hd95_mm, isotropic.assd_mm) == pytest.approx((0.7 * in_px[0], 0.7 * in_px[1]), rel=1e-6)


def test_lesions_by_hand() -> None:
    true = square(0, 0, 4, 4) | square(10, 10, 4, 4) | square(0, 15, 2, 2)
    # First pair IoU 12/16; second 4/28 = 0.143; the third lesion is missed, the last prediction is false.
    assert lesions(square(0, 0, 4, 3) | square(10, 13, 4, 4) | square(17, 0, 2, 2), true) == (3, 3, 2)
    # A column further to the right they no longer touch.
    assert lesions(square(0, 0, 4, 3) | square(10, 14, 4, 4), true) == (3, 2, 1)
    assert lesions(square(0, 0, 0, 0), square(0, 0, 0, 0)) == (0, 0, 0)
    corner = square(0, 0, 2, 2) | square(2, 2, 2, 2)  # touching at a corner they are one
    assert lesions(corner, corner) == (1, 1, 1)
    assert lesions(square(0, 0, 4, 10), square(0, 0, 4, 4) | square(0, 6, 4, 4)) == (2, 1, 1)  # a blob finds only one
    assert lesions(square(0, 0, 1, 1), square(0, 0, 1, 10)) == (1, 1, 1)  # IoU 0.1
    assert lesions(square(0, 0, 1, 1), square(0, 0, 1, 11)) == (1, 1, 0)  # IoU 1/11 is below the limit


def test_wrong_masks_are_refused() -> None:
    for pred in (np.zeros((3, 3)), np.zeros((3, 4), dtype=bool)):
        with pytest.raises(ValueError):
            count_pixels(pred, np.zeros((3, 3), dtype=bool))
