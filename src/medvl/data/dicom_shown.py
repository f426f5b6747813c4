"""Stored values of a DICOM -> what is shown: padding, modality LUT or rescale, VOI LUT or window (PS3.3 C.11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.data.dicom_tags import Tags

Values = NDArray[Any]


def padding(stored: Values, tags: Tags) -> NDArray[np.bool_] | None:
    """(H, W): the pixels that PixelPaddingValue, alone or with PixelPaddingRangeLimit, takes out of the picture.

    None where there are none, or nothing else.
    """
    ends = [number for name in ("PixelPaddingValue", "PixelPaddingRangeLimit") for number in tags.numbers(name)[:1]]
    if not ends or not tags.numbers("PixelPaddingValue"):
        return None
    if stored.dtype.kind == "i":  # written as unsigned by some
        span = 2 ** (8 * stored.dtype.itemsize)
        ends = [end - span if end >= span // 2 else end for end in ends]
    inside: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return inside if inside.any() and not inside.all() else None


def modality_values(stored: Values, tags: Tags) -> Values:
    """Stored -> modality values (C.11.1)."""
    luts = tags.items("ModalityLUTSequence")
    if luts:
        return look_up(stored, luts[0], tags.dataset)
    slope, intercept = tags.usable("RescaleSlope"), tags.usable("RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise InputError.out_of_range(
            "a RescaleSlope of 0, which makes all pixels one value",
            file=tags.path,
            expected="numbers in RescaleSlope, RescaleIntercept and WindowCenter",
            remedy="correct this tag, or export it again",
        )
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def shown(values: Values, tags: Tags, pad: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Modality values -> [0, 1] as the file says (C.11.2); without a window the own range of what is no padding."""
    path: Path = tags.path
    luts = tags.items("VOILUTSequence")
    if luts:
        largest = 2 ** int(luts[0].LUTDescriptor[2]) - 1
        return np.asarray(look_up(values, luts[0], tags.dataset) / largest, dtype=np.float32)
    if len(tags.numbers("WindowCenter")) > 1:
        warn("of several windows the first is shown", place=path)
    centre, width = tags.usable("WindowCenter"), tags.usable("WindowWidth")
    if centre is not None and width is not None and width > 0:
        function = tags.word("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID":
            with np.errstate(over="ignore"):
                return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)), dtype=np.float32)
        if function == "LINEAR" and width >= 1:  # which maps centre - 0.5 to the middle, over width - 1
            return window_of(values, centre - 0.5, width - 1)
        return window_of(values, centre, width)
    if centre is not None or width is not None:
        warn("a window without a positive width is left out", place=path)
    known = values if pad is None else values[~pad]
    low, high = float(known.min()), float(known.max())
    return window_of(values, (low + high) / 2, high - low)


def window_of(values: Values, centre: float, width: float) -> NDArray[np.float32]:
    """Linear from centre - width / 2 to centre + width / 2."""
    scaled = (values.astype(np.float64) - centre) / max(width, 1e-12) + 0.5
    return np.clip(scaled, 0, 1).astype(np.float32)


def look_up(values: Values, item: Any, dataset: Any) -> Values:
    """The entries of a LUT for `values`; those outside get its first or last."""
    num, first = int(item.LUTDescriptor[0]) or 2**16, int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):  # OW: words, or bytes where so few are there
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(data, np.uint8 if len(data) < 2 * num else f"{order}u2")[:num]
    else:
        entries = np.asarray(data, dtype=np.uint16)
    places = np.rint(values).astype(np.int64) - first
    return np.asarray(entries[np.clip(places, 0, len(entries) - 1)])
