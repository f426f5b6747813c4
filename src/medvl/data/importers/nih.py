"""NIH ChestX-ray14: Data_Entry_2017(_v2020).csv, BBox_List_2017.csv, the two official lists, images_0xx/images/*.png.

`Finding Labels` holds names of the 14 labels with | between, or "No Finding"; `Patient ID` the patient, `View Position`
PA or AP. train_val_list.txt and test_list.txt name the images of the official split (test 25,596). BBox_List_2017.csv
gives 984 boxes (x, y, w, h of the 1024 x 1024 image) of 880 images; it calls Infiltration "Infiltrate".
Source: README of the release (NIH Clinical Center) and Wang et al., CVPR 2017. Both tables were met whole (112,120
images, 30,805 patients, 984 boxes), the lists and the images never.

Split: test as published. Validation has the size of KAD's, 8,652 of the 86,524 others; which images KAD took is a list
that was not met, so ours are whole patients, drawn by `draw_groups` with seed 0.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvl.core.errors import Fault, FaultKind, InputError
from medvl.core.files import read_text
from medvl.data.box_table import Box, make_box
from medvl.data.importers.cases import Case, Draft, ImportResult, summed_up
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.published_splits import draw_groups
from medvl.data.importers.set_files import find_file, index_files, stream_csv

LABELS = get_layout("nih").labels
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
PUBLISHED = (86524, 8652)  # images of train_val_list.txt, of which KAD's validation


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of Data_Entry."""

    labels: tuple[str, ...]
    patient: str
    view: str
    line: int


def import_nih(folder: str | Path, out: str | Path, *, canvas: int = 1024) -> ImportResult:
    """Write the manifest, boxes.csv and the 14 labels of ChestX-ray14. BBox_List_2017.csv may be absent.

    Args:
        canvas: side of the square images that the boxes were made for; a boxed image of another size is a fault.
    """
    draft = Draft("nih", Path(folder))
    faults = draft.faults
    table = find_file(draft.folder, TABLES)
    entries = read_entries(table, faults)
    lists = {name: read_list(find_file(draft.folder, (file,), what="list"), faults) for name, file in LISTS.items()}
    boxes: dict[str, list[Box]] = {}
    draft.counts.update(images=len(entries), patients=len({entry.patient for entry in entries.values()}))
    if (table.parent / BOXES).is_file():
        boxes, draft.counts["boxes_called_infiltrate"] = read_boxes(table.parent / BOXES, faults)
        draft.fault_of(
            FaultKind.UNKNOWN,
            "boxed images are not in the table",
            sorted(set(boxes) - set(entries)),
            table.parent / BOXES,
        )
    else:
        draft.warnings.append(f"{table.parent}: no {BOXES}, so no boxes")
    split = split_of(entries, lists, faults, table)
    files = index_files(draft.folder, (".png",))
    missing = [name for name in entries if name not in files]
    draft.missing(f"of {len(entries)} images are missing", missing, table)
    draft.cases = [
        Case(
            Path(name).stem,
            files[name][0],
            split[name],
            boxes=boxes.get(name, ()),
            labels=entry.labels,
            patient=entry.patient,
            view=entry.view,
            size=(canvas, canvas) if name in boxes else None,
        )
        for name, entry in entries.items()
        if name in files and name in split
    ]
    draft.counts["no_finding"] = sum(not entry.labels for entry in entries.values())
    return draft.write(out)


def read_entries(path: Path, faults: list[Fault]) -> dict[str, Entry]:
    """Image name -> its row. "No Finding" is no label: all 14 are negative then."""
    entries: dict[str, Entry] = {}
    for line, row in stream_csv(path, ("Image Index", "Finding Labels", "Patient ID", "View Position"), faults):
        name = row["Image Index"]
        labels = tuple(label for label in row["Finding Labels"].split("|") if label != "No Finding")
        unknown = [label for label in labels if label not in LABELS]
        if unknown or not row["Finding Labels"]:
            what = f"unknown label {unknown[0]}" if unknown else "no Finding Labels"
            kind = FaultKind.UNKNOWN if unknown else FaultKind.MISSING
            faults.append(Fault(what, path, line, name, "the 14 labels with | between, or No Finding", kind=kind))
        if name in entries:
            faults.append(Fault.duplicate(f"{name} again, first on line {entries[name].line}", path, line))
        entries[name] = Entry(labels, row["Patient ID"], row["View Position"], line)
    return entries


def read_boxes(path: Path, faults: list[Fault]) -> tuple[dict[str, list[Box]], int]:
    """Image name -> its boxes, and how many were called Infiltrate. By position: the header names no columns."""
    boxes: dict[str, list[Box]] = {}
    renamed = 0
    reader = csv.reader(io.StringIO(read_text(path, "the table of boxes"), newline=""))
    try:
        lines = [(reader.line_num, row) for row in reader if any(row)][1:]
    except csv.Error as error:
        raise InputError.damaged(f"cannot be read as CSV ({error})", file=path, line=reader.line_num) from None
    for line, row in lines:
        label = "Infiltration" if row[1:2] == ["Infiltrate"] else "".join(row[1:2])
        renamed += row[1:2] == ["Infiltrate"]
        try:
            x, y, width, height = (float(cell) for cell in row[2:6])
        except ValueError:
            x = y = width = height = math.nan
        box = make_box(label, [str(corner) for corner in (x, y, x + width, y + height)])
        if box is None or label not in LABELS:
            expected = "image, one of the 14 labels, x, y, width, height"
            faults.append(Fault.malformed("not a box", path, line, row[0], expected))
            continue
        boxes.setdefault(row[0], []).append(box)
    return boxes, renamed


def read_list(path: Path, faults: list[Fault]) -> set[str]:
    """The image names of an official list, one a line."""
    names = [line.strip() for line in read_text(path, "a list of images").splitlines() if line.strip()]
    if len(set(names)) < len(names):
        faults.append(Fault.duplicate(f"{len(names) - len(set(names))} names stand twice", path))
    return set(names)


def split_of(
    entries: Mapping[str, Entry], lists: Mapping[str, set[str]], faults: list[Fault], table: Path
) -> dict[str, str]:
    """Image -> train, val or test, by the official lists; an image in none or in both of them is a fault."""
    both = sorted(lists["train_val"] & lists["test"])
    nowhere = [name for name in entries if name not in lists["train_val"] and name not in lists["test"]]
    if both:
        faults.append(summed_up(FaultKind.LEAK, "images are in both lists", both, table))
    if nowhere:
        faults.append(summed_up(FaultKind.MISMATCH, "images are in no list", nowhere, table, ", ".join(LISTS.values())))
    others: Sequence[str] = [name for name in entries if name in lists["train_val"] and name not in lists["test"]]
    num = round(len(others) * PUBLISHED[1] / PUBLISHED[0])
    val = draw_groups([entries[name].patient for name in others], num, 0)
    split = {name: "test" for name in entries if name in lists["test"]}
    return split | {name: "val" if i in val else "train" for i, name in enumerate(others)}
