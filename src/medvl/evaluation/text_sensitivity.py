"""Text sensitivity: re-run each case with five versions of its text and compare Dice with the original. Every version
is scored against the true mask of the case.

- true: its own text.
- empty: no text; a model that still finds the mask does not need the text.
- shuffled: the text of another patient, of other words.
- side_swapped: left and right exchanged; only rows whose text names exactly one side.
- negated: the same findings denied.
- other_context: of models with clinical variables, its own text beside the variables of another patient.

In all others the clinical variables stay the record's own (true), and so does the image.
Intervals are by patient, and each condition has its paired difference to the true text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.csv_cells import read_dicts
from medvl.core.errors import InputError
from medvl.core.progress import track
from medvl.data.images import image_orientation
from medvl.data.record import Manifest, Record
from medvl.data.reports import can_mirror, findings, mirror_text, negate_text
from medvl.evaluation.cases import RECORDS_AT_ONCE, by_image, load_truth
from medvl.evaluation.prediction_sources import FolderSource, MaskSource, predicted_masks, takes_threshold
from medvl.evaluation.record import EvaluationRecord
from medvl.evaluation.tables import csv_text
from medvl.metrics.segmentation import EmptyMask, count_pixels, dice
from medvl.metrics.statistics import mean_interval, paired_difference

BoolArray = NDArray[np.bool_]

SUMMARY, CASES = "probe.json", "probe_cases.csv"
OTHER_CONTEXT = "other_context"
_COLUMNS = ("id", "patient", "class", "condition", "text", "dice", "pred_fraction", "centroid_x")
CONDITIONS = ("true", "empty", "shuffled", "side_swapped", "negated", OTHER_CONTEXT)


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """One class of one record under one condition. `centroid_x` is in image widths, in standard display, NaN for an
    empty mask."""

    id: str
    patient: str
    class_name: str
    condition: str
    text: str
    dice: float
    pred_fraction: float
    centroid_x: float


def text_sensitivity(
    source: MaskSource,
    manifest: Manifest,
    *,
    split: str = "val",
    threshold: float = 0.5,
    laterality: str | None = None,
    seed: int = 0,
    max_rows: int | None = None,
    empty_mask: EmptyMask = "one",
    slice_index: int | None = None,
    out: Path | None = None,
) -> EvaluationRecord:
    """Re-run every annotated row of a split with five versions of its text; with `out` write probe.json there.

    Args:
        laterality: whose left the texts mean. With "patient", "viewer" or "image" it is also counted how often the
            predicted centroid lies on the side that the text names.
        max_rows: a seeded choice of so many rows only; the result says so.

    Raises:
        InputError: a source that takes no text, or a split without annotated rows that have a text.
    """
    if isinstance(source, FolderSource) or not getattr(source, "uses_text", True):
        raise InputError.unsupported("this source takes no text", expected="a text-guided model")
    everything = manifest.split(split)
    records = [r for r in everything if r.text.strip() and any(ref is not None for ref in r.masks.values())]
    if not records:
        raise InputError.empty(f"no annotated record of the {split} split has a text", file=manifest.path)
    num_rows = len(records)
    texts, contexts = text_versions(records, seed), other_contexts(records, seed)
    if max_rows is not None and max_rows < num_rows:
        keep = np.sort(np.random.default_rng(seed).choice(num_rows, max_rows, replace=False))
        records, texts = [records[i] for i in keep], [texts[i] for i in keep]
    source.check(records, manifest.classes)
    texts_of = {record.id: variants for record, variants in zip(records, texts, strict=True)}
    for name in contexts.keys() & texts_of.keys():
        texts_of[name] = {**texts_of[name], OTHER_CONTEXT: texts_of[name]["true"]}
    rows: list[SensitivityRow] = []
    groups = by_image(records)
    for group in track(groups, "text sensitivity", len(groups)):
        pairs = [(record, condition) for record in group for condition in texts_of[record.id]]
        for start in range(0, len(pairs), RECORDS_AT_ONCE):
            chunk = pairs[start : start + RECORDS_AT_ONCE]
            chunk_texts = [texts_of[record.id][condition] for record, condition in chunk]
            chunk_records = [
                replace(record, context=contexts[record.id]) if condition == OTHER_CONTEXT else record
                for record, condition in chunk
            ]
            answers = predicted_masks(source, chunk_records, chunk_texts, threshold)
            for (record, condition), text, answer in zip(chunk, chunk_texts, answers, strict=True):
                rows += _score(record, condition, text, answer, empty_mask, slice_index)
    described = source.describe()
    result = EvaluationRecord.of(
        "text sensitivity",
        model=described.pop("model"),
        model_hash=described.pop("model_hash", None),
        config=None,  # stands in summary.json, beside this file
        seed=seed,
        overrides=described.pop("overrides", ()),
        manifest=manifest,
        split=split,
        bootstrap_seed=seed,
        threshold=threshold if takes_threshold(source) else None,
        counts={
            "num_cases": len({(row.id, row.class_name) for row in rows}),
            "num_patients": len({row.patient for row in rows}),
            "num_rows": len(records),
            "num_rows_of_split": num_rows,
            "num_without_text": sum(not record.text.strip() for record in everything),
        },
        extras={
            **{key: value for key, value in described.items() if key not in ("config", "seed")},
            "laterality": laterality,
            "max_rows": max_rows,
            "conditions": _conditions(rows, seed),
            "side_swap": _side_swap(rows, laterality, seed),
        },
        notes=_notes(records, num_rows, rows),
        cases=tuple(rows),
    )
    if out is not None:
        result.write(out, {CASES: _case_table(rows)}, name=SUMMARY)
    return result


def read_cases(path: Path) -> list[SensitivityRow]:
    """The rows of a probe_cases.csv."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            SensitivityRow(
                row["id"],
                row["patient"],
                row["class"],
                row["condition"],
                row["text"],
                *(float(row[name] or "nan") for name in _COLUMNS[5:]),
            )
            for row in read_dicts(file)
        ]


