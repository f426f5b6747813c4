"""Gamma, contrast, brightness and noise are relative to the range that an image uses."""

from __future__ import annotations

import numpy as np
import pytest

from medvl.config.augment import AugmentConfig, StrongViewConfig
from medvl.data.intensity import intensity, intensity_range, strong_view


def old_intensity(config: AugmentConfig, rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Relative to [0, 1], as the file's range."""
    gamma = np.exp(rng.uniform(-1, 1) * np.log1p(config.max_gamma))
    contrast = 1 + rng.uniform(-config.max_contrast, config.max_contrast)
    brightness = rng.uniform(-config.max_brightness, config.max_brightness)
    result = np.power(pixels, gamma, dtype=np.float32)
    mean = float(result.mean())
    result = (result - mean) * contrast + mean + brightness
    noise = rng.standard_normal(result.shape[1:], dtype=np.float32)
    return np.clip(result + rng.uniform(0, config.max_noise) * noise, 0, 1).astype(np.float32)


def radiograph(size: int = 64) -> np.ndarray:
    """(1, H, W) in [0, 1]: a bright body with dark lungs, black and white ends of more than 0.5 % each."""
    y, x = np.mgrid[:size, :size] / size
    body = np.clip(1.3 - 3 * np.hypot(x - 0.5, 0.6 * (y - 0.5)), 0, 1)
    lungs = 0.6 * (np.hypot((np.abs(x - 0.5) - 0.2) * 2, y - 0.45) < 0.25)
    return (body * (1 - lungs)).astype(np.float32)[None]


def test_images_that_use_the_whole_range_are_changed_as_before() -> None:
    pixels, config = radiograph(), AugmentConfig()
    assert intensity_range(pixels) == (0, 1)
    for seed in range(5):
        new = intensity(config, np.random.default_rng(seed), pixels, intensity_range(pixels))
        assert np.array_equal(new, old_intensity(config, np.random.default_rng(seed), pixels))


@pytest.mark.parametrize(("scale", "offset"), [(1 / 16, 0.0), (0.1, 0.0), (0.05, 0.4)])
def test_dark_images_are_changed_as_others_are(scale: float, offset: float) -> None:
    """The same picture in a sixteenth of the range: what is drawn is the same but for what saturates."""
    pixels, config = radiograph(), AugmentConfig()
    dark = scale * pixels + np.float32(offset)
    correlations = []
    for seed in range(30):
        found = intensity(config, np.random.default_rng(seed), dark, intensity_range(dark))
        bright = intensity(config, np.random.default_rng(seed), pixels, intensity_range(pixels))
        same = (bright > 0) & (bright < 1)
        np.testing.assert_allclose(found[same], scale * bright[same] + offset, atol=scale * 2e-4)
        correlations.append(np.corrcoef(found.ravel(), pixels.ravel())[0, 1])
    assert min(correlations) > 0.98


def test_the_range_of_an_image_is_that_of_nearly_all_its_pixels() -> None:
    pixels = np.linspace(0.2, 0.3, 10_000, dtype=np.float32).reshape(100, 100)
    pixels[0, :10] = 1.0  # a label burnt in: 0.1 % of the pixels
    low, high = intensity_range(pixels)
    assert (low, high) == pytest.approx((0.2005, 0.2995), abs=2e-4)
    assert intensity_range(np.kron(pixels, np.ones((5, 5), np.float32))) == pytest.approx((low, high), abs=2e-3)
    spot = np.zeros((100, 100), dtype=np.float32)
    spot[50, 50] = 0.5
    assert intensity_range(spot) == (0, 0.5)
    flat = np.full((1, 8, 8), 0.3, np.float32)
    assert intensity(AugmentConfig(), np.random.default_rng(0), flat, intensity_range(flat)) is flat


def test_intensity_bounds() -> None:
    pixels = np.random.default_rng(0).random((3, 16, 16), dtype=np.float32)
    off = AugmentConfig(max_gamma=0, max_contrast=0, max_brightness=0, max_noise=0)
    for limits in ((0.0, 1.0), (0.2, 0.6)):
        assert np.allclose(intensity(off, np.random.default_rng(0), pixels, limits), pixels, atol=1e-6)
    strong = AugmentConfig(max_gamma=1, max_contrast=1, max_brightness=1, max_noise=1)
    for seed in range(20):
        result = intensity(strong, np.random.default_rng(seed), pixels, (0.1, 0.9))
        assert result.dtype == np.float32 and result.min() >= 0 and result.max() <= 1
    grey = np.repeat(pixels[:1], 3, axis=0)
    result = intensity(AugmentConfig(), np.random.default_rng(1), grey, intensity_range(grey))
    assert np.array_equal(result[0], result[1]) and np.array_equal(result[0], result[2])


def test_what_a_strong_view_does_to_a_step() -> None:
    """0.2 on the left, 0.8 on the right: blurred by at most 3 pixels, then a rectangle of at most 0.3 has one value."""
    pixels = np.full((1, 60, 40), 0.2, np.float32)
    pixels[..., 20:] = 0.8
    still = {"max_gamma": 0.0, "max_contrast": 0.0, "max_brightness": 0.0, "max_noise": 0.0}
    limits, areas, most_blurred = intensity_range(pixels), [], 0.0
    for seed in range(40):
        cut, blurred = (
            strong_view(StrongViewConfig(**still, **one), np.random.default_rng(seed), pixels, limits)
            for one in ({"max_blur_px": 0.0, "max_cut_out": 0.3}, {"max_blur_px": 3.0, "max_cut_out": 0.0})
        )
        changed = np.abs(cut - pixels)[0] > 1e-6
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        areas.append(changed.mean())
        assert areas[-1] == pytest.approx(len(rows) * len(columns) / changed.size) and 0.2 < cut[0][changed].max() < 0.8
        most_blurred = max(most_blurred, float(np.abs(blurred - pixels)[..., 22].max()))
        assert np.abs(blurred - pixels)[..., :8].max() < 1e-3
    assert 0.2 < max(areas) < 0.31 and most_blurred > 0.05
