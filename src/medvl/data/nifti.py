"""NIfTI files -> a `Volume`: header, affine and the voxels of a slice or of all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError
from medvl.core.limits import is_gzip, open_plain
from medvl.data.volumes import Part, Volume, three_sides

VECTORS = (1007, 2003, 2004)  # intents: vector, RGB, RGBA
MIN_COLOUR_SIDE = 16  # of a picture whose third axis is its colours; smaller ones are volumes of three slices


def open_nifti(path: Path, *, as_slices: bool = False) -> Volume:
    """The header of a .nii, .nii.gz or .hdr; the voxels are read by `Volume.load`.

    Args:
        as_slices: three planes of bytes are three slices, and not the colours of a picture.

    Raises:
        InputError: unreadable; more than one volume; voxels that are no number and no colour; no orientation.
    """
    try:
        image = _image(path)
        shape = tuple(int(side) for side in image.shape)
        kind = image.get_data_dtype()
        affine, intent = np.asarray(image.affine), int(image.header["intent_code"])
    except InputError:
        raise
    except Exception as error:  # nibabel, gzip and zlib each raise their own
        raise _unreadable(path, error) from None
    planes = _colour_axis(shape, kind, intent, as_slices)
    spatial = shape if planes is None or kind.fields else shape[:planes]
    if not 2 <= len(shape) or any(side != 1 for side in spatial[3:]) or not all(shape):
        raise InputError(f"a NIfTI of shape {shape}", file=path, expected="one volume of up to three axes")
    if kind.kind not in "iuf" and not (kind.fields and set(kind.names) >= {"R", "G", "B"}):
        raise InputError(f"a NIfTI of {kind} voxels", file=path, expected="one number a voxel, or a colour")

    def load(part: Part) -> NDArray[Any]:
        try:
            if planes is not None and not kind.fields:  # the colours are the last axis, behind axes of 1
                return np.asarray(image.dataobj).reshape(*three_sides(spatial), 3)[part]
            data = np.asanyarray(image.dataobj[part] if len(shape) == 3 else image.dataobj)
            data = data.reshape(*data.shape[:2], -1) if len(shape) == 3 else data.reshape(three_sides(spatial))[part]
            return np.stack([data[name] for name in ("R", "G", "B")], axis=-1) if kind.fields else np.asarray(data)
        except Exception as error:
            raise _unreadable(path, error) from None

    bits = 8 if kind.fields else 8 * kind.itemsize
    return Volume.of(path, "nifti", spatial, affine, load, bits, unit=_unit(image), is_colour=planes is not None)


def _image(path: Path) -> Any:
    import nibabel

    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz", ".hdr")) and is_gzip(path) == name.endswith(".gz"):
        return nibabel.load(path)
    with open_plain(path) as file:  # a suffix that does not say what the file is
        content = file.read()
    kind = nibabel.Nifti2Image if content[4:6] == b"n+" else nibabel.Nifti1Image
    return kind.from_stream(io.BytesIO(content))


def _colour_axis(shape: tuple[int, ...], kind: Any, intent: int, as_slices: bool) -> int | None:
    """Which axis holds red, green and blue (of a structured type: the one behind the last); None where none does."""
    if kind.fields:
        return len(shape)
    last = len(shape) - 1
    if last < 2 or shape[last] != 3 or any(side != 1 for side in shape[3:last]):
        return None
    if last == 2:
        large = min(shape[:2]) >= MIN_COLOUR_SIDE
        return 2 if kind == np.uint8 and large and not as_slices else None
    return last if kind == np.uint8 or intent in VECTORS or shape[2] == 1 else None


def _unreadable(path: Path, error: Exception) -> InputError:
    # nibabel names the file at length in its own message; the kind of error says as much.
    what = f"unreadable NIfTI: damaged, cut off or another format ({type(error).__name__})"
    return InputError(what, file=path, expected="a whole .nii or .nii.gz", remedy="export or copy it again")


def _unit(image: Any) -> str:
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that the format does not know
        return "unknown"
