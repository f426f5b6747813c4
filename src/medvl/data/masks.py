"""Mask files -> what they mean: pixels that belong to a class, or labels; and their unbiased resampling.

Shapes: H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.data.images import decode, kind_of, resample_map
from medvl.errors import InputError, warn

BoolArray = NDArray[np.bool_]


def read_mask(
    path: str | Path,
    values: tuple[int, ...] | None = None,
    *,
    slice_index: int | None = None,
    slice_axis: int = 2,
) -> BoolArray:
    """Read a mask: (H, W) bool, the pixels whose label is in `values`, or every non-zero pixel.

    JPEG blurs the edges of what it stores, so of a JPEG mask the pixels from half of its largest value up.

    Raises:
        InputError: unreadable; colour that is not grey; NaN.
    """
    path = Path(path)
    labels, form = _read_labels(path, slice_index, slice_axis)
    if values is not None:
        return np.isin(labels, values)
    if form == "jpeg" and labels.any():
        warn(
            "a mask stored as JPEG is not exact; pixels from half of its largest value up count as mask", place=path
        )
        return np.asarray(2 * labels.astype(np.int64) >= labels.max())
    return np.asarray(labels != 0)


def read_labels(path: str | Path, *, slice_index: int | None = None, slice_axis: int = 2) -> NDArray[Any]:
    """Read a label map: (H, W) integers, of a palette image its indices. InputError as `read_mask`."""
    return _read_labels(Path(path), slice_index, slice_axis)[0]


def whole_labels(labels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Floating-point labels as integers. InputError for NaN and for values that are not whole numbers."""
    if labels.dtype.kind != "f":
        return labels
    bad = int(np.isnan(labels).sum())
    if bad:
        raise InputError(
            f"{bad} pixels of the mask are NaN",
            file=path,
            expected="a label in every pixel",
            remedy="write 0 or a label of its own there",
        )
    if np.isinf(labels).any() or (np.abs(labels - np.rint(labels)) > 1e-3).any():
        raise InputError(
            "a mask with values that are not whole numbers", file=path, expected="labels", remedy="threshold it first"
        )
    return np.asarray(np.rint(labels), dtype=np.int64)


def _read_labels(path: Path, slice_index: int | None, slice_axis: int) -> tuple[NDArray[Any], str]:
    kind = kind_of(path)
    if kind == "nifti":
        from medvl.data.nifti import read_nifti_labels

        return read_nifti_labels(path, slice_index=slice_index, axis=slice_axis), kind
    if kind == "dicom":
        from medvl.data.dicom import read_dicom_labels

        return read_dicom_labels(path, frame=slice_index), kind
    labels, form = decode(path, labels=True)
    if labels.ndim == 3:
        if labels.shape[2] == 2 or not (labels[:, :, :3] == labels[:, :, :1]).all():
            raise InputError("a mask in colour", file=path, expected="a grey or palette image of labels")
        labels = labels[:, :, 0]  # (H, W)
    return whole_labels(labels.astype(np.uint8) if labels.dtype == np.bool_ else labels, path), form


def resample_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """(H, W) bool -> another size: a pixel belongs to the mask where at least half of its area does. Never `> 0`."""
    if mask.shape == size:
        return mask
    return resample_map(mask.astype(np.float32), size) >= 0.5 - 1e-5  # an exact half may come out rounded down
