"""One affine per sample: image, mask, boxes and words move together, and come back."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from medvl.data.box_table import Box
from medvl.data.geometry import (
    KEPT_FOREGROUND,
    Affine,
    AugmentConfig,
    draw,
    fit,
    require_laterality,
    warn_unmirrored,
)
from medvl.data.images import resample_map
from medvl.data.intensity import intensity

BoolArray = NDArray[np.bool_]
How = Literal["stretch", "letterbox"]
Size = tuple[int, int]
Place = tuple[float, ...]
STILL = {"max_rotate_deg": 0.0, "max_shift": 0.0, "scale": (1.0, 1.0)}
EVERYTHING = {"p_flip_lr": 0.5, "p_flip_ud": 0.5, "p_rot90": 0.5, "max_shift": 0.1, "scale": (0.8, 1.2)}

sizes = st.tuples(st.integers(24, 90), st.integers(24, 90))
targets = st.tuples(st.integers(64, 90), st.integers(64, 90))  # on a smaller grid a small mask may vanish
seeds = st.integers(0, 2**32)
hows = st.sampled_from(["stretch", "letterbox"])


def drawn(seed: int, base: Affine, text: str = "", mask: BoolArray | None = None, **options: Any) -> Affine:
    return draw(AugmentConfig(**options), np.random.default_rng(seed), base, text=text, mask=mask)


def flip(size: tuple[int, int], left_right: bool = False, up_down: bool = False) -> Affine:
    """A flip and nothing else, as `draw` makes it."""
    return drawn(0, fit(size, size), p_flip_lr=float(left_right), p_flip_ud=float(up_down), **STILL)


def turns(affine: Affine) -> bool:
    """Whether the affine holds a quarter turn."""
    return bool(abs(affine.matrix[0, 0]) < abs(affine.matrix[0, 1]))


def disc(size: tuple[int, int], x: float, y: float, radius: float) -> BoolArray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    result: BoolArray = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return result


def bounds(mask: BoolArray) -> NDArray[np.float64]:
    """x0, y0, x1, y1 of the foreground, in pixel edges."""
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float64)


def edges(box: Box) -> NDArray[np.float64]:
    return np.array([box.x0, box.y0, box.x1, box.y1])


def dice(one: BoolArray, other: BoolArray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def test_a_flip_reverses_pixels() -> None:
    pixels = np.arange(12, dtype=np.float32).reshape(3, 4)
    mask = pixels > 6
    for affine, expected in (
        (flip((3, 4), left_right=True), np.fliplr),
        (flip((3, 4), up_down=True), np.flipud),
        (flip((3, 4), left_right=True, up_down=True), lambda array: array[::-1, ::-1]),
    ):
        assert np.array_equal(affine.apply_image(pixels), expected(pixels))
        assert np.array_equal(affine.apply_image(np.stack([pixels, -pixels]))[1], expected(-pixels))
        assert np.array_equal(affine.apply_map(pixels), expected(pixels))
        assert np.array_equal(affine.apply_mask(mask), expected(mask))
        assert np.array_equal(affine.invert_map(affine.apply_map(pixels)), pixels)
    assert flip((3, 4), left_right=True).matrix.tolist() == [[-1, 0, 3], [0, 1, 0]]


def test_a_flip_of_a_resized_picture() -> None:
    pixels = np.random.default_rng(0).random((60, 80), dtype=np.float32)
    affine = drawn(0, fit((60, 80), (30, 20)), p_flip_lr=1.0, **STILL)
    assert np.allclose(affine.apply_image(pixels), np.fliplr(resample_map(pixels, (30, 20))), atol=1e-6)


@pytest.mark.parametrize("size", [(5, 5), (6, 6), (4, 8)])
def test_a_quarter_turn_is_rot90(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random(size, dtype=np.float32)
    found = set()
    for seed in range(20):
        affine = drawn(seed, fit(size, size), p_rot90=1.0, **STILL)
        result = affine.apply_image(pixels)
        ways = [k for k in (1, 3) if np.allclose(result, resample_map(np.rot90(pixels, k).copy(), size), atol=1e-3)]
        if size[0] == size[1]:
            assert len(ways) == 1 and turns(affine)
            found.add(ways[0])
        else:  # a picture that is not square still fills the grid
            corners = affine.apply_boxes([Box("all", 0, 0, size[1], size[0])])
            assert np.allclose(edges(corners[0]), (0, 0, size[1], size[0]))
    assert found == ({1, 3} if size[0] == size[1] else set())


def test_edges_go_to_edges() -> None:
    affine = fit((2, 4), (6, 8))
    assert edges(affine.apply_boxes([Box("b", 0, 0, 4, 2)])[0]).tolist() == [0, 0, 8, 6]
    assert edges(affine.apply_boxes([Box("b", 1, 1, 3, 2)])[0]).tolist() == [2, 3, 6, 6]
    mask = np.zeros((2, 4), dtype=bool)
    mask[1, 1:3] = True
    assert bounds(affine.apply_mask(mask)).tolist() == [2, 3, 6, 6]
    # The centre of pixel 0, a quarter of the way over two target pixels: -0.5 + 0.5 * 2.
    assert (affine.matrix @ (0, 0, 1)).tolist() == [0.5, 1.0]
    assert fit((7, 9), (7, 9)).matrix.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_letterbox_by_hand() -> None:
    affine = fit((2, 4), (8, 8), "letterbox")
    assert edges(affine.apply_boxes([Box("b", 0, 0, 4, 2)])[0]).tolist() == [0, 2, 8, 6]
    ones = affine.apply_map(np.ones((2, 4), dtype=np.float32))
    assert (ones[[0, -1]] == 0).all() and (ones[3:5, 1:7] == 1).all()
    assert affine.apply_mask(np.ones((2, 4), dtype=bool)).sum() == 32
    assert (affine.apply_image(np.ones((2, 4), dtype=np.float32)) == 1).all()  # edges are repeated


def test_a_box_is_clipped_or_left_out() -> None:
    pushed = Affine(np.array([[1.0, 0, 6], [0, 1.0, 0]]), (10, 10), (10, 10))
    inside, outside = Box("a", 2, 1, 8, 3), Box("b", 5, 1, 9, 3)
    assert pushed.apply_boxes([inside, outside]) == (Box("a", 8, 1, 10, 3),)
    assert pushed.apply_boxes([]) == ()


def test_a_turned_box_is_upright_round_its_corners() -> None:
    half = np.sqrt(0.5)
    centre = 4.5 - 4.5 * np.array([half - half, half + half])
    affine = Affine(np.array([[half, -half, centre[0]], [half, half, centre[1]]]), (10, 10), (10, 10))
    assert edges(affine.apply_boxes([Box("a", 4, 4, 6, 6)])[0]) == pytest.approx(
        [5 - 2 * half, 5 - 2 * half] + [5 + 2 * half] * 2
    )


def test_half_of_the_area_decides() -> None:
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, :3] = True
    assert fit((4, 8), (2, 4)).apply_mask(mask)[0].tolist() == [True, True, False, False]
    third = np.zeros((3, 9), dtype=bool)
    third[:, :4] = True
    assert fit((3, 9), (1, 3)).apply_mask(third)[0].tolist() == [True, False, False]


def test_a_long_thin_mask_survives_shrinking() -> None:
    """Each side is averaged to its own scale: two rows of a strip that shrinks only sideways stay two rows."""
    mask = np.zeros((64, 1024), dtype=bool)
    mask[30:32, 100:900] = True
    moved = drawn(0, fit((64, 1024), (64, 64)), p_flip_lr=1.0, **STILL).apply_mask(mask)
    assert dice(moved, np.fliplr(fit((64, 1024), (64, 64)).apply_mask(mask))) == 1


@settings(max_examples=80, deadline=None)
@given(size=sizes, target=targets, how=hows, seed=seeds, where=st.tuples(*[st.floats(0.4, 0.6)] * 2))
def test_image_and_mask_agree(size: Size, target: Size, how: How, seed: int, where: Place) -> None:
    # Clear of the edges, which the image repeats and the mask does not.
    mask = disc(size, where[0] * size[1], where[1] * size[0], 0.25 * min(size))
    affine = drawn(seed, fit(size, target, how), mask=mask, **EVERYTHING)
    moved = affine.apply_mask(mask)
    assert moved.any() and dice(moved, affine.apply_image(mask.astype(np.float32)) >= 0.5) >= 0.95


@settings(max_examples=80, deadline=None)
@given(size=sizes, target=targets, how=hows, seed=seeds, where=st.tuples(*[st.floats(0.2, 0.8)] * 2))
def test_box_contains_its_mask(size: Size, target: Size, how: How, seed: int, where: Place) -> None:
    mask = disc(size, where[0] * size[1], where[1] * size[0], 0.2 * min(size))
    affine = drawn(seed, fit(size, target, how), mask=mask, max_rotate_deg=30, **EVERYTHING)
    (box,) = affine.apply_boxes([Box("disc", *bounds(mask))])
    low, high = np.split(bounds(affine.apply_mask(mask)), 2)
    assert (edges(box)[:2] <= low + 1).all() and (edges(box)[2:] >= high - 1).all()


@settings(max_examples=80, deadline=None)
@given(
    size=sizes, target=targets, how=hows, seed=seeds,
    corners=st.tuples(*[st.floats(0, 0.4)] * 2, *[st.floats(0.6, 1)] * 2),
)  # fmt: skip
def test_box_is_tight_without_rotation(size: Size, target: Size, how: How, seed: int, corners: Place) -> None:
    (height, width), (x, y, x1, y1) = size, corners
    mask = np.zeros(size, dtype=bool)
    mask[int(y * height) : int(y1 * height) + 1, int(x * width) : int(x1 * width) + 1] = True
    affine = drawn(seed, fit(size, target, how), **{**EVERYTHING, "max_rotate_deg": 0.0})
    (box,) = affine.apply_boxes([Box("b", *bounds(mask))])
    assert np.abs(edges(box) - bounds(affine.apply_mask(mask))).max() <= 1


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=seeds, side=st.sampled_from(["left", "right"]), height=st.sampled_from(["upper", "lower"]))
def test_words_and_mask_agree(size: tuple[int, int], seed: int, side: str, height: str) -> None:
    """A disc in the named quarter of the picture is in the quarter that the rewritten text names."""
    words = {"left": 0.25, "right": 0.75, "upper": 0.25, "lower": 0.75}
    mask = disc(size, words[side] * size[1], words[height] * size[0], 3)
    text = f"nodule in the {height} {side} part"
    affine = drawn(seed, fit(size, size), text=text, mask=mask, p_flip_lr=0.5, p_flip_ud=0.5, p_rot90=0.5)
    assert not turns(affine)
    rows, columns = np.nonzero(affine.apply_mask(mask))
    now = affine.apply_text(text).split()
    assert (now[3], now[4]) == (
        "upper" if rows.mean() < size[0] / 2 else "lower",
        "left" if columns.mean() < size[1] / 2 else "right",
    )
    assert (now != text.split()) == (affine.left_right or affine.up_down)


@pytest.mark.parametrize("how", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(50, 50), (37, 61), (61, 38), (200, 90), (1, 9), (500, 400)])
@pytest.mark.parametrize("target", [(48, 48), (33, 65)])
def test_back_to_the_native_grid(how: How, size: tuple[int, int], target: tuple[int, int]) -> None:
    affine = fit(size, target, how)
    rows, columns = np.mgrid[: size[0], : size[1]]
    ramp = (rows / max(size) + columns / max(size)).astype(np.float32)
    back = affine.invert_map(affine.apply_image(ramp))
    assert back.shape == size and back.dtype == np.float32
    num = 2 / min(target[0] / size[0], target[1] / size[1], 1) if how == "letterbox" else 2 * max(size) / min(target)
    assert np.abs(back - ramp).max() <= (num + 1) / max(size)
    both = affine.invert_map(np.stack([affine.apply_image(ramp), affine.apply_map(ramp)]))
    assert both.shape == (2, *size) and np.array_equal(both[0], back)
    # A prediction of 1 everywhere is 1 everywhere, to the last row and column.
    assert np.allclose(affine.invert_map(np.ones(target, dtype=np.float32)), 1)
    if min(size) > 1:
        mask = disc(size, size[1] / 2, size[0] / 2, 0.4 * min(size))
        assert dice(affine.invert_map(affine.apply_map(mask.astype(np.float32))) >= 0.5, mask) > 0.95


@settings(max_examples=50, deadline=None)
@given(size=sizes, seed=seeds)
def test_an_augmented_answer_comes_back(size: tuple[int, int], seed: int) -> None:
    mask = disc(size, size[1] / 2, size[0] / 2, 0.3 * min(size))
    affine = drawn(seed, fit(size, (80, 80)), mask=mask, **EVERYTHING)
    assert dice(affine.invert_map(affine.apply_map(mask.astype(np.float32))) >= 0.5, mask) > 0.93


def test_after_the_plain_resize() -> None:
    base = fit((50, 40), (32, 32))
    affine = drawn(3, base, "left", p_flip_lr=1.0)
    view = affine.after(base)
    assert (view.source_size, view.target_size, view.left_right) == ((32, 32), (32, 32), True)
    point = np.array([7.0, 11.0, 1.0])
    assert np.allclose(view.matrix @ (*(base.matrix @ point), 1.0), affine.matrix @ point)


def test_outside_the_target_is_zero() -> None:
    pushed = Affine(np.array([[1.0, 0, 6], [0, 1.0, 0]]), (10, 10), (10, 10))
    back = pushed.invert_map(np.ones((10, 10), dtype=np.float32))
    assert (back[:, :4] == 1).all() and (back[:, 4:] == 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=seeds, scheme=st.sampled_from(["medvl", "released", "none"]), text=st.sampled_from(["", "left lung"]))
def test_draw_is_a_function_of_its_rng(seed: int, scheme: str, text: str) -> None:
    mask = disc((40, 30), 20, 20, 8)
    one, two = (drawn(seed, fit((40, 30), (32, 32)), text, mask, scheme=scheme, **EVERYTHING) for _ in range(2))
    assert np.array_equal(one.matrix, two.matrix)
    assert (one.left_right, one.up_down, one.text_rule) == (two.left_right, two.up_down, two.text_rule)
    noise = np.random.default_rng(seed).random((1, 8, 8), dtype=np.float32)
    config = AugmentConfig(scheme=scheme)  # type: ignore[arg-type]
    first, second = (intensity(config, np.random.default_rng(seed), noise, (0, 1)) for _ in range(2))
    assert np.array_equal(first, second) and (scheme == "medvl") != np.array_equal(first, noise)


def test_seeds_differ_and_the_default_neither_flips_nor_turns() -> None:
    base = fit((40, 30), (32, 32))
    affines = [drawn(seed, base) for seed in range(50)]
    assert len({affine.matrix.tobytes() for affine in affines}) == 50
    for affine in affines:
        assert np.linalg.det(affine.matrix[:, :2]) > 0 and not turns(affine)
        assert not (affine.left_right or affine.up_down) and affine.apply_text("left upper") == "left upper"
    # Recorded: a seed must go on drawing what it drew.
    recorded = [[1.15030805, -0.03769646, 0.43780831], [0.05026194, 0.86273104, -2.93139041]]
    assert np.allclose(drawn(7, base).matrix, recorded, atol=1e-7)


@pytest.mark.parametrize("text", ["left lung", "upper zone", "RUL", "Infiltrat rechts", "all leff lung"])
def test_no_quarter_turn_of_what_names_a_place(text: str) -> None:
    base = fit((32, 32), (32, 32))
    assert not any(turns(drawn(seed, base, text, p_rot90=1.0)) for seed in range(30))
    assert all(turns(drawn(seed, base, "nodule, as above", p_rot90=1.0)) for seed in range(30))


@settings(max_examples=60, deadline=None)
@given(
    size=sizes, seed=seeds, corner=st.tuples(*[st.floats(0, 0.9)] * 2), width=st.integers(1, 60),
    shift=st.floats(0, 0.5),
)  # fmt: skip
def test_the_mask_stays_in_the_picture(size: Size, seed: int, corner: Place, width: int, shift: float) -> None:
    mask = np.zeros(size, dtype=bool)
    mask[int(corner[0] * size[0]) :, int(corner[1] * size[1]) :][:, :width] = True
    affine = drawn(seed, fit(size, (64, 64)), mask=mask, **{**EVERYTHING, "max_shift": shift})
    rows, columns = np.nonzero(mask)
    x, y = affine.matrix @ np.stack([columns, rows, np.ones_like(rows)])
    assert ((x > -0.5) & (x < 63.5) & (y > -0.5) & (y < 63.5)).mean() >= KEPT_FOREGROUND


def test_every_pixel_of_the_mask_counts() -> None:
    """20 columns of 2,050 rows at the right edge: every twentieth pixel would be in one column, the leftmost."""
    mask = np.zeros((4000, 100), dtype=bool)
    mask[1000:3050, 80:] = True
    base = fit((4000, 100), (100, 100))
    affines = [drawn(seed, base, mask=mask, max_rotate_deg=0.0, scale=(1.0, 1.0), max_shift=0.15) for seed in range(40)]
    assert all(affine.matrix[0, 2] < 0.5 for affine in affines)  # no column is pushed out
    assert sum(affine is base for affine in affines) < 10


def test_base_when_nothing_fits() -> None:
    base = fit((32, 32), (32, 32))
    full = np.ones((32, 32), dtype=bool)
    assert drawn(0, base, mask=full, scale=(1.5, 1.6)) is base
    assert drawn(0, base, mask=full, scale=(1.5, 1.6), flip_text="keep") is not base
    assert drawn(0, base, mask=np.zeros((32, 32), dtype=bool), scale=(1.5, 1.6)) is not base


def test_keep_leaves_the_words() -> None:
    base = fit((32, 32), (32, 32))
    options: dict[str, Any] = {"flip_text": "keep", "p_flip_lr": 1.0, "p_flip_ud": 1.0, "p_rot90": 0.5}
    for text in ("left upper zone", "Infiltrat rechts"):
        affines = [drawn(seed, base, text, **options) for seed in range(20)]
        assert all(affine.apply_text(text) == text for affine in affines)
        assert {turns(affine) for affine in affines} == {True, False}


def test_none_is_the_plain_resize() -> None:
    base = fit((40, 30), (32, 32))
    rng = np.random.default_rng(0)
    config = AugmentConfig(scheme="none", p_flip_lr=1.0)
    pixels = rng.random((1, 8, 8), dtype=np.float32)
    before = rng.bit_generator.state
    assert draw(config, rng, base, text="left") is base and intensity(config, rng, pixels, (0, 1)) is pixels
    assert rng.bit_generator.state == before


def test_released_turns_and_flips() -> None:
    """Half: a quarter turn 0..3 and always a flip; a quarter: -20..19 whole degrees; a quarter: nothing."""
    base = fit((32, 32), (32, 32))
    pixels = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    ways = {np.round(mirror(np.rot90(pixels, k)), 3).tobytes() for k in range(4) for mirror in (np.fliplr, np.flipud)}
    flipped, rotated, still, seen = 0, 0, 0, set()
    for seed in range(400):
        affine = drawn(seed, base, "left upper zone", scheme="released")
        if affine is base:
            still += 1
        elif np.linalg.det(affine.matrix[:, :2]) < 0:
            flipped += 1
            seen.add(np.round(affine.apply_image(pixels), 3).tobytes())
            now = affine.apply_text("left upper zone").split()
            if not turns(affine):
                assert (now[0] == "left", now[1] == "upper") == (affine.matrix[0, 0] > 0, affine.matrix[1, 1] > 0)
            else:  # cannot be put in these words
                assert now == ["left", "upper", "zone"]
        else:
            rotated += 1
            degrees = np.rad2deg(np.arctan2(affine.matrix[1, 0], affine.matrix[0, 0]))
            assert abs(degrees - round(degrees)) < 1e-9 and -20 <= round(degrees) <= 19
            assert affine.apply_text("left") == "left"
        kept = drawn(seed, base, "left", scheme="released", flip_text="keep")
        assert np.array_equal(kept.matrix, affine.matrix) and kept.apply_text("left") == "left"
    assert seen == ways  # four different pictures, each in two ways
    assert 150 < flipped < 250 and 60 < rotated < 140 and 60 < still < 140


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.0, 1.0)}, {"scale": (-1.0, 1.0)}, {"p_flip_lr": 1.5}, {"max_rotate_deg": 90},
        {"scheme": "other"}, {"p_flip": 0.5},
    ],
)  # fmt: skip
def test_config_is_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AugmentConfig(**options)


def test_the_geometry_is_drawn_as_often_as_said() -> None:
    base = fit((40, 40), (32, 32))
    for p, num in ((0.0, 0), (1.0, 200)):
        assert sum(drawn(seed, base, p_affine=p) is not base for seed in range(200)) == num
    assert 70 < sum(drawn(seed, base, p_affine=0.5) is not base for seed in range(200)) < 130
    same = [drawn(seed, base).matrix for seed in range(5)]  # what is always drawn draws nothing more than before
    assert all(np.array_equal(one, drawn(seed, base, p_affine=1.0).matrix) for seed, one in enumerate(same))


def test_a_crop_is_a_part_of_that_share_and_shape_inside_the_picture() -> None:
    size = (60, 80)
    base = fit((120, 100), size)
    shares = []
    for seed in range(100):
        affine = drawn(seed, base, crop_area=(0.2, 0.6), **STILL)
        step = affine.after(base)
        corners = np.array([[-0.5, -0.5], [79.5, 59.5]])  # edges of the view, back on the plain grid
        low, high = ((corners - step.matrix[:, 2]) / np.diag(step.matrix[:, :2])) + 0.5
        width, height = high - low
        assert (low > -1e-6).all() and high[0] < 80 + 1e-6 and high[1] < 60 + 1e-6
        assert 3 / 4 - 1e-9 <= width / height <= 4 / 3 + 1e-9
        shares.append(width * height / (80 * 60))
    assert 0.2 <= min(shares) < 0.25 and 0.55 < max(shares) <= 0.6
    mask = disc((120, 100), 50, 60, 45)  # no crop of at most 0.6 keeps it whole
    assert drawn(0, base, "left lung", mask, crop_area=(0.2, 0.6), **STILL) is base  # the text would be untrue
    for text, options in (("", {}), ("left lung", {"flip_text": "keep"})):
        assert drawn(0, base, text, mask, crop_area=(0.2, 0.6), **STILL, **options) is not base


def test_what_is_beyond_the_picture_is_its_edge_or_black() -> None:
    pixels = np.ones((20, 20), dtype=np.float32)
    for border, corner in (("edge", 1.0), ("zero", 0.0)):
        base = fit((20, 20), (20, 20), border=border)  # type: ignore[arg-type]
        affine = drawn(3, base, max_rotate_deg=0, max_shift=0, scale=(0.5, 0.5))
        view = affine.apply_image(pixels)
        assert view[0, 0] == corner and view[10, 10] == 1
        assert affine.after(base).border == border


@pytest.mark.parametrize(("border", "edge"), [("edge", 1.0), ("zero", 0.0)])
def test_letterbox_is_padded_alike_with_and_without_augmentation(border: str, edge: float) -> None:
    """Rows 0..9 and 30..39 of the model's grid lie beyond the picture, whoever asks."""
    base = fit((20, 40), (40, 40), "letterbox", border)  # type: ignore[arg-type]
    affines = [base, *(drawn(seed, base, **STILL, p_flip_lr=0.5) for seed in range(4))]
    affines += [drawn(seed, base, scheme="released") for seed in range(20)]
    for affine in affines:
        view = affine.apply_image(np.ones((20, 40), dtype=np.float32))
        if turns(affine) or abs(affine.matrix[0, 1]) > 1e-9:
            assert affine.border == border
            continue
        assert (view[:9] == edge).all() and (view[31:] == edge).all() and (view[11:29] == 1).all()


