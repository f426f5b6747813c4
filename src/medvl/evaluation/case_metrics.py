"""Rows of cases.csv -> the metrics of summary.json."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from medvl.core.csv_cells import read_dicts
from medvl.core.errors import InputError
from medvl.data.record import Manifest
from medvl.evaluation.tables import csv_text
from medvl.metrics.statistics import NUM_DRAWS, ratio_intervals

T = TypeVar("T")

MAX_PHRASES = 200  # with more distinct texts, a table by text is of no use
OVERLAP = ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")  # Dice and IoU in both conventions
POOLED_NOTE = (
    "pooled Dice and IoU satisfy D = 2J/(1+J) exactly, per-image means do not; never compare one with the other"
)
MGCA_BATCH = 8  # MGCA's program on SIIM-ACR; 16 on RSNA
METRICS = (
    *OVERLAP,
    "dice_mgca",
    "dice_positives",
    "hd95_px",
    "hd95_mm",
    "assd_px",
    "assd_mm",
    "lesion_sensitivity",
    "lesion_precision",
)


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One line of cases.csv: one class of one record. `class_name` is the column `class`; NaN is an empty cell."""

    id: str
    image: str
    patient: str
    split: str
    class_name: str
    text: str
    dice: float
    iou: float
    hd95_px: float
    hd95_mm: float
    assd_px: float
    assd_mm: float
    true_px: int
    pred_px: int
    true_lesions: int
    pred_lesions: int
    matched_lesions: int
    tp_px: int

    @property
    def truth(self) -> tuple[int]:
        """By which two runs are seen to have scored the same mask: its size."""
        return (self.true_px,)

    @property
    def quality(self) -> float:
        """By which cases are ordered."""
        return self.dice

    @property
    def surface_undefined(self) -> str | None:
        """Why there are no surface distances: which sides are empty; None where both masks have pixels."""
        if self.true_px and self.pred_px:
            return None
        if self.true_px:
            return "prediction_empty"
        return "truth_empty" if self.pred_px else "both_empty"


COLUMNS = tuple("class" if field.name == "class_name" else field.name for field in fields(CaseRow))


