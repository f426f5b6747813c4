"""What the plans of `medvl fit` share: the facts of a table -> network and settings, each with a reason in plain words.

The rules are few, and every value is a starting point that `key=value` changes. The plan of a task is in its fit.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from medvl.data.table_facts import TableFacts

MIN_TEXTS = 8  # different training texts, below which there is nothing to align images with
STEPS = {False: 600, True: 6000}  # of a run, on a CPU and on a GPU


@dataclass(frozen=True, slots=True)
class FitPlan:
    """What is trained. `labelled_only` are the settings that a semi-supervised run's first stage has instead."""

    task: str
    lines: tuple[str, ...]
    settings: dict[str, Any]
    labelled_only: dict[str, Any] = field(default_factory=dict)


def finished(
    task: str, facts: TableFacts, on_gpu: bool, batch: int, lines: Sequence[str], settings: dict[str, Any]
) -> FitPlan:
    """The plan with what depends on the machine and the number of images alone: sizes, epochs, validations."""
    largest = 224 if on_gpu else 128
    side = min(largest, max(64, 32 * round(facts.side_px / 32)))
    steps_per_epoch = -(-facts.num_images // batch)
    epochs = min(200, max(1, round(STEPS[on_gpu] / steps_per_epoch)))
    settings["task"] = task
    settings["data"] |= {"image_size": [side, side], "in_channels": facts.in_channels}
    settings["train"] |= {"epochs": epochs, "batch_size": batch, "val_every": max(1, epochs // 4)}
    settings["train"] |= {"warmup_steps": min(100, max(1, epochs * steps_per_epoch // 20))}
    if on_gpu:
        settings["train"] |= {"precision": "auto"}
        settings["data"] |= {"num_workers": 4}
    machine = "a GPU" if on_gpu else "a CPU: a small network"
    size = settings["model"].get("encoder") or settings["model"]["size"]
    length = f"{epochs} epochs of {steps_per_epoch} steps (train.epochs)"
    return FitPlan(task, (*lines, f"for {machine} ({size}), images of {side} px, {length}"), settings)


def image_encoder(on_gpu: bool) -> str:
    """The one that fits the machine."""
    return "resnet50" if on_gpu else "resnet18_nano"


def laterality(facts: TableFacts, lines: list[str]) -> dict[str, str]:
    """Whose left the texts mean, where they name a side: reports mean the patient's; else only the user knows."""
    if not facts.name_sides:
        return {}
    if facts.are_reports:
        lines.append("left and right in the reports are the patient's (data.laterality)")
        return {"laterality": "patient"}
    return {}
