"""Runs, models and evaluations that are given to be compared, read or scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.core.errors import Fault, InputError
from medvl.evaluation.cache import SCORED, stored_scores
from medvl.evaluation.case_metrics import CaseRow
from medvl.evaluation.comparison_metrics import KINDS, Kind, ScoredCase, kind_of
from medvl.evaluation.model_inputs import is_model, open_inputs, task_of
from medvl.evaluation.record import SUMMARY, read_record, results_folder
from medvl.evaluation.report.classification import read_label_cases
from medvl.evaluation.report.report import stored_evaluation


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """One evaluation: of which kind, its summary, and its cases by (id, class)."""

    target: str
    kind: Kind
    summary: Mapping[str, Any]
    cases: Mapping[tuple[str, str], CaseRow | ScoredCase]
    folder: Path  # of cases.csv
    folds: tuple[str, ...] = ()  # of pooled folds their targets

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The configuration it was trained with, and `asked`: how; None for masks of another program."""
        found = self.summary.get("config")
        if not isinstance(found, dict):
            return None
        asked = {key: _asked(self.summary, key) for key in self.kind.asked if key in self.summary}
        return {**found, "asked": asked} if asked else found

    @property
    def seed(self) -> str:
        """Training seed, with the draw of the labels where that has a seed of its own; "" if unknown."""
        if self.config is None:
            return ""
        label_seed = self.config["data"].get("label_seed")
        return str(self.config["train"]["seed"]) + (f" (labels {label_seed})" if label_seed is not None else "")

    @property
    def labelled_patients(self) -> int | None:
        """Of how many patients it saw masks (the fewest of its folds), from the plan; None where no run says it."""
        plans = [Path(target) / "plan.json" for target in self.folds or (self.target,)]
        labels = [json.loads(plan.read_text(encoding="utf-8")).get("labels") for plan in plans if plan.is_file()]
        found = [int(own["labelled_patients"]) for own in labels if own and "labelled_patients" in own]
        return min(found, default=None)


def open_runs(
    targets: Sequence[str],
    *,
    split: str,
    manifest_path: Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
) -> list[ScoredRun]:
    """Read evaluations; a run or model that has none in RUN/report/SPLIT is evaluated first (and test logged).

    Args:
        targets: runs, models, or folders with cases.csv and summary.json (of `medvl evaluate`, masks included).
        manifest_path: score runs on this manifest instead of the one that each was trained on.
        overrides: how to read the manifest, as in `medvl evaluate`.

    Raises:
        InputError: given twice, not readable, or evaluated on another split (known before any run is evaluated).
    """
    twice = sorted({target for target in targets if targets.count(target) > 1})
    if twice:
        raise InputError.duplicate(f"given twice: {', '.join(twice)}")
    folders = {target: Path(target) for target in targets}
    evaluated = {
        target: read_run(target, folder)
        for target, folder in folders.items()
        if (folder / "cases.csv").is_file() and (folder / "summary.json").is_file()
    }
    _check_split(list(evaluated.values()), split)
    return [evaluated.get(t) or _open_run(t, split, manifest_path, overrides, device) for t in targets]


def _check_split(runs: Sequence[ScoredRun], split: str) -> None:
    """InputError naming every run that was evaluated on another split."""
    faults = []
    for run in runs:
        if run.summary["split"] != split:
            what = f"evaluated on the split {run.summary['split']}"
            faults.append(
                Fault.mismatch(what, file=run.target, expected=split, remedy=f"--split {run.summary['split']}")
            )
    if faults:
        raise InputError(faults)


def _open_run(target: str, split: str, manifest_path: Path | None, overrides: Sequence[str], device: str) -> ScoredRun:
    folder, task = Path(target), task_of(target)
    if task in SCORED:
        place, _ = stored_scores(target, manifest_path, split=split, overrides=overrides, device=device)
        return read_run(target, place)
    if task not in (None, "segment"):
        raise InputError.unsupported(
            f"a run of task: {task} has no cases to compare",
            file=target,
            expected=f"runs of task: {', '.join(('segment', *SCORED))}, or folders with cases.csv and summary.json",
            remedy="medvl ground and medvl classify with --out DIR score a pre-training, and DIR can be compared",
        )
    if is_model(target):
        inputs = open_inputs(target, overrides, device=device)
        assert inputs.model_folder is not None
        place = results_folder(target, split)
        record = stored_evaluation(inputs, inputs.manifest(manifest_path), split, place)
        rows = {(row.id, row.class_name): row for row in record.cases}
        return ScoredRun(target, KINDS[0], record.summary, rows, place)
    raise InputError.missing_file(
        "no run, model or evaluation" if folder.exists() else "no such folder",
        file=target,
        expected="a run, a model, or a folder with cases.csv and summary.json",
        remedy="masks are scored first: medvl evaluate FOLDER MANIFEST --out DIR",
    )


def read_run(target: str, folder: Path) -> ScoredRun:
    """An evaluation that lies in `folder`, of any kind."""
    record = read_record(folder)
    kind = kind_of(record.evaluation, folder / SUMMARY)
    summary = record.summary
    try:
        cases = kind.read(folder)
    except (ValueError, KeyError) as error:
        raise InputError.damaged(f"cannot be read ({error})", file=folder, remedy="run medvl evaluate again") from None
    if kind.ratios is None and kind.task != "segment":
        summary = {**summary, "classes": list(read_label_cases(folder / "cases.csv").classes)}
    return ScoredRun(target, kind, summary, cases, folder)


def _asked(summary: Mapping[str, Any], key: str) -> Any:
    """How a zero-shot evaluation asked; prompts by their family and a hash of all of them."""
    if key != "prompts":
        return summary[key]
    text = json.dumps(summary[key], sort_keys=True)
    return f"{summary.get('prompt_family')} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
