"""A volume (NIfTI, NRRD, MHA): how it lies, a slice of it as displayed, and a mask back into it.

What is displayed: the volume is brought to RAS order, and the slice is turned so that up is superior (or anterior, in
an axial slice) and the patient's right is on the viewer's left (in a sagittal slice: anterior on the viewer's left).
`axis`: 0 = sagittal (left-right), 1 = coronal (posterior-anterior), 2 = axial (inferior-superior), in RAS order. A file
of a single slice (exactly one side of 1) is shown as that slice, whichever way it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError
from medvl.core.limits import check_size

MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # of a unit of the affine; mm unless declared
WHOLE = (slice(None), slice(None), slice(None))

Part = tuple[slice, slice, slice]  # of the axes of a file


@dataclass(frozen=True, slots=True)
class NiftiSlice:
    """Where a displayed slice stands in its file: enough to put a mask back."""

    affine: NDArray[np.float64]  # (4, 4) of the file
    shape: tuple[int, ...]  # of the file
    to_canonical: NDArray[np.float64]  # nibabel orientation transform, file -> RAS
    axis: int
    index: int
    unit: str = "mm"  # of the affine, as the file declares it

    @property
    def thickness_mm(self) -> float:
        """Distance from one slice to the next."""
        along = int(np.flatnonzero(self.to_canonical[:, 0].astype(int) == self.axis)[0])
        return float(np.linalg.norm(self.affine[:3, along])) * MILLIMETRES.get(self.unit, 1.0)

    def to_volume(self, mask: NDArray[Any]) -> NDArray[Any]:
        """(H, W) as displayed -> a volume of the file's shape, zero outside the slice."""
        return self.stack({self.index: mask})

    def stack(self, masks: Mapping[int, NDArray[Any]]) -> NDArray[Any]:
        """{index of a slice: (H, W) as displayed} -> a volume of the file's shape, zero in the other slices."""
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

        shape3 = three_sides(self.shape)
        order = self.to_canonical[:, 0].astype(int)
        sides = [shape3[int(np.flatnonzero(order == i)[0])] for i in range(3)]
        canonical = np.zeros(sides, dtype=next(iter(masks.values())).dtype)
        for index, mask in masks.items():
            np.moveaxis(canonical, self.axis, 0)[index] = mask[::-1, ::-1].T  # (H, W) displayed -> (x, y) of the plane
        back = io_orientation(inv_ornt_aff(self.to_canonical, shape3))
        return np.asarray(apply_orientation(canonical, back)).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Volume:
    """A file of up to three axes (X, Y, Z), of which only the header is read.

    `load` gives the voxels of a part of it: (x, y, z), or (x, y, z, 3) in colour. `affine` (4, 4) is in RAS order, in
    `unit`; `to_canonical` nibabel's orientation transform, file -> RAS.
    """

    path: Path
    form: str
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    to_canonical: NDArray[np.float64]
    load: Callable[[Part], NDArray[Any]]
    bits: int
    unit: str = "mm"
    is_colour: bool = False
    has_spacing: bool = True

    @classmethod
    def of(
        cls,
        path: Path,
        form: str,
        shape: tuple[int, ...],
        affine: NDArray[np.float64],
        load: Callable[[Part], NDArray[Any]],
        bits: int,
        **more: Any,
    ) -> Volume:
        """InputError where the affine does not say how the volume lies, or the volume is too large to be decoded."""
        check_size(three_sides(shape), path, volume=True)
        affine, turn = _orientation(affine, three_sides(shape), path)
        return cls(path, form, shape, affine, turn, load, bits, **more)

    @property
    def sides(self) -> tuple[int, int, int]:
        """Voxels along left-right, posterior-anterior, inferior-superior."""
        sides = [0, 0, 0]
        for side, target in zip(three_sides(self.shape), self.to_canonical[:, 0].astype(int), strict=True):
            sides[target] = side
        return sides[0], sides[1], sides[2]

    def slice_axis(self, axis: int) -> int:
        """`axis`, or the one of a single slice."""
        if axis not in (0, 1, 2):
            raise InputError.out_of_range(
                f"slice axis {axis}", file=self.path, expected="0 (sagittal), 1 (coronal) or 2 (axial)"
            )
        return self.sides.index(1) if self.sides.count(1) == 1 else axis

    def plane_size(self, axis: int) -> tuple[int, int]:
        """(H, W) of a displayed slice."""
        plane = [self.sides[i] for i in range(3) if i != self.slice_axis(axis)]
        check_size((plane[1], plane[0]), self.path)
        return plane[1], plane[0]

    def canonical(self, part: Part = WHOLE) -> NDArray[Any]:
        """The voxels of a part of the file, in RAS order."""
        from nibabel.orientations import apply_orientation

        return np.asarray(apply_orientation(self.load(part), self.to_canonical))

    def plane(self, index: int, axis: int) -> NDArray[Any]:
        """(H, W[, 3]): one slice as displayed; only its voxels are loaded where the format allows it."""
        file_axis = int(np.flatnonzero(self.to_canonical[:, 0].astype(int) == axis)[0])
        place = index if self.to_canonical[file_axis, 1] > 0 else self.sides[axis] - 1 - index
        part = [slice(None)] * 3
        part[file_axis] = slice(place, place + 1)
        return shown(np.take(self.canonical((part[0], part[1], part[2])), 0, axis=axis))

    def spacing_mm(self, axis: int) -> tuple[float, float] | None:
        """(row, column) of a displayed slice; None where it is not known."""
        zooms = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)) * MILLIMETRES.get(self.unit, 1.0)
        sides = [0.0, 0.0, 0.0]
        for i, target in enumerate(self.to_canonical[:, 0].astype(int)):
            sides[target] = float(zooms[i])
        column, row = (sides[i] for i in range(3) if i != axis)
        return (row, column) if self.has_spacing and row > 0 and column > 0 else None


def single_slice(shape: tuple[int, ...], spacing_mm: tuple[float, float] | None, num_slices: int = 1) -> NiftiSlice:
    """The place of an (H, W) image that is no NIfTI: an axial slice of (W, H, num_slices) in RAS order."""
    height, width = shape
    row, column = spacing_mm or (1.0, 1.0)
    identity = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)
    return NiftiSlice(np.diag([column, row, 1.0, 1.0]), (width, height, num_slices), identity, 2, 0)


def three_sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The first three sides; those that are not there are 1."""
    sides = (*shape[:3], 1)
    return sides[0], sides[1], sides[2]


def shown(plane: NDArray[Any]) -> NDArray[Any]:
    """(x, y[, 3]) of a plane in RAS order -> (H, W[, 3]): second axis up, first axis towards the left."""
    return plane.swapaxes(0, 1)[::-1, ::-1]


def _orientation(
    affine: NDArray[np.float64], shape: tuple[int, int, int], path: Path
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The affine and its transform to RAS; a side of 1 without a thickness, as in some 2D files, gets 1."""
    from nibabel.orientations import io_orientation

    if np.isfinite(affine).all():
        turn = np.asarray(io_orientation(affine))
        lost = np.flatnonzero(np.isnan(turn[:, 0]))
        if all(shape[i] == 1 for i in lost):
            affine = affine.copy()
            for i, target in zip(lost, sorted({0, 1, 2} - set(turn[:, 0])), strict=True):
                turn[i] = target, 1
                affine[:3, i] = np.eye(3)[target]
            return affine, turn
    raise InputError.malformed(
        "an affine that does not say how the volume lies", file=path, expected="a direction and spacing for each axis"
    )
