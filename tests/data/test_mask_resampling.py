"""Resampling of masks without bias."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.data.images import resample_map
from medvl.data.masks import resample_mask


def test_two_by_two_becomes_one() -> None:
    for num in range(5):
        mask = (np.arange(4) < num).reshape(2, 2)
        assert resample_mask(mask, (1, 1)).tolist() == [[num >= 2]]
    column = np.array([[True, False], [True, False]])
    assert resample_mask(column, (1, 2)).tolist() == [[True, False]]
    assert resample_mask(column, (2, 1)).tolist() == [[True], [True]]
    assert resample_mask(column, (4, 4)).tolist() == [[True, True, False, False]] * 4
    assert resample_mask(column, (2, 2)) is column
    lone = np.zeros((4, 4), bool)
    lone[1, 1] = True
    assert not resample_mask(lone, (2, 2)).any()  # a quarter of a pixel is no pixel: never "> 0"


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_shrinking_is_exact(data: st.DataObject) -> None:
    """Against areas in whole numbers: each pixel cut into h x w parts, of which H x W make a new pixel."""
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    bits = data.draw(st.integers(0, 2 ** (height * width) - 1))
    mask = np.array([bits >> i & 1 for i in range(height * width)], bool).reshape(height, width)
    parts = mask.repeat(h, 0).repeat(w, 1).reshape(h, height, w, width).sum((1, 3))
    assert (resample_mask(mask, (h, w)) == (2 * parts >= height * width)).all()
    np.testing.assert_allclose(resample_map(mask.astype(np.float32), (h, w)), parts / (height * width), atol=1e-6)


def test_an_exact_half_survives_rounding() -> None:
    mask = np.array([[bit == "1" for bit in row] for row in "1100 1001 1001 0110 1011 0010".split()])
    # the first new row is row 0 (2 of 4) and a fifth of row 1 (2 of 4): 0.49999997 in single precision
    assert resample_mask(mask, (5, 1)).ravel().tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("size", [(80, 80), (224, 224), (97, 61), (300, 700), (1024, 64)])
def test_area_is_kept(size: tuple[int, int]) -> None:
    """Over random discs the area stays within 1 %, whether sides shrink, grow or do both."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:320, :256]
    before = after = 0.0
    for _ in range(30):
        radius, cy, cx = rng.uniform(8, 40), rng.uniform(50, 270), rng.uniform(50, 200)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        before += disc.mean()
        after += resample_mask(disc, size).mean()
    assert after / before == pytest.approx(1, abs=0.01)
