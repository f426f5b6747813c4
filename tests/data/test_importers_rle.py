"""Run lengths, shapes and published split rules, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.core.errors import InputError
from medvl.data.importers.published_splits import draw_groups, shuffle_split, train_val_test
from medvl.data.importers.shapes import Ellipse, Polygon, Rectangle, Shape, coco_counts, polygon, relative_runs


def drawn(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def painted(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    shape.paint(mask)
    return mask


@pytest.mark.parametrize("text", ["", "1", "1 2 3", "a b", "-1 2", "1 0", "11 2", "0 5 4 4"])
def test_runs_that_do_not_fit_are_faults(text: str) -> None:
    with pytest.raises(InputError):
        relative_runs(text, (4, 3))


def test_runs_by_hand() -> None:
    assert (relative_runs("0 1 0 1", (4, 3)) == drawn("#..", "#..", "...", "...")).all()
    # Rows 1, 2 of columns 1, 2, 3 in 4 rows x 5 columns: 5 zeros, then runs of 2 in turn, 5 zeros at the end.
    mask = drawn(".....", ".###.", ".###.", ".....")
    assert (coco_counts([5, 2, 2, 2, 2, 2, 5], (4, 5)) == mask).all()
    # As text: 5, 2, 2, then differences to the count two before: 0, 0, 0, 3; each below 16 is one character from '0'.
    assert (coco_counts("5220003", (4, 5)) == mask).all()
    # What pycocotools writes for rows 3..899 of columns 100..949 in a mask of 1000 x 1000.
    large = np.zeros((1000, 1000), bool)
    large[3:900, 100:950] = True
    text = "SeQ3Ql0W3" + "0" * 1697 + "]j`1"
    assert (coco_counts(text, (1000, 1000)) == large).all()


@pytest.mark.parametrize("counts", [[3, 2], [20, 1], [21, -1], ["a"], "5220004", "52 ", "T"])
def test_coco_counts_that_do_not_fit_are_faults(counts: list[int] | str) -> None:
    with pytest.raises(InputError):
        coco_counts(counts, (4, 5))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_runs_of_any_mask_give_the_mask(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    flat = mask.T.ravel()
    change = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    counts = np.diff(np.concatenate([[0], change, [flat.size]])).tolist()
    assert (coco_counts(counts, (height, width)) == mask).all()
    if mask.any():
        runs = " ".join(map(str, counts[: len(change)]))
        assert (relative_runs(runs, (height, width)) == mask).all()


def test_a_pixel_belongs_to_the_shape_that_holds_its_centre() -> None:
    assert (painted(Rectangle((1, 0, 3, 2)), (3, 4)) == drawn(".##.", ".##.", "....")).all()
    assert (painted(Rectangle((0.5, 0.6, 2.5, 2.4)), (3, 4)) == drawn("....", "##..", "....")).all()
    assert painted(Rectangle((-5, -5, 50, 50)), (3, 4)).all()
    ellipse = drawn(".####.", "######", "######", ".####.")  # corner centre: (2.5 / 3)^2 + (1.5 / 2)^2 = 1.26
    assert (painted(Ellipse((0, 0, 6, 4)), (4, 6)) == ellipse).all()
    # A right triangle with the right angle at (0, 0): the centre (c + .5, r + .5) is inside where c + r + 1 < 4.
    triangle = Polygon(((0, 0), (4, 0), (0, 4)))
    assert (painted(triangle, (4, 5)) == drawn("###..", "##...", "#....", ".....")).all()
    assert triangle.bounds() == (0, 0, 4, 4)
    # A square with a hole drawn in one line: even-odd.
    ring = Polygon(((0, 0), (5, 0), (5, 5), (0, 5), (0, 0), (2, 2), (2, 3), (3, 3), (3, 2), (2, 2)))
    assert painted(ring, (5, 5)).sum() == 24 and not painted(ring, (5, 5))[2, 2]
    assert painted(Polygon(((-9, -9), (-9, 99), (99, 99), (99, -9))), (3, 4)).all()


def test_shuffle_split_is_scikit_learns() -> None:
    # Written down from scikit-learn 1.9.1: train_test_split(list(range(10)), test_size=4, random_state=0).
    assert shuffle_split(10, 4, 0) == ([1, 6, 7, 3, 0, 5], [2, 8, 4, 9])


def test_train_val_test_has_the_sizes_and_leaves_nobody_out() -> None:
    names = [f"p{i:02d}" for i in range(20)]
    split = train_val_test(names[::-1], 7)
    assert sorted(split) == names and split == train_val_test(names, 7)
    assert [list(split.values()).count(name) for name in ("train", "val", "test")] == [13, 4, 3]


def test_groups_are_drawn_whole() -> None:
    groups = [f"p{i // 3}" for i in range(30)] + ["alone", "single"]
    chosen = draw_groups(groups, 8, 0)
    assert len(chosen) == 8  # two whole groups of three and both single ones
    inside = {groups[i] for i in chosen}
    assert {i for i, group in enumerate(groups) if group in inside} == chosen
    assert chosen == draw_groups(groups, 8, 0) and chosen != draw_groups(groups, 8, 1)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(-5, 30), st.floats(-5, 30)), min_size=3, max_size=7), st.integers(1, 9))
def test_a_polygon_holds_the_pixels_inside_it_but_for_its_border(points: list[tuple[float, float]], size: int) -> None:
    shape = polygon([number for point in points for number in point])
    if shape is None:
        return
    mask = painted(shape, (20, 20 + size))
    start = np.array(points)
    end = np.roll(start, -1, axis=0)
    for row, column in np.ndindex(mask.shape):
        x, y = column + 0.5, row + 0.5
        along = np.clip(
            ((x - start[:, 0]) * (end - start)[:, 0] + (y - start[:, 1]) * (end - start)[:, 1])
            / np.maximum(((end - start) ** 2).sum(1), 1e-12),
            0,
            1,
        )
        nearest = start + along[:, None] * (end - start)
        if np.hypot(nearest[:, 0] - x, nearest[:, 1] - y).min() < 1:
            continue  # a pixel of the border: rasters may differ
        crossed = (start[:, 1] <= y) != (end[:, 1] <= y)
        at = start[:, 0] + (y - start[:, 1]) * (end - start)[:, 0] / np.where(crossed, (end - start)[:, 1], 1)
        assert mask[row, column] == (np.count_nonzero(crossed & (at > x)) % 2 == 1)


def test_polygons_without_an_area_are_none() -> None:
    for numbers in (
        [1, 1, 5, 5],
        [1, 1, 1, 9, 1, 5],
        [0, 0, 3, 3, 6, 6, 9, 9],
        [2, 2] * 4,
        [0, 0, float("nan"), 1, 2, 2],
    ):
        assert polygon(numbers) is None
    assert polygon([0, 0, 8, 8, 8, 0, 0, 8]) is not None  # a bow: its signed area is 0
    with pytest.raises(InputError):
        painted(Polygon(((0, 0), (1e12, 0), (0, 1e12))), (4, 4))
