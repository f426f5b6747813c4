"""What differs between kinds of evaluation stands behind one object, `EvaluationKind`, defined beside its evaluator.

A task lists its kinds (`Task.evaluations`, `tasks/NAME/kinds.py`). Comparison, pictures and reports ask the kind and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from medvl.core.errors import InputError
from medvl.core.task import all_tasks

if TYPE_CHECKING:
    from medvl.data.record import Manifest, Record
    from medvl.evaluation.comparison_metrics import Measures
    from medvl.evaluation.record import EvaluationRecord
    from medvl.evaluation.scored_runs import ScoredRun

Key = tuple[str, str]  # id, class ("" where a case is of no class)
Truth = tuple[float | str, ...]
Cell = Callable[[Any, Key], str]  # draws the prediction of a case into axes -> what stands under it
TrueCell = Callable[[Any, "Record", Key], None]  # draws the truth of a case into axes


class Case(Protocol):
    """One row of cases.csv, as far as runs are compared by it."""

    @property
    def patient(self) -> str:
        """By whom cases are resampled."""

    @property
    def truth(self) -> Truth:
        """By which two runs are seen to have scored the same truth."""

    @property
    def quality(self) -> float:
        """By which cases are ordered, the best highest; NaN where it is not defined."""

    @property
    def text(self) -> str:
        """The query that the model was given; "" where it takes no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationKind:
    """One kind of evaluation: how its cases are read, compared and drawn."""

    name: str  # `evaluation` of summary.json
    task: str  # of the models; "" where kinds of several tasks are compared
    title: str
    unit: str  # what a case is
    truth: str  # what cases have as truth, in words
    quality: str  # by what they are ordered, in words
    same_keys: tuple[str, ...]  # keys of the summary that must be the same in all runs
    # The cases of a folder, and what of the summary only they say.
    read: Callable[[Path], tuple[Mapping[Key, Case], dict[str, Any]]]
    # The metrics of these cases, given the summary and the truth and patient of each.
    measures: Callable[[Mapping[str, Any], Sequence[Truth], Sequence[str]], Measures]
    queries: tuple[str, ...] = ()  # keys of the summary that make a method, beside the configuration of its training
    # none: no metric has one; own: a run may have its own if it was chosen on val; free: see `same_keys`
    threshold: Literal["none", "own", "free"] = "free"
    is_poolable: bool = True  # whether cases of several models have a common order, so that folds can be pooled
    joined: EvaluationKind | None = None  # as what runs of this kind and of others with the same are compared
    manifest: Callable[[ScoredRun], Manifest]  # the manifest that a run was scored on, read as it was
    draw: Callable[[ScoredRun, str], Cell]  # of a run and a device
    draw_truth: Callable[[ScoredRun], TrueCell] | None = None  # None: truth and prediction are drawn in one
    # Folder and record of a run's evaluation at the defaults, made unless it is there; None: not without options.
    stored: Callable[..., tuple[Path, EvaluationRecord]] | None = None


def all_kinds() -> tuple[EvaluationKind, ...]:
    """The kinds of all tasks."""
    return tuple(kind for one_task in all_tasks() for kind in one_task.evaluations())


def find_kind(name: str, path: Path) -> EvaluationKind:
    """The kind of the evaluation in `path`. InputError where its cases cannot be compared."""
    kinds = {kind.name: kind for kind in all_kinds()}
    if name not in kinds:
        raise InputError.unsupported(
            f"an evaluation without cases to compare ({name})", file=path, expected=" | ".join(kinds)
        )
    return kinds[name]
