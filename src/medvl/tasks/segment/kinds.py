"""Segmentation as a kind of evaluation: how its runs are found, compared and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvl.data.record import Manifest
from medvl.evaluation.case_drawing import PRED, draw_mask, true_masks
from medvl.evaluation.case_metrics import read_case_table
from medvl.evaluation.comparison_metrics import SAME_SET, overlap_measures
from medvl.evaluation.kind import Case, Cell, EvaluationKind, Key
from medvl.evaluation.model_inputs import open_inputs
from medvl.evaluation.prediction_sources import predicted_masks
from medvl.evaluation.record import CASES, EvaluationRecord, results_folder
from medvl.evaluation.scored_runs import ScoredRun


def read(folder: Path) -> tuple[Mapping[Key, Case], dict[str, Any]]:
    """The cases of an evaluation folder."""
    rows = read_case_table((folder / CASES).read_text(encoding="utf-8"))
    return {(row.id, row.class_name): row for row in rows}, {}


def manifest(run: ScoredRun) -> Manifest:
    """The manifest that a run, or a folder of masks, was scored on."""
    inputs = open_inputs(str(run.summary["model"]), run.summary.get("overrides") or ())
    return inputs.manifest(Path(run.summary["manifest"]))


def mask_cells(run: ScoredRun, device: str) -> Cell:
    """Contours of a model, or of a folder of masks."""
    inputs = open_inputs(str(run.summary["model"]), run.summary.get("overrides") or (), device=device)
    rows = inputs.manifest(Path(run.summary["manifest"]))
    records = {record.id: record for record in rows.records}
    ids = {key[0] for key in run.cases}
    shown = [record for record in rows.split(run.summary["split"]) if record.id in ids]
    inputs.source.check(shown, sorted({key[1] for key in run.cases}))

    def cell(axes: Any, key: Key) -> str:
        record = records[key[0]]
        masks = predicted_masks(inputs.source, [record], [record.text], run.summary["threshold"])[0]
        draw_mask(axes, record, masks[key[1]], PRED, 1.1, filled=True)
        return f"Dice {run.cases[key].quality:.3f}"

    return cell


def stored(
    target: str | Path,
    manifest: Path | None = None,
    *,
    split: str = "val",
    overrides: Sequence[str] = (),
    device: str = "cpu",
) -> tuple[Path, EvaluationRecord]:
    """Folder and record of a run's evaluation in RUN/report/SPLIT, made unless it is there."""
    from medvl.evaluation.report.report import stored_evaluation

    inputs = open_inputs(target, overrides, device=device)
    folder = results_folder(target, split)
    return folder, stored_evaluation(inputs, inputs.manifest(manifest), split, folder)


SEGMENTATION = EvaluationKind(
    name="segment",
    task="segment",
    title="segmentation",
    unit="one class of one record",
    truth="true mask",
    quality="Dice",
    alike=(*SAME_SET, "grid", "empty_mask", "text"),
    read=read,
    measures=overlap_measures,
    threshold="own",
    manifest=manifest,
    draw=mask_cells,
    draw_truth=lambda run: true_masks(run, lambda key: key[1]),
    stored=stored,
)
KINDS = (SEGMENTATION,)
