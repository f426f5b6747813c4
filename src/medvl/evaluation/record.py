"""The record of an evaluation: one typed object for every kind, written and read here and nowhere else.

    FOLDER/summary.json    the record (format version 2; version 1 is read and converted)
    FOLDER/cases.csv       its cases, and further files of the kind (detections.csv, roc.svg ...)

On disk the record is one flat JSON object: the fields below by name, the counts (`num_...`) and what only one kind has
(`extras`) beside them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError, warn
from medvl.core.files import write_json, write_text
from medvl.core.provenance import machine, versions
from medvl.data.hashes import Overlap
from medvl.data.record import Manifest
from medvl.inference.model_folder import find_model, write_card
from medvl.metrics.statistics import NUM_DRAWS

FORMAT = "medvl-evaluation/2"
SUMMARY, CASES = "summary.json", "cases.csv"
# Version 1 had a format for each kind of evaluation, and no key `evaluation`.
VERSION_1 = {
    "medvl-summary/1": "segment",
    "medvl-classification/1": "classify",
    "medvl-classification/2": "classify",
    "medvl-detection/1": "detect",
    "medvl-grounding/1": "ground",
    "medvl-zero-shot-classification/1": "zero-shot classify",
    "medvl-localisation/1": "localise",
    "medvl-probe/1": "text sensitivity",
}


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """What one evaluation measured, of what and how. Values are those of JSON: None for a number that is not defined.

    Of metrics each value is {mean, lo, hi, num}: the interval is a 95 % bootstrap over patients.
    """

    evaluation: str  # the kind: segment, classify, zero-shot classify, ground, detect, localise, text sensitivity
    task: str | None  # that the model was trained for; None: masks of another program
    model: str  # as it was given
    model_hash: str | None  # of the weights
    manifest: str
    manifest_hash: str | None
    split: str
    split_hash: str | None
    seed: int | None  # of the model's training (segment), else of the bootstrap
    config: Mapping[str, Any] | None  # of the model's training
    overrides: Sequence[str] = ()  # data.KEY=VALUE: how the manifest was read
    options: Mapping[str, Any] = field(default_factory=dict)  # of the caller, by which the record is found again
    seen_images: Mapping[str, Any] | None = None  # scored images that the model was trained on; None: not known
    versions: Mapping[str, Any] = field(default_factory=versions)
    machine: Mapping[str, Any] = field(default_factory=machine)
    threshold: float | Mapping[str, float | None] | None = None  # one, or one a class
    threshold_source: str = ""
    grid: str | None = None  # on which pixels are compared
    empty_mask: str | None = None  # what a case whose two masks are empty counts: one, zero or skip
    counts: Mapping[str, int]  # num_cases, num_patients and further ones of the kind
    bootstrap: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    by_class: Mapping[str, Any] = field(default_factory=dict)
    by_phrase: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)  # of the kind
    notes: Sequence[str] = ()
    cases: tuple[Any, ...] = ()  # rows of cases.csv, of a type of the kind; not in summary.json

    @classmethod
    def of(
        cls,
        evaluation: str,
        *,
        model: str | Path,
        model_hash: str | None,
        config: Mapping[str, Any] | None,
        manifest: Manifest,
        split: str,
        seed: int | None,
        bootstrap_seed: int = 0,
        num_draws: int = NUM_DRAWS,
        overlap: Overlap | None = None,
        **values: Any,
    ) -> EvaluationRecord:
        """A new record of a manifest's split; `values` are the fields by name."""
        return cls(
            evaluation=evaluation,
            task=config["task"] if config and "task" in config else None,
            model=str(model),
            model_hash=model_hash,
            manifest=str(manifest.path),
            manifest_hash=manifest.content_hash(),
            split=split,
            split_hash=manifest.split_hash(),
            seed=seed,
            config=config,
            seen_images=None if overlap is None else overlap.as_dict(),
            bootstrap={"unit": "patient", "draws": num_draws, "seed": bootstrap_seed, "confidence": 0.95},
            **{name: value if name == "cases" else without_nan(value) for name, value in values.items()},
        )

    @classmethod
    def from_dict(cls, summary: Mapping[str, Any]) -> EvaluationRecord:
        """The record of a summary.json's object, of either version (see `evaluation_of`)."""
        config = summary.get("config")
        values = {key: summary[key] for key in _NAMES if key in summary}
        values |= {
            "evaluation": evaluation_of(summary),
            "overrides": summary.get("overrides") or (),
            "notes": summary.get("notes", ()),
        }
        values.setdefault("task", (config or {}).get("task"))
        for key in ("model", "manifest", "split"):  # results that are kept in a repository leave paths out
            values.setdefault(key, "")
        for key in ("model_hash", "manifest_hash", "split_hash", "seed", "config"):
            values.setdefault(key, None)
        for key in ("versions", "machine"):  # not those of this machine
            values.setdefault(key, {})
        rest = {key: value for key, value in summary.items() if key not in _NAMES and key != "format"}
        counts = {key: value for key, value in rest.items() if key.startswith("num_") and isinstance(value, int)}
        extras = {key: value for key, value in rest.items() if key not in counts}
        return cls(counts=counts, extras=extras, **values)

    @property
    def num_cases(self) -> int:
        """How many cases were scored."""
        return self.counts["num_cases"]

    @property
    def num_patients(self) -> int:
        """Of how many patients."""
        return self.counts["num_patients"]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The object of summary.json."""
        plain = {name: getattr(self, name) for name in _NAMES if name not in ("options", "notes")}
        options = {"options": self.options} if self.options else {}
        rest = {**self.counts, **self.extras, "notes": list(self.notes)}
        summary: dict[str, Any] = without_nan({"format": FORMAT, **plain, **options, **rest})
        return summary

    def write(self, out: Path, files: Mapping[str, str], *, name: str = SUMMARY) -> None:
        """Write `files` {name: text} and then the record into the folder `out`, each whole or not at all."""
        out.mkdir(parents=True, exist_ok=True)
        for file_name, text in files.items():
            write_text(out / file_name, text)
        write_json(out / name, self.summary)


_NAMES = tuple(f.name for f in fields(EvaluationRecord) if f.name not in ("counts", "extras", "cases"))


def evaluation_of(summary: Any) -> str | None:
    """The kind of evaluation of a summary.json's object, of either version; None where it is no evaluation."""
    if not isinstance(summary, Mapping):
        return None
    name = summary.get("format")
    return summary.get("evaluation") if name == FORMAT else VERSION_1.get(str(name))


