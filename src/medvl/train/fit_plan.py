"""What to train on a table: the task that its columns suit best, and that task's plan."""

from __future__ import annotations

from medvl.core.errors import InputError
from medvl.core.task import all_tasks, find_task
from medvl.data.table_facts import TableFacts
from medvl.tasks.fit import MIN_TEXTS, FitPlan


def choose_plan(facts: TableFacts, *, on_gpu: bool = False, task: str | None = None) -> FitPlan:
    """The plan that fits the table, or the one of `task`.

    Raises:
        InputError: nothing to learn from, or a task that is not known or cannot be fitted.
    """
    if task is not None:
        return find_task(task).plan(facts, on_gpu)
    best = max(all_tasks(), key=lambda one: one.suits(facts))
    if best.suits(facts):
        return best.plan(facts, on_gpu)
    raise InputError.empty(
        "nothing to learn from: no masks, no boxes, no labels and fewer than "
        f"{MIN_TEXTS} different texts among {facts.num_images} training images",
        file=facts.path,
        expected="a column mask, mask_NAME, boxes, labels or text",
        remedy="data.columns={mask: COLUMN} names a column that is called otherwise",
    )
