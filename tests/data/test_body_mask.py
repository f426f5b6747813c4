"""The body of a radiograph: on drawn pictures where it is known, and against human lung masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from faults import refused

from medvl.data.body_mask import body_mask, body_mask_with_flag
from medvl.data.records import load_manifest


def film(border: int = 12, *, open_below: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A drawn chest (96, 96): image, body, lungs. Black border, bright body, dark lungs, perhaps open below."""
    y, x = np.mgrid[:96, :96]
    body = (x >= border) & (x < 96 - border) & (y >= border)
    lungs = np.zeros_like(body)
    for centre in (32, 64):
        lungs |= ((y - 50) / 26) ** 2 + ((x - centre) / 11) ** 2 < 1
        if open_below:
            lungs |= (y > 50) & (abs(x - centre) < 11)
    image = np.where(body, 0.7, 0.0)
    image = np.where(lungs, 0.15, image) + np.random.default_rng(0).normal(0, 0.02, (96, 96))
    return image.clip(0, 1).astype(np.float32), body, lungs


@pytest.mark.parametrize("open_below", [False, True])
def test_dark_lungs_belong_to_the_body_and_the_border_does_not(open_below: bool) -> None:
    image, body, lungs = film(open_below=open_below)
    found, was_found = body_mask_with_flag(image)
    assert was_found
    assert found[lungs].mean() > 0.99
    assert (found & body).sum() / (found | body).sum() > 0.93


def test_exposure_does_not_matter() -> None:
    image, _, _ = film()
    masks = [body_mask(image), body_mask(0.4 * image), body_mask(np.sqrt(image))]
    assert min((masks[0] & m).sum() / (masks[0] | m).sum() for m in masks) > 0.95


def test_channels_are_averaged() -> None:
    image, _, _ = film()
    assert np.array_equal(body_mask(image), body_mask(np.stack([image] * 3)))


def test_what_an_affine_shifts_in_is_background() -> None:
    image, _, _ = film(border=0)
    shifted = np.zeros_like(image)
    shifted[:, 20:] = image[:, :-20]
    assert not body_mask(shifted)[:, :17].any()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_image_is_taken_whole(value: float) -> None:
    mask, was_found = body_mask_with_flag(np.full((64, 48), value, dtype=np.float32))
    assert mask.shape == (64, 48) and mask.all()
    assert was_found == (value > 0)


def test_a_small_object_is_no_body() -> None:
    image = np.zeros((64, 64), dtype=np.float32)
    image[20:30, 20:30] = 1
    mask, was_found = body_mask_with_flag(image)
    assert mask.all() and not was_found


def test_the_largest_component_counts() -> None:
    image, _, _ = film()
    image[:4, :4] = 1.0  # a marker in the corner
    assert not body_mask(image)[:4, :4].any()


def test_other_shapes_are_refused() -> None:
    with refused("wrong_shape"):
        body_mask(np.zeros(5, dtype=np.float32))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cxr-lung-paed", "hannover-cxr", "cxr-notes"])
def test_lungs_of_real_films_lie_in_the_body(name: str, shared_data: Path) -> None:
    """Human lung masks of 30 frontal films a set: nearly all of them inside; of the black outside little."""
    manifest = load_manifest(shared_data / name / "manifest.csv")
    rows = [r for r in manifest.records if (m := r.masks["mask"]) is not None and m.path is not None and r.view != "L"]
    inside, black = [], []
    for row in rows[:30]:
        reference = row.masks["mask"]
        assert reference is not None
        image = cv2.resize(cv2.imread(str(row.image), 0), (256, 256), interpolation=cv2.INTER_AREA) / np.float32(255)
        lungs = cv2.resize(cv2.imread(str(reference.path), 0), (256, 256), interpolation=cv2.INTER_AREA) > 127
        found, was_found = body_mask_with_flag(image)
        assert was_found
        inside.append(found[lungs].mean())
        if (image <= 3 / 255).mean() > 0.02:
            black.append(found[image <= 3 / 255].mean())
    assert np.mean(inside) > 0.99 and min(inside) > 0.9
    assert not black or np.mean(black) < 0.25
