"""Files -> images of any supported format, with spacing and orientation. Masks: `masks.py`.

Each format has a module: `pictures` (PNG, JPEG, TIFF), `dicom`, `volumes` (NIfTI, NRRD, MHA) and `arrays` (NPY, NPZ).
Shapes: H rows, W columns. Grey images are (H, W), colour images (H, W, 3), always float32 in [0, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.data.arrays import array_size, array_slices, read_array
from medvl.data.dicom import dicom_frames, dicom_orientation, dicom_size, is_dicom, read_dicom
from medvl.data.image import PERCENTILES, STORED, FloatArray, Image, Orientation, nan_background, say_blank
from medvl.data.packed import exists, head_of, is_file
from medvl.data.pictures import decode, num_pages, picture_size
from medvl.data.volumes import read_volume, volume_size, volume_slices

Kind = Literal["picture", "dicom", "volume", "array"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
ARRAY_SUFFIXES = (".npy", ".npz")
# by which a file claims to be an image
IMAGE_SUFFIXES = (*PICTURE_SUFFIXES, *VOLUME_SUFFIXES, *ARRAY_SUFFIXES, ".dcm", ".dicom")
HEAD = 400  # bytes that distinguish the formats


def read_image(
    path: str | Path,
    *,
    window: tuple[float, float] | None = None,
    slice_index: int | None = None,
    slice_axis: int = 2,
) -> Image:
    """Read one image of any supported format.

    Integers are scaled by the full range of their type, so that two files of one type stay comparable; DICOM is shown
    through its own window, volumes by percentiles, unless `window` (centre, width) is given. NaN is background: it
    takes no part in a range and is shown as 0, with a warning.

    Args:
        slice_index: slice of a volume along `slice_axis`, frame of a DICOM, page of a TIFF, or image of an NPY stack.

    Raises:
        InputError: no such file, unreadable or cut off, too large, an unsupported format or number of channels, several
            slices and no `slice_index`.
    """
    path = Path(path)
    image = _read(path, window, slice_index, slice_axis)
    say_blank(image.pixels, path)
    return image


def _read(path: Path, window: tuple[float, float] | None, slice_index: int | None, slice_axis: int) -> Image:
    kind = kind_of(path)
    if kind == "volume":
        return read_volume(path, window=window, slice_index=slice_index, axis=slice_axis)
    if kind == "dicom":
        return read_dicom(path, window=window, frame=slice_index)
    if kind == "array":
        array, form = read_array(path, slice_index=slice_index), "array"
    else:
        array, form = decode(path, page=slice_index)[:2]
    if array.ndim == 3 and array.shape[2] == 4:
        warn("the alpha channel is left out", place=path)
        array = array[:, :, :3]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError.wrong_shape(
            f"an image of shape {array.shape}", file=path, expected="one (grey) or three (RGB) channels"
        )
    bits = 1 if array.dtype == np.bool_ else 8 * array.dtype.itemsize
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    background = nan_background(values, path) if array.dtype.kind == "f" else None
    known = values if background is None else values[~background]
    if window is not None:  # in the file's own values, as for DICOM and NIfTI
        pixels = np.clip((values - window[0]) / max(window[1], 1e-12) + 0.5, 0, 1)
    elif array.dtype.kind == "f":
        low, high = _float_range(known, path)
        pixels = (values - low) / max(high - low, 1e-12)
    elif array.dtype.kind == "i":
        low, high = (float(value) for value in np.percentile(values, PERCENTILES))
        pixels = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    else:
        pixels = values / (2**bits - 1)
    if background is not None:
        pixels[background] = 0
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    return Image(pixels=pixels, spacing_mm=None, path=path, bits=bits, format=form)


def image_size(path: str | Path, *, slice_axis: int = 2) -> tuple[int, int]:
    """(H, W) from the header, without decoding the pixels. InputError as `read_image`, of what the header says."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "volume":
        return volume_size(path, slice_axis)
    if kind == "dicom":
        return dicom_size(path)
    if kind == "array":
        return array_size(path)
    return picture_size(path)