def test_laterality_is_asked_only_where_a_side_is_named() -> None:
    require_laterality(["upper zone", "both lungs", "left untreated", ""], None)
    require_laterality(["left lung"], "image")
    for text in ("nodule in the LEFT lung", "RUL mass", "all leff lung"):
        with refused("missing", naming="data.laterality") as caught:
            require_laterality(["opacity", text], None)
        assert text in str(caught.value) and "patient" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "left_right", "up_down"),
    [
        ("right middle lobe opacity", False, True), ("RML", False, True),
        ("derrame pleural izquierdo", False, False), ("RT fibrosis", False, True), ("Infiltrat rechts", False, False),
        ("left lung; Lunge links", False, False), ("left lung", True, True), ("L effusion", True, True),
    ],
)  # fmt: skip
def test_an_image_whose_text_cannot_be_mirrored_is_not_flipped(text: str, left_right: bool, up_down: bool) -> None:
    base, config = fit((40, 40), (32, 32)), AugmentConfig(p_flip_lr=1.0, p_flip_ud=1.0)
    for seed in range(10):
        for texts in (text, ["left lung", text]):
            affine = draw(config, np.random.default_rng(seed), base, text=texts)
            assert (affine.left_right, affine.up_down) == (left_right, up_down)
            assert (affine.matrix[0, 0] < 0, affine.matrix[1, 1] < 0) == (left_right, up_down)


def test_texts_that_keep_images_from_flips_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["left lung", "right middle lobe", "derrame pleural izquierdo"]
    warn_unmirrored(texts, AugmentConfig())
    assert capsys.readouterr().err == ""  # nothing is flipped
    warn_unmirrored(texts, AugmentConfig(p_flip_lr=0.5))
    assert "2 of 3 texts" in capsys.readouterr().err
