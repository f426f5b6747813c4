"""NPY and NPZ: (H, W), (H, W, 3 or 4), or a stack (N, H, W) or (N, H, W, 3), of which `slice_index` chooses one.

Nothing is unpickled: an array of objects is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import FaultKind, InputError
from medvl.core.limits import check_size
from medvl.data.packed import open_plain

# What an archive of several arrays calls its image, and its mask.
IMAGE_NAMES = ("image", "images", "img", "imgs", "arr_0")
MASK_NAMES = ("mask", "masks", "label", "labels", "seg", "gt", "gts", "arr_0")


def read_array(path: Path, *, slice_index: int | None = None, labels: bool = False) -> NDArray[Any]:
    """(H, W) or (H, W, C) as stored; whole numbers of any type that are within 8 or 16 bits become such.

    Args:
        slice_index: of a stack; ignored where there is one image.
        labels: of an archive the mask is read, and numbers keep their type.

    Raises:
        InputError: unreadable, too large, no array of numbers, no image, or a stack and no `slice_index`.
    """
    with _opened(path, labels) as (file, shape, _kind):
        num, size, colours = _layout(shape, path)
        check_size(size, path)
        check_size((num, *size), path, volume=True)
        if num > 1 and (slice_index is None or not 0 <= slice_index < num):
            what = f"a stack of {num} images" if slice_index is None else f"image {slice_index} of {num}"
            remedy = "an image in colour is (H, W, 3)" if num in (3, 4) else "choose one of them"
            raise InputError(
                what,
                kind=FaultKind.AMBIGUOUS if slice_index is None else FaultKind.OUT_OF_RANGE,
                file=path,
                expected=f"data.slice_index (--slice) from 0 to {num - 1}",
                remedy=remedy,
            )
        values = np.lib.format.read_array(file, allow_pickle=False)
    array: NDArray[Any] = values.reshape(num, *size, *((colours,) if colours else ()))[
        slice_index or 0 if num > 1 else 0
    ]
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    if labels or array.dtype.kind not in "iu" or array.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(array)
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high <= 65535:
        return np.asarray(array, dtype=np.uint8 if high <= 255 else np.uint16)
    return np.asarray(array, dtype=np.int64 if high < 2**63 else np.float64)


def array_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header. InputError as `read_array`."""
    with _opened(path, False) as (_, shape, _kind):
        size = _layout(shape, path)[1]
    check_size(size, path)
    return size


def array_slices(path: Path) -> int:
    """How many images the stack holds, from the header; 1 for one image."""
    with _opened(path, False) as (_, shape, _kind):
        return _layout(shape, path)[0]


def _layout(shape: tuple[int, ...], path: Path) -> tuple[int, tuple[int, int], int]:
    """Images, (H, W), and colours (0 of a grey image)."""
    if len(shape) == 3 and (shape[0] == 1 or shape[2] == 1):
        shape = shape[1:] if shape[0] == 1 else shape[:2]
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) == 2:
        return 1, (shape[0], shape[1]), 0
    if len(shape) == 3:
        if shape[2] in (3, 4):
            return 1, (shape[0], shape[1]), shape[2]
        return shape[0], (shape[1], shape[2]), 0
    if len(shape) == 4 and shape[3] in (3, 4):
        return shape[0], (shape[1], shape[2]), shape[3]
    raise InputError.wrong_shape(
        f"an array of shape {shape}", file=path, expected="(H, W), (H, W, 3) or a stack (N, H, W)"
    )


@contextmanager
def _opened(path: Path, labels: bool) -> Iterator[tuple[BinaryIO, tuple[int, ...], np.dtype[Any]]]:
    """The file of one array, with the shape and type that its header states."""
    try:
        with open_plain(path) as plain:
            packed = zipfile.is_zipfile(plain)
            plain.seek(0)
            if not packed:
                yield plain, *_header(plain, path)
                return
            with zipfile.ZipFile(plain) as archive, archive.open(_member(archive, path, labels)) as member:
                shape, kind = _header(member, path)
            with zipfile.ZipFile(plain) as archive, archive.open(_member(archive, path, labels)) as member:
                yield member, shape, kind  # type: ignore[misc]
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise InputError.damaged(
            f"unreadable array: damaged or cut off ({type(error).__name__})",
            file=path,
            expected="a whole .npy or .npz of numbers",
            remedy="save it again with numpy.save",
        ) from None


def _member(archive: zipfile.ZipFile, path: Path, labels: bool) -> str:
    names = {Path(name).stem: name for name in archive.namelist() if name.endswith(".npy")}
    if len(names) == 1:
        return next(iter(names.values()))
    wanted = MASK_NAMES if labels else IMAGE_NAMES
    for name in wanted:
        if name in names:
            return names[name]
    raise InputError.ambiguous(
        f"an archive of the arrays {', '.join(names) or '(none)'}",
        file=path,
        expected=f"one array, or one called {wanted[0]}",
        remedy="save it with that name alone",
    )


def _header(file: Any, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type; a plain file is set back to its beginning."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    if file.seekable():
        file.seek(0)
    if kind.kind not in "buif":
        raise InputError.unsupported(f"an array of {kind}", file=path, expected="numbers", remedy="save it as numbers")
    return tuple(int(side) for side in shape), kind