def read_record(folder: Path, name: str = SUMMARY) -> EvaluationRecord:
    """The record in a folder, without its cases.

    Raises:
        InputError: no such file, not readable, or of another program or version.
    """
    path = folder / name
    remedy = "run medvl evaluate again"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError.damaged(f"cannot be read ({error})", file=path, expected=FORMAT, remedy=remedy) from None
    if evaluation_of(summary) is None:
        version = summary.get("format") if isinstance(summary, dict) else None
        raise InputError.unsupported(
            f"not an evaluation of this version ({version})", file=path, expected=FORMAT, remedy=remedy
        )
    return EvaluationRecord.from_dict(summary)


def identity(evaluation: str, model_hash: str | None, manifest: Manifest, split: str) -> dict[str, Any]:
    """What makes two evaluations the same, beside their options: kind, weights, manifest and split."""
    return {
        "evaluation": evaluation,
        "model_hash": model_hash,
        "manifest_hash": manifest.content_hash(),
        "split_hash": manifest.split_hash(),
        "split": split,
    }


def reuse_or_run(
    folder: Path,
    same: Mapping[str, Any],
    run: Callable[[], EvaluationRecord],
    *,
    name: str = SUMMARY,
    cases: str = CASES,
    is_enough: Callable[[EvaluationRecord], bool] = lambda record: True,
) -> EvaluationRecord:
    """The record in `folder` (without its cases) where it is the same evaluation, else the one that `run` makes.

    Args:
        same: fields of the record (`identity`, `overrides`, `threshold`, further options) that must be equal.
        run: evaluates, and writes into `folder`.
        is_enough: whether an equal one also has what is needed, e.g. the tables that were asked for.
    """
    path = folder / name
    if path.is_file() and (folder / cases).is_file():
        try:
            stored = read_record(folder, name)
        except InputError as error:
            warn(f"{error}; it is made anew")
        else:
            if not differing(stored, same) and is_enough(stored):
                return stored
    return run()


def refuse_other_results(out: Path | None, **same: Any) -> None:
    """InputError where `out` holds results of something else: they would be written over.

    Args:
        same: fields of the record and what they will be, e.g. evaluation, model_hash, split.
    """
    if out is None or not (out / SUMMARY).is_file():
        return
    try:
        stored = read_record(out)
        others, known = differing(stored, same), stored.summary
    except InputError:
        others, known = list(same), {}
    if others:
        names = ("model", "split", "manifest", "target", "evaluation")
        held = ", ".join(f"{key} {known[key]}" for key in names if key in known)
        raise InputError.exists(
            f"holds other results ({held or 'not readable'}; {', '.join(others)} would differ)",
            file=out,
            expected="a new folder, or one of the same results",
            remedy="--out DIR",
        )


def differing(record: EvaluationRecord, same: Mapping[str, Any]) -> list[str]:
    """The keys of `same` that have another value in the record."""
    return [key for key, value in same.items() if without_nan(record.summary.get(key)) != without_nan(value)]


def without_nan(value: Any) -> Any:
    """The same JSON value with None for every number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def log_folder(model: str | Path) -> Path:
    """Where test_log.jsonl stands: the run folder of a run's model, else the model folder itself."""
    folder = find_model(model)
    run = folder.parent
    return run if folder.name == "model" and (run / "config.yaml").is_file() else folder


def results_folder(target: str | Path, split: str) -> Path:
    """RUN/report/SPLIT, or MODEL/report/SPLIT; for a model that ships with the package a folder where you are."""
    if str(target).startswith("medvl:"):
        return Path(f"report-{find_model(target).name}") / split
    return log_folder(target) / "report" / split


def log_test(model: str | Path, record: EvaluationRecord) -> Path | None:
    """Append one line to the model's test_log.jsonl: test was opened. The card prints how often.

    Returns None, and warns, where the folder cannot be written (a model in a read-only installation).
    """
    path = log_folder(model) / "test_log.jsonl"
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "manifest_hash": record.manifest_hash,
        "split_hash": record.split_hash,
        "threshold": record.threshold,
        "num_cases": record.num_cases,
        "metrics": {name: value["mean"] for name, value in record.metrics.items()},
    }
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        write_card(find_model(model))
    except OSError as error:
        warn(f"test was opened, but {path} cannot be written: {error}")
        return None
    return path


def with_options(record: EvaluationRecord, **options: Any) -> EvaluationRecord:
    """The record with the options of its caller, by which `reuse_or_run` finds it again."""
    return replace(record, options=without_nan(options))
