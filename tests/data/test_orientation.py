"""Stored pixels -> standard display: letters and cosines by hand; image, mask, boxes and answers turn alike."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from medvl.config.augment import AugmentConfig
from medvl.data.box_table import Box
from medvl.data.geometry import Affine, draw, fit
from medvl.data.image import UPRIGHT, Orientation, Turn, orientation_of, orientation_of_cosines

TURNS = [Turn(*flags) for flags in product((False, True), repeat=3)]


def body(right: str, down: str) -> np.ndarray:
    """(3, 3) of a frontal picture: which corner of the patient stands where, as rows run `right` and columns `down`.

    Built from the patient: a point has a place from right to left and from head to feet, 0 to 2 each.
    """
    picture = np.zeros((3, 3), int)
    for row, column in product(range(3), repeat=2):
        place = {}
        for letter, step in ((right, column), (down, row)):
            axis = "LR" if letter in "LR" else "FH"
            place[axis] = step if letter == axis[0] else 2 - step
        picture[row, column] = 10 * place["FH"] + place["LR"]
    return picture


@pytest.mark.parametrize("right, down", [*product("LR", "FH"), *product("FH", "LR")])
def test_every_way_a_frontal_picture_can_lie(right: str, down: str) -> None:
    found = orientation_of(right, down)
    assert found is not None and found.kind == "standard" and found.source == f"{right}\\{down}"
    assert found.turn.apply(body(right, down)).tolist() == body("L", "F").tolist()
    assert bool(found.turn) == ((right, down) != ("L", "F"))


def test_axial_and_sideless() -> None:
    assert orientation_of("L", "P") == Orientation(UPRIGHT, "standard", "L\\P")
    prone = orientation_of("R", "A")
    assert prone is not None and prone.turn == Turn(False, True, True)
    for pair in (("A", "F"), ("P", "F"), ("F", "P"), ("LF", "F"), ("LA", "F"), ("A", "H")):
        found = orientation_of(*pair)
        assert found is not None and found.kind == "sideless" and not found.turn, pair
    for pair in (("L", "R"), ("L", "L"), ("X", "F"), ("", "F"), ("L", "")):
        assert orientation_of(*pair) is None, pair


def test_cosines() -> None:
    cases = {
        (1, 0, 0, 0, 0, -1): ("standard", UPRIGHT),  # frontal, as displayed
        (-1, 0, 0, 0, 0, -1): ("standard", Turn(False, True, False)),
        (0, 0, -1, 1, 0, 0): ("standard", Turn(True, False, False)),
        (1, 0, 0, 0, 1, 0): ("standard", UPRIGHT),  # axial
        (-1, 0, 0, 0, -1, 0): ("standard", Turn(False, True, True)),
        (0.99995, 0.01, 0, -0.01, 0.99995, 0): ("standard", UPRIGHT),
        (0, 1, 0, 0, 0, -1): ("sideless", UPRIGHT),  # sagittal
        (0.7071, 0.7071, 0, 0, 0, -1): ("sideless", UPRIGHT),  # oblique
    }
    for cosines, (kind, turn) in cases.items():
        found = orientation_of_cosines(cosines)
        assert found is not None and (found.kind, found.turn) == (kind, turn), cosines
    for wrong in ((1, 0, 0), (0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 1, 0)):
        assert orientation_of_cosines(wrong) is None


@pytest.mark.parametrize("turn", TURNS)
def test_boxes_points_and_pixels_turn_alike(turn: Turn) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((5, 7)).astype(np.float32)
    assert (turn.undo(turn.apply(image)) == image).all() and turn.size((5, 7)) == turn.apply(image).shape
    colour = rng.random((5, 7, 3))
    assert (turn.apply(colour)[..., 1] == turn.apply(colour[..., 1])).all()
    mask = np.zeros((5, 7), bool)
    mask[1:3, 4:7] = True
    rows, columns = np.nonzero(turn.apply(mask))
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert turn.apply_box((4, 1, 7, 3), (5, 7)) == pytest.approx(expected)
    assert turn.undo_box(expected, (5, 7)) == pytest.approx((4, 1, 7, 3))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("how", ["stretch", "letterbox"])
def test_a_turned_file_is_read_as_the_upright_one(turn: Turn, how: str) -> None:
    """Image, mask, boxes and answers of the stored pixels are those of the upright picture, to the bit."""
    rng = np.random.default_rng(1)
    upright, mask = rng.random((40, 24)).astype(np.float32), np.zeros((40, 24), bool)
    mask[3:17, 5:14] = True
    stored, stored_mask = turn.undo(upright), turn.undo(mask)
    size = (stored.shape[0], stored.shape[1])
    plain = fit((40, 24), (16, 16), how)  # type: ignore[arg-type]
    base = fit(size, (16, 16), how, turn=turn)  # type: ignore[arg-type]
    config = AugmentConfig(p_flip_lr=0.5)
    pairs: list[tuple[Affine, Affine]] = [(plain, base)]
    for seed in (1, 2):
        drawn = [draw(config, np.random.default_rng(seed), affine) for affine in (plain, base)]
        pairs.append((drawn[0], drawn[1]))
    for one, other in pairs:
        np.testing.assert_allclose(other.apply_image(stored), one.apply_image(upright), atol=1e-5)
        assert (other.apply_mask(stored_mask) == one.apply_mask(mask)).mean() > 0.999
        rows, columns = np.nonzero(stored_mask)
        box = Box("a", float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        (moved,), (expected,) = other.apply_boxes([box]), one.apply_boxes([Box("a", 5, 3, 14, 17)])
        for side in ("x0", "y0", "x1", "y1"):
            assert getattr(moved, side) == pytest.approx(getattr(expected, side), abs=1e-6)
        answer = rng.random((16, 16)).astype(np.float32)
        np.testing.assert_allclose(other.invert_map(answer), turn.undo(one.invert_map(answer)), atol=1e-5)
        # The words of a text are not swapped by the turn, only by what augmentation did.
        assert (other.left_right, other.up_down) == (one.left_right, one.up_down)
        np.testing.assert_allclose(other.after(base).matrix, one.after(plain).matrix, atol=1e-9)
    assert (base.apply_image(stored) == plain.apply_image(upright)).all()
    assert (base.touched(stored_mask) == plain.touched(mask)).all()
