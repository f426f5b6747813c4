"""Predictor: an image once, many phrases; native grid; honest about empty and unknown phrases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from PIL import Image as PILImage

import medvl
from medvl.core.errors import InputError
from medvl.data.image import Orientation, Turn
from medvl.data.images import read_image
from medvl.inference.predictor import EMPTY_PROMPT, Predictor


@pytest.fixture(scope="module")
def image(tiny_manifest: Path) -> Path:
    return tiny_manifest.parent / "i0.png"


def test_native_grid_and_public_names(tiny_run: Path, image: Path) -> None:
    result = medvl.Predictor.load(tiny_run).set_image(image).segment("the right lung")
    assert result.mask.shape == result.probs.shape == (48, 40)
    assert result.mask.dtype == np.bool_ and result.probs.dtype == np.float32
    assert 0 <= result.probs.min() and result.probs.max() <= 1
    assert np.array_equal(result.mask, result.probs > 0.5)
    assert result.classes == ("mask",) and result.spacing_mm is None


def test_a_turned_image_is_answered_in_stored_pixels(tiny_run: Path, image: Path) -> None:
    predictor = Predictor.load(tiny_run)
    upright = read_image(image)
    expected = predictor.set_image(upright).segment("left lung")
    for turn in (Turn(left_right=True), Turn(True, False, True)):
        stored = replace(upright, pixels=turn.undo(upright.pixels), orientation=Orientation(turn, "standard", "?"))
        result = predictor.set_image(stored).segment("left lung")
        np.testing.assert_array_equal(result.probs, turn.undo(expected.probs))
        assert result.mask.shape == stored.size
        np.testing.assert_array_equal(stored.displayed().pixels, upright.pixels)


def test_a_side_of_a_lateral_image_is_refused(tiny_run: Path, image: Path) -> None:
    predictor = Predictor.load(tiny_run)
    lateral = replace(read_image(image), orientation=Orientation(kind="sideless", source="A\\F"))
    predictor.set_image(lateral).segment("the lung")
    with refused("conflict"):
        predictor.segment("left lung")
    predictor.config.data.laterality = "image"  # sides of the picture, which every picture has
    predictor.segment("left lung")


def test_a_run_is_accepted_wherever_a_model_is(tiny_run: Path, image: Path) -> None:
    one = Predictor.load(tiny_run).set_image(image).segment("left lung").probs
    two = Predictor.load(tiny_run / "model").set_image(image).segment("left lung").probs
    assert np.array_equal(one, two)


def test_many_phrases_equal_one_by_one_and_encode_the_image_once(
    tiny_run: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(tiny_run)
    network, calls = predictor.module.network, [0]
    original = network.encode_image

    def counted(pixels: object) -> object:
        calls[0] += 1
        return original(pixels)

    monkeypatch.setattr(network, "encode_image", counted)
    phrases = ["left lung", "the right lung", "left", "a lung on the right side"] * 3
    together = predictor.set_image(image).segment_many(phrases)
    alone = [predictor.segment(phrase) for phrase in phrases]
    assert calls == [1]
    for one, two in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.probs, two.probs, atol=1e-5)


def test_it_says_when_the_phrase_is_empty_or_unknown(tiny_run: Path, image: Path) -> None:
    predictor = Predictor.load(tiny_run).set_image(image)
    assert EMPTY_PROMPT in predictor.segment("").warnings
    assert any("100% of the image" in note for note in predictor.segment("left lung", threshold=0.0).warnings)
    assert any("pancreas" in note for note in predictor.segment("left pancreas").warnings)


def test_arrays(tiny_run: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = Predictor.load(tiny_run)
    grey = np.asarray(PILImage.open(image))
    from_file = predictor.set_image(image).segment("left lung").probs
    np.testing.assert_array_equal(predictor.set_image(grey).segment("left lung").probs, from_file)
    wide = (grey.astype(np.uint16) * 257).astype(np.uint16)
    np.testing.assert_allclose(predictor.set_image(wide).segment("left lung").probs, from_file, atol=1e-5)
    for wrong in (np.zeros((4, 4, 2)), np.full((8, 8), 2.0), np.full((8, 8), np.nan), np.zeros((4, 4), np.int64)):
        with pytest.raises(InputError):
            predictor.set_image(wrong)
    with refused("wrong_shape"):
        predictor.set_image(np.zeros((0, 5), np.uint8))
    predictor.set_image(np.full((8, 8), 7, np.uint8))
    assert "a blank image" in capsys.readouterr().err


def test_misuse(tiny_run: Path, image: Path, tmp_path: Path) -> None:
    with refused("too_early", naming="set_image"):
        Predictor.load(tiny_run).segment("left lung")
    with refused("out_of_range"):
        Predictor.load(tiny_run).set_image(image).segment("left lung", threshold=50)
    with refused("missing_file"):
        Predictor.load(tmp_path / "nothing")
    with refused("missing_file"):
        Predictor.load(tmp_path)


def test_weights_of_another_size_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(tiny_run / "model", tmp_path / "model")
    config = tmp_path / "model" / "config.yaml"
    config.write_text(config.read_text().replace("size: nano", "size: mini"))
    with refused("mismatch"):
        Predictor.load(tmp_path / "model")


def test_of_exclusive_classes_the_most_probable_is_the_mask(
    tiny_run: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns: background .3, a .3, b .4; background .4, a .35, b .25; a .4, b .4. No class is above one half."""
    predictor = Predictor.load(tiny_run)
    predictor.config = predictor.config.with_section(
        "objective", replace(predictor.config.objective, mode="multiclass")
    )
    predictor.classes = ("a", "b")
    columns = np.repeat([[0.3, 0.35, 0.4], [0.4, 0.25, 0.4]], [12, 10, 10], axis=1)  # (K, 32)
    probs = np.repeat(columns[None, :, None], 32, axis=2).astype(np.float32)  # (1, K, 32, 32)
    monkeypatch.setattr(predictor, "_probs", lambda *_: probs)
    result = predictor.set_image(image).segment("lung")
    assert result.mask.shape == (2, 48, 40) and result.probs.max() < 0.5
    a, b = result.mask[:, 20, [2, 20, 37]]
    assert a.tolist() == [False, False, True] and b.tolist() == [True, False, False]
    assert not result.mask.all(axis=0).any()
    with refused("conflict"):
        predictor.segment("lung", threshold=0.3)
