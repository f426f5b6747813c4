"""Shapes of published annotations -> pixels.

A pixel belongs to a rectangle or an ellipse that holds its centre; polygons and COCO's run lengths are painted by
COCO's own raster (faster-coco-eval), which differs from that rule by at most pixels of the border.

Run lengths go down the columns: the flat index of pixel (row, column) is column * H + row. Source of the relative ones:
the SIIM-ACR competition's data page ("relative form of RLE: pixel locations are measured from the end of the previous
run"; the first from pixel 0).

Coordinates are those of the picture's plane: x to the right, y downwards, the pixel (row, column) covers
column..column+1 and row..row+1. A shape is a small immutable object, so that a set of any size can be listed before
the first mask is painted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError
from medvl.data.mask_colours import LabelValue
from medvl.data.masks import read_mask

BoolArray = NDArray[np.bool_]
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class Rectangle:
    """x0 <= x < x1, y0 <= y < y1."""

    corners: Corners

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place; what lies outside is not painted."""
        x0, y0, x1, y1 = self.corners
        columns, rows = _inside(x0, x1, mask.shape[1]), _inside(y0, y1, mask.shape[0])
        mask[rows, columns] = True

    def bounds(self) -> Corners:
        """The smallest box round the shape."""
        return self.corners


@dataclass(frozen=True, slots=True)
class Ellipse:
    """The ellipse that touches the four sides of a box."""

    corners: Corners

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place."""
        x0, y0, x1, y1 = self.corners
        columns, rows = _inside(x0, x1, mask.shape[1]), _inside(y0, y1, mask.shape[0])
        x = (np.arange(mask.shape[1])[columns] + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
        y = (np.arange(mask.shape[0])[rows] + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
        mask[rows, columns] |= x[None, :] ** 2 + y[:, None] ** 2 <= 1

    def bounds(self) -> Corners:
        """The smallest box round the shape."""
        return self.corners


@dataclass(frozen=True, slots=True)
class Polygon:
    """A closed line of at least three points; inside by the even-odd rule, painted by COCO's raster."""

    points: tuple[tuple[float, float], ...]  # (x, y)

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place. InputError when it lies far outside, or where no number is."""
        from faster_coco_eval.core import mask as coco

        height, width = mask.shape
        points = np.array(self.points, dtype=np.float64)  # (N, 2)
        limit = _FAR * max(height, width) + 1000  # the raster walks along every line
        if not (np.abs(points) <= limit).all():
            raise InputError.out_of_range(
                "a polygon that lies far outside the image", expected=f"{height} rows x {width} columns"
            )
        mask |= coco.decode(coco.frPyObjects([points.ravel().tolist()], height, width))[:, :, 0].astype(np.bool_)

    def bounds(self) -> Corners:
        """The smallest box round the shape."""
        x, y = zip(*self.points, strict=True)
        return (min(x), min(y), max(x), max(y))


_FAR = 16  # times the image


def polygon(numbers: Sequence[float]) -> Polygon | None:
    """x, y, x, y, ... -> a polygon; None where it has no area: all its points lie on one line, or are not finite."""
    points = np.array(numbers, dtype=np.float64).reshape(-1, 2)  # (N, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        return None
    rays = points - points[0]
    far = rays[np.argmax((rays**2).sum(axis=1))]
    if np.abs(rays[:, 0] * far[1] - rays[:, 1] * far[0]).max() <= 1e-9 * max((far**2).sum(), 1e-300):
        return None
    return Polygon(tuple((float(x), float(y)) for x, y in points))


@dataclass(frozen=True, slots=True)
class MaskFile:
    """The pixels of some label values or colours of a mask file, see `masks.read_mask`."""

    path: Path
    values: tuple[LabelValue, ...]

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place. InputError: unreadable, or of another size."""
        pixels = read_mask(self.path, self.values)
        if pixels.shape != mask.shape:
            rows, columns = mask.shape
            raise InputError.mismatch(
                f"a mask of {pixels.shape[0]} rows x {pixels.shape[1]} columns",
                file=self.path,
                expected=f"{rows} rows x {columns} columns, as its image",
            )
        mask |= pixels


