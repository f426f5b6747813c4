"""One image as it was read: pixels on its native grid, spacing and orientation.

Shapes: H rows, W columns. Grey images are (H, W), colour images (H, W, 3), always float32 in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.data.orientation import STORED, UPRIGHT, Orientation

FloatArray = NDArray[np.float32]

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
LARGEST = 1e30  # of a pixel; beyond it differences leave the range of the numbers
PERCENTILES = (0.5, 99.5)  # that become 0 and 1, of numbers without a range of their own


@dataclass(frozen=True, slots=True)
class Image:
    """An image as read, on its native grid: the pixels as they are stored.

    `pixels` float32 in [0, 1], (H, W) or (H, W, 3). `spacing_mm` (row, column) from DICOM and volumes only: resolution
    tags of PNG, JPEG and TIFF are about printing. `reference` is what a NIfTI writer needs to put a mask back.
    `orientation` says how the stored rows and columns are turned for display and for a model; masks, boxes and
    predictions of the image are in stored pixels too.
    """

    pixels: FloatArray
    spacing_mm: tuple[float, float] | None
    path: Path | None
    bits: int
    format: str
    reference: Any = None
    orientation: Orientation = STORED

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) as stored."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def displayed(self) -> Image:
        """The image in standard display: what a viewer shows and the model sees."""
        turn = self.orientation.turn
        spacing = self.spacing_mm
        if spacing is not None and turn.transpose:
            spacing = (spacing[1], spacing[0])
        upright = replace(self.orientation, turn=UPRIGHT)
        return replace(self, pixels=turn.apply(self.pixels), spacing_mm=spacing, reference=None, orientation=upright)

    def as_channels(self, num_channels: int) -> FloatArray:
        """-> (C, H, W): grey is repeated, colour becomes luminance for one channel. InputError for C not 1 or 3."""
        if num_channels not in (1, 3):
            raise InputError.malformed(f"{num_channels} channels", file=self.path, expected="1 or 3")
        pixels = self.pixels
        if pixels.ndim == 2:
            return np.repeat(pixels[None], num_channels, axis=0)  # (C, H, W)
        if num_channels == 1:
            return np.ascontiguousarray((pixels @ LUMINANCE)[None], dtype=np.float32)  # (1, H, W)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (3, H, W)


def say_blank(pixels: FloatArray, place: str | Path) -> None:
    """Warn of an image (H, W) or (H, W, 3) of one colour."""
    if (pixels == pixels[0, 0]).all():
        warn("a blank image: all its pixels have one value", place=place)


def nan_background(values: FloatArray, path: Path) -> NDArray[np.bool_] | None:
    """Which values are NaN, with a warning; None where none is.

    Raises:
        InputError: values that are infinite or beyond `LARGEST`, or nothing but NaN.
    """
    background: NDArray[np.bool_] = np.isnan(values)
    infinite = ~(np.abs(values) <= LARGEST) & ~background
    if infinite.any() or background.all():
        raise InputError.not_finite(
            f"{int(infinite.sum() or background.sum())} pixels are not finite",
            file=path,
            expected="numbers, and NaN only in the background",
            remedy="write the value of the background there",
        )
    if not background.any():
        return None
    warn("NaN in the image is read as background", place=path)
    return background
