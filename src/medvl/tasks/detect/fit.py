"""The plan of `medvl fit` for boxes."""

from __future__ import annotations

from typing import Any

from medvl.data.table_facts import TableFacts
from medvl.tasks.fit import FitPlan, finished, image_encoder


def plan(facts: TableFacts, on_gpu: bool) -> FitPlan:
    """Boxes."""
    lines = [f"boxes on {facts.num_boxed} of {facts.num_images} training images, no masks: a detector (YOLOv3)"]
    settings: dict[str, Any] = {
        "data": {"normalize": "none", "augment": {"max_rotate_deg": 5}},
        "model": {"encoder": image_encoder(on_gpu)},
        "detect": {"anchors": "fit"},
        "train": {"lr": 5e-4 if on_gpu else 2e-3, "freeze_encoder": False},
    }
    return finished("detect", facts, on_gpu, 16 if on_gpu else 8, lines, settings)
