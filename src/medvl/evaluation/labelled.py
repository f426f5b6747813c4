"""Evaluations by labels: cases of n images with K probabilities and labels, of trained and of prompted classifiers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.csv_cells import read_dicts
from medvl.core.errors import InputError
from medvl.evaluation.case_drawing import TRUE, manifest_as_written, plain_text
from medvl.evaluation.comparison_metrics import SAME_SET, area_measures
from medvl.evaluation.kind import Case, Cell, EvaluationKind, Key, Truth
from medvl.evaluation.record import CASES

if TYPE_CHECKING:
    from medvl.evaluation.scored_runs import ScoredRun

FloatArray = NDArray[np.float64]
MAX_CLASSES = 14  # bars in a cell; more classes: the true ones and the highest scores


@dataclass(frozen=True, slots=True)
class LabelCase:
    """One image: K labels ("" = not known) and K probabilities."""

    patient: str
    truth: Truth
    values: tuple[float, ...]
    text: str = ""

    @property
    def quality(self) -> float:
        """1 - mean |probability - label| over the known labels."""
        return 1 - float(np.mean([abs(p - float(y)) for p, y in zip(self.values, self.truth, strict=True) if y != ""]))


@dataclass(frozen=True, slots=True)
class LabelCases:
    """A cases.csv with class labels: n images, K classes. `probs`, `labels` (n, K); a NaN label is not known."""

    ids: tuple[str, ...]
    patients: tuple[str, ...]
    classes: tuple[str, ...]
    probs: FloatArray
    labels: FloatArray


def read_label_cases(path: Path) -> LabelCases:
    """cases.csv of `medvl evaluate` of a classifier or by prompts: prob_CLASS and label_CLASS (p_CLASS in
    files of earlier versions)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(read_dicts(file))
    columns = list(rows[0]) if rows else []
    classes = tuple(name.removeprefix("label_") for name in columns if name.startswith("label_"))
    prefix = next((mark for mark in ("prob_", "p_") if classes and f"{mark}{classes[0]}" in columns), None)
    if prefix is None or not rows:
        raise InputError.missing_column(
            "no table of class labels", file=path, expected="columns prob_CLASS and label_CLASS"
        )
    return LabelCases(
        tuple(row["id"] for row in rows),
        tuple(row["patient"] for row in rows),
        classes,
        np.array([[float(row[prefix + name]) for name in classes] for row in rows], dtype=np.float64),
        np.array([[float(row[f"label_{name}"] or math.nan) for name in classes] for row in rows], dtype=np.float64),
    )


def read_labelled(folder: Path) -> tuple[dict[Key, Case], dict[str, Any]]:
    """The cases of an evaluation folder, and its classes."""
    table = read_label_cases(folder / CASES)
    rows = zip(table.ids, table.patients, table.labels, table.probs, strict=True)
    cases: dict[Key, Case] = {
        (ident, ""): LabelCase(
            patient, tuple("" if math.isnan(v) else v for v in labels.tolist()), tuple(probs.tolist())
        )
        for ident, patient, labels, probs in rows
    }
    return cases, {"classes": list(table.classes)}


def label_cells(run: ScoredRun, device: str) -> Cell:
    """A bar for each class; the true ones in the colour of the truth and in bold."""
    classes = run.summary["classes"]

    def cell(axes: Any, key: Key) -> str:
        case = run.cases[key]
        assert isinstance(case, LabelCase)
        order = list(range(len(classes)))
        if len(order) > MAX_CLASSES:
            order = sorted(order, key=lambda k: (case.truth[k] != 1, -case.values[k]))[:MAX_CLASSES]
        place = np.arange(len(order))[::-1]
        colours = [TRUE if case.truth[k] == 1 else "#b8c0c8" if case.truth[k] == 0 else "#e6e0d0" for k in order]
        axes.barh(place, [case.values[k] for k in order], color=colours)
        axes.set(xlim=(0, 1.35), ylim=(-0.6, len(order) - 0.4), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for y, k in zip(place, order, strict=True):
            mark = "unknown" if case.truth[k] == "" else ""
            text = f"{plain_text(classes[k])[:20]} {case.values[k]:.2f} {mark}"
            weight = "bold" if case.truth[k] == 1 else "normal"  # seen where a true class has no score
            axes.text(0.02, y, text, va="center", fontsize=5.5 if len(order) > 6 else 7, fontweight=weight)
        return f"mean |score - label| {1 - case.quality:.3f}"

    return cell


# Of trained classifiers beside prompted ones, see `grouping.join_kinds`.
TRAINED_AND_PROMPTED = EvaluationKind(
    name="classify and prompts",
    task="",
    title="classification, trained and by prompts",
    unit="image",
    truth="set of labels",
    quality="mean |score - label|",
    same_keys=(*SAME_SET, "classes"),
    queries=("prompts", "temperature"),
    read=read_labelled,
    measures=area_measures,
    threshold="none",
    is_poolable=False,
    manifest=manifest_as_written,
    draw=label_cells,
)
