"""The tasks that medvl knows. A further one is a folder beside these and a line here."""

from __future__ import annotations

from medvl.core.task import register_place

TASKS = {
    "segment": "medvl.tasks.segment.task:SEGMENT",
    "pretrain": "medvl.tasks.pretrain.task:PRETRAIN",
    "classify": "medvl.tasks.classify.task:CLASSIFY",
    "detect": "medvl.tasks.detect.task:DETECT",
}

for name, place in TASKS.items():
    register_place(name, place)
