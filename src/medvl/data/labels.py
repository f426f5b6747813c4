"""Which training records are labelled: fractions nested by patient, further patients, a fixed choice of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.data.records import Record
from medvl.data.tables import read_table
from medvl.errors import Fault, InputError, nearest

if TYPE_CHECKING:
    from medvl.config import Config


def training_records(records: Sequence[Record], config: Config) -> tuple[list[Record], frozenset[str], dict[str, Any]]:
    """The records that take part, the ids whose masks are hidden, and the counts for the plan.

    Without semi-supervision a record without a (visible) mask takes no part, unless its image has one.
    """
    data = config.data
    seed = config.train.seed if data.label_seed is None else data.label_seed
    kept = list(records) if data.rows_per_image is None else fixed_rows(records, data.rows_per_image, seed)
    patients = labelled_patients(kept, data.label_fraction, seed)
    if data.also_labelled is not None:
        patients |= labelled_from(data.also_labelled, records)
    annotated = {row.id for row in kept if any(mask is not None for mask in row.masks.values())}
    hidden = frozenset(row.id for row in kept if row.id in annotated and row.patient not in patients)
    visible = annotated - hidden
    images = {row.image for row in kept if row.id in visible}
    taking_part = kept if config.semi.on else [row for row in kept if row.image in images]
    counts = {
        "label_fraction": data.label_fraction,
        "label_seed": seed,
        "labelled_patients": len(patients),
        "labelled_images": len(images),
        "labelled_records": len(visible),
        "unlabelled_records": len(taking_part) - len(visible),
        "hidden_masks": len(hidden),
        "left_out_records": len(kept) - len(taking_part),
    }
    return taking_part, hidden, counts


def labelled_patients(records: Sequence[Record], fraction: float, seed: int) -> frozenset[str]:
    """The patients whose masks are used at a label fraction: the first of an order drawn by seed, at least one.

    Fractions are nested, and equal for every method: they depend on the annotated patients and the seed alone.
    A patient without any mask is not counted.
    """
    patients = {record.patient for record in records if any(mask is not None for mask in record.masks.values())}
    order = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).digest())
    return frozenset(order[: max(1, round(fraction * len(order)))])


def labelled_from(file: str | Path, records: Sequence[Record]) -> frozenset[str]:
    """The patients named in column `patient` of a table (e.g. that of `medvl suggest`), instead of a drawn fraction.

    Args:
        records: of the training split; every patient of the table must have a mask there.

    Raises:
        InputError: no such file or column, no patient in it, or patients that are not among the annotated ones.
    """
    table = read_table(file)
    faults = list(table.faults)
    if "patient" not in table.columns:
        raise InputError("no column patient", file=table.path, line=1, expected="the table that medvl suggest writes")
    annotated = {record.patient for record in records if any(mask is not None for mask in record.masks.values())}
    found: dict[str, int] = {}
    for line, row in table.rows:
        patient = row["patient"]
        if not patient:
            faults.append(Fault("no patient", table.path, line))
        elif patient not in annotated:
            like = nearest(patient, annotated)
            faults.append(
                Fault(
                    f"patient {patient} has no mask in the training split",
                    table.path,
                    line,
                    remedy=f"did you mean {like}?" if like else "annotate the case and name its mask in the manifest",
                )
            )
        found.setdefault(patient, line)
    if not found and not faults:
        faults.append(Fault("no patient is named", table.path, expected="at least one row below the header"))
    if faults:
        raise InputError(faults)
    return frozenset(found)


def fixed_rows(records: Sequence[Record], num: int, seed: int) -> list[Record]:
    """At most `num` records of each image, the same ones every time, in the order of the manifest."""
    chosen: set[str] = set()
    groups: dict[Path, list[str]] = {}
    for record in records:
        groups.setdefault(record.image, []).append(record.id)
    for ids in groups.values():
        chosen.update(sorted(ids, key=lambda ident: hashlib.sha256(f"{seed}/{ident}".encode()).digest())[:num])
    return [record for record in records if record.id in chosen]
