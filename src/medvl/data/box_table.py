"""Boxes of a manifest: its column `boxes`, and a boxes.csv beside it.

A cell holds "label x0 y0 x1 y1" separated by `|`, in pixels of the native image; whole numbers are pixel edges. An
empty cell means NOT ANNOTATED, the word `none` looked for and absent. boxes.csv has columns id, cls (or label), x0, y0,
x1, y1; a row with cls `none` and no corners says that that image has none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvl.core.errors import Fault
from medvl.data.cells import is_missing
from medvl.data.packed import is_file
from medvl.data.tables import read_table

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
    boxes, faults = [], []
    for part in filter(None, text.split("|")):
        words = part.rsplit(maxsplit=4)
        box = make_box(words[0], words[1:]) if len(words) == 5 else None
        if box is None:
            expected = "label x0 y0 x1 y1 with x0 < x1, y0 < y1"
            faults.append(Fault.malformed(f"box {part.strip()!r}", file, line, record, expected))
        else:
            boxes.append(box)
    return boxes, False, faults


def boxes_file(manifest: Path, ids: Sequence[str]) -> tuple[dict[str, list[Box]], list[str], list[Fault]]:
    """Record id -> boxes of the boxes.csv beside a manifest ([] = looked for and absent), warnings, and faults.

    Ids that differ from those of the manifest (`ids`) in leading zeros alone, which a spreadsheet drops, are matched
    where that is certain; else they are a fault. A file of which no id is in the manifest is one too.
    """
    path = manifest.with_name("boxes.csv")
    boxes: dict[str, list[Box]] = {}
    if path == manifest or not is_file(path):
        return boxes, [], []
    table = read_table(path, needed=("id",))
    notes, faults = list(table.notes), list(table.faults)
    label = "cls" if "cls" in table.columns else "label"
    missing = [name for name in ("id", label, *CORNERS) if name not in table.columns]
    if missing:
        expected = "id, cls, x0, y0, x1, y1"
        return (
            boxes,
            notes,
            [*faults, Fault.missing_column(f"no column {', '.join(missing)}", path, 1, expected=expected)],
        )
    lines: dict[str, int] = {}
    absent: dict[str, int] = {}
    for line, row in table.rows:
        name, corners = row["id"], [row[corner] for corner in CORNERS]
        if not name:
            faults.append(Fault.missing("no id", path, line))
            continue
        lines.setdefault(name, line)
        if row[label].lower() == ABSENT and not any(corners):
            absent[name] = line
            continue
        box = None if is_missing(row[label]) else make_box(row[label], corners)
        if box is None:
            faults.append(
                Fault.malformed("not a box", path, line, name, "numbers with x0 < x1 and y0 < y1, and a label")
            )
        else:
            boxes.setdefault(name, []).append(box)
    for name, line in absent.items():
        if boxes.setdefault(name, []):
            faults.append(Fault.conflict("none beside boxes", path, line, name, expected="one or the other"))
    return _matched(boxes, lines, ids, path, notes, faults), notes, faults


def _matched(
    boxes: Mapping[str, list[Box]],
    lines: Mapping[str, int],
    ids: Sequence[str],
    path: Path,
    notes: list[str],
    faults: list[Fault],
) -> dict[str, list[Box]]:
    """The boxes under the ids of the manifest."""
    known = set(ids)
    numbers: dict[str, list[str]] = {}  # an id without leading zeros -> ids of the manifest, and of the boxes
    others: dict[str, list[str]] = {}
    for name in known:
        numbers.setdefault(_number(name), []).append(name)
    for name in boxes:
        if name not in known:
            others.setdefault(_number(name), []).append(name)
    rows_of = {name: rows for name, rows in boxes.items() if name in known}
    unknown, matched = [], []
    for number, names in others.items():
        candidates = numbers.get(number, [])
        if not candidates:
            unknown += names
        elif len(names) == len(candidates) == 1 and candidates[0] not in boxes:
            rows_of[candidates[0]] = boxes[names[0]]
            matched.append(f"{names[0]} for {candidates[0]}")
        else:
            what = f"ids {', '.join(names)} could be {' or '.join(sorted(candidates))} of the manifest"
            remedy = "write the same ids in both files (a spreadsheet drops leading zeros: format the column as text)"
            faults.append(Fault.ambiguous(what, path, lines[names[0]], remedy=remedy))
    if matched:
        what = f"{len(matched)} ids differ from the manifest's in leading zeros, and are matched"
        notes.append(f"{path}: {what}, e.g. {matched[0]}")
    if unknown and not rows_of and ids:
        what = f"none of its {len(boxes)} ids is in the manifest, e.g. {unknown[0]}"
        faults.append(Fault.mismatch(what, path, lines[unknown[0]], expected=f"ids such as {ids[0]}"))
    elif unknown:
        notes.append(f"{path}: {len(unknown)} ids that the manifest does not have, e.g. {min(unknown)}")
    return rows_of


def _number(name: str) -> str:
    """007 and 7.0 -> 7; another id as it is."""
    match = re.fullmatch(r"0*([0-9]+?)(\.0+)?", name)
    return name if match is None else match[1]


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
