"""Files -> pixels: PNG, JPEG, TIFF (here), DICOM and NIfTI (in their own modules), with spacing. Masks: `masks.py`.

Shapes: H rows, W columns. Grey images are (H, W), colour images (H, W, 3), always float32 in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from medvl.errors import InputError, warn

FloatArray = NDArray[np.float32]

PIL_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (*PIL_SUFFIXES, *NIFTI_SUFFIXES, ".gif", ".webp", ".dcm", ".dicom")  # by which a file claims to be one
READABLE = "PNG, JPEG, TIFF, DICOM or NIfTI"
ORIENTATION = 0x0112  # tag of EXIF and TIFF
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
    kind = kind_of(path)
    if kind == "nifti":
        from medvl.data.nifti import read_nifti

        return read_nifti(path, window=window, slice_index=slice_index, axis=slice_axis)
    if kind == "dicom":
        from medvl.data.dicom import read_dicom

        return read_dicom(path, window=window, frame=slice_index)
    array, form = decode(path)[:2]
    if array.ndim == 3 and array.shape[2] == 4:
        warn("the alpha channel is left out", place=path)
        array = array[:, :, :3]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError(f"an image of shape {array.shape}", file=path, expected="one (grey) or three (RGB) channels")
    bits = 1 if array.dtype == np.bool_ else 8 * array.dtype.itemsize
    values = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(
            f"{int((~np.isfinite(values)).sum())} pixels are not finite",
            file=path,
            expected="a number in every pixel",
            remedy="write the value of the background there",
        )
    if window is not None:  # in the file's own values, as for DICOM and NIfTI
        pixels = np.clip((values - window[0]) / max(window[1], 1e-12) + 0.5, 0, 1)
    elif array.dtype.kind == "f":
        low, high = _float_range(values, path)
        pixels = (values - low) / max(high - low, 1e-12)
    else:
        pixels = values / (2**bits - 1)
    pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    return Image(pixels=pixels, spacing_mm=None, path=path, bits=bits, format=form)


def image_size(path: str | Path, *, slice_axis: int = 2) -> tuple[int, int]:
    """(H, W) from the header, without decoding the pixels. InputError as `read_image`."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "nifti":
        from medvl.data.nifti import nifti_size

        return nifti_size(path, slice_axis)
    if kind == "dicom":
        from medvl.data.dicom import dicom_size

        return dicom_size(path)
    try:
        with path.open("rb") as file, PILImage.open(file) as image:
            # EXIF orientations 5..8 swap the sides. A PNG's EXIF is only known after its pixels; none are turned so.
            turned = image.format != "PNG" and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = image.size
            if isinstance(image, TiffImageFile):  # whose size some versions of Pillow have already turned
                width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
            return (width, height) if turned else (height, width)
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them
        raise _unreadable(path, error) from None


def num_slices(path: str | Path, slice_axis: int = 2) -> int:
    """How many slices (of a volume, along `slice_axis`) or frames a file has, from the header; 1 for a plain image.

    InputError as `read_image`.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "nifti":
        from medvl.data.nifti import nifti_slices

        return nifti_slices(path, slice_axis)
    if kind == "dicom":
        from medvl.data.dicom import dicom_frames

        return dicom_frames(path)
    return 1


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


def kind_of(path: Path) -> str:
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


class Decoded(NamedTuple):
    """What Pillow or OpenCV makes of a file."""

    array: NDArray[Any]  # (H, W) or (H, W, C)
    form: str  # e.g. "png"
    palette: NDArray[np.uint8] | None = None  # (entries, 4) RGB and alpha, of labels alone: `array` holds its indices
    lossy: bool = False  # JPEG, alone or in a TIFF


def decode(path: Path, *, labels: bool = False) -> Decoded:
    """The pixels as stored. With `labels` a palette and an alpha channel are kept, and integers of any size."""
    palette = None
    try:
        # From an open file: given a path, Pillow maps raw TIFF into memory and garbles those that are turned.
        with path.open("rb") as file, PILImage.open(file) as image:
            form = (image.format or "?").lower()
            raw_mode, pages = _raw_mode(image), getattr(image, "n_frames", 1)
            tags = dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
            picture: PILImage.Image = image if form == "png" else ImageOps.exif_transpose(image)
            if picture.mode == "P" and labels:
                palette = _palette(picture)
            elif picture.mode == "PA" and labels:
                picture = picture.convert("RGBA")
            elif picture.mode in ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
                picture = picture.convert("RGB")
            elif picture.mode == "LA" and not labels:
                picture = picture.convert("L")
            array = np.asarray(picture)
            file.seek(28)
            if form == "bmp" and array.dtype == np.bool_ and file.read(2) == b"\x08\0":
                # Pillow takes 8-bit pixels with a palette of black and white for single bits.
                array = np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE))
        if ";16" in raw_mode and array.dtype == np.uint8 and tags.get(ORIENTATION, 1) == 1:
            deep = _decode_deep(path)  # both make colour of grey with alpha
            array = deep[:, :, 0] if raw_mode.startswith("LA") and not labels else deep
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them
        raise _unreadable(path, error) from None
    if pages > 1 and form != "mpo":
        warn("of several pages the first is read", place=path)
    if array.dtype == np.int32 and not labels:  # Pillow's mode I: 16-bit files of some writers
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise InputError(
                f"integers from {low} to {high}", file=path, expected="0 to 255 or 0 to 65535", remedy="rescale them"
            )
        array = array.astype(np.uint16)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.uint16 and tags.get(262) == 0 and not labels:
        array = 65535 - array  # white is zero, which Pillow minds in 8 bits only
    lossy = form in ("jpeg", "mpo") or tags.get(259) in (6, 7)  # the compression of a TIFF
    return Decoded(array, form, palette, lossy)


def _palette(picture: PILImage.Image) -> NDArray[np.uint8]:
    """(entries, 4) RGB and alpha."""
    colours = np.array(picture.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    alpha = np.full(len(colours), 255, dtype=np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, bytes):
        alpha[: len(transparent)] = np.frombuffer(transparent, np.uint8)[: len(alpha)]
    elif isinstance(transparent, int) and transparent < len(alpha):
        alpha[transparent] = 0
    return np.concatenate([colours, alpha[:, None]], axis=1)


def _raw_mode(image: PILImage.Image) -> str:
    """How the file stores its pixels ("RGB;16B"), as Pillow's decoder is told."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _decode_deep(path: Path) -> NDArray[Any]:
    """16-bit files of two to four channels, of which Pillow keeps 8 bits -> (H, W[, C]) uint16."""
    found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise ValueError("16-bit pixels")
    array: NDArray[Any] = np.asarray(found)
    return array if array.ndim == 2 else array[:, :, [2, 1, 0, 3][: array.shape[2]]]  # OpenCV has blue first


def _float_range(values: FloatArray, path: Path) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        warn("floating-point pixels below 0 or above 1 are scaled: the smallest is 0, the largest 1", place=path)
        return low, high
    return 0.0, 1.0


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, UnidentifiedImageError):
        detail = "not an image"
    elif isinstance(error, PILImage.DecompressionBombError):
        detail = "too large, or damaged"
    elif isinstance(error, OSError) and error.strerror:
        detail = error.strerror
    else:
        detail = f"damaged or cut off ({error})"
    return InputError(f"unreadable image: {detail}", file=path, expected=READABLE, remedy="export or copy it again")
