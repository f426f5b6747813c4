"""What evaluations share of a manifest's records: images, columns and true masks, on the native grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import Fault, InputError
from medvl.data.images import SliceChoice, slices_of
from medvl.data.masks import read_truth
from medvl.data.record import Manifest, MaskRef, Record

BoolArray = NDArray[np.bool_]
RECORDS_AT_ONCE = 16  # of one image; bounds memory


def load_true_mask(
    reference: MaskRef, size: tuple[int, ...], record: Record, slice_index: SliceChoice = None
) -> BoolArray:
    """The mask of `load_truth`."""
    return load_truth(reference, size, record, slice_index)[0]


def load_truth(
    reference: MaskRef, size: tuple[int, ...], record: Record, slice_index: SliceChoice = None
) -> tuple[BoolArray, BoolArray]:
    """The mask of a reference, (H, W) bool, or (n, H, W) of all slices, and where it is void, which is not scored.

    An absent one is empty. InputError when its size is not its image's.
    """
    if reference.path is None:
        return np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    indices = slices_of(reference.path, "all") if slice_index == "all" else (slice_index,)
    parts = [read_truth(reference.path, reference.values, slice_index=index) for index in indices]
    mask, void = parts[0] if len(parts) == 1 else (np.stack(masks) for masks in zip(*parts, strict=True))
    if mask.shape != size:
        raise InputError.mismatch(
            f"the mask is {size_text(mask.shape)} pixels",
            file=reference.path,
            record=record.id,
            expected=f"{size_text(size)}, as its image {record.image}",
        )
    return mask, void


def check_slices(records: Sequence[Record], slice_index: SliceChoice) -> None:
    """InputError of all images of several slices where none is chosen, before anything is scored."""
    if slice_index is not None:
        return  # of a number each reader says whether the file has it
    faults: list[Fault] = []
    for path in dict.fromkeys(record.image for record in records):
        try:
            slices_of(path, None)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(faults)


def by_image(records: Sequence[Record]) -> list[list[Record]]:
    """Records of the same image together, in order of first appearance."""
    groups: dict[Path, list[Record]] = {}
    for record in records:
        groups.setdefault(record.image, []).append(record)
    return list(groups.values())


def column_of(record: Record, column: str) -> str:
    """The value of a manifest column in a record."""
    if column in record.extra:
        return record.extra[column]
    value = {"text": record.text, "patient": record.patient, "study": record.study, "view": record.view}.get(column)
    return "" if value is None else value


def relative_image(record: Record, manifest: Manifest) -> str:
    """The image's path as a manifest writes it: relative to the manifest's folder where it lies below that."""
    folder = manifest.path.parent.resolve()
    image = record.image.resolve()
    return image.relative_to(folder).as_posix() if image.is_relative_to(folder) else str(record.image)


def check_columns(records: Sequence[Record], columns: Sequence[str]) -> None:
    """InputError unless records can be grouped by these columns."""
    known = [*records[0].extra, "text", "patient", "study", "view"]
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise InputError.missing_column(
            f"no column {', '.join(unknown)} to group by", expected=f"one of {', '.join(known)}"
        )


def size_text(shape: Sequence[int]) -> str:
    """(40, 60) -> 40x60."""
    return "x".join(map(str, shape))


def image_chunks(records: Sequence[Record], at_once: int) -> Iterator[list[Record]]:
    """At most `at_once` records of one image together."""
    for group in by_image(records):
        for start in range(0, len(group), at_once):
            yield group[start : start + at_once]
