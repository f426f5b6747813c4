"""The tasks that medvl knows, and what their folders share. A further task is a folder beside these and a line here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.core.task import Task, register_place

if TYPE_CHECKING:
    from medvl.data.table_facts import TableFacts
    from medvl.evaluation.kind import EvaluationKind
    from medvl.evaluation.report.page import PageRequest
    from medvl.evaluation.request import EvaluationRequest
    from medvl.tasks.fit import FitPlan

TASKS = {
    "segment": "medvl.tasks.segment.task:SEGMENT",
    "pretrain": "medvl.tasks.pretrain.task:PRETRAIN",
    "classify": "medvl.tasks.classify.task:CLASSIFY",
    "detect": "medvl.tasks.detect.task:DETECT",
}

for name, place in TASKS.items():
    register_place(name, place)


class FolderTask(Task):
    """A task whose folder has kinds.py (`KINDS`, `requested`), report.py (`page`) and fit.py (`plan`)."""

    def evaluations(self) -> tuple[EvaluationKind, ...]:
        """`KINDS` of kinds.py."""
        kinds: tuple[EvaluationKind, ...] = self._part("kinds").KINDS
        return kinds

    def evaluate(self, request: EvaluationRequest) -> tuple[dict[str, Any], str]:
        """`requested` of kinds.py."""
        scored: tuple[dict[str, Any], str] = self._part("kinds").requested(request)
        return scored

    def report(self, request: PageRequest) -> tuple[Path, dict[str, Any]]:
        """`page` of report.py."""
        written: tuple[Path, dict[str, Any]] = self._part("report").page(request)
        return written

    def plan(self, facts: TableFacts, on_gpu: bool) -> FitPlan:
        """`plan` of fit.py."""
        made: FitPlan = self._part("fit").plan(facts, on_gpu)
        return made

    def _part(self, name: str) -> Any:
        """A file of the task's folder, imported on first use."""
        return import_module(f"{type(self).__module__.rpartition('.')[0]}.{name}")
