"""Bounds on what is decoded: the size of an image, and of what a compressed file unpacks to."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from medvl.core.errors import InputError

MEGAPIXELS = 100.0  # of an image, or of one slice or frame, unless `data.max_megapixels` raises it
SLICES = 10  # a whole volume may hold so many images of the largest size
BYTES_A_PIXEL = 8

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
        raise InputError.empty(
            f"an image of {what} pixels", file=path, expected="at least one pixel", remedy="leave it out"
        )
    if num > limit * 1e6:
        raise InputError.too_large(
            f"{what} pixels are {num / 1e6:.0f} megapixels",
            file=path,
            expected=f"at most {limit:g}, so that a damaged or malicious file cannot fill the memory",
            remedy=f"data.max_megapixels={-(-num // (10**6 * (SLICES if volume else 1)))} where it is meant "
            "(medvl predict: --max-megapixels)",
        )


def byte_limit() -> int:
    """How many bytes a compressed image may unpack to."""
    return int(_allowed * 1e6 * BYTES_A_PIXEL)
