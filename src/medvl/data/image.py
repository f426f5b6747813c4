"""One image as it was read, and how its rows and columns are turned for display and for a model.

Standard display: of a frontal picture the rows run to the patient's left and the columns to the feet (`L\\F`), of an
axial one the rows to the left and the columns to the back (`L\\P`).

Shapes: H rows, W columns. Grey images are (H, W), colour images (H, W, 3), always float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn

OPPOSITE = {"L": "R", "R": "L", "F": "H", "H": "F", "A": "P", "P": "A"}
STANDARD = (("L", "F"), ("L", "P"))
PLAIN = 0.9  # a direction cosine from here on lies along an axis of the body


@dataclass(frozen=True, slots=True)
class Turn:
    """Stored pixels -> standard display: rows and columns are exchanged first, then mirrored."""

    transpose: bool = False
    left_right: bool = False
    up_down: bool = False

    def __bool__(self) -> bool:
        return self.transpose or self.left_right or self.up_down

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """(H, W) or (H, W, C) as stored -> as displayed."""
        values = values.swapaxes(0, 1) if self.transpose else values
        values = values[:, ::-1] if self.left_right else values
        return np.ascontiguousarray(values[::-1] if self.up_down else values)

    def undo(self, values: NDArray[Any]) -> NDArray[Any]:
        """(H, W) or (H, W, C) as displayed -> as stored."""
        values = values[::-1] if self.up_down else values
        values = values[:, ::-1] if self.left_right else values
        return np.ascontiguousarray(values.swapaxes(0, 1) if self.transpose else values)

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """(H, W) as displayed."""
        return (stored[1], stored[0]) if self.transpose else stored

    def matrix(self, stored: tuple[int, int]) -> NDArray[np.float64]:
        """(2, 3): (x, y) of a stored pixel's centre -> as displayed."""
        height, width = self.size(stored)
        linear = np.array([[0.0, 1.0], [1.0, 0.0]]) if self.transpose else np.eye(2)
        shift = np.zeros(2)
        for axis, (mirrored, side) in enumerate(((self.left_right, width), (self.up_down, height))):
            if mirrored:
                linear[axis] *= -1
                shift[axis] = side - 1
        return np.hstack([linear, shift[:, None]])

    def apply_box(self, corners: Sequence[float], stored: tuple[int, int]) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 (pixel edges) as stored -> as displayed."""
        matrix = self.matrix(stored)
        ends = np.array([corners[:2], corners[2:]], dtype=np.float64) - 0.5  # edges -> centres
        return _box_of(ends @ matrix[:, :2].T + matrix[:, 2])

    def undo_box(self, corners: Sequence[float], stored: tuple[int, int]) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 (pixel edges) as displayed -> as stored."""
        matrix = self.matrix(stored)
        ends = np.array([corners[:2], corners[2:]], dtype=np.float64) - 0.5
        return _box_of((ends - matrix[:, 2]) @ matrix[:, :2])  # its inverse is its transpose


def _box_of(centres: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Two opposite corners (2, 2), as pixel centres -> x0, y0, x1, y1 (pixel edges)."""
    (x0, y0), (x1, y1) = centres.min(axis=0) + 0.5, centres.max(axis=0) + 0.5
    return float(x0), float(y0), float(x1), float(y1)


UPRIGHT = Turn()


@dataclass(frozen=True, slots=True)
class Orientation:
    """What a file says about its rows and columns.

    `kind`: standard (a frontal or axial picture, `turn` brings it to the standard display), absent (not known: as
    stored), none (the format has no such statement) or sideless (a lateral or oblique picture: its left and right are
    not the patient's, and nothing is turned). `source` is the statement itself, e.g. `R\\F`.
    """

    turn: Turn = UPRIGHT
    kind: Literal["standard", "absent", "none", "sideless"] = "none"
    source: str = ""


STORED = Orientation()


def orientation_of(rows: str, columns: str) -> Orientation | None:
    """Directions of the rows and of the columns in letters of DICOM's PatientOrientation (L R H F A P).

    None where the letters contradict each other. More than one letter is an oblique direction.
    """
    source = f"{rows}\\{columns}"
    if not all(word and set(word) <= set(OPPOSITE) for word in (rows, columns)):
        return None
    if rows[0] in (columns[0], OPPOSITE[columns[0]]):
        return None
    if len(rows) > 1 or len(columns) > 1:
        return Orientation(UPRIGHT, "sideless", source)
    for right, down in STANDARD:
        transpose = columns in (right, OPPOSITE[right])
        across, along = (columns, rows) if transpose else (rows, columns)
        if across in (right, OPPOSITE[right]) and along in (down, OPPOSITE[down]):
            return Orientation(Turn(transpose, across != right, along != down), "standard", source)
    return Orientation(UPRIGHT, "sideless", source)


def orientation_of_cosines(cosines: Sequence[float]) -> Orientation | None:
    """DICOM's ImageOrientationPatient: six cosines of the rows' and the columns' direction (x left, y back, z head).

    None where they are no two directions at right angles.
    """
    directions = np.array(cosines, dtype=np.float64).reshape(-1, 3)
    if directions.shape != (2, 3) or not np.allclose(np.linalg.norm(directions, axis=1), 1, atol=0.01):
        return None
    if abs(float(directions[0] @ directions[1])) > 0.01:
        return None
    letters = []
    for direction in directions:
        axis = int(np.abs(direction).argmax())
        letter = ("L", "P", "H")[axis] if direction[axis] > 0 else ("R", "A", "F")[axis]
        letters.append(letter if abs(direction[axis]) >= PLAIN else f"{letter}?")
    if any("?" in letter for letter in letters):
        return Orientation(UPRIGHT, "sideless", "oblique ImageOrientationPatient")
    return orientation_of(letters[0], letters[1])


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