def text_versions(records: Sequence[Record], seed: int = 0) -> list[dict[str, str]]:
    """Per record {condition: text}; a condition that does not apply to a record is missing.

    `shuffled` is drawn (seeded) from the records of other patients whose text differs.
    """
    rng = np.random.default_rng([seed, 1])
    result = []
    for record in records:
        variants = {"true": record.text, "empty": ""}
        other = _other_text(record, records, rng)
        if other is not None:
            variants["shuffled"] = other
        if side_of(record.text) is not None and can_mirror(record.text, left_right=True):
            variants["side_swapped"] = mirror_text(record.text, left_right=True)
        negated = negate_text(record.text)
        if negated != record.text:
            variants["negated"] = negated
        result.append(variants)
    return result


def other_contexts(records: Sequence[Record], seed: int = 0) -> dict[str, Mapping[str, str]]:
    """{record id: the clinical variables of another patient, of other values}, drawn (seeded); {} without any."""
    rng = np.random.default_rng([seed, 2])
    chosen: dict[str, Mapping[str, str]] = {}
    for record in records:
        if not record.context:
            continue
        others = [r.context for r in records if r.patient != record.patient and r.context != record.context]
        if others:
            chosen[record.id] = others[int(rng.integers(len(others)))]
    return chosen


def side_of(text: str) -> str | None:
    """The one side, left or right, that the text names, else None."""
    sides = {finding.side for finding in findings(text) if finding.side is not None}
    return sides.pop() if len(sides) == 1 and sides <= {"left", "right"} else None


def _other_text(record: Record, records: Sequence[Record], rng: np.random.Generator) -> str | None:
    for _ in range(50):
        other = records[int(rng.integers(len(records)))]
        if other.patient != record.patient and other.text != record.text:
            return other.text
    others = [other.text for other in records if other.patient != record.patient and other.text != record.text]
    return others[int(rng.integers(len(others)))] if others else None


