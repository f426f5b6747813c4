"""Which training records are labelled: nested fractions, further patients, a fixed choice of rows, balanced images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.core.errors import Fault, InputError, nearest
from medvl.data.masks import read_mask
from medvl.data.record import Record
from medvl.data.tables import read_table

if TYPE_CHECKING:
    from medvl.config import Config


def training_records(records: Sequence[Record], config: Config) -> tuple[list[Record], frozenset[str], dict[str, Any]]:
    """The records that take part, the ids whose masks are hidden, and the counts for the plan.

    Without semi-supervision a record without a (visible) mask takes no part, unless its image has one.

    Raises:
        InputError: `data.balance: siim` with semi-supervision, or without images of both kinds.
    """
    data = config.data
    seed = config.train.seed if data.label_seed is None else data.label_seed
    kept = list(records) if data.rows_per_image is None else fixed_rows(records, data.rows_per_image, seed)
    balance: dict[str, Any] = {}
    if data.balance == "siim":
        if config.semi.on:
            raise InputError.conflict(
                "data.balance: siim with semi: it reads every training mask, and unlabelled records must have none",
                expected="one of the two",
                remedy="data.balance: none, or semi.epi: none and semi.lv_bank: none",
            )
        kept, balance = balanced(kept, seed, slice_index=data.slice_index)
    unit_of = label_units(kept, data.label_by)
    units = labelled_patients(kept, data.label_fraction, seed, data.label_by)
    also = frozenset() if data.also_labelled is None else labelled_from(data.also_labelled, records)
    labelled = {row.id for row in kept if unit_of[row.id] in units or row.patient in also}
    annotated = {row.id for row in kept if any(mask is not None for mask in row.masks.values())}
    hidden = frozenset(annotated - labelled)
    visible = annotated - hidden
    images = {row.image for row in kept if row.id in visible}
    taking_part = kept if config.semi.on else [row for row in kept if row.image in images]
    counts = {
        "label_fraction": data.label_fraction,
        "label_seed": seed,
        "label_by": data.label_by,
        "labelled_patients": len({row.patient for row in kept if row.id in visible}),
        "labelled_images": len(images),
        "labelled_records": len(visible),
        "unlabelled_records": len(taking_part) - len(visible),
        "hidden_masks": len(hidden),
        "left_out_records": len(kept) - len(taking_part),
    }
    return taking_part, hidden, counts | ({"balance": balance} if balance else {})


def balanced(
    records: Sequence[Record], seed: int, *, slice_index: int | None = None
) -> tuple[list[Record], dict[str, Any]]:
    """The records of all images with foreground and of as many images without, drawn by seed; and the counts.

    MGCA's rule for the training images of SIIM-ACR. Images of which no mask is annotated are neither, and stay. Whether
    a mask file has foreground is read from it.
    """
    unit_of = label_units(records, "image")
    annotated: set[str] = set()
    positive: set[str] = set()
    for row in records:
        for mask in row.masks.values():
            if mask is None:
                continue
            unit = unit_of[row.id]
            annotated.add(unit)
            if unit not in positive and mask.path is not None:
                if read_mask(mask.path, mask.values, slice_index=slice_index).any():
                    positive.add(unit)
    negative = annotated - positive
    if not positive or not negative:
        kind = "with" if negative else "without"
        raise InputError.empty(
            f"data.balance: siim, and no training image {kind} foreground",
            expected="images of both kinds (an image without: mask `none`, or an empty mask file)",
            remedy="data.balance: none",
        )
    order = sorted(negative, key=lambda unit: hashlib.sha256(f"{seed}/negative/{unit}".encode()).digest())
    left_out = set(order[len(positive) :])
    counts = {
        "positive_images": len(positive),
        "negative_images": len(negative) - len(left_out),
        "left_out_images": len(left_out),
    }
    return [row for row in records if unit_of[row.id] not in left_out], counts


def label_units(records: Sequence[Record], by: str = "patient") -> dict[str, str]:
    """Record id -> what a label fraction counts: its patient, or with `by` "image" the least id of its image."""
    if by == "patient":
        return {row.id: row.patient for row in records}
    first: dict[Path, str] = {}
    for row in records:
        first[row.image] = min(row.id, first.get(row.image, row.id))
    return {row.id: first[row.image] for row in records}


def labelled_patients(records: Sequence[Record], fraction: float, seed: int, by: str = "patient") -> frozenset[str]:
    """The patients whose masks are used at a label fraction: the first of an order drawn by seed, at least one.

    Fractions are nested, and equal for every method: they depend on the annotated patients and the seed alone.
    A patient without any mask is not counted. With `by` "image" it is images, under their names of `label_units`.
    """
    unit_of = label_units(records, by)
    units = {unit_of[row.id] for row in records if any(mask is not None for mask in row.masks.values())}
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}/{unit}".encode()).digest())
    return frozenset(order[: max(1, round(fraction * len(order)))])


def labelled_from(file: str | Path, records: Sequence[Record]) -> frozenset[str]:
    """The patients named in column `patient` of a table (e.g. that of `medvl x suggest`), instead of a drawn fraction.

    Args:
        records: of the training split; every patient of the table must have a mask there.

    Raises:
        InputError: no such file or column, no patient in it, or patients that are not among the annotated ones.
    """
    table = read_table(file)
    faults = list(table.faults)
    if "patient" not in table.columns:
        raise InputError.missing_column(
            "no column patient", file=table.path, line=1, expected="the table that medvl x suggest writes"
        )
    annotated = {record.patient for record in records if any(mask is not None for mask in record.masks.values())}
    lines: dict[str, int] = {}
    for line, row in table.rows:
        patient = row["patient"]
        if not patient:
            faults.append(Fault.missing("no patient", table.path, line))
        elif patient not in annotated:
            like = nearest(patient, annotated)
            faults.append(
                Fault.unknown(
                    f"patient {patient} has no mask in the training split",
                    table.path,
                    line,
                    remedy=f"did you mean {like}?" if like else "annotate the case and name its mask in the manifest",
                )
            )
        lines.setdefault(patient, line)
    if not lines and not faults:
        faults.append(Fault.empty("no patient is named", table.path, expected="at least one row below the header"))
    if faults:
        raise InputError(faults)
    return frozenset(lines)


def fixed_rows(records: Sequence[Record], num: int, seed: int) -> list[Record]:
    """At most `num` records of each image, the same ones every time, in the order of the manifest."""
    chosen: set[str] = set()
    groups: dict[Path, list[str]] = {}
    for record in records:
        groups.setdefault(record.image, []).append(record.id)
    for ids in groups.values():
        chosen.update(sorted(ids, key=lambda ident: hashlib.sha256(f"{seed}/{ident}".encode()).digest())[:num])
    return [record for record in records if record.id in chosen]
