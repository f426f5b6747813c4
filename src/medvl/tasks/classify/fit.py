"""The plan of `medvl fit` for labels."""

from __future__ import annotations

from typing import Any

from medvl.data.table_facts import TableFacts
from medvl.tasks.fit import FitPlan, finished, image_encoder


def plan(facts: TableFacts, on_gpu: bool) -> FitPlan:
    """Labels, of which an image has one or any number."""
    lines = [f"labels of {facts.num_labelled} of {facts.num_images} training images: a classifier"]
    kind = "multiclass" if facts.one_label_each else "multilabel"
    lines.append(
        "every image has exactly one label: classes that exclude each other"
        if facts.one_label_each
        else "any number of labels an image: each class is predicted for itself"
    )
    settings: dict[str, Any] = {
        "data": {"normalize": "none", "augment": {"max_rotate_deg": 5}},
        "model": {"encoder": image_encoder(on_gpu)},
        "classify": {"mode": "finetune", "labels": kind},
        "train": {"lr": 1e-4 if on_gpu else 1e-3},
    }
    return finished("classify", facts, on_gpu, 32 if on_gpu else 8, lines, settings)
