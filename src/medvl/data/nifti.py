"""NIfTI: a slice of a volume as an image, and a mask back into the volume.

What is displayed: the volume is brought to RAS order, and the slice is turned so that up is superior (or anterior, in
an axial slice) and the patient's right is on the viewer's left (in a sagittal slice: anterior on the viewer's left).
`axis`: 0 = sagittal (left-right), 1 = coronal (posterior-anterior), 2 = axial (inferior-superior), in RAS order. A file
of a single slice (exactly one side of 1) is shown as that slice, whichever way it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvl.errors import InputError

if TYPE_CHECKING:
    from medvl.data.images import Image
    from medvl.data.mask_colours import StoredMask

PERCENTILES = (0.5, 99.5)
MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # of a unit of the affine; mm unless declared
AXES = ("sagittal", "coronal", "axial")


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

        shape3 = _three(self.shape)
        order = self.to_canonical[:, 0].astype(int)
        sides = [shape3[int(np.flatnonzero(order == i)[0])] for i in range(3)]
        canonical = np.zeros(sides, dtype=next(iter(masks.values())).dtype)
        for index, mask in masks.items():
            np.moveaxis(canonical, self.axis, 0)[index] = mask[::-1, ::-1].T  # (H, W) displayed -> (x, y) of the plane
        back = io_orientation(inv_ornt_aff(self.to_canonical, shape3))
        return np.asarray(apply_orientation(canonical, back)).reshape(self.shape)


def read_nifti(
    path: Path, *, window: tuple[float, float] | None = None, slice_index: int | None = None, axis: int = 2
) -> Image:
    """One slice as an Image; values between the 0.5th and 99.5th percentile become 0..1 unless `window` is given.

    Raises:
        InputError: unreadable; more than one slice and no `slice_index`; an index outside; values that are not finite.
    """
    from medvl.data.images import Image

    plane, bits, spacing, reference, _ = _read_slice(path, slice_index, axis)
    values = plane.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values)).sum())} voxels are not finite",
            file=path,
            expected="a number in every voxel",
            remedy="write the value of the background there",
        )
    if window is not None:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    else:
        low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    pixels = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    return Image(pixels, spacing, path, bits=bits, format="nifti", reference=reference)


def read_nifti_mask(path: Path, *, slice_index: int | None = None, axis: int = 2) -> StoredMask:
    """One slice (H, W) of a mask, with the whole volume, whose values decide what those of the slice mean."""
    from medvl.data.mask_colours import StoredMask

    plane, _, _, reference, volume = _read_slice(path, slice_index, axis)
    return StoredMask(path, plane, volume=volume if volume.shape[reference.axis] > 1 else None, nan_outside=True)


def nifti_size(path: Path, axis: int = 2) -> tuple[int, int]:
    """(H, W) of a displayed slice, from the header."""
    image, _, turn = _open(path)
    shape = _canonical_shape(image, turn)
    plane = [shape[i] for i in range(3) if i != _slice_axis(shape, axis, path)]
    return plane[1], plane[0]


def nifti_slices(path: Path, axis: int = 2) -> int:
    """How many slices there are along `axis`, from the header."""
    image, _, turn = _open(path)
    shape = _canonical_shape(image, turn)
    return shape[_slice_axis(shape, axis, path)]


def nifti_grid(path: Path) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """From the header: the affine (4, 4), voxel -> mm in RAS, and the sides of the volume as it is stored."""
    image, affine, _ = _open(path)
    scaled = affine.copy()
    scaled[:3] *= MILLIMETRES.get(_unit(image), 1.0)
    return scaled, _three(image.shape)


def single_slice(
    shape: tuple[int, ...], spacing_mm: tuple[float, float] | None, num_slices: int = 1
) -> NiftiSlice:
    """The place of an (H, W) image that is no NIfTI: an axial slice of (W, H, num_slices) in RAS order."""
    height, width = shape
    row, column = spacing_mm or (1.0, 1.0)
    identity = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)
    return NiftiSlice(np.diag([column, row, 1.0, 1.0]), (width, height, num_slices), identity, 2, 0)


def _open(path: Path) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
    """The file, its affine, and its orientation transform to RAS."""
    import nibabel

    try:
        image: Any = nibabel.load(path)
        shape, affine = image.shape, np.asarray(image.affine)
        plain = image.get_data_dtype().kind in "iuf"
    except Exception as error:  # nibabel, gzip and zlib each raise their own
        raise _unreadable(path, error) from None
    if not 2 <= len(shape) or any(side != 1 for side in shape[3:]) or not all(shape):
        raise InputError(f"a NIfTI of shape {shape}", file=path, expected="one volume of up to three axes")
    if not plain:
        raise InputError(f"a NIfTI of {image.get_data_dtype()} voxels", file=path, expected="one number a voxel")
    return image, *_orientation(affine, _three(shape), path)


def _unreadable(path: Path, error: Exception) -> InputError:
    # nibabel names the file at length in its own message; the kind of error says as much.
    what = f"unreadable NIfTI: damaged, cut off or another format ({type(error).__name__})"
    return InputError(what, file=path, expected="a whole .nii or .nii.gz", remedy="export or copy it again")


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    sides = (*shape[:3], 1)
    return sides[0], sides[1], sides[2]


def _canonical_shape(image: Any, turn: NDArray[np.float64]) -> tuple[int, int, int]:
    sides = [0, 0, 0]
    for side, target in zip(_three(image.shape), turn[:, 0].astype(int), strict=True):
        sides[target] = side
    return sides[0], sides[1], sides[2]


def _slice_axis(shape: tuple[int, int, int], axis: int, path: Path) -> int:
    if axis not in (0, 1, 2):
        raise InputError(f"slice axis {axis}", file=path, expected="0 (sagittal), 1 (coronal) or 2 (axial)")
    return shape.index(1) if shape.count(1) == 1 else axis


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
    raise InputError(
        "an affine that does not say how the volume lies", file=path, expected="a direction and spacing for each axis"
    )


def _read_slice(
    path: Path, slice_index: int | None, axis: int
) -> tuple[NDArray[Any], int, tuple[float, float] | None, NiftiSlice, NDArray[Any]]:
    """(H, W) as displayed, its bits in the file, the spacing, where it stands, and the volume in RAS order."""
    from nibabel.orientations import apply_orientation

    image, affine, turn = _open(path)
    try:
        data = np.asanyarray(image.dataobj).reshape(_three(image.shape))
    except Exception as error:
        raise _unreadable(path, error) from None
    volume = np.asarray(apply_orientation(data, turn))
    axis = _slice_axis(_canonical_shape(image, turn), axis, path)
    num_slices = volume.shape[axis]
    if slice_index is None:
        if num_slices > 1:
            raise InputError(
                f"a volume of {' x '.join(map(str, volume.shape))} voxels (left-right, posterior-anterior, "
                "inferior-superior)",
                file=path,
                expected=f"data.slice_index from 0 to {num_slices - 1} ({AXES[axis]})",
            )
        slice_index = 0
    if not 0 <= slice_index < num_slices:
        raise InputError(f"slice {slice_index} of {num_slices}", file=path, expected=f"0 to {num_slices - 1}")
    plane = np.take(volume, slice_index, axis=axis)  # (x, y): the two other axes in RAS order
    shown = plane.T[::-1, ::-1]  # (H, W): second axis up, first axis towards the left
    unit = _unit(image)
    zooms = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)) * MILLIMETRES.get(unit, 1.0)
    sides = [0.0, 0.0, 0.0]
    for i, target in enumerate(turn[:, 0].astype(int)):
        sides[target] = float(zooms[i])
    column, row = (sides[i] for i in range(3) if i != axis)
    reference = NiftiSlice(affine, tuple(image.shape), turn, axis, slice_index, unit)
    known = (row, column) if row > 0 and column > 0 else None
    return shown, 8 * image.get_data_dtype().itemsize, known, reference, volume


def _unit(image: Any) -> str:
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that the format does not know
        return "unknown"