def metrics_of(
    rows: Sequence[CaseRow], *, seed: int = 0, num_draws: int = NUM_DRAWS, mgca_batch: int = MGCA_BATCH
) -> dict[str, dict[str, Any]]:
    """{metric: {mean, lo, hi, num}} of some cases, intervals by patient.

    `num` is the number of cases that count, for the two lesion metrics the number of true and of predicted lesions.
    Pooled Dice D and IoU J satisfy D = 2J / (1 + J) exactly; per-image means do not. `dice_mgca` is the Dice of MGCA's
    program: an empty truth scores 1 if the prediction is empty, else 0; the mean of each `mgca_batch` cases in their
    order, then of those. `dice_positives` is the mean over the cases whose truth has pixels.
    """
    if not rows:
        return {name: {"mean": None, "lo": None, "hi": None, "num": 0} for name in METRICS}

    def column(name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)

    tp, true, pred = column("tp_px"), column("true_px"), column("pred_px")
    matched = column("matched_lesions")
    one = np.ones(len(rows))
    positive = (true > 0).astype(np.float64)
    overlap = np.where(true > 0, 2 * tp / np.maximum(true + pred, 1), pred == 0)
    weight = 1 / np.bincount(np.arange(len(rows)) // mgca_batch)[np.arange(len(rows)) // mgca_batch]
    ratios = {
        "dice_per_image": (column("dice"), one),
        "dice_pooled": (2 * tp, true + pred),
        "iou_per_image": (column("iou"), one),
        "iou_pooled": (tp, true + pred - tp),
        "dice_mgca": (weight * overlap, weight),
        "dice_positives": (positive * overlap, positive),
        "hd95_px": (column("hd95_px"), one),
        "hd95_mm": (column("hd95_mm"), one),
        "assd_px": (column("assd_px"), one),
        "assd_mm": (column("assd_mm"), one),
        "lesion_sensitivity": (matched, column("true_lesions")),
        "lesion_precision": (matched, column("pred_lesions")),
    }
    num = [int(np.isfinite(ratios[name][0]).sum()) for name in METRICS]
    num[METRICS.index("dice_positives")] = int(positive.sum())
    num[METRICS.index("lesion_sensitivity")] = int(column("true_lesions").sum())
    num[METRICS.index("lesion_precision")] = int(column("pred_lesions").sum())
    intervals = ratio_intervals(
        np.stack([ratios[name][0] for name in METRICS], axis=1),  # (n, M)
        np.stack([ratios[name][1] for name in METRICS], axis=1),
        [row.patient for row in rows],
        num=num,
        num_draws=num_draws,
        seed=seed,
    )
    return {name: interval.to_dict() for name, interval in zip(METRICS, intervals, strict=True)}


def grouped(
    rows: Sequence[CaseRow], keys: Sequence[str], *, seed: int = 0, mgca_batch: int = MGCA_BATCH
) -> dict[str, dict[str, Any]]:
    """{key: metrics of its cases}, with `num_cases` and `num_patients`; keys in order of appearance."""
    groups: dict[str, list[CaseRow]] = {}
    for row, key in zip(rows, keys, strict=True):
        groups.setdefault(key, []).append(row)
    return {
        key: {
            "num_cases": len(group),
            "num_patients": len({row.patient for row in group}),
            "metrics": metrics_of(group, seed=seed, mgca_batch=mgca_batch),
        }
        for key, group in groups.items()
    }


def grouped_rows(
    cases: Sequence[CaseRow], manifest: Manifest, split: str, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Table rows (see `row_of`), one per combination of values of the manifest's further `columns`, by name."""
    check_extra_columns(manifest, split, columns)
    extra = {record.id: record.extra for record in manifest.split(split)}
    groups: dict[str, list[CaseRow]] = {}
    for case in cases:
        groups.setdefault(", ".join(extra[case.id].get(column, "") for column in columns), []).append(case)
    return [{"name": name, **row_of(metrics_of(rows), len(rows))} for name, rows in sorted(groups.items())]


def check_extra_columns(manifest: Manifest, split: str, columns: Sequence[str]) -> None:
    """InputError unless the manifest has these further columns."""
    known = manifest.split(split)[0].extra
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise InputError.missing_column(
            f"no column {', '.join(unknown)}", file=manifest.path, expected=", ".join(known) or "further columns"
        )


def row_of(metrics: dict[str, Any], num: int) -> dict[str, Any]:
    """The table row of some metrics: Dice and IoU in both conventions."""
    return {"num": num, **{name: metrics[name] for name in OVERLAP}}


def worst_median_best(ranked: Sequence[T], each: int, *, solid: Sequence[T] | None = None) -> list[tuple[str, list[T]]]:
    """("worst", "median", "best") and the cases that are so, at most `each` and at most a third; no case twice.

    Args:
        ranked: all cases by rising quality.
        solid: those, in the same order, among which the median and the best are looked for; None = all.
    """
    solid = list(ranked if solid is None else solid)
    num = min(each, max(1, len(solid) // 3))
    worst = list(ranked[:num])
    best = [case for case in solid[::-1] if case not in worst][:num]
    middle = len(solid) / 2 - 0.5
    by_middle = [solid[i] for i in sorted(range(len(solid)), key=lambda i: (abs(i - middle), i))]
    median = [case for case in by_middle if case not in worst and case not in best][:num]
    return [(name, cases) for name, cases in (("worst", worst), ("median", median), ("best", best)) if cases]


def case_table(rows: Sequence[CaseRow]) -> str:
    """cases.csv as text."""
    return csv_text(COLUMNS, ([getattr(row, field.name) for field in fields(CaseRow)] for row in rows), decimals=8)


def read_case_table(text: str) -> list[CaseRow]:
    """The rows of a cases.csv written by `case_table`."""
    rows = []
    for line in read_dicts(io.StringIO(text)):
        values: dict[str, Any] = {}
        for field in fields(CaseRow):
            cell = line["class" if field.name == "class_name" else field.name]
            kind = field.type
            values[field.name] = cell if kind == "str" else int(cell) if kind == "int" else float(cell or "nan")
        rows.append(CaseRow(**values))
    return rows
