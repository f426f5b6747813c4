"""Segmentation as a kind of evaluation: how its runs are found, compared and drawn."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError, warn
from medvl.data.record import Manifest, Record
from medvl.evaluation import text_sensitivity
from medvl.evaluation.case_drawing import PRED, draw_mask, true_masks
from medvl.evaluation.case_metrics import read_case_table
from medvl.evaluation.comparison_metrics import SAME_SET, overlap_measures
from medvl.evaluation.kind import Case, Cell, EvaluationKind, Key
from medvl.evaluation.model_inputs import Inputs, open_inputs
from medvl.evaluation.prediction_sources import predicted_masks, takes_threshold
from medvl.evaluation.record import (
    CASES,
    EvaluationRecord,
    identity,
    log_test,
    refuse_other_results,
    results_folder,
    reuse_or_run,
)
from medvl.evaluation.report.page import DEFAULT_THRESHOLD
from medvl.evaluation.request import EvaluationRequest
from medvl.evaluation.scored_runs import ScoredRun
from medvl.evaluation.volumes import volumes_of
from medvl.tasks.segment.evaluate import as_text, choose_threshold, evaluate

MAX_GROUPS = 64  # a column with more values is not tabulated unasked,
MIN_ROWS = 3  # nor one with fewer rows per value on average,
MAX_VALUE = 32  # nor one with longer values: that is text, not a kind


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
    inputs = open_inputs(target, overrides, device=device)
    folder = results_folder(target, split)
    return folder, stored_evaluation(inputs, inputs.manifest(manifest), split, folder)


def group_columns(records: Sequence[Record]) -> tuple[str, ...]:
    """Further columns with 2 to 64 distinct short values."""
    columns = []
    for column in records[0].extra:
        values = {record.extra.get(column, "") for record in records}
        few = 2 <= len(values) <= min(MAX_GROUPS, len(records) / MIN_ROWS)
        if few and all(len(value) <= MAX_VALUE for value in values):
            columns.append(column)
    return tuple(columns)


def stored_evaluation(
    inputs: Inputs,
    manifest: Manifest,
    split: str,
    folder: Path,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    columns: Sequence[str] | None = None,
) -> EvaluationRecord:
    """The evaluation of a model in `folder`; made, and logged if it opens test, unless weights and data are the same.

    Args:
        columns: what must be tabulated by; None takes any earlier evaluation, and `group_columns` for a new one.
    """
    assert inputs.model_folder is not None

    def run() -> EvaluationRecord:
        record = evaluate(
            inputs.source,
            manifest,
            split=split,
            threshold=threshold,
            group_by=group_columns(manifest.split(split)) if columns is None else columns,
            slice_index=inputs.data.slice_index,
            mgca_batch=inputs.mgca_batch,
            out=folder,
        )
        if split == "test":
            log_test(inputs.model_folder or "", record)
        return record

    record = reuse_or_run(
        folder,
        _identity("segment", inputs, manifest, split, threshold),
        run,
        is_enough=lambda stored: set(columns or ()) <= set(stored.extras["by_group"]),
    )
    cases = record.cases or tuple(read_case_table((folder / CASES).read_text(encoding="utf-8")))
    return replace(record, cases=cases)


def stored_sensitivity(
    inputs: Inputs,
    manifest: Manifest,
    split: str,
    folder: Path,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    max_rows: int | None = None,
) -> EvaluationRecord:
    """The text sensitivity of a model in `folder`, made unless weights, data and `max_rows` are the same."""

    def run() -> EvaluationRecord:
        return text_sensitivity.text_sensitivity(
            inputs.source,
            manifest,
            split=split,
            threshold=threshold,
            laterality=inputs.data.laterality,
            max_rows=max_rows,
            slice_index=inputs.data.slice_index,
            out=folder,
        )

    same = _identity("text sensitivity", inputs, manifest, split, threshold) | {"max_rows": max_rows}
    record = reuse_or_run(folder, same, run, name=text_sensitivity.SUMMARY, cases=text_sensitivity.CASES)
    return replace(record, cases=record.cases or tuple(text_sensitivity.read_cases(folder / text_sensitivity.CASES)))


def _identity(evaluation: str, inputs: Inputs, manifest: Manifest, split: str, threshold: float) -> dict[str, Any]:
    described = inputs.source.describe()
    return {
        **identity(evaluation, described["model_hash"], manifest, split),
        "overrides": list(described.get("overrides", ())),
        # None of exclusive classes, which refuse any threshold but the default
        "threshold": threshold if takes_threshold(inputs.source) or threshold != DEFAULT_THRESHOLD else None,
    }


def requested(request: EvaluationRequest) -> tuple[dict[str, Any], str]:
    """What `medvl evaluate` does with a segmenter, or a folder of masks: summary and text."""
    options = request.options
    request.takes("masks", "empty-mask", "group-by", "no-surface", "probe", "probe-rows")
    changes_texts = "probe" in options or "probe-rows" in options
    if changes_texts:
        request.one_slice("--probe")
    inputs = open_inputs(request.source, request.overrides, device=request.device)
    if inputs.model_folder is None and (request.threshold or changes_texts or request.updates_card):
        raise InputError.conflict(
            "a folder of masks has no threshold, no text and no card",
            file=request.source,
            remedy="leave out --threshold, --probe and --update-card",
        )
    manifest, split = inputs.manifest(request.manifest), request.split
    described = inputs.source.describe()
    known = "model_hash" if "model_hash" in described else "model"  # a folder of masks is known by its name
    same = {known: described[known], "manifest_hash": manifest.content_hash(), "split": split}
    refuse_other_results(request.out, evaluation="segment", **same)
    coverage = inputs.texts(manifest.split(split))
    if coverage is not None:
        print(coverage.line(split), file=sys.stderr)
        for line in coverage.warnings():
            warn(f"{manifest.path}: {split}: {line}")
    scored = volumes_of(inputs.source) if request.choice == "all" else inputs.source
    how: dict[str, Any] = {
        "empty_mask": options.get("empty-mask", "one"),
        "slice_index": "all" if request.choice == "all" else inputs.data.slice_index,
    }
    threshold = request.number(DEFAULT_THRESHOLD)
    assert threshold is not None
    if request.threshold == "val":
        threshold, _ = choose_threshold(scored, manifest.split("val"), manifest.classes, **how)
    record = evaluate(
        scored,
        manifest,
        split=split,
        threshold=threshold,
        threshold_source="val" if request.threshold == "val" else "fixed",
        seed=request.seed,
        out=request.out,
        surface="no-surface" not in options,
        group_by=options.get("group-by", ()),
        mgca_batch=inputs.mgca_batch,
        **how,
    )
    if inputs.model_folder is not None:
        request.logged(record)
    summary = record.summary
    if "probe" in options:
        sensitivity = text_sensitivity.text_sensitivity(
            inputs.source,
            manifest,
            split=split,
            threshold=threshold,
            laterality=inputs.data.laterality,
            seed=request.seed,
            max_rows=options.get("probe-rows"),
            out=request.out,
            **how,
        )
        summary = {**summary, "probe": sensitivity.summary}
    return summary, as_text(summary, request.out)


SEGMENTATION = EvaluationKind(
    name="segment",
    task="segment",
    title="segmentation",
    unit="one class of one record",
    truth="true mask",
    quality="Dice",
    same_keys=(*SAME_SET, "grid", "empty_mask", "text"),
    read=read,
    measures=overlap_measures,
    threshold="own",
    manifest=manifest,
    draw=mask_cells,
    draw_truth=lambda run: true_masks(run, lambda key: key[1]),
    stored=stored,
)
KINDS = (SEGMENTATION,)
