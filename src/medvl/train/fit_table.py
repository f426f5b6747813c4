"""`medvl fit`: from a table to a trained, evaluated and reported model, by the functions of the verbs.

Audit, split, plan, training, evaluation and report, in this order. What is decided on the way stands in RUN/fit/:
audit.json, split.csv (where the table has no splits) and fit.json. The table itself is never written to. Given again,
the same command goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from medvl.assets import SHIPPED
from medvl.config import Config, DataConfig, make_config
from medvl.config.overrides import apply_override
from medvl.core.errors import InputError
from medvl.core.files import read_json, write_json, write_text
from medvl.core.task import find_task
from medvl.data.audit.audit import audit_manifest, audit_text
from medvl.data.columns import guess_table
from medvl.data.hashes import HashStore
from medvl.data.records import configured_manifest
from medvl.data.splits import split_manifest
from medvl.data.table_facts import table_facts
from medvl.evaluation.report.page import make_report
from medvl.tasks.fit import FitPlan
from medvl.train.fit_plan import choose_plan
from medvl.train.run import train
from medvl.train.run_data import HASHES
from medvl.train.run_folder import FIT, can_resume

FORMAT = "medvl-fit/1"
AUDIT, SPLIT = "audit.json", "split.csv"  # in RUN/fit
FRACTIONS = (0.7, 0.1, 0.2)
VAL_OF_TRAIN = (0.875, 0.125)  # as much as in `FRACTIONS`
FEW_PATIENTS, TWO_PARTS = 20, (0.75, 0.25)  # of fewer a test split would hold next to nobody
# Keys of `data` by which a table is read, in the audit as in training.
_READING = (
    "columns",
    "text_column",
    "constant_text",
    "classes",
    "empty_means_absent",
    "window",
    "slice_index",
    "mask_rule",
)


class LeakError(InputError):
    """A patient or an image stands in two splits. Exit code 1."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit_table` made: the run folder, the task, the page, and the summary that the page shows."""

    run: Path
    task: str
    report: Path | None  # None after a dry run
    summary: dict[str, Any]


def fit_table(
    table: str | Path,
    out: str | Path,
    *,
    task: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    test: bool = False,
    dry_run: bool = False,
    command: str = "",
) -> Fitted:
    """Audit a table, split it if it has no splits, train what fits it, evaluate on val, and write the report.

    Args:
        table: CSV, JSONL, XLSX or Parquet, or `medvl:cxr_regions`; columns of other names are guessed, with a note.
        out: the run folder.
        task: by its name; None = the one that suits the table best.
        overrides: `key=value`, as in `medvl train`; they win over the plan.
        seed: of the split and of the training.
        test: evaluate and report the split test too; that is logged in the run.
        dry_run: stop after the plan and its estimate of the time; audit and split are kept.
        command: the command line, for the card.

    Raises:
        LeakError: a patient or an image in two splits.
        InputError: faults of the table; nothing to learn from; a run folder that was begun otherwise.
    """
    out = Path(out)
    if task is not None:
        find_task(task)  # a wrong name is refused before anything is noted
    data = _reading(table, overrides)
    _begin(out, data, {"task": task, "overrides": list(overrides), "seed": seed})
    _audit(data, out)
    data = _with_splits(data, out, seed)
    plan = _choose(data, task)
    if test and not find_task(plan.task).needs_labels:
        raise InputError.conflict(f"--test with task: {plan.task}, which is not scored", remedy="leave --test out")
    given = [f"given, and wins over the plan: {', '.join(overrides)}"] if overrides else []
    _say("plan", *plan.lines, *given)
    if plan.labelled_only and not any(word.startswith("init=") for word in overrides):
        stage = out / FIT / "labelled_only"
        _train(_configured(plan, data, overrides, seed, first_stage=True), stage, dry_run, command)
        overrides = [*overrides, f"init={stage.resolve()}"]
        if dry_run:  # the second stage starts from the first, which was not made
            return Fitted(out, plan.task, None, {})
    config = _configured(plan, data, overrides, seed)
    _train(config, out, dry_run, command)
    if dry_run:
        return Fitted(out, config.task, None, {})
    _say("report", "on the split val")
    report, summary = make_report(out)
    if test:
        _say("report", "on the split test, which is opened, and that is logged")
        make_report(out, split="test")
    return Fitted(out, config.task, report, summary)


def _say(what: str, *lines: str) -> None:
    print("\n".join([f"\n== {what}", *lines]), file=sys.stderr, flush=True)


def _reading(table: str | Path, overrides: Sequence[str]) -> DataConfig:
    """How the table is read: what the overrides say, and the guess of its columns."""
    tree: dict[str, Any] = {}
    for override in overrides:
        apply_override(tree, override)
    data = tree.get("data")
    given = {key: data[key] for key in _READING if key in data} if isinstance(data, dict) else {}
    if "columns" not in given:
        guess = guess_table(table, given.get("text_column", "text"))
        guess.check(table)
        given["columns"] = dict(guess.columns)
        if lines := guess.lines():
            _say("columns", *lines)
    path = str(table) if str(table).startswith(SHIPPED) else str(Path(table).resolve())
    return make_config({"data": {**given, "manifest": path}}, source="overrides").data


