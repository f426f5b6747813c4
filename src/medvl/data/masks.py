"""Mask files -> pixels that belong to a class (what a file means: `mask_meaning.py`), and their unbiased resampling.

Shapes: H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.data.arrays import read_array
from medvl.data.dicom import read_dicom_mask
from medvl.data.images import kind_of, resample_map
from medvl.data.mask_colours import LabelValue, StoredMask
from medvl.data.mask_meaning import MaskReading, MaskRule, Note, decide, numbers
from medvl.data.pictures import decode
from medvl.data.volumes import read_volume_mask

BoolArray = NDArray[np.bool_]

_WARNINGS: dict[Note, str] = {
    "jpeg": "masks stored as JPEG, or made of one, are not exact: pixels from half of the largest value up count",
    "noise": "a JPEG mask whose largest value is at most 8 of 255 is read as empty",
    "picture": "masks that are grey in over a quarter of their pixels: are these images?",
    "grey": "masks with grey values are cut at half of the largest value",
    "faint": "masks of shares or probabilities of which none reaches one half are read as empty",
    "void": "the largest value (255) beside class numbers is void: no mask in training, not scored in evaluation; "
    "mask_values says otherwise",
    "nan": "NaN in a mask is read as background",
    "alpha": "masks of one colour are read from their alpha channel",
}


def read_mask(
    path: str | Path,
    values: tuple[LabelValue, ...] | None = None,
    *,
    slice_index: int | None = None,
    slice_axis: int = 2,
    rule: MaskRule = "area",
) -> BoolArray:
    """Read a mask: (H, W) bool, the pixels of a class or of every class; `mask_meaning.decide` says which these are.

    Args:
        values: label values or colours (`#ff0000`) that belong to the class; None = as the file's values say.
        rule: `any` counts every value above 0, as LViT's released program does.

    Raises:
        InputError: unreadable; several colours of which none is declared; values that are negative or not finite.
    """
    reading = read_meaning(path, values, slice_index=slice_index, slice_axis=slice_axis, rule=rule)
    _say(reading, path)
    return reading.mask


def read_truth(
    path: str | Path, values: tuple[LabelValue, ...] | None = None, *, slice_index: int | None = None
) -> tuple[BoolArray, BoolArray]:
    """As `read_mask`: (H, W) the mask, and (H, W) where it is void, which is not scored."""
    reading = read_meaning(path, values, slice_index=slice_index)
    _say(reading, path)
    return reading.mask, np.zeros_like(reading.mask) if reading.void is None else reading.void


def _say(reading: MaskReading, path: str | Path) -> None:
    for note, message in _WARNINGS.items():
        if note in reading.notes:
            warn(message, place=path)


def read_meaning(
    path: str | Path,
    values: tuple[LabelValue, ...] | None = None,
    *,
    slice_index: int | None = None,
    slice_axis: int = 2,
    rule: MaskRule = "area",
) -> MaskReading:
    """As `read_mask`, with what was decided about the file; it warns of nothing."""
    return decide(stored_mask(path, slice_index=slice_index, slice_axis=slice_axis), values, rule)


def read_labels(path: str | Path, *, slice_index: int | None = None, slice_axis: int = 2) -> NDArray[Any]:
    """Read a label map as it is stored: (H, W) integers, of a palette image its indices.

    Raises:
        InputError: unreadable; colour; values that are negative, not finite or not whole numbers.
    """
    stored = stored_mask(path, slice_index=slice_index, slice_axis=slice_axis)
    labels = stored.values
    if labels.ndim == 3:
        grey = labels[:, :, : max(1, labels.shape[2] - (labels.shape[2] in (2, 4)))]
        if not (grey == grey[:, :, :1]).all():
            raise InputError.ambiguous("a mask in colour", file=path, expected="a grey or palette image of labels")
        labels = grey[:, :, 0]
    labels = numbers(labels, stored)
    if labels.dtype.kind == "f":
        raise InputError.malformed(
            "a mask with values that are not whole numbers", file=path, expected="labels", remedy="threshold it first"
        )
    return labels


def stored_mask(path: str | Path, *, slice_index: int | None = None, slice_axis: int = 2) -> StoredMask:
    """What a file holds, before `decide` says what it means. InputError where it cannot be read."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "volume":
        return read_volume_mask(path, slice_index=slice_index, axis=slice_axis)
    if kind == "dicom":
        return read_dicom_mask(path, frame=slice_index)
    if kind == "array":
        return StoredMask(path, read_array(path, slice_index=slice_index, labels=True))
    decoded = decode(path, labels=True, page=slice_index)
    return StoredMask(path, decoded.array, decoded.palette, decoded.lossy)


def resample_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """(H, W) bool -> another size: a pixel belongs to the mask where at least half of its area does. Never `> 0`."""
    if mask.shape == size:
        return mask
    return resample_map(mask.astype(np.float32), size) >= 0.5 - 1e-5  # an exact half may come out rounded down
