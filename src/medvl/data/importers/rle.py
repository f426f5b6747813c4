"""Run-length codes of masks: SIIM-ACR's relative runs, COCO's counts (read by faster-coco-eval).

Both go down the columns: the flat index of pixel (row, column) is column * H + row. Source of the first: the SIIM-ACR
competition's data page ("relative form of RLE: pixel locations are measured from the end of the previous run"; the
first from pixel 0).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError

BoolArray = NDArray[np.bool_]


def relative_runs(text: str, shape: tuple[int, int]) -> BoolArray:
    """ "offset length offset length ..." -> (H, W) bool. An offset counts from the end of the run before it.

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
    """COCO's counts -> (H, W) bool: lengths of runs of 0 and 1 in turn, 0 first; or their compressed text.

    Raises:
        InputError: counts that are no numbers, are negative, or do not add up to H * W.
    """
    from faster_coco_eval.core import mask as coco

    height, width = shape
    try:
        if isinstance(counts, str):
            runs = {"size": [height, width], "counts": counts.encode("ascii")}
        else:
            if sum(counts) != height * width or min(counts) < 0:
                raise ValueError(f"they add up to {sum(counts)} pixels")
            runs = coco.frPyObjects({"size": [height, width], "counts": list(counts)}, height, width)
        return np.asarray(coco.decode(runs), dtype=np.bool_)
    except (ValueError, TypeError, RuntimeError) as error:
        what = f"not the run lengths of a COCO mask ({error})"
        raise InputError(what, expected=f"{height * width} pixels, {height} rows x {width} columns") from None


def _by_columns(numbers: NDArray[np.int64], shape: tuple[int, int]) -> BoolArray:
    """Lengths of runs of 0 and 1 in turn, H * W in all -> (H, W)."""
    flat = np.repeat(np.arange(len(numbers)) % 2 == 1, numbers)  # (W * H,)
    return np.ascontiguousarray(flat.reshape(shape[1], shape[0]).T)