def _begin(out: Path, data: DataConfig, options: dict[str, Any]) -> None:
    """Note what is fitted; InputError where a training was begun with something else. A plan may be changed."""
    files = configured_manifest(data, check_files=False).file_hashes(HashStore(out / HASHES))
    content = configured_manifest(data, check_files=False).content_hash(files)
    wanted = {"format": FORMAT, "table": data.manifest, "columns": data.columns, "content": content, **options}
    path = out / FIT / "fit.json"
    begun = read_json(path) if path.is_file() else {}  # after an earlier plan or training
    differences = [key for key, value in wanted.items() if begun.get(key) != value]
    if not differences:
        return
    if any((run / "config.yaml").is_file() for run in (out, out / FIT / "labelled_only")):
        raise InputError.mismatch(
            f"the training was begun with another {', '.join(differences)}",
            file=path,
            expected="the same table and options, with which the command goes on",
            remedy="another --out",
        )
    for name in (AUDIT, SPLIT):  # of an earlier plan, after which nothing was trained
        (path.parent / name).unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def _audit(data: DataConfig, out: Path) -> None:
    """Audit the table into RUN/fit/audit.json; a sound table is not audited again.

    Raises:
        LeakError, InputError: what the audit found.
    """
    path = out / FIT / AUDIT
    if path.is_file():
        _say("audit", f"done before, without leak or fault: {path}")
        return
    audit = audit_manifest(
        data.manifest,
        text_column=data.text_column,
        classes=data.classes,
        empty_means_absent=data.empty_means_absent,
        slices=data.slice_index,
        window=data.window,
        mask_rule=data.mask_rule,
        columns=data.columns,
    )
    _say("audit", audit_text(audit))
    if audit.num_faults:
        raise InputError.malformed(
            f"the table has {audit.num_faults} faults, listed above",
            file=audit.manifest,
            expected="a table that can be read",
        )
    if audit.leak:
        raise LeakError.leak(
            "patients or images stand in two splits, see above",
            file=audit.manifest,
            remedy="medvl data split TABLE --out FILE makes splits by patient; fit that file",
        )
    write_text(path, audit.as_json() + "\n")


def _with_splits(data: DataConfig, out: Path, seed: int) -> DataConfig:
    """The table with splits: itself, or RUN/fit/split.csv, which has medvl's names.

    A table without splits is split by patient; of one whose rows are train, test or holdout, val is split off train.
    """
    manifest = configured_manifest(data, check_files=False)
    splits = {record.split for record in manifest.records}
    lacks_val = "train" in splits and not splits & {"val", None}
    if splits != {None} and not lacks_val:
        for name in ("train", "val"):
            manifest.split(name)
        _say("splits", f"those of the table: {', '.join(sorted(filter(None, splits)))}")
        return data
    target = out / FIT / SPLIT
    if not target.is_file():
        few = len({record.patient for record in manifest.records}) < FEW_PATIENTS
        parts, note = (TWO_PARTS, " (fewer than 20 patients: no test split)") if few else (FRACTIONS, "")
        if lacks_val:
            parts, note = (TWO_PARTS if few else VAL_OF_TRAIN), ": val is split off train"
        (made,) = split_manifest(
            data.manifest, target, fractions=parts, keep_test=lacks_val, seed=seed, columns=data.columns
        )
        what = "the table has train without val" if lacks_val else "the table has none"
        _say("splits", f"{what}: made by patient, seed {seed}{note}: {made}")
    return replace(data, manifest=str(target.resolve()), columns={})


def _choose(data: DataConfig, task: str | None) -> FitPlan:
    return choose_plan(
        table_facts(configured_manifest(data, check_files=False)), on_gpu=torch.cuda.is_available(), task=task
    )


def _configured(
    plan: FitPlan, data: DataConfig, overrides: Sequence[str], seed: int, *, first_stage: bool = False
) -> Config:
    """The configuration: the plan, over it the overrides. `first_stage`: that of the labelled images alone."""
    tree = _merged(plan.settings, {"data": {"manifest": data.manifest, "columns": data.columns}})
    tree = _merged(tree, {"train": {"seed": seed}})
    if data.manifest.startswith(SHIPPED):
        tree["data"].setdefault("laterality", "patient")  # as the README of the set says
    if any(word.startswith("model.name=") for word in overrides):
        tree["model"] = {}  # sizes and options are those of the planned network
    for override in overrides:
        apply_override(tree, override)
    tree["data"]["manifest"], tree["data"]["columns"] = data.manifest, data.columns
    return make_config(_merged(tree, plan.labelled_only) if first_stage else tree, source="medvl fit")


def _train(config: Config, run: Path, dry_run: bool, command: str) -> None:
    """Train into a run folder, go on with a run that was interrupted, or leave a finished one."""
    if (run / "model").is_dir():
        _say("training", f"done before: {run}")
        return
    _say("training", str(run))
    if can_resume(run) and not dry_run:
        train(None, run, resume=True, command=command)
    else:
        train(config, run, dry_run=dry_run, command=command)


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings: what the second sets wins."""
    merged = dict(first)
    for key, value in second.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
