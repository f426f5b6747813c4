"""How a finished run of a sweep is scored, by its task: what its result file holds of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.config import Config, config_dict, load_config
from medvl.core.errors import InputError
from medvl.experiments.sweep import Sweep
from medvl.experiments.zero_shot_cells import Query, score_query

CONDITIONS = {
    "true": "true text",
    "empty": "empty",
    "shuffled": "another patient's",
    "side_swapped": "sides swapped",
    "other_context": "another patient's clinical variables",  # only where a model takes any
}
LONG = ("by_class", "by_phrase", "by_group", "model")  # tables that rows hold what is asked for of, and a path


@dataclass(frozen=True, slots=True)
class Scorer:
    """How the runs of a task are scored.

    `score` gets the finished run, the sweep, and the manifest of `evaluate.manifest` (None = its own).
    """

    score: Callable[[Path, Sweep, Path | None], dict[str, Any]]
    evaluates: bool = True  # on `evaluate.split`; False: by the last validation of its training
    groups_rows: bool = False  # takes `evaluate.rows_by`
    keeps_features: bool = False  # of frozen encoders, in `classify.cache_dir`


def score_segmentation(run: Path, sweep: Sweep, manifest_path: Path | None) -> dict[str, Any]:
    """Evaluate a finished run as its sweep says: the summary without its long tables, `labels`, `rows`, `minutes`.

    The evaluation (and probe) stays in RUN/report/SPLIT, where `medvl report` and `medvl compare` find it; test is
    opened, and logged, once.
    """
    from medvl.evaluation.case_metrics import grouped_rows, row_of
    from medvl.evaluation.model_inputs import open_inputs
    from medvl.evaluation.prediction_sources import PredictorSource
    from medvl.evaluation.record import results_folder
    from medvl.tasks.segment.kinds import stored_evaluation, stored_sensitivity

    plan = sweep.evaluate
    inputs = open_inputs(str(run), sweep.scoring_words, device=device_of(run))
    assert inputs.model_folder is not None and isinstance(inputs.source, PredictorSource)
    manifest = inputs.manifest(manifest_path)
    folder = results_folder(run, plan.split)
    evaluation = stored_evaluation(inputs, manifest, plan.split, folder)
    summary = evaluation.summary
    rows: list[dict[str, Any]] = [{"name": "all", **row_of(summary["metrics"], summary["num_cases"])}]
    if plan.rows_by:
        rows += grouped_rows(evaluation.cases, manifest, plan.split, plan.rows_by)
    if plan.probe and inputs.source.uses_text:
        max_rows = None if plan.probe is True else plan.probe
        conditions = stored_sensitivity(inputs, manifest, plan.split, folder, max_rows=max_rows).extras["conditions"]
        rows[0]["name"] = CONDITIONS["true"]  # every row of the split, whatever max_rows leaves to the untrue texts
        for name in (name for name in CONDITIONS if name != "true" and conditions.get(name, {}).get("num")):
            rows.append(
                {"name": CONDITIONS[name], "num": conditions[name]["num"], "dice_per_image": conditions[name]["dice"]}
            )
    lines = _logged(run)
    kept = {key: value for key, value in summary.items() if key not in LONG}
    kept |= _pseudo_labels(lines)
    return {**kept, "labels": _plan(run).get("labels"), "rows": rows, "minutes": _minutes(lines)}


def score_pretraining(run: Path, sweep: Sweep, manifest_path: Path | None) -> dict[str, Any]:
    """What the last validation of a pre-training said, with what it was computed from."""
    config, plan, lines = load_config(run / "config.yaml"), _plan(run), _logged(run)
    card = json.loads((run / "model" / "card.json").read_text(encoding="utf-8"))
    last = next(line for line in reversed(lines) if line["kind"] == "val")
    bookkeeping = {"step", "epoch", "kind", "best", "elapsed_s"}
    return {
        "format": "medvl-pretraining/1",
        "pretraining": {name: value for name, value in last.items() if name not in bookkeeping},
        "split": "val",
        "split_hash": card["split_hash"],
        "manifest_hash": card["manifest_hash"],
        "config": config_dict(config),
        "versions": card["versions"],
        "machine": card["machine"],
        "pairs": {**plan["pairs"], "records": plan["records"], "patients": plan["patients"]},
        "step": last["step"],
        "rows": [],
        "minutes": _minutes(lines),
    }


def score_classification(run: Path, sweep: Sweep, manifest_path: Path | None) -> dict[str, Any]:
    """The summary of a classifier (thresholds chosen on val), with `labels` (how many it learned from), `minutes`.

    The evaluation stays in RUN/report/SPLIT. `rows_by` and `probe` are of masks and play no part.
    """
    from medvl.tasks.classify.kinds import stored

    cache_dir = load_config(run / "config.yaml").classify.cache_dir
    _, record = stored(
        run,
        manifest_path,
        split=sweep.evaluate.split,
        overrides=sweep.scoring_words,
        device=device_of(run),
        cache_dir=Path(cache_dir) if cache_dir else None,
    )
    summary = record.summary
    kept = {key: value for key, value in summary.items() if key != "model"}
    if "published_practice" in kept:
        kept["published_practice"] = _without_classes(kept["published_practice"])
    learned = _plan(run)["class_labels"]
    labels = {**learned["labelled"], "kind": summary["labels"], "per_class": learned["train"]["per_class"]}
    return {**kept, "labels": labels, "rows": [], "minutes": _minutes(_logged(run))}


def score_detection(run: Path, sweep: Sweep, manifest_path: Path | None) -> dict[str, Any]:
    """The summary of a detector, the fixed mean box in it, with `labels` (how many images it learned from), `minutes`.

    The evaluation stays in RUN/report/SPLIT. `rows_by` and `probe` are of masks and play no part.
    """
    from medvl.tasks.detect.kinds import stored

    _, record = stored(
        run, manifest_path, split=sweep.evaluate.split, overrides=sweep.scoring_words, device=device_of(run)
    )
    kept = {key: value for key, value in record.summary.items() if key != "model"}
    return {**kept, "labels": _plan(run)["boxes"]["labelled"], "rows": [], "minutes": _minutes(_logged(run))}


def score_zero_shot(query: Query, run: Path, out: Path) -> dict[str, Any]:
    """The summary of a cell that asks the finished `run`, see `score_query`, without the tables of its decisions."""
    start = time.perf_counter()
    summary = score_query(query, run, out, device_of(run))
    kept = {key: value for key, value in summary.items() if key != "model"}
    if "decisions" in kept:
        kept["decisions"] = {source: _without_classes(rules) for source, rules in kept["decisions"].items()}
    return {**kept, "rows": [], "minutes": round((time.perf_counter() - start) / 60, 2)}


SCORERS = {  # one line a task
    "segment": Scorer(score_segmentation, groups_rows=True),
    "pretrain": Scorer(score_pretraining, evaluates=False),
    "classify": Scorer(score_classification, keeps_features=True),
    "detect": Scorer(score_detection),
}


def scorer_of(config: Config) -> Scorer:
    """The scorer of a configuration's task. InputError where there is none."""
    if config.task not in SCORERS:
        what = f"runs of task: {config.task} cannot be scored by a sweep"
        raise InputError.unsupported(what, expected=f"task: {' | '.join(SCORERS)}")
    return SCORERS[config.task]


def device_of(run: Path) -> str:
    """Where a run is scored: on a GPU if it was trained to take one and there is one."""
    import torch

    accelerator = load_config(run / "config.yaml").train.accelerator
    return "cuda" if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available() else "cpu"


def _without_classes(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Decisions by one rule or several, macro means only."""
    return {
        name: {key: value for key, value in content.items() if key != "by_class"}
        if isinstance(content, dict)
        else content
        for name, content in rules.items()
    }


def _pseudo_labels(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How good the pseudo labels of EPI were, epoch by epoch; {} without EPI."""
    epochs = [line for line in lines if line["kind"] == "task" and "store_dice" in line]
    names = ("epoch", "store_dice", "pseudo_fraction", "store_visited")
    return {"pseudo_labels": {name: [line.get(name) for line in epochs] for name in names}} if epochs else {}


def _logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _plan(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    return content


def _minutes(lines: Sequence[Mapping[str, Any]]) -> float:
    """Of training, up to the last validation."""
    elapsed_s = next(line["elapsed_s"] for line in reversed(lines) if line["kind"] == "val")
    return round(float(elapsed_s) / 60, 2)
