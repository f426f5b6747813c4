"""Evaluations of runs without masks that are kept in RUN/report/SPLIT, for reports, sweeps and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.config import ASSET_PREFIX, Config, load_config, manifest_path
from medvl.core.errors import InputError
from medvl.evaluation.model_inputs import read_as_trained
from medvl.evaluation.record import EvaluationRecord, identity, log_test, results_folder, reuse_or_run
from medvl.inference.model_folder import find_model, weights_hash
from medvl.tasks.classify import evaluate as classifier
from medvl.tasks.detect import evaluate as detector


@dataclass(frozen=True, slots=True)
class Scored:
    """How runs of a task are scored: the function, and what the record of an evaluation at the defaults says."""

    evaluate: Callable[..., EvaluationRecord]
    defaults: Callable[[Config], Mapping[str, Any]]


# One entry a task.
SCORED = {
    "classify": Scored(classifier.evaluate_classifier, classifier.defaults),
    "detect": Scored(detector.evaluate_detector, detector.defaults),
}


def stored_scores(
    target: str | Path,
    manifest: str | Path | None = None,
    *,
    split: str = "val",
    overrides: Sequence[str] = (),
    device: str = "cpu",
    **options: Any,
) -> tuple[Path, EvaluationRecord]:
    """Folder and record of a run's evaluation in RUN/report/SPLIT, at its task's default threshold.

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
    folder = results_folder(target, split)
    same = identity(config.task, weights_hash(model), records, split)
    same |= {"overrides": list(overrides), **scored.defaults(config)}

    def evaluate() -> EvaluationRecord:
        record = scored.evaluate(target, path, split=split, overrides=overrides, out=folder, device=device, **options)
        if split == "test":
            log_test(target, record)
        return record

    return folder, reuse_or_run(folder, same, evaluate)
