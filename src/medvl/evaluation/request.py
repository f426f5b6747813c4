"""What `medvl evaluate` is asked for; each task answers with a record and a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvl.config import Config, config_dict, manifest_path
from medvl.core.errors import InputError
from medvl.core.progress import track
from medvl.core.task import find_task
from medvl.data.images import SliceChoice
from medvl.data.record import Record
from medvl.evaluation.model_inputs import is_model, read_as_trained, task_of
from medvl.evaluation.record import CASES, EvaluationRecord, log_test, refuse_other_results
from medvl.evaluation.seen_images import seen_images
from medvl.evaluation.tables import csv_text, interval_text, text_table
from medvl.inference.model_folder import update_card, weights_hash
from medvl.metrics.statistics import mean_interval


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """A model, or a folder of masks, and how it is scored.

    Args:
        manifest: default the one that the model was trained on.
        overrides: `data.KEY=VALUE`, how the manifest is read.
        threshold: a number, or `val`: chosen there; None = the task's own.
        choice: of volumes: a slice, or "all".
        options: of some tasks alone, by the name of the option; those of another task are refused (`takes`).
    """

    source: str
    manifest: Path | None = None
    out: Path = Path("evaluation")
    overrides: Sequence[str] = ()
    split: str = "val"
    threshold: str | None = None
    choice: SliceChoice = None
    seed: int = 0
    device: str = "cpu"
    updates_card: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def takes(self, model: str, *names: str) -> None:
        """InputError where an option is given that such a model (in words) does not take."""
        given = [f"--{name}" for name, value in self.options.items() if name not in names]
        if given:
            raise InputError.conflict(f"{', '.join(given)} for {model}", file=self.source, remedy="leave it out")

    def one_slice(self, what: str) -> int | None:
        """The slice that is scored. InputError where it is all of them."""
        if self.choice == "all":
            raise InputError.unsupported(f"--slice all with {what}", file=self.source, expected="one slice: --slice N")
        return self.choice

    def number(self, default: float | None, low: float = 0.0) -> float | None:
        """The threshold as a number from `low` to 1; `default` where none, or `val`, is given."""
        if self.threshold in (None, "val"):
            return default
        try:
            value = float(str(self.threshold))
        except ValueError:
            value = low - 1
        if not low <= value <= 1.0:
            raise InputError.out_of_range(f"threshold {self.threshold}", expected=f"a number from {low:g} to 1, or val")
        return value

    def logged(self, record: EvaluationRecord) -> None:
        """Log that test was opened, and write the metrics into the card if that was requested."""
        if self.split == "test":
            log_test(self.source, record)
        if self.updates_card:
            means = {name: metric["mean"] for name, metric in record.metrics.items()}
            grid = {} if record.grid is None else {"grid": record.grid}
            update_card(self.source, metrics={self.split: {**means, **grid, "num_cases": record.num_cases}})


def score_records(
    request: EvaluationRequest,
    evaluation: str,
    config: Config,
    case: Callable[[Record], Mapping[str, Any]],
    metrics: Sequence[str],
) -> tuple[dict[str, Any], str]:
    """Score each record by itself: cases.csv has a row for each, a metric is the mean of its column.

    Args:
        evaluation: the name of its kind.
        config: of the model.
        case: a record -> the cells of its row behind id and patient.
        metrics: columns of numbers, whose means get intervals by patient.

    Returns:
        The summary, and as a text.
    """
    request.takes(f"a model of task: {config.task}")
    request.one_slice(f"a model of task: {config.task}")
    if request.threshold is not None:
        raise InputError.conflict(f"--threshold for a model of task: {config.task}", file=request.source)
    manifest, _ = read_as_trained(config, request.manifest or manifest_path(config), request.overrides)
    model_hash = weights_hash(request.source)
    same = {"model_hash": model_hash, "manifest_hash": manifest.content_hash()}
    refuse_other_results(request.out, evaluation=evaluation, split=request.split, **same)
    rows = manifest.split(request.split)
    patients = [row.patient for row in rows]
    cases = [{"id": row.id, "patient": row.patient, **case(row)} for row in track(rows, "evaluate", len(rows))]
    means = {name: mean_interval([one[name] for one in cases], patients, seed=request.seed) for name in metrics}
    record = EvaluationRecord.of(
        evaluation,
        model=request.source,
        model_hash=model_hash,
        config=config_dict(config),
        overrides=list(request.overrides),
        manifest=manifest,
        split=request.split,
        seed=request.seed,
        bootstrap_seed=request.seed,
        overlap=seen_images(request.source, rows),
        counts={"num_cases": len(cases), "num_patients": len(set(patients))},
        metrics={name: mean.to_dict() for name, mean in means.items()},
    )
    record.write(request.out, {CASES: csv_text(list(cases[0]), [list(one.values()) for one in cases])})
    request.logged(record)
    table = text_table(["metric", "mean [95 % interval]"], [[n, interval_text(v)] for n, v in record.metrics.items()])
    return record.summary, "\n".join([*table, "", f"{request.out}: cases.csv, summary.json"])


def run_request(request: EvaluationRequest) -> tuple[dict[str, Any], str]:
    """Evaluate; -> the summary, and as a text. Raises InputError where an option does not fit the task."""
    task = task_of(request.source) if is_model(request.source) else None
    return find_task(task or "segment").evaluate(request)  # masks of any program are scored as a segmenter's
