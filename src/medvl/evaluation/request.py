"""What `medvl evaluate` is asked for; each task answers with a record and a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError
from medvl.core.task import find_task
from medvl.data.images import SliceChoice
from medvl.evaluation.model_inputs import is_model, task_of
from medvl.evaluation.record import EvaluationRecord, log_test
from medvl.inference.model_folder import update_card


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
        """Log that test was opened, and write the metrics into the card if that was asked for."""
        if self.split == "test":
            log_test(self.source, record)
        if self.updates_card:
            means = {name: metric["mean"] for name, metric in record.metrics.items()}
            grid = {} if record.grid is None else {"grid": record.grid}
            update_card(self.source, metrics={self.split: {**means, **grid, "num_cases": record.num_cases}})


def run_request(request: EvaluationRequest) -> tuple[dict[str, Any], str]:
    """Evaluate; -> the summary, and as a text. Raises InputError where an option does not fit the task."""
    task = task_of(request.source) if is_model(request.source) else None
    return find_task(task or "segment").evaluate(request)  # masks of any program are scored as a segmenter's
