"""What differs between the tasks stands behind one object, `Task`; nowhere else is a task compared by name.

The registry is filled by `medvl.tasks.base` when medvl is imported. A further task is registered with `register`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from medvl.core.errors import Fault, InputError, nearest

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.data import DataLoader

    from medvl.config import Config
    from medvl.core.learner import Learner
    from medvl.data.context import ContextRules
    from medvl.data.dataset import Sample
    from medvl.data.record import Manifest, Record
    from medvl.data.table_facts import TableFacts
    from medvl.evaluation.kind import EvaluationKind
    from medvl.evaluation.report.page import PageRequest
    from medvl.evaluation.request import EvaluationRequest
    from medvl.inference.inputs import InputImage
    from medvl.models.module import NetworkModule
    from medvl.tasks.fit import FitPlan
    from medvl.text.base import TextEncoder

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run consists of. `plan` is what must be said of its data beside the counts of `train/estimate.py`."""

    learner: Learner
    encoder: TextEncoder | None
    classes: tuple[str, ...]
    splits: dict[str, Sequence[Record]]
    loaders: dict[str, DataLoader[Sample]]
    plan: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What `medvl predict` asks a model about each image; what a task does not take is refused by its `answerer`.

    Args:
        texts: prompts, each applied to every image.
        threshold: a probability from 0 to 1; None = the task's own.
        context: values of clinical variables beside the texts.
        classes: of zero-shot classification.
        options: of one task alone, by name.
    """

    texts: Sequence[str] = ()
    threshold: float | None = None
    device: str = "cpu"
    context: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def probability(self, default: float) -> float:
        """The threshold. InputError where it is no probability."""
        if self.threshold is None:
            return default
        if not 0.0 <= self.threshold <= 1.0:
            raise InputError.out_of_range(f"threshold {self.threshold}", expected="a probability from 0 to 1")
        return self.threshold

    def takes(self, model: str, *names: str) -> None:
        """InputError where something is given that a model does not take.

        Args:
            model: in words, e.g. "a classifier".
            names: what it takes: text, context, classes, and options by name.
        """
        values = {"text": self.texts, "context": self.context, "classes": self.classes, **self.options}
        given = [name for name, value in values.items() if value and name not in names]
        if given:
            options = " and ".join(f"--{name}" for name in given)
            raise InputError.conflict(f"{model} takes no {', '.join(given)}", remedy=f"leave {options} out")


class Answerer(Protocol):
    """A model of one task that writes its predictions for one image at a time."""

    table: str  # name of the file with a line for each row
    columns: tuple[str, ...]

    def answer(self, image: InputImage) -> list[Row]:
        """Write the files of one image; its rows. InputError where it cannot be read."""


class Task(Protocol):
    """One kind of run: its configuration, its data, its model, its training, its predictions and evaluations."""

    name: ClassVar[str]
    model_name: ClassVar[str]  # `model.name` where the recipe names none
    method: ClassVar[Literal["lvit", "g2d"]] = "lvit"  # whose column of the fidelity presets it takes
    takes_text: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = True  # records without an annotation take no part
    gives_encoder: ClassVar[bool] = False  # `init` of another task takes its image encoder
    skips_parameters: ClassVar[bool] = False  # a step may leave parameters without a gradient
    sections: ClassVar[Mapping[str, type]] = {}  # of the configuration, beside those of every task
    defaults: ClassVar[Mapping[str, Any]] = {}  # of dotted keys of the common sections that the recipe leaves open
    refused: ClassVar[Mapping[str, Any]] = {}  # dotted keys that it does not take, with their only value

    def faults(self, config: Config, source: str) -> list[Fault]:
        """Values of its sections that are right alone and wrong together."""
        return []

    def check_context(self, config: Config, num_columns: int) -> None:
        """InputError where its network cannot take so many clinical variables."""
        return None

    def prepare(
        self,
        config: Config,
        manifest: Manifest,
        splits: dict[str, Sequence[Record]],
        context: ContextRules | None,
        fabric: Fabric,
        out: Path,
    ) -> Prepared:
        """Model, learner and loaders of a run. Everything that can be wrong with recipe and data is found here."""
        ...

    def suits(self, facts: TableFacts) -> int:
        """How well a table suits it: `medvl fit` trains the task with the highest number; 0 = not at all."""
        return 0

    def plan(self, facts: TableFacts, on_gpu: bool) -> FitPlan:
        """The settings that `medvl fit` trains a table with. InputError where it has none."""
        raise InputError.unsupported(f"medvl fit has no plan for task: {self.name}", file=facts.path)

    def build(
        self, config: Config, num_classes: int, encoder: TextEncoder | None, context: ContextRules | None
    ) -> NetworkModule:
        """The model of a saved configuration, with new weights."""
        ...

    def cached_in(self, config: Config, folder: str | None) -> Config:
        """The configuration with what its runs may share kept in `folder`; None = kept nowhere."""
        return config

    def load(self, folder: str | Path, device: str) -> Any:
        """The object that predicts images from Python (`medvl.load`)."""
        ...

    def answerer(self, model: str | Path, images: Sequence[InputImage], out: Path, question: Question) -> Answerer:
        """What writes the predictions of `medvl predict`. InputError where something in `question` does not fit."""
        ...

    def evaluations(self) -> tuple[EvaluationKind, ...]:
        """The kinds of evaluation of its models."""
        return ()

    def evaluate(self, request: EvaluationRequest) -> tuple[dict[str, Any], str]:
        """Score a model as `medvl evaluate` does: the summary, and as a text."""
        raise InputError.unsupported(f"task: {self.name} has no evaluation", file=request.source)

    def report(self, request: PageRequest) -> tuple[Path, dict[str, Any]]:
        """Write the page of a model (`medvl report`); its path and the summary that it shows."""
        raise InputError.unsupported(f"there is no page of task: {self.name}", file=request.target)

    def usage(self, folder: str | Path) -> str:
        """The command that applies a model of this task to an image: the remedy of a verb that it is not for."""
        return f"medvl predict {folder} IMAGE --out DIR applies it"


_tasks: dict[str, Task | str] = {}  # the object, or the place `module:NAME` that it is loaded from


def register(task: Task) -> None:
    """Make a task known under its name. InputError where the name is taken by another one."""
    if _tasks.setdefault(task.name, task) is not task:
        raise InputError.duplicate(f"there is a task {task.name} already", expected="another name")


def register_place(name: str, place: str) -> None:
    """As `register`, of an object that is imported on first use: `module:NAME`."""
    _tasks.setdefault(name, place)


def find_task(name: str) -> Task:
    """The task of that name. InputError, with the nearest one, where there is none."""
    entry = _tasks.get(name)
    if entry is None:
        like = nearest(str(name), _tasks)
        raise InputError.unknown(
            f"unknown task {name!r}", expected=" | ".join(_tasks), remedy=f"did you mean {like}?" if like else None
        )
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        loaded: Task = getattr(import_module(module), attribute)
        _tasks[name] = entry = loaded
    return entry


def task_names() -> tuple[str, ...]:
    """Their names, in the order of registration."""
    return tuple(_tasks)


def all_tasks() -> tuple[Task, ...]:
    """All tasks, in the order of registration."""
    return tuple(find_task(name) for name in _tasks)


def other_sections(task: Task) -> frozenset[str]:
    """The sections of the configuration that other tasks have and this one has not."""
    return frozenset(name for other in all_tasks() for name in other.sections) - set(task.sections)


def refused_keys(task: Task, config: Config) -> list[str]:
    """The keys of `task.refused` that the configuration sets to something else."""

    def value(key: str) -> Any:
        node: Any = config
        for name in key.split("."):
            node = getattr(node, name)
        return node

    return [key for key, only in task.refused.items() if value(key) != only]