@dataclass(frozen=True, slots=True)
class Pixels:
    """A small mask at a place: `rows` x `columns` pixels from (top, left) on."""

    values: BoolArray
    top: int
    left: int

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place; what lies outside is not painted."""
        height, width = self.values.shape
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = min(self.top + height, mask.shape[0]), min(self.left + width, mask.shape[1])
        if top < bottom and left < right:
            inside = self.values[top - self.top : bottom - self.top, left - self.left : right - self.left]
            mask[top:bottom, left:right] |= inside

    def bounds(self) -> Corners:
        """The smallest box round the rectangle of the small mask."""
        height, width = self.values.shape
        return (float(self.left), float(self.top), float(self.left + width), float(self.top + height))


@dataclass(frozen=True, slots=True)
class RelativeRuns:
    """SIIM-ACR's run lengths, see `relative_runs`."""

    text: str

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place. InputError when the runs do not fit it."""
        mask |= relative_runs(self.text, (mask.shape[0], mask.shape[1]))


@dataclass(frozen=True, slots=True)
class CocoRuns:
    """COCO's run lengths with the size they were made for, see `coco_counts`."""

    counts: str | tuple[int, ...]
    size: tuple[int, int]  # (H, W)

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place. InputError when the runs do not fit it."""
        mask |= coco_counts(self.counts, (mask.shape[0], mask.shape[1]))

    def bounds(self) -> Corners | None:
        """The smallest box round the pixels, None where there is none. InputError as `paint`."""
        rows, columns = np.nonzero(coco_counts(self.counts, self.size))
        if not rows.size:
            return None
        return (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))


def bounds_of(shapes: Iterable[Outline]) -> Corners | None:
    """The smallest box round all of them; None where none has a pixel."""
    boxes = [box for shape in shapes if (box := shape.bounds()) is not None]
    if not boxes:
        return None
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


Outline = Rectangle | Ellipse | Polygon | Pixels | CocoRuns
Shape = Rectangle | Ellipse | Polygon | RelativeRuns | CocoRuns | MaskFile | Pixels


def _inside(low: float, high: float, size: int) -> slice:
    """The pixels of one axis whose centre lies in low <= centre < high."""
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    return slice(min(max(first, 0), size), min(max(last, 0), size))


def relative_runs(text: str, shape: tuple[int, int]) -> BoolArray:
    """ "offset length offset length ..." -> (H, W) bool. An offset counts from the end of the run before it.

    Raises:
        InputError: not pairs of whole numbers, a negative offset, an empty run, or a run that leaves the mask.
    """
    try:
        numbers = np.array([int(number) for number in text.split()], dtype=np.int64)
    except ValueError:
        numbers = np.empty(0, np.int64)
    if numbers.size == 0 or numbers.size % 2 or (numbers[0::2] < 0).any() or (numbers[1::2] < 1).any():
        raise InputError.malformed(
            f"not run lengths: {text[:40]!r}", expected="pairs of offset and length, length 1 or more"
        )
    size = shape[0] * shape[1]
    if int(numbers.sum()) > size:
        what = f"a run ends at pixel {int(numbers.sum())}"
        raise InputError.out_of_range(what, expected=f"at most {size}, {shape[0]} rows x {shape[1]} columns")
    return coco_counts([*numbers.tolist(), size - int(numbers.sum())], shape)


def coco_counts(counts: str | Sequence[int], shape: tuple[int, int]) -> BoolArray:
    """COCO's counts -> (H, W) bool: lengths of runs of 0 and 1 in turn, 0 first; or their compressed text.

    Raises:
        InputError: counts that are no numbers, are negative, or do not add up to H * W.
    """
    from faster_coco_eval.core import mask as coco

    height, width = shape
    try:
        if isinstance(counts, str):
            runs = {"size": [height, width], "counts": counts.encode("ascii")}
        else:
            if sum(counts) != height * width or min(counts) < 0:
                raise ValueError(f"they add up to {sum(counts)} pixels")
            runs = coco.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)
        return np.asarray(coco.decode(runs), dtype=np.bool_)
    except (ValueError, TypeError, RuntimeError) as error:
        what = f"not the run lengths of a COCO mask ({error})"
        raise InputError.malformed(what, expected=f"{height * width} pixels, {height} rows x {width} columns") from None
