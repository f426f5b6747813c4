"""NIfTI: a slice of a volume as an image, and a mask back into the volume.

What is displayed: the volume is brought to RAS order, and the slice is turned so that up is superior (or anterior, in
an axial slice) and the patient's right is on the viewer's left (in a sagittal slice: anterior on the viewer's left).
`axis`: 0 = sagittal (left-right), 1 = coronal (posterior-anterior), 2 = axial (inferior-superior), in RAS order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvl.errors import InputError

if TYPE_CHECKING:
    from medvl.data.images import Image

PERCENTILES = (0.5, 99.5)
AXES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True, slots=True)
class NiftiSlice:
    """Where a displayed slice stands in its file: enough to put a mask back."""

    affine: NDArray[np.float64]  # (4, 4) of the file
    shape: tuple[int, ...]  # of the file
    to_canonical: NDArray[np.float64]  # nibabel orientation transform, file -> RAS
    axis: int
    index: int

    def to_volume(self, mask: NDArray[Any]) -> NDArray[Any]:
        """(H, W) as displayed -> a volume of the file's shape, zero outside the slice."""
        from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

        shape3 = self.shape[:3]
        order = self.to_canonical[:, 0].astype(int)
        canonical = np.zeros([shape3[int(np.flatnonzero(order == i)[0])] for i in range(3)], dtype=mask.dtype)
        plane = mask[::-1, ::-1].T  # (H, W) displayed -> (x, y) of the plane
        np.moveaxis(canonical, self.axis, 0)[self.index] = plane
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

    plane, spacing, reference = _read_slice(path, slice_index, axis)
    values = plane.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{int((~np.isfinite(values)).sum())} voxels are not finite", file=path)
    if window is not None:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    else:
        low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    pixels = np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    return Image(pixels, spacing, path, bits=8 * plane.dtype.itemsize, format="nifti", reference=reference)


def read_nifti_labels(path: Path, *, slice_index: int | None = None, axis: int = 2) -> NDArray[Any]:
    """One slice as (H, W) integer labels. InputError for NaN and for values that are not whole numbers."""
    plane, _, _ = _read_slice(path, slice_index, axis)
    bad = int(np.isnan(plane).sum())
    if bad:
        raise InputError(f"{bad} pixels of the mask are NaN", file=path, expected="a label in every pixel")
    labels = np.rint(plane).astype(np.int64)
    if not np.allclose(labels, plane):
        raise InputError("a mask with values that are not whole numbers", file=path, expected="labels")
    return np.asarray(labels)


def nifti_size(path: Path, axis: int = 2) -> tuple[int, int]:
    """(H, W) of a displayed slice, from the header."""
    image = _open(path)
    shape = _canonical_shape(image)
    plane = [shape[i] for i in range(3) if i != axis]
    return plane[1], plane[0]


def single_slice(shape: tuple[int, ...], spacing_mm: tuple[float, float] | None) -> NiftiSlice:
    """The place of an (H, W) image that is no NIfTI: one axial slice (W, H, 1) in RAS order."""
    height, width = shape
    row, column = spacing_mm or (1.0, 1.0)
    identity = np.array([[0, 1], [1, 1], [2, 1]], dtype=np.float64)
    return NiftiSlice(np.diag([column, row, 1.0, 1.0]), (width, height, 1), identity, 2, 0)


def _open(path: Path) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(path)
    except (ImageFileError, OSError, ValueError, EOFError) as error:
        raise InputError(f"unreadable NIfTI: {error}", file=path, remedy="export or copy it again") from None
    shape = image.shape
    if len(shape) < 2 or any(side != 1 for side in shape[3:]):
        raise InputError(f"a NIfTI of shape {shape}", file=path, expected="one volume of up to three axes")
    return image


def _canonical_shape(image: Any) -> tuple[int, int, int]:
    shape = (*image.shape[:3], 1)[:3]
    order = _orientation(image)[:, 0].astype(int)
    sides = [0, 0, 0]
    for i, target in enumerate(order):
        sides[target] = shape[i]
    return sides[0], sides[1], sides[2]


def _orientation(image: Any) -> NDArray[np.float64]:
    from nibabel.orientations import io_orientation

    return np.asarray(io_orientation(image.affine))


def _read_slice(
    path: Path, slice_index: int | None, axis: int
) -> tuple[NDArray[Any], tuple[float, float], NiftiSlice]:
    from nibabel.orientations import apply_orientation

    if axis not in (0, 1, 2):
        raise InputError(f"slice axis {axis}", file=path, expected="0 (sagittal), 1 (coronal) or 2 (axial)")
    image = _open(path)
    turn = _orientation(image)
    try:
        data = np.asanyarray(image.dataobj).reshape((*image.shape[:3], 1)[:3])
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"damaged or cut-off NIfTI: {error}", file=path, remedy="export or copy it again") from None
    volume = np.asarray(apply_orientation(data, turn))
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
    zooms = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    sides = [0.0, 0.0, 0.0]
    for i, target in enumerate(turn[:, 0].astype(int)):
        sides[target] = float(zooms[i])
    column, row = (sides[i] for i in range(3) if i != axis)
    reference = NiftiSlice(np.asarray(image.affine), tuple(image.shape), turn, axis, slice_index)
    return shown, (row, column), reference