def _score(
    record: Record,
    condition: str,
    text: str,
    answer: Mapping[str, BoolArray],
    empty_mask: EmptyMask,
    slice_index: int | None,
) -> list[SensitivityRow]:
    rows = []
    for name, reference in record.masks.items():
        if reference is None:
            continue
        mask = answer[name]
        true_mask, void = load_truth(reference, (mask.shape[0], mask.shape[1]), record, slice_index)
        value = dice(count_pixels(mask & ~void, true_mask), empty_mask)
        centre = centroid_x(image_orientation(record.image).turn.apply(mask))
        rows.append(SensitivityRow(record.id, record.patient, name, condition, text, value, float(mask.mean()), centre))
    return rows


def centroid_x(mask: BoolArray) -> float:
    """Horizontal centre of a (H, W) mask in image widths, 0 left to 1 right; NaN when it is empty."""
    columns = mask.sum(axis=0)
    total = int(columns.sum())
    return float((columns * (np.arange(mask.shape[1]) + 0.5)).sum() / total / mask.shape[1]) if total else math.nan


def _conditions(rows: Sequence[SensitivityRow], seed: int) -> dict[str, Any]:
    true = {(row.id, row.class_name): row for row in rows if row.condition == "true"}
    result: dict[str, Any] = {}
    for condition in CONDITIONS:
        part = [row for row in rows if row.condition == condition]
        if condition == OTHER_CONTEXT and not part:
            continue  # a model without clinical variables
        patients = [row.patient for row in part]
        values = np.array([row.dice for row in part])
        true_dice = np.array([true[row.id, row.class_name].dice for row in part])
        result[condition] = {
            "num": len(part),
            "dice": mean_interval(values, patients, seed=seed).to_dict(),
            "true_minus_this": paired_difference(true_dice, values, patients, seed=seed).to_dict(),
            "pred_fraction": mean_interval([row.pred_fraction for row in part], patients, seed=seed).to_dict(),
            "share_empty": mean_interval([row.pred_fraction == 0 for row in part], patients, seed=seed).to_dict(),
        }
    return result


def _side_swap(rows: Sequence[SensitivityRow], laterality: str | None, seed: int) -> dict[str, Any]:
    """How often the predicted centroid crosses the middle of the image when the side word is swapped.

    A case of which either mask is empty has not changed side; it is counted apart too.
    """
    true = {(row.id, row.class_name): row for row in rows if row.condition == "true"}
    swapped = [row for row in rows if row.condition == "side_swapped"]
    patients = [row.patient for row in swapped]
    before = np.array([true[row.id, row.class_name].centroid_x for row in swapped])
    after = np.array([row.centroid_x for row in swapped])
    changed = ((before - 0.5) * (after - 0.5) < 0).astype(float)  # NaN compares as False
    result: dict[str, Any] = {
        "num": len(swapped),
        "num_empty": int((np.isnan(before) | np.isnan(after)).sum()),
        "share_changing_side": mean_interval(changed, patients, seed=seed).to_dict(),
    }
    if laterality is not None:
        named = np.array([_image_half(true[row.id, row.class_name].text, laterality) for row in swapped])
        result["share_on_named_side"] = mean_interval(
            ((before - 0.5) * named > 0).astype(float), patients, seed=seed
        ).to_dict()
        result["share_on_named_side_swapped"] = mean_interval(
            ((after - 0.5) * -named > 0).astype(float), patients, seed=seed
        ).to_dict()
    return result


def _image_half(text: str, laterality: str) -> float:
    """-1 for the image's left half, +1 for its right one: the patient's right is at the viewer's left."""
    half = -1.0 if side_of(text) == "left" else 1.0
    return -half if laterality == "patient" else half


def _notes(records: Sequence[Record], num_rows: int, rows: Sequence[SensitivityRow]) -> list[str]:
    notes = []
    if len(records) < num_rows:
        notes.append(f"{len(records)} of {num_rows} rows were re-run, a seeded choice")
    for condition in CONDITIONS:
        num = len({row.id for row in rows if row.condition == condition})
        if num == 0 and condition == OTHER_CONTEXT:
            continue
        if num == 0:
            notes.append(f"{condition}: applies to no row")
        elif num < len(records):
            notes.append(f"{condition}: applies to {num} of {len(records)} rows")
    return notes


def _case_table(rows: Sequence[SensitivityRow]) -> str:
    return csv_text(_COLUMNS, map(astuple, rows), decimals=6)
