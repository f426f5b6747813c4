"""Shapes of published annotations -> pixels. One rule for all: a pixel belongs to a shape that holds its centre.

Coordinates are those of the picture's plane: x to the right, y downwards, the pixel (row, column) covers
column..column+1 and row..row+1. A shape is a small immutable object, so that a set of any size can be listed before
the first mask is painted. pycocotools draws borders by another rule; the two differ by at most the border's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvl.data.importers.rle import coco_counts, relative_runs

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
    """A closed line of at least three points; inside by the even-odd rule."""

    points: tuple[tuple[float, float], ...]  # (x, y)

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place."""
        start = np.array(self.points, dtype=np.float64)  # (N, 2)
        end = np.roll(start, -1, axis=0)
        height, width = mask.shape
        rows = _inside(float(start[:, 1].min()), float(start[:, 1].max()), height)
        for row in range(rows.start, rows.stop):
            y = row + 0.5
            cut = (start[:, 1] <= y) != (end[:, 1] <= y)  # edges that cross the line through the centres
            (x0, y0), (x1, y1) = start[cut].T, end[cut].T
            crossings = np.sort(x0 + (y - y0) * (x1 - x0) / (y1 - y0))
            for left, right in zip(crossings[0::2], crossings[1::2], strict=True):
                mask[row, _inside(left, right, width)] = True

    def bounds(self) -> Corners:
        """The smallest box round the shape."""
        x, y = zip(*self.points, strict=True)
        return (min(x), min(y), max(x), max(y))


@dataclass(frozen=True, slots=True)
class RelativeRuns:
    """SIIM-ACR's run lengths, see `rle.relative_runs`."""

    text: str

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place. InputError when the runs do not fit it."""
        mask |= relative_runs(self.text, (mask.shape[0], mask.shape[1]))


@dataclass(frozen=True, slots=True)
class CocoRuns:
    """COCO's run lengths with the size they were made for, see `rle.coco_counts`."""

    counts: str | tuple[int, ...]
    size: tuple[int, int]  # (H, W)

    def paint(self, mask: BoolArray) -> None:
        """Add the shape to a mask (H, W), in place. InputError when the runs do not fit it."""
        mask |= coco_counts(self.counts, (mask.shape[0], mask.shape[1]))


Shape = Rectangle | Ellipse | Polygon | RelativeRuns | CocoRuns


def _inside(low: float, high: float, size: int) -> slice:
    """The pixels of one axis whose centre lies in low <= centre < high."""
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    return slice(min(max(first, 0), size), min(max(last, 0), size))
