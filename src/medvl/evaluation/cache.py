"""Evaluations of runs that are kept in RUN/report/SPLIT, for reports, sweeps and comparisons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvl.config import Config, load_config, manifest_path
from medvl.core.errors import InputError
from medvl.core.task import find_task
from medvl.evaluation.kind import EvaluationKind, all_kinds
from medvl.evaluation.model_inputs import read_as_trained
from medvl.evaluation.record import (
    EvaluationRecord,
    identity,
    log_test,
    refuse_other_results,
    results_folder,
    reuse_or_run,
)
from medvl.evaluation.request import EvaluationRequest
from medvl.inference.model_folder import find_model, weights_hash


def stored_kind(task: str, target: str | Path) -> EvaluationKind:
    """The kind of evaluation that runs of a task have without any option. InputError where there is none."""
    for kind in find_task(task).evaluations():
        if kind.stored is not None:
            return kind
    names = dict.fromkeys(kind.task for kind in all_kinds() if kind.stored is not None)
    raise InputError.unsupported(
        f"a run of task: {task} has no cases to compare",
        file=target,
        expected=f"runs of task: {', '.join(names)}, or folders with cases.csv and summary.json",
        remedy="medvl predict and medvl evaluate with --out DIR score a pre-training, and DIR can be compared",
    )


def stored_record(
    evaluation: str,
    evaluate: Callable[..., EvaluationRecord],
    defaults: Callable[[Config], Mapping[str, Any]],
    target: str | Path,
    manifest: str | Path | None = None,
    *,
    split: str = "val",
    overrides: Sequence[str] = (),
    device: str = "cpu",
    **options: Any,
) -> tuple[Path, EvaluationRecord]:
    """Folder and record of a run's evaluation in RUN/report/SPLIT.

    It is made, and logged if it opens test, unless weights, manifest, split and `overrides` are the same.

    Args:
        evaluation: the name of its kind.
        evaluate: makes it, of target and manifest.
        defaults: what the record of an evaluation without further options says.
        manifest: None = the one that it was trained on. For the others, and `options`, see `evaluate`.
    """
    model = find_model(target)
    config = load_config(model / "config.yaml")
    path = manifest_path(config) if manifest is None else manifest
    records, _ = read_as_trained(config, path, overrides)
    folder = results_folder(target, split)
    same = identity(evaluation, weights_hash(model), records, split)
    same |= {"overrides": list(overrides), **defaults(config)}

    def run() -> EvaluationRecord:
        record = evaluate(target, path, split=split, overrides=overrides, out=folder, device=device, **options)
        if split == "test":
            log_test(target, record)
        return record

    return folder, reuse_or_run(folder, same, run)


def requested_record(
    evaluation: str, evaluate: Callable[..., EvaluationRecord], threshold: float | None, request: EvaluationRequest
) -> EvaluationRecord:
    """What `medvl evaluate` does with a model whose manifest is read as for its training."""
    config = load_config(find_model(request.source) / "config.yaml")
    path = manifest_path(config) if request.manifest is None else request.manifest
    records, _ = read_as_trained(config, path, request.overrides)
    same = {"model_hash": weights_hash(request.source), "manifest_hash": records.content_hash()}
    refuse_other_results(request.out, evaluation=evaluation, split=request.split, **same)
    record = evaluate(
        request.source,
        path,
        split=request.split,
        threshold=threshold,
        overrides=request.overrides,
        out=request.out,
        seed=request.seed,
        device=request.device,
    )
    request.logged(record)
    return record
