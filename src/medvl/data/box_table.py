"""Boxes of a manifest: its column `boxes`, and a boxes.csv beside it.

A cell holds "label x0 y0 x1 y1" separated by `|`, in pixels of the native image; whole numbers are pixel edges. An
empty cell means NOT ANNOTATED, the word `none` looked for and absent. boxes.csv has columns id, cls (or label), x0, y0,
x1, y1; a row with cls `none` and no corners says that that image has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvl.data.tables import read_table
from medvl.errors import Fault

ABSENT = "none"
CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the native image."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


def box_cell(text: str, file: Path, line: int, record: str) -> tuple[list[Box], bool, list[Fault]]:
    """Boxes of a cell `boxes`, whether it says `none`, and what is wrong with it."""
    if text.strip().lower() == ABSENT:
        return [], True, []
    found, faults = [], []
    for part in filter(None, text.split("|")):
        words = part.rsplit(maxsplit=4)
        box = make_box(words[0], words[1:]) if len(words) == 5 else None
        if box is None:
            expected = "label x0 y0 x1 y1 with x0 < x1, y0 < y1"
            faults.append(Fault(f"box {part.strip()!r}", file, line, record, expected))
        else:
            found.append(box)
    return found, False, faults


def boxes_file(manifest: Path) -> tuple[dict[str, list[Box]], list[Fault]]:
    """Record id -> boxes of the boxes.csv beside a manifest ([] = looked for and absent), and what is wrong with it."""
    path = manifest.with_name("boxes.csv")
    boxes: dict[str, list[Box]] = {}
    if not path.is_file() or path == manifest:
        return boxes, []
    table = read_table(path)
    faults = list(table.faults)
    label = "cls" if "cls" in table.columns else "label"
    missing = [name for name in ("id", label, *CORNERS) if name not in table.columns]
    if missing:
        return boxes, [*faults, Fault(f"no column {', '.join(missing)}", path, 1, expected="id, cls, x0, y0, x1, y1")]
    absent: dict[str, int] = {}
    for line, row in table.rows:
        corners = [row[name] for name in CORNERS]
        if row[label].lower() == ABSENT and not any(corners):
            absent[row["id"]] = line
            continue
        box = make_box(row[label], corners)
        if box is None:
            faults.append(Fault("not a box", path, line, row["id"], "numbers with x0 < x1 and y0 < y1"))
        else:
            boxes.setdefault(row["id"], []).append(box)
    for name, line in absent.items():
        if boxes.setdefault(name, []):
            faults.append(Fault("none beside boxes", path, line, name, expected="one or the other"))
    return boxes, faults


def cell_of(boxes: Sequence[Box], absent: bool) -> str:
    """The cell `boxes` that says this."""
    text = "|".join(f"{box.label} {box.x0:g} {box.y0:g} {box.x1:g} {box.y1:g}" for box in boxes)
    return text or (ABSENT if absent else "")


def joined(
    cell: tuple[list[Box], bool, list[Fault]], listed: Mapping[str, list[Box]], record: str
) -> tuple[tuple[Box, ...], bool, bool]:
    """Boxes of a record from both places, whether it is said that it has none, and whether the two contradict."""
    boxes, absent, _ = cell
    more = listed.get(record)
    contradict = (absent and bool(more)) or (bool(boxes) and more == [])
    return (*boxes, *(more or ())), absent or more == [], contradict


def make_box(label: str, corners: Sequence[str]) -> Box | None:
    """A box from text; None unless the corners are finite numbers with x0 < x1 and y0 < y1."""
    try:
        x0, y0, x1, y1 = (float(value) for value in corners)
    except ValueError:
        return None
    if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
        return None
    return Box(label, x0, y0, x1, y1) if label and x0 < x1 and y0 < y1 else None
