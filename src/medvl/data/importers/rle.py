"""Run-length codes of masks: SIIM-ACR's relative runs, COCO's counts (a list, or their compressed text).

Both go down the columns: the flat index of pixel (row, column) is column * H + row. Sources: the SIIM-ACR competition's
data page ("relative form of RLE: pixel locations are measured from the end of the previous run"; the first from pixel
0); the mask API of COCO (counts alternate 0s, 1s, 0s, ...; text of 5 bits a character, least significant first).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvl.errors import InputError

BoolArray = NDArray[np.bool_]


def relative_runs(text: str, shape: tuple[int, int]) -> BoolArray:
    """"offset length offset length ..." -> (H, W) bool. An offset counts from the end of the run before it.

    Raises:
        InputError: not pairs of whole numbers, a negative offset, an empty run, or a run that leaves the mask.
    """
    try:
        numbers = np.array([int(number) for number in text.split()], dtype=np.int64)
    except ValueError:
        numbers = np.empty(0, np.int64)
    if numbers.size == 0 or numbers.size % 2 or (numbers[0::2] < 0).any() or (numbers[1::2] < 1).any():
        raise InputError(f"not run lengths: {text[:40]!r}", expected="pairs of offset and length, length 1 or more")
    size = shape[0] * shape[1]
    if int(numbers.sum()) > size:
        what = f"a run ends at pixel {int(numbers.sum())}"
        raise InputError(what, expected=f"at most {size}, {shape[0]} rows x {shape[1]} columns")
    return _by_columns(np.append(numbers, size - numbers.sum()), shape)


def coco_counts(counts: str | Sequence[int], shape: tuple[int, int]) -> BoolArray:
    """COCO's counts -> (H, W) bool: lengths of runs of 0 and 1 in turn, 0 first; a text is decompressed.

    Raises:
        InputError: counts that are no numbers, are negative, or do not add up to H * W.
    """
    numbers = np.array(decompress(counts) if isinstance(counts, str) else counts)
    if numbers.ndim != 1 or (numbers.dtype.kind not in "iu" and numbers.size) or (numbers < 0).any():
        raise InputError("counts of a COCO mask are not whole numbers of at least 0")
    if int(numbers.sum()) != shape[0] * shape[1]:
        what = f"counts of a COCO mask add up to {int(numbers.sum())} pixels"
        raise InputError(what, expected=f"{shape[0] * shape[1]}, {shape[0]} rows x {shape[1]} columns")
    return _by_columns(numbers, shape)


def decompress(text: str) -> list[int]:
    """COCO's compressed counts. From the fourth on, a count is stored as its difference to the one two before it."""
    numbers: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64:
            raise InputError(f"a compressed COCO mask holds {letter!r}", expected="characters from '0' to 'o'")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the highest bit of the last five is the sign
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise InputError("a compressed COCO mask breaks off")
    return numbers


def _by_columns(numbers: NDArray[np.int64], shape: tuple[int, int]) -> BoolArray:
    """Lengths of runs of 0 and 1 in turn, H * W in all -> (H, W)."""
    flat = np.repeat(np.arange(len(numbers)) % 2 == 1, numbers)  # (W * H,)
    return np.ascontiguousarray(flat.reshape(shape[1], shape[0]).T)
