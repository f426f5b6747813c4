"""Evaluations of runs without masks that are kept in RUN/report/SPLIT, for reports, sweeps and comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.config import ASSET_PREFIX, load_config, manifest_path
from medvl.core.errors import InputError
from medvl.evaluation.model_inputs import read_as_trained
from medvl.inference.model_folder import find_model, weights_hash
from medvl.tasks.classify import evaluate as classifier
from medvl.tasks.detect import evaluate as detector
from medvl.tasks.segment.evaluate import log_folder, log_test


@dataclass(frozen=True, slots=True)
class Scored:
    """How runs of a task are scored: the format of summary.json, the function, and whether a summary has its default
    threshold."""

    format: str
    evaluate: Callable[..., dict[str, Any]]
    is_default: Callable[[Mapping[str, Any]], bool]


# One entry a task.
SCORED = {
    "classify": Scored(
        classifier.FORMAT, classifier.evaluate_classifier, lambda summary: summary["threshold_source"] != "fixed"
    ),
    "detect": Scored(
        detector.FORMAT,
        detector.evaluate_detector,
        lambda summary: summary["threshold"] == summary["config"]["detect"]["score_threshold"],
    ),
}


def stored_scores(
    target: str | Path,
    manifest: str | Path | None = None,
    *,
    split: str = "val",
    overrides: Sequence[str] = (),
    device: str = "cpu",
    **options: Any,
) -> tuple[Path, dict[str, Any]]:
    """Folder and summary of a run's evaluation in RUN/report/SPLIT, at its task's default threshold.

    It is made, and logged if it opens test, unless weights, manifest, split and `overrides` are the same.

    Args:
        manifest: None = the one that it was trained on. For the others, and `options`, see its task's function.

    Raises:
        InputError: a run of another task; else see that function.
    """
    model = find_model(target)
    config = load_config(model / "config.yaml")
    if config.task not in SCORED:
        raise InputError.unsupported(
            f"a run of task: {config.task}", file=target, expected=f"task: {' or '.join(SCORED)}"
        )
    scored = SCORED[config.task]
    path = manifest_path(config) if manifest is None else Path(manifest)
    if str(path).startswith(ASSET_PREFIX):
        path = manifest_path(load_config(model / "config.yaml", [f"data.manifest={path}"]))
    records, _ = read_as_trained(config, path, overrides)
    model_hash = weights_hash(model)
    wanted = {
        "format": scored.format,
        "model_hash": model_hash,
        "manifest_hash": records.content_hash(),
        "split_hash": records.split_hash(),
        "split": split,
        "overrides": list(overrides),
    }
    folder = log_folder(target) / "report" / split
    if str(target).startswith(ASSET_PREFIX):
        folder = Path(f"report-{model.name}") / split
    if (folder / "summary.json").is_file() and (folder / "cases.csv").is_file():
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if all(summary.get(key) == value for key, value in wanted.items()) and scored.is_default(summary):
            return folder, summary
    summary = scored.evaluate(target, path, split=split, overrides=overrides, out=folder, device=device, **options)
    if split == "test":
        log_test(target, summary)
    return folder, summary
