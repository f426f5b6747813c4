"""Files -> pixels: PNG, JPEG, TIFF (here), DICOM and NIfTI (in their own modules), with spacing; unbiased resampling.

Shapes: H rows, W columns. Grey images are (H, W), colour images (H, W, 3), always float32 in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError

from medvl.errors import InputError, warn

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

PIL_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
READABLE = "PNG, JPEG, TIFF, DICOM or NIfTI"
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Image:
    """An image as read, on its native grid.

    `pixels` float32 in [0, 1], (H, W) or (H, W, 3). `spacing_mm` (row, column) from DICOM and NIfTI only: resolution
    tags of PNG, JPEG and TIFF are about printing. `reference` is what a NIfTI writer needs to put a mask back.
    """

    pixels: FloatArray
    spacing_mm: tuple[float, float] | None
    path: Path | None
    bits: int
    format: str
    reference: Any = None

    def as_channels(self, num_channels: int) -> FloatArray:
        """-> (C, H, W): grey is repeated, colour becomes luminance for one channel. InputError for C not 1 or 3."""
        if num_channels not in (1, 3):
            raise InputError(f"{num_channels} channels", file=self.path, expected="1 or 3")
        pixels = self.pixels
        if pixels.ndim == 2:
            return np.repeat(pixels[None], num_channels, axis=0)  # (C, H, W)
        if num_channels == 1:
            return np.ascontiguousarray((pixels @ LUMINANCE)[None], dtype=np.float32)  # (1, H, W)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (3, H, W)


def read_image(
    path: str | Path,
    *,
    window: tuple[float, float] | None = None,
    slice_index: int | None = None,
    slice_axis: int = 2,
) -> Image:
    """Read one image of any supported format.

    Integers are scaled by the full range of their type, so that two files of one type stay comparable; DICOM is shown
    through its own window, NIfTI by percentiles, unless `window` (centre, width) is given.

    Args:
        slice_index: slice of a NIfTI volume along `slice_axis`, or frame of a multi-frame DICOM.

    Raises:
        InputError: no such file, unreadable or cut off, an unsupported format or number of channels.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "nifti":
        from medvl.data.nifti import read_nifti

        return read_nifti(path, window=window, slice_index=slice_index, axis=slice_axis)
    if kind == "dicom":
        from medvl.data.dicom import read_dicom

        return read_dicom(path, window=window, frame=slice_index)
    array, form = _decode(path)
    if array.ndim == 3 and array.shape[2] == 4:
        warn(f"{path}: the alpha channel is left out")
        array = array[:, :, :3]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError(f"an image of shape {array.shape}", file=path, expected="one (grey) or three (RGB) channels")
    if array.dtype.kind == "f":
        low, high = _finite_range(array, path)
        pixels, bits = (array.astype(np.float32) - low) / max(high - low, 1e-12), 32
    else:
        bits = 1 if array.dtype == np.bool_ else 8 * array.dtype.itemsize
        pixels = array.astype(np.float32) / (2**bits - 1)
    if window is not None:
        centre, width = (value / (2**bits - 1) if bits < 32 else value for value in window)
        pixels = np.clip((pixels - centre) / max(width, 1e-12) + 0.5, 0, 1)
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    return Image(pixels=pixels, spacing_mm=None, path=path, bits=bits, format=form)


def read_mask(path: str | Path, values: tuple[int, ...] | None = None, *, slice_index: int | None = None) -> BoolArray:
    """Read a mask: (H, W) bool, the pixels whose label is in `values`, or every non-zero pixel.

    Raises:
        InputError: unreadable; colour that is not grey; NaN.
    """
    path = Path(path)
    labels = read_labels(path, slice_index=slice_index)
    return labels != 0 if values is None else np.isin(labels, values)


def read_labels(path: str | Path, *, slice_index: int | None = None) -> NDArray[Any]:
    """Read a label map: (H, W) integers, of a palette image its indices."""
    path = Path(path)
    kind = _kind(path)
    if kind == "nifti":
        from medvl.data.nifti import read_nifti_labels

        return read_nifti_labels(path, slice_index=slice_index)
    if kind == "dicom":
        from medvl.data.dicom import read_dicom_labels

        return read_dicom_labels(path)
    labels, _ = _decode(path, labels=True)
    if labels.ndim == 3:
        if labels.shape[2] == 2 or not (labels[:, :, :3] == labels[:, :, :1]).all():
            raise InputError("a mask in colour", file=path, expected="a grey or palette image of labels")
        labels = labels[:, :, 0]  # (H, W)
    if labels.dtype.kind == "f":
        bad = int(np.isnan(labels).sum())
        if bad:
            raise InputError(f"{bad} pixels of the mask are NaN", file=path, expected="a label in every pixel")
    return labels


def image_size(path: str | Path) -> tuple[int, int]:
    """(H, W) from the header, without decoding the pixels. InputError as `read_image`."""
    path = Path(path)
    kind = _kind(path)
    if kind == "nifti":
        from medvl.data.nifti import nifti_size

        return nifti_size(path)
    if kind == "dicom":
        from medvl.data.dicom import dicom_size

        return dicom_size(path)
    try:
        with PILImage.open(path) as image:
            # EXIF orientations 5..8 swap the sides. A PNG's EXIF is only known after its pixels; none are turned so.
            turned = image.format != "PNG" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size
            return (width, height) if turned else (height, width)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise _unreadable(path, error) from None


def resample_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """(H, W) bool -> another size: a pixel belongs to the mask where at least half of its area does. Never `> 0`."""
    if mask.shape == size:
        return mask
    return resample_map(mask.astype(np.float32), size) >= 0.5


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


def _kind(path: Path) -> str:
    name = path.name.lower()
    if not path.is_file():
        raise InputError("no such image" if not path.exists() else "not a file", file=path)
    if name.endswith(NIFTI_SUFFIXES):
        return "nifti"
    if name.endswith(PIL_SUFFIXES):
        return "pil"
    from medvl.data.dicom import is_dicom

    if is_dicom(path):
        return "dicom"
    return "pil"  # by content: Pillow knows its formats, or says that it does not


def _decode(path: Path, *, labels: bool = False) -> tuple[NDArray[Any], str]:
    try:
        with PILImage.open(path) as image:
            form = (image.format or "?").lower()
            picture: PILImage.Image = image if form == "png" else ImageOps.exif_transpose(image)
            if picture.mode == "P" and not labels:
                picture = picture.convert("RGB")
            elif picture.mode in ("LA", "CMYK", "YCbCr", "HSV", "LAB") or (picture.mode == "PA"):
                picture = picture.convert("L" if picture.mode == "LA" else "RGB")
            array = np.asarray(picture)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise _unreadable(path, error) from None
    if array.dtype == np.int32:  # Pillow's mode I: 16-bit files of some writers
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise InputError(f"32-bit integers from {low} to {high}", file=path, expected="8 or 16 bit")
        array = array.astype(np.uint16)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    return array, form


def _finite_range(array: NDArray[Any], path: Path) -> tuple[float, float]:
    if not np.isfinite(array).all():
        raise InputError(f"{int((~np.isfinite(array)).sum())} pixels are not finite", file=path)
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        warn(f"{path}: floating-point pixels from {low:g} to {high:g} are scaled to 0..1")
        return low, high
    return 0.0, 1.0


def _unreadable(path: Path, error: Exception) -> InputError:
    detail = "not an image" if isinstance(error, UnidentifiedImageError) else f"damaged or cut off ({error})"
    return InputError(f"unreadable image: {detail}", file=path, expected=READABLE, remedy="export or copy it again")
