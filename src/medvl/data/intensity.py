"""What a pixel is worth: the range that an image uses, augmentation within it, and pixels as shown to the eye.

Relative to the range of the file, what is a slight change of a bright image destroys a dark one: 12 bits in a 16-bit
file use a sixteenth of it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.config.augment import AugmentConfig, StrongViewConfig

FloatArray = NDArray[np.float32]

RANGE_TAIL = 0.005  # of the pixels at either end that are no part of an image's range: labels burnt in, dead pixels
RANGE_PIXELS = 65536  # that a range is read off, at most


def intensity_range(pixels: FloatArray) -> tuple[float, float]:
    """The range that an image (any shape) uses: percentiles 0.5 and 99.5, of a grid of its pixels where it is large.

    Of an image that is constant but for fewer pixels than that, the lowest and the highest value.
    """
    step = max(1, int(np.ceil(np.sqrt(pixels.size / RANGE_PIXELS))))
    values = (pixels[::step, ::step] if pixels.ndim > 1 else pixels).ravel()
    ranks = (int(RANGE_TAIL * (values.size - 1)), int(np.ceil((1 - RANGE_TAIL) * (values.size - 1))))
    low, high = np.partition(values, ranks)[list(ranks)]
    if low == high:
        low, high = pixels.min(), pixels.max()
    return float(low), float(high)


def intensity(
    config: AugmentConfig, rng: np.random.Generator, pixels: FloatArray, limits: tuple[float, float]
) -> FloatArray:
    """Gamma, contrast, brightness and noise on (C, H, W) in [0, 1]; what leaves [0, 1] saturates, as exposure does.

    Args:
        limits: the image's `intensity_range`, which all of it is relative to. A constant image has none, and stays.
    """
    return pixels if config.scheme != "medvl" else _varied(config, rng, pixels, limits)


def strong_view(
    config: StrongViewConfig, rng: np.random.Generator, pixels: FloatArray, limits: tuple[float, float]
) -> FloatArray:
    """The harder view of (C, H, W) in [0, 1]: `intensity` with bounds of its own, blurred, and a rectangle cut out.

    The rectangle has the aspect 1:2 to 2:1 and lies wholly in the picture; all of it has the image's mean.
    """
    result = _varied(config, rng, pixels, limits)
    sigma, area, aspect = rng.uniform(0, config.max_blur_px), rng.uniform(0, config.max_cut_out), rng.uniform(-0.5, 0.5)
    place = rng.random(2)
    if sigma > 0:
        result = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in result])
    size = np.array(result.shape[1:])
    height, width = np.minimum(size, np.rint(size * np.sqrt(area) * 2.0 ** np.array([aspect, -aspect])).astype(int))
    top, left = np.rint(place * (size - (height, width))).astype(int)
    if height * width:
        result = result.copy()
        result[:, top : top + height, left : left + width] = result.mean()
    return result


def _varied(
    config: AugmentConfig | StrongViewConfig,
    rng: np.random.Generator,
    pixels: FloatArray,
    limits: tuple[float, float],
) -> FloatArray:
    low, span = np.float32(limits[0]), np.float32(limits[1] - limits[0])
    if span <= 0:
        return pixels
    gamma = np.exp(rng.uniform(-1, 1) * np.log1p(config.max_gamma))
    contrast = 1 + rng.uniform(-config.max_contrast, config.max_contrast)
    brightness = rng.uniform(-config.max_brightness, config.max_brightness)
    scaled = (pixels - low) / span
    result = np.where(scaled > 0, np.power(np.maximum(scaled, 0), gamma, dtype=np.float32), scaled)
    mean = float(result.mean())
    result = (result - mean) * contrast + mean + brightness
    if config.max_noise:
        noise = rng.standard_normal(result.shape[1:], dtype=np.float32)  # the same for all channels of a pixel
        result = result + rng.uniform(0, config.max_noise) * noise
    saturated: FloatArray = np.clip(low + span * result, 0, 1).astype(np.float32)
    return saturated


SHOWN_PERCENTILES = (0.5, 99.5)
MIN_RANGE = 1e-6  # an image of one value is shown as it is


def stretched(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) in [0, 1], windowed to their own range: the 0.5 and 99.5 percentiles become 0 and 1.

    12 bits in a file of 16, or a dark image, are black without it. All channels have the same window. Where the
    percentiles meet (a few bright pixels on one value), the smallest and the largest value take their place.
    """
    sample = pixels[:: max(1, pixels.shape[0] // 512)]  # enough rows for a percentile
    low, high = (float(value) for value in np.percentile(sample, SHOWN_PERCENTILES))
    if high - low < MIN_RANGE:
        low, high = float(pixels.min()), float(pixels.max())
    if high - low < MIN_RANGE:
        return pixels
    shown: NDArray[np.float32] = np.clip((pixels - low) / (high - low), 0, 1).astype(np.float32)
    return shown


def as_picture(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) in [0, 1] -> (H, W, 3) 8-bit RGB, windowed to the image's own range."""
    shown = np.rint(255 * stretched(pixels)).astype(np.uint8)
    return np.repeat(shown[:, :, None], 3, axis=2) if shown.ndim == 2 else shown
