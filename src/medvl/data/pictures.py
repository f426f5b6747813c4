"""PNG, JPEG, TIFF, BMP, GIF -> pixels as stored, by Pillow, and by OpenCV what Pillow keeps only 8 bits of."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from medvl.core.errors import FaultKind, InputError, warn
from medvl.core.limits import check_size
from medvl.data.packed import head_of, open_plain

READABLE = "PNG, JPEG, TIFF, DICOM, NIfTI, NRRD, MHA, NPY or NPZ"
ORIENTATION = 0x0112  # tag of EXIF and TIFF
PAGED = ("tiff", "gif")  # formats whose pages are slices, where all are of one size


class Decoded(NamedTuple):
    """What Pillow or OpenCV makes of a file."""

    array: NDArray[Any]  # (H, W) or (H, W, C)
    form: str  # e.g. "png"
    palette: NDArray[np.uint8] | None = None  # (entries, 4) RGB and alpha, of labels alone: `array` holds its indices
    lossy: bool = False  # JPEG, alone or in a TIFF


def decode(path: Path, *, labels: bool = False, page: int | None = None) -> Decoded:
    """The pixels as stored. With `labels` a palette and an alpha channel are kept, and integers of any size.

    Args:
        page: which of several pages of one size; ignored where there is one.
    """
    palette = None
    try:
        with _opened(path) as (file, image):
            form, pages = (image.format or "?").lower(), _num_pages(image)
            if pages > 1:
                image.seek(_page(page, pages, path))
            elif getattr(image, "n_frames", 1) > 1 and form != "mpo":
                warn("of several pages of different sizes the first is read", place=path)
            raw_mode = _raw_mode(image)
            tags = dict(image.tag_v2) if isinstance(image, TiffImageFile) else {}
            picture: PILImage.Image = ImageOps.exif_transpose(image)
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
                file.seek(0)
                array = np.asarray(cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_GRAYSCALE))
            turned = int(image.getexif().get(ORIENTATION, 1)) if form == "png" else int(tags.get(ORIENTATION, 1))
            if ";16" in raw_mode and array.dtype == np.uint8 and (form == "png" or turned == 1):
                deep = _turned(_decode_deep(file, _page(page, pages, path)), turned)
                # Both make colour of grey with alpha.
                array = deep[:, :, 0] if raw_mode.startswith("LA") and not labels else deep
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them
        raise _unreadable(path, error) from None
    if array.dtype == np.int32 and not labels:  # Pillow's mode I: 16-bit files of some writers
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 65535:
            raise InputError.unsupported(
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


def _decode_deep(file: BinaryIO, page: int) -> NDArray[Any]:
    """16-bit files of two to four channels, of which Pillow keeps 8 bits -> (H, W[, C]) uint16."""
    file.seek(0)
    content = np.frombuffer(file.read(), np.uint8)
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    decoded = cv2.imdecode(content, flags) if page == 0 else None
    if page:
        done, pages = cv2.imdecodemulti(content, flags)
        decoded = pages[page] if done else None
    if decoded is None:
        raise ValueError("16-bit pixels")
    array: NDArray[Any] = np.asarray(decoded)
    return array if array.ndim == 2 else array[:, :, [2, 1, 0, 3][: array.shape[2]]]  # OpenCV has blue first


def _turned(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W[, C]) as stored -> as the EXIF orientation 1 to 8 says."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array[::-1] if orientation in (3, 4, 7, 8) else array)


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header, as EXIF turns it. InputError as `decode`."""
    try:
        with _opened(path) as (file, image):
            orientation = 1
            if image.format != "PNG" or "exif" in image.info or _has_late_exif(file):
                orientation = image.getexif().get(ORIENTATION, 1)
            width, height = image.size
            if isinstance(image, TiffImageFile):  # whose size some versions of Pillow have already turned
                width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
            return (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them
        raise _unreadable(path, error) from None


def num_pages(path: Path) -> int:
    """Pages of one size of a TIFF or GIF; 1 where they differ (a thumbnail, a pyramid) and of every other format."""
    try:
        with _opened(path) as (_, image):
            return _num_pages(image)
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, PILImage.Image]]:
    """A picture whose size is checked and whose pixels are not decoded yet."""
    limit = PILImage.MAX_IMAGE_PIXELS
    # From an open file: given a path, Pillow maps raw TIFF into memory and garbles those that are turned.
    with open_plain(path) as file:
        PILImage.MAX_IMAGE_PIXELS = None  # the limit here is ours
        try:
            with PILImage.open(file) as image:
                check_size((image.size[1], image.size[0]), path)
                yield file, image
        finally:
            PILImage.MAX_IMAGE_PIXELS = limit


def _num_pages(image: PILImage.Image) -> int:
    num = int(getattr(image, "n_frames", 1))
    if num == 1 or (image.format or "").lower() not in PAGED:
        return 1
    sizes = set()
    for page in range(num):
        image.seek(page)
        sizes.add(image.size)
    image.seek(0)
    return num if len(sizes) == 1 else 1


def _page(page: int | None, pages: int, path: Path) -> int:
    """InputError where one of several pages is to be chosen, or there is none of that number."""
    if pages == 1:
        return 0
    if page is None or not 0 <= page < pages:
        what = f"a file of {pages} pages" if page is None else f"page {page} of {pages}"
        raise InputError(
            what,
            kind=FaultKind.AMBIGUOUS if page is None else FaultKind.OUT_OF_RANGE,
            file=path,
            expected=f"data.slice_index (--slice) from 0 to {pages - 1}",
            remedy="choose one of them",
        )
    return page


def _has_late_exif(file: BinaryIO) -> bool:
    """Whether EXIF stands behind the pixels of a PNG, which Pillow would decode to find it."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"eXIf" or (name in (b"zTXt", b"tEXt", b"iTXt") and b"exif" in file.read(min(length, 40))):
            return True
        file.seek(file.tell() + length + 4 - (min(length, 40) if name in (b"zTXt", b"tEXt", b"iTXt") else 0))
    return False


def _unreadable(path: Path, error: Exception) -> InputError:
    remedy = "export or copy it again"
    if isinstance(error, UnidentifiedImageError) and head_of(path, 2) in (b"II", b"MM"):
        detail = "damaged or cut off, or a kind of TIFF that is not read, such as colours in floating-point numbers"
        remedy = "export or copy it again, in 8 or 16 bits or as NPY"
    elif isinstance(error, UnidentifiedImageError):
        detail = "not an image"
    elif isinstance(error, OSError) and error.strerror:
        detail = error.strerror
    else:
        detail = f"damaged or cut off ({error})"
    return InputError(
        f"unreadable image: {detail}",
        kind=FaultKind.UNREADABLE if isinstance(error, OSError) and error.strerror else FaultKind.DAMAGED,
        file=path,
        expected=READABLE,
        remedy=remedy,
    )
