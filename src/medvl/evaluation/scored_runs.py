"""Runs, models and evaluations that are given to be compared, read or scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.core.errors import Fault, InputError
from medvl.evaluation.cache import stored_kind
from medvl.evaluation.kind import Case, EvaluationKind, Key, find_kind
from medvl.evaluation.model_inputs import is_model, task_of
from medvl.evaluation.record import SUMMARY, read_record


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """One evaluation: of which kind, its summary, and its cases by (id, class)."""

    target: str
    kind: EvaluationKind
    summary: Mapping[str, Any]
    cases: Mapping[Key, Case]
    folder: Path  # of cases.csv
    folds: tuple[str, ...] = ()  # of pooled folds their targets

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The configuration it was trained with, and `asked`: with what; None for masks of another program."""
        config = self.summary.get("config")
        if not isinstance(config, dict):
            return None
        queries = {key: _query(self.summary, key) for key in self.kind.queries if key in self.summary}
        return {**config, "asked": queries} if queries else config

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
        counts = [int(row["labelled_patients"]) for row in labels if row and "labelled_patients" in row]
        return min(counts, default=None)


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
    if is_model(target):
        stored = stored_kind(task_of(target) or "segment", target).stored
        assert stored is not None
        folder, _ = stored(target, manifest_path, split=split, overrides=overrides, device=device)
        return read_run(target, folder)
    raise InputError.missing_file(
        "no run, model or evaluation" if Path(target).exists() else "no such folder",
        file=target,
        expected="a run, a model, or a folder with cases.csv and summary.json",
        remedy="masks are scored first: medvl evaluate FOLDER MANIFEST --out DIR",
    )


def read_run(target: str, folder: Path) -> ScoredRun:
    """An evaluation that lies in `folder`, of any kind."""
    record = read_record(folder)
    kind = find_kind(record.evaluation, folder / SUMMARY)
    try:
        cases, facts = kind.read(folder)
    except (ValueError, KeyError) as error:
        raise InputError.damaged(f"cannot be read ({error})", file=folder, remedy="run medvl evaluate again") from None
    return ScoredRun(target, kind, {**record.summary, **facts}, cases, folder)


def _query(summary: Mapping[str, Any], key: str) -> Any:
    """The query of a zero-shot evaluation; prompts by their family and a hash of all of them."""
    if key != "prompts":
        return summary[key]
    text = json.dumps(summary[key], sort_keys=True)
    return f"{summary.get('prompt_family')} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