def num_slices(path: str | Path, slice_axis: int = 2, *, as_slices: bool = False) -> int:
    """How many images a file holds, from the header: slices of a volume along `slice_axis`, frames of a DICOM, pages of
    one size of a TIFF or GIF, images of an NPY stack; 1 for a plain image. InputError as `image_size`.

    Args:
        as_slices: three planes of bytes in a NIfTI are three slices, as they are read with a `slice_index`.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "volume":
        return volume_slices(path, slice_axis, as_slices=as_slices)
    if kind == "dicom":
        return dicom_frames(path)
    if kind == "array":
        return array_slices(path)
    return num_pages(path)


def image_orientation(path: str | Path) -> Orientation:
    """`Image.orientation` from the header. InputError as `image_size`."""
    path = Path(path)
    if kind_of(path) != "dicom":
        return STORED
    return dicom_orientation(path)


def resample_map(values: FloatArray, size: tuple[int, int]) -> FloatArray:
    """(H, W) float -> another size: mean over the covered area along a side that shrinks, else linear."""
    height, width = values.shape
    result: NDArray[Any] = np.ascontiguousarray(values, dtype=np.float32)
    # Each axis by its own rule: cv2's area mode is exact only where both sides shrink.
    if size[0] != height:
        mode = cv2.INTER_AREA if size[0] < height else cv2.INTER_LINEAR
        result = cv2.resize(result, (width, size[0]), interpolation=mode)
    if size[1] != width:
        mode = cv2.INTER_AREA if size[1] < width else cv2.INTER_LINEAR
        result = cv2.resize(result, (size[1], size[0]), interpolation=mode)
    return np.asarray(result, dtype=np.float32).reshape(size)  # cv2 drops a side of 1


def kind_of(path: Path) -> Kind:
    """Which reader a file is for: by its content, and by its suffix where the content has no mark of its own."""
    name = path.name.lower()
    if not is_file(path):
        raise InputError.missing_file("no such image" if not exists(path) else "not a file", file=path)
    head = head_of(path, HEAD)
    if head[128:132] == b"DICM":
        return "dicom"
    if name.endswith(VOLUME_SUFFIXES) or _is_volume(head):
        return "volume"
    if head[:6] == b"\x93NUMPY" or name.endswith(ARRAY_SUFFIXES):
        return "array"
    return "dicom" if is_dicom(path) else "picture"  # Pillow knows its formats, or says that it does not


def _is_volume(head: bytes) -> bool:
    nifti = head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")
    return nifti or head[:4] == b"NRRD" or head[:10] == b"ObjectType"


def _float_range(values: FloatArray, path: Path) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        warn("floating-point pixels below 0 or above 1 are scaled: the smallest is 0, the largest 1", place=path)
        return low, high
    return 0.0, 1.0


SliceChoice = int | Literal["all"] | None


def parse_slice(word: str | None) -> SliceChoice:
    """The value of `--slice`: a number from 0, or all. InputError for anything else."""
    if word is None or word == "all":
        return None if word is None else "all"
    try:
        number = int(word)
    except ValueError:
        number = -1
    if number < 0:
        raise InputError.malformed(f"--slice {word}", expected="the number of a slice, from 0, or all")
    return number


def slices_of(path: Path, choice: SliceChoice, default: int | None = None) -> tuple[int | None, ...]:
    """Which slices (NIfTI and other volumes, along the axial axis) or frames of a file are asked for.

    Args:
        choice: of `--slice`; None = `default`, the model's own `data.slice_index`, where the file has several.

    Raises:
        InputError: unreadable; several slices and no choice; a slice that the file does not have.
    """
    num = num_slices(path, as_slices=choice is not None)
    if choice == "all":
        return tuple(range(num)) if num > 1 else (None,)
    if choice is None and num == 1:
        return (None,)
    index = default if choice is None else choice
    if index is None:
        raise InputError.ambiguous(
            f"a file of {num} slices or frames",
            file=path,
            expected="the choice of one, or all of them",
            remedy=f"--slice N (0 to {num - 1}), or --slice all",
        )
    if not 0 <= index < num:
        raise InputError.out_of_range(f"slice {index} of {num}", file=path, expected=f"--slice 0 to {num - 1}, or all")
    return (index,) if num > 1 else (None,)
