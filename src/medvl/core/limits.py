"""Bounds on what is decoded: the size of an image, and of what a compressed file unpacks to."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO

from medvl.core.errors import InputError

MEGAPIXELS = 100.0  # of an image, or of one slice or frame, unless `data.max_megapixels` raises it
SLICES = 10  # a whole volume may hold so many images of the largest size
BYTES_A_PIXEL = 8
GZIP = b"\x1f\x8b"

_allowed = MEGAPIXELS


def allow_megapixels(number: float) -> None:
    """Raise the limit for the rest of the process; it is never lowered."""
    global _allowed
    _allowed = max(_allowed, number)


def check_size(sides: Sequence[int], path: Path, *, volume: bool = False) -> None:
    """InputError where (H, W) of an image, or all sides of a volume, are none or more than the limit."""
    num = prod(int(side) for side in sides)
    limit = _allowed * (SLICES if volume else 1)
    what = " x ".join(str(side) for side in sides)
    if min(sides, default=0) < 1:
        raise InputError(f"an image of {what} pixels", file=path, expected="at least one pixel", remedy="leave it out")
    if num > limit * 1e6:
        raise InputError(
            f"{what} pixels are {num / 1e6:.0f} megapixels",
            file=path,
            expected=f"at most {limit:g}, so that a damaged or malicious file cannot fill the memory",
            remedy=f"data.max_megapixels={-(-num // (10**6 * (SLICES if volume else 1)))} where it is meant "
            "(medvl predict: --max-megapixels)",
        )


def head_of(path: Path, size: int) -> bytes:
    """The first bytes of a file, unpacked where it is gzip by content; fewer where it is shorter or damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(size)
            if head[:2] != GZIP:
                return head
            file.seek(0)
            return zlib.decompressobj(31).decompress(file.read(16 * size), size)
    except (OSError, EOFError, zlib.error):
        return b""


def is_gzip(path: Path) -> bool:
    """Whether the content is gzip, whatever the suffix."""
    try:
        with path.open("rb") as file:
            return file.read(2) == GZIP
    except OSError:
        return False


def open_plain(path: Path) -> BinaryIO:
    """The file, or, of a gzip file, what it unpacks to.

    Raises:
        InputError: it unpacks to more than an image of the largest size can need, or is damaged.
    """
    if not is_gzip(path):
        return path.open("rb")
    limit = int(_allowed * 1e6 * BYTES_A_PIXEL)
    try:
        with gzip.open(path) as file:
            content = file.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"a damaged gzip file ({type(error).__name__})",
            file=path,
            expected="a whole file",
            remedy="export or copy it again",
        ) from None
    if len(content) > limit:
        raise InputError(
            f"it unpacks to more than {limit // 10**6} MB", file=path, expected="an image", remedy="unpack it first"
        )
    return io.BytesIO(content)
