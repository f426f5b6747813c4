"""`medvl report`: evaluate and probe a model on a split unless that was done, then write the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError
from medvl.core.files import write_text
from medvl.data.record import Manifest, Record
from medvl.evaluation import text_sensitivity
from medvl.evaluation.case_metrics import read_case_table
from medvl.evaluation.model_inputs import Inputs, open_inputs, task_of
from medvl.evaluation.prediction_sources import PredictorSource, takes_threshold
from medvl.evaluation.record import (
    CASES,
    EvaluationRecord,
    identity,
    log_folder,
    log_test,
    results_folder,
    reuse_or_run,
)
from medvl.evaluation.report.classification import classifier_report
from medvl.evaluation.report.pretraining import pretraining_folder, pretraining_report, refuse_options
from medvl.evaluation.report.segmentation import Pictures, render
from medvl.evaluation.text_sensitivity import probe
from medvl.inference.model_folder import times_test_opened
from medvl.tasks.segment.evaluate import evaluate

PROBE_ROWS = 600
DEFAULT_THRESHOLD = 0.5
MAX_GROUPS = 64  # a column with more values is not tabulated unasked,
MIN_ROWS = 3  # nor one with fewer rows per value on average,
MAX_VALUE = 32  # nor one with longer values: that is text, not a kind


def make_report(
    target: str | Path,
    manifest_path: Path | None = None,
    *,
    split: str = "val",
    out: Path | None = None,
    include_text: bool = True,
    group_by: Sequence[str] = (),
    probe_rows: int | None = PROBE_ROWS,
    threshold: float = DEFAULT_THRESHOLD,
    overrides: Sequence[str] = (),
    device: str = "cpu",
) -> tuple[Path, dict[str, Any]]:
    """Write the page of a RUN or MODEL and return its path and the summary it shows.

    Results are kept in RUN/report/SPLIT/ and used again while weights, manifest and options are the same. Test is
    opened, and logged, only when `split` is "test". Of a pre-training (`task: pretrain`) the page shows what the run
    has logged, see `pretraining_report`; an option that evaluates is then an InputError. Of a classifier see
    `classifier_report`.

    Args:
        out: the HTML file; default RUN/report/SPLIT/report.html.
        group_by: columns to tabulate by; default every further column with 2 to 64 short values.
        probe_rows: at most so many rows in the text probe (a seeded choice, and the page says so); None for all.
    """
    pretrained = pretraining_folder(target)
    if pretrained is not None:
        given = {
            "a manifest": manifest_path is not None,
            f"split {split}": split != "val",
            "group_by": group_by,
            "probe_rows": probe_rows != PROBE_ROWS,
            "threshold": threshold != DEFAULT_THRESHOLD,
            ", ".join(overrides): overrides,
        }
        refuse_options(pretrained, given)
        return pretraining_report(pretrained, out=out, include_text=include_text)
    if task_of(target) == "classify":
        given = {
            "group_by": group_by,
            "probe_rows": probe_rows != PROBE_ROWS,
            "threshold": threshold != DEFAULT_THRESHOLD,
        }
        wrong = [name for name, is_given in given.items() if is_given]
        if wrong:
            raise InputError.conflict(
                f"{', '.join(wrong)} for a classifier", file=target, remedy="leave it out: it is of masks"
            )
        return classifier_report(target, manifest_path, split=split, out=out, overrides=overrides, device=device)
    inputs = open_inputs(target, overrides, device=device)
    if inputs.model_folder is None or not isinstance(inputs.source, PredictorSource):
        raise InputError.unsupported(
            "not a model", file=target, expected="a run or model folder; masks are for medvl evaluate"
        )
    manifest = inputs.manifest(manifest_path)
    records = manifest.split(split)
    columns = tuple(group_by) or group_columns(records)
    folder = results_folder(target, split)
    evaluation = stored_evaluation(inputs, manifest, split, folder, threshold=threshold, columns=columns)
    probed = None
    missing = "This model takes no text."
    if inputs.source.uses_text:
        missing = "" if any(record.text.strip() for record in records) else "No record of this split has a text."
        if not missing:
            probed = stored_probe(inputs, manifest, split, folder, threshold=threshold, max_rows=probe_rows)
    pictures = Pictures(
        inputs.source, manifest, threshold, window=inputs.data.window, slice_index=inputs.data.slice_index
    )
    page = render(
        evaluation.summary,
        evaluation.cases,
        pictures=pictures,
        probe=probed.summary if probed else None,
        probe_rows=probed.cases if probed else (),
        probe_missing=missing,
        metrics_file=log_folder(target) / "metrics.jsonl",
        title=str(inputs.source.predictor.card.get("name") or "medvl model"),
        facts=_facts(inputs, records),
        include_text=include_text,
    )
    out = out or folder / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return out, evaluation.summary


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


def stored_probe(
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
        return probe(
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


def _facts(inputs: Inputs, records: Sequence[Record]) -> list[tuple[str, Any]]:
    assert inputs.model_folder is not None
    card = inputs.source.predictor.card if isinstance(inputs.source, PredictorSource) else {}
    facts: list[tuple[str, Any]] = [("test split opened", f"{times_test_opened(inputs.model_folder)} time(s)")]
    if card.get("parameters") is not None:
        facts.append(
            ("parameters", f"{card['parameters']:,}" if isinstance(card["parameters"], int) else card["parameters"])
        )
    if card.get("text_encoder"):
        facts.append(("text encoder", card["text_encoder"]))
    if inputs.data.laterality:
        facts.append(("left means the left of", f"the {inputs.data.laterality}"))
    licences = sorted({record.licence for record in records if record.licence})
    if licences:
        facts.append(("licence of the data", "; ".join(licences)))
    return facts
