"""Pixels as they are shown to the eye: overlays, reports, panels. What a network sees does not pass here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
