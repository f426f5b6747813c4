"""Where the patient is in a radiograph: a histogram threshold, the largest component, holes filled.

Used by G2D's pseudo mask (arXiv 2312.01522, section 3.2: attention outside the body counts as 0). It runs on the image
as augmented, in the loader's workers, so that what an affine shifts in from outside counts as background.

Shapes: C channels, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]

BLUR = 128  # the smoothing's sigma is the height / 128
# Otsu's threshold parts lungs from soft tissue where the chest fills the frame; half of it parts air from both.
SHARE_OF_OTSU = 0.5
MIN_AREA = 0.2  # of the image; less is no body, and the whole image is taken


def body_mask(image: FloatArray) -> BoolArray:
    """(H, W) or (C, H, W) in [0, 1] -> (H, W) bool; see `body_mask_with_flag`."""
    return body_mask_with_flag(image)[0]


def body_mask_with_flag(image: FloatArray) -> tuple[BoolArray, bool]:
    """The body of a frontal radiograph, and whether it was found.

    Half of Otsu's threshold on the lightly smoothed 8-bit image, the largest component, each row filled from its first
    to its last pixel (lungs are dark, and open to the picture's edge below), then what is enclosed. Where that is less
    than a fifth of the image (an all-black one, an object on black), the whole image is taken and the flag is False.

    Raises:
        InputError: another number of dimensions.
    """
    if image.ndim not in (2, 3):
        raise InputError.wrong_shape(f"an image of shape {image.shape}", expected="(H, W) or (C, H, W)")
    grey = image if image.ndim == 2 else image.mean(axis=0)
    levels = (np.clip(grey, 0, 1) * 255).round().astype(np.uint8)
    smooth = cv2.GaussianBlur(levels, (0, 0), max(grey.shape[0] / BLUR, 0.5))
    threshold, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_OTSU)
    body = smooth > SHARE_OF_OTSU * threshold
    number, labels, stats, _ = cv2.connectedComponentsWithStats(body.astype(np.uint8), connectivity=8)
    if number > 1:
        body = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    filled = _fill_holes(_fill_rows(body))
    if filled.mean() < MIN_AREA:
        return np.ones(grey.shape, dtype=bool), False
    return filled, True


def _fill_rows(mask: BoolArray) -> BoolArray:
    """Every row from its first to its last pixel."""
    from_left = np.maximum.accumulate(mask, axis=1)
    from_right = np.maximum.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(from_left & from_right)


def _fill_holes(mask: BoolArray) -> BoolArray:
    """What the background cannot reach from the picture's edge belongs to the mask."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    return np.asarray(outside[1:-1, 1:-1] != 2)
