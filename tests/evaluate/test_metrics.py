from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from medvl.evaluate.metrics import Counts, count_lesions, count_pixels, dice, iou, surface_distances

MASK = arrays(np.bool_, (7, 9))


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
    found = surface_distances(pred, true)
    assert (found.hd95_px, found.assd_px) == (3.0, 3.0)
    assert math.isnan(found.hd95_mm) and math.isnan(found.assd_mm)
    found = surface_distances(pred, true, (0.5, 0.5))
    assert (found.hd95_mm, found.assd_mm) == (1.5, 1.5)
    # The shift is along rows: only the row spacing counts.
    found = surface_distances(pred, true, (2.0, 10.0))
    assert (found.hd95_px, found.hd95_mm, found.assd_mm) == (3.0, 6.0, 6.0)


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


def test_surface_distances_equal_monai() -> None:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    rng = np.random.default_rng(0)
    for _ in range(5):
        rows, columns = np.mgrid[:48, :64]
        true, pred = (
            (rows - y) ** 2 + (columns - x) ** 2 < r * r for y, x, r in rng.uniform((5, 5, 4), (43, 59, 18), (2, 3))
        )
        pred = pred ^ (rng.random(pred.shape) < 0.01)
        # One after the other, so that MONAI sees the native array and not our edges.
        a, b = torch.from_numpy(pred)[None, None], torch.from_numpy(true)[None, None]
        for spacing in (None, (0.7, 0.7), (0.5, 1.3)):
            found = surface_distances(pred, true, spacing)
            hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
            assd = compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing)
            ours = (found.hd95_px, found.assd_px) if spacing is None else (found.hd95_mm, found.assd_mm)
            assert ours == pytest.approx((float(hd95), float(assd)), rel=1e-5)


def test_lesions_by_hand() -> None:
    true = square(0, 0, 4, 4) | square(10, 10, 4, 4) | square(0, 15, 2, 2)
    pred = square(0, 0, 4, 3) | square(10, 13, 4, 4) | square(17, 0, 2, 2)
    # First pair IoU 12/16; second 4/28 = 0.143; the third lesion is missed, the last prediction is false.
    found = count_lesions(pred, true)
    assert (found.true_lesions, found.pred_lesions, found.matched_lesions) == (3, 3, 2)
    # A column further to the right they no longer touch.
    pred = square(0, 0, 4, 3) | square(10, 14, 4, 4)
    assert count_lesions(pred, true).matched_lesions == 1


def test_lesions_touching_at_a_corner_are_one_and_a_blob_finds_only_one() -> None:
    corner = square(0, 0, 2, 2) | square(2, 2, 2, 2)
    assert count_lesions(corner, corner).true_lesions == 1
    two = square(0, 0, 4, 4) | square(0, 6, 4, 4)
    blob = square(0, 0, 4, 10)
    found = count_lesions(blob, two)
    assert (found.true_lesions, found.pred_lesions, found.matched_lesions) == (2, 1, 1)


def test_lesions_just_below_the_limit_do_not_match() -> None:
    true, pred = square(0, 0, 1, 10), square(0, 0, 1, 1)
    assert count_lesions(pred, true).matched_lesions == 1  # IoU 0.1
    assert count_lesions(pred, square(0, 0, 1, 11)).matched_lesions == 0  # IoU 1/11


def test_lesions_of_empty_masks() -> None:
    empty = square(0, 0, 0, 0)
    found = count_lesions(empty, empty)
    assert (found.true_lesions, found.pred_lesions, found.matched_lesions) == (0, 0, 0)


def test_wrong_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        count_pixels(np.zeros((3, 3)), np.zeros((3, 3), dtype=bool))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same"):
        count_pixels(np.zeros((3, 4), dtype=bool), np.zeros((3, 3), dtype=bool))
