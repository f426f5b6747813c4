"""The rows of a manifest -> records: which columns there are, what their cells mean, what is wrong with them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvl.core.errors import Fault, FaultKind, nearest
from medvl.data.box_table import Box, box_cell, boxes_file, joined
from medvl.data.cells import CellKind, CleanCells
from medvl.data.columns import ALIASES, NAMES, guess_columns, shown
from medvl.data.manifest_paths import PathFinder
from medvl.data.mask_colours import LabelValue, is_colour, label_value
from medvl.data.record import ABSENT, NOT_A_MASK, SPLITS, MaskRef, Record
from medvl.data.tables import Table

UNKNOWN_COLUMN = "labels_unknown"  # labels of which nothing is known; see data/class_labels.py
_UNSAFE_ID = re.compile(r'[\x00-\x1f<>:"/\\|?*]|^\.|\s$')


@dataclass
class RecordReader:
    """Turns the rows of a table into records, collecting faults and warnings."""

    table: Table
    text_column: str
    wanted: Sequence[str] | Mapping[str, Sequence[LabelValue]] | None
    empty_means_absent: tuple[str, ...]
    need_text: bool
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)  # class -> column
    values: dict[str, tuple[LabelValue, ...]] = field(default_factory=dict)  # class -> values of the label map
    extra: tuple[str, ...] = ()
    finder: PathFinder = field(init=False)

    def __post_init__(self) -> None:
        self.finder = PathFinder(self.table.path)
        self.warnings += self.table.notes

    def fault(
        self, kind: FaultKind, what: str, line: int | None = None, record: str | None = None, **more: str | None
    ) -> None:
        self.faults.append(
            Fault(what, self.table.path, line, record, more.get("expected"), more.get("remedy"), kind=kind)
        )

    def records(self) -> list[Record]:
        """Every row with an id and an image; the rest are faults."""
        if not self._columns():
            return []
        cleaned = CleanCells(self._kinds())
        rows = [(line, cleaned.row(row)) for line, row in self.table.rows]
        self.warnings += [f"{self.table.path}: {note}" for note in cleaned.notes()]
        boxes, notes, faults = boxes_file(self.table.path, [row["id"] for _, row in rows])
        self.warnings += notes
        self.faults += faults
        seen: dict[str, int] = {}
        records = []
        for line, row in rows:
            record = self._record(line, row, boxes)
            if record.id in seen:
                self.fault(FaultKind.DUPLICATE, f"duplicate id, first on line {seen[record.id]}", line, record.id)
            seen.setdefault(record.id, line)
            records.append(record)
        if not self.table.rows and not self.table.faults:
            self.fault(FaultKind.EMPTY, "no records", expected="at least one row below the header")
        if self.need_text:
            for record in records:
                if not record.text:
                    self.fault(
                        FaultKind.MISSING,
                        f"no text in column {self.text_column}",
                        record.line,
                        record.id,
                        expected="a text",
                    )
        self.warnings += self.finder.notes()
        self.faults += self.finder.faults()
        self._patients(records)
        return [record for record in records if record.id and record.image.name]

    def _kinds(self) -> dict[str, CellKind]:
        """Columns of this table -> what their cells are, where that matters to what no cell may be."""
        kinds: dict[str, CellKind] = {name: "value" for name in (*NAMES, *ALIASES, self.text_column)}
        kinds |= {"id": "key", "patient": "group", "group": "group", "study": "group"}
        kinds |= {"labels": "list", "label": "list", UNKNOWN_COLUMN: "list"}
        kinds |= dict.fromkeys(("mask", "boxes", *self.columns.values()), "absence")
        return {name: kind for name, kind in kinds.items() if name in self.table.columns}

    def _columns(self) -> bool:
        """Check the header and choose the columns; False when no row can be read."""
        self._check_names()
        self._choose_classes()
        have = self.table.columns
        aliases = {alias for alias, known in ALIASES.items() if known not in have}
        used = {*NAMES, *aliases} - {"text", "mask"} | {self.text_column, *self.columns.values()}
        self.extra = tuple(name for name in have if name not in used)
        return "id" in have and "image" in have and all(column in have for column in self.columns.values())

    def _check_names(self) -> None:
        """Columns that are missing, misspelt or given twice."""
        have = self.table.columns
        for name, alias in ((known, alias) for alias, known in ALIASES.items()):
            if name in have and alias in have:
                self.warnings.append(f"{self.table.path}: both {name} and {alias} are there; {name} is taken")
        meant = {ALIASES.get(name, name) for name in have}
        required = ["id", "image"]
        if self.text_column != "text" or self.need_text:
            required.append(self.text_column)
        for name in required:
            if name not in have:
                others = {other.lower(): other for other in have if other not in NAMES}
                like = nearest(name, others)
                guess = guess_columns(have).columns
                remedy = shown(guess) if name in guess else _did_you_mean(None if like is None else others[like])
                self.fault(
                    FaultKind.MISSING_COLUMN,
                    f"no column {name}",
                    1,
                    expected=f"columns {', '.join(required)}",
                    remedy=remedy,
                )
        for name in have:  # a misspelt column would be dropped without a word
            absent = [known for known in NAMES if known not in meant and known not in required]
            if name.startswith("mask_"):  # a class of its own, however short its name
                absent = [known for known in absent if known == "mask_values"]
            close = difflib.get_close_matches(name, absent, n=1, cutoff=0.8)
            if close and name not in ALIASES and name != self.text_column:
                self.fault(
                    FaultKind.UNKNOWN_KEY,
                    f"unknown column {name}",
                    1,
                    remedy=f"did you mean {close[0]}? Rename it either way",
                )

    def _choose_classes(self) -> None:
        """Which columns, or which values of the label map, are classes."""
        have = self.table.columns
        mask_columns = {name.removeprefix("mask_"): name for name in have if name.startswith("mask_")}
        mask_columns = {name: column for name, column in mask_columns.items() if column not in NOT_A_MASK}
        if self.wanted is None:
            self.columns = {"mask": "mask"} if "mask" in have else mask_columns
        elif isinstance(self.wanted, Mapping):
            self.columns = dict.fromkeys(self.wanted, "mask")
            for name, cells in self.wanted.items():
                self.values[name] = self._label_values(cells, f"class {name}")
            if "mask" not in have:
                remedy = "data.classes=null: each column is a class" if mask_columns else None
                masks = f"; there are {', '.join(mask_columns.values())}" if mask_columns else ""
                what = f"label maps, of which the classes ({', '.join(self.wanted)}) are values{masks}"
                self.fault(FaultKind.MISSING_COLUMN, "no column mask", 1, expected=what, remedy=remedy)
            if "mask_values" in have:
                self.warnings.append(f"{self.table.path}: mask_values is not used, the classes name their values")
        else:
            self.columns = {}
            for name in self.wanted:
                column = "mask" if name == "mask" else f"mask_{name}"
                self.columns[name] = column
                if column not in have:
                    choices = ["mask"] * ("mask" in have) + list(mask_columns)
                    like = nearest(name.removeprefix("mask_"), choices) or (choices[0] if len(choices) == 1 else None)
                    masks = f"one of the columns with masks: {', '.join(choices) or '(none)'}"
                    self.fault(
                        FaultKind.MISSING_COLUMN, f"no column {column}", 1, expected=masks, remedy=_did_you_mean(like)
                    )
        self.classes = tuple(self.columns)
        for name in self.empty_means_absent:
            if name not in self.classes:
                remedy = _did_you_mean(nearest(name, self.classes))
                what = f"empty_means_absent names no class: {name}"
                self.fault(FaultKind.UNKNOWN, what, expected=", ".join(self.classes), remedy=remedy)

    def _record(self, line: int, row: Mapping[str, str], boxes: Mapping[str, list[Box]]) -> Record:
        name = row["id"]
        if not name:
            self.fault(FaultKind.MISSING, "no id", line)
        elif _UNSAFE_ID.search(name) or len(name.encode()) > 150:
            expected = 'up to 150 bytes, no leading dot, none of / \\ : * ? " < > |'
            self.fault(FaultKind.MALFORMED, "the id cannot be a file name", line, name, expected=expected)
        if not row["image"]:
            self.fault(FaultKind.MISSING, "no image", line, name or None, expected="a path relative to the manifest")
        split = row.get("split") or None
        if split is not None and split not in SPLITS:
            remedy = _did_you_mean(nearest(split, SPLITS))
            self.fault(
                FaultKind.UNKNOWN, f"unknown split {split}", line, name, expected=", ".join(SPLITS), remedy=remedy
            )
        cell_of_labels = row.get("labels", row.get("label", ""))
        labels = tuple(label.strip() for label in cell_of_labels.split("|") if label.strip())
        no_label = any(label.lower() == ABSENT for label in labels)
        if no_label and len(labels) > 1:
            self.fault(
                FaultKind.CONFLICT,
                f"labels: {ABSENT} beside a label",
                line,
                name,
                expected=f"{ABSENT} alone, or labels",
            )
        cell = box_cell(row.get("boxes", ""), self.table.path, line, name)
        self.faults += cell[2]
        all_boxes, absent, contradict = joined(cell, boxes, name)
        if contradict:
            self.fault(
                FaultKind.CONFLICT, "boxes and boxes.csv: one says none", line, name, expected="the same in both"
            )
        return Record(
            id=name,
            image=self.finder.path(row["image"]) if row["image"] else Path(),
            text=row.get(self.text_column, ""),
            masks=self._masks(line, row),
            boxes=all_boxes,
            labels=() if no_label else labels,
            patient=row.get("patient", row.get("group", "")),
            study=row.get("study") or None,
            view=row.get("view") or None,
            split=split,
            licence=row.get("licence") or None,
            extra={column: row[column] for column in self.extra},
            line=line,
            boxes_absent=absent,
            labels_absent=no_label,
        )

    def _masks(self, line: int, row: Mapping[str, str]) -> dict[str, MaskRef | None]:
        masks: dict[str, MaskRef | None] = {}
        cell = row.get("mask_values", "")
        values: tuple[LabelValue, ...] | None = None
        if cell and not self.values:
            values = self._label_values(cell.split("|"), "mask_values", line, row["id"]) or None
        for name, column in self.columns.items():
            path = row[column]
            if not path:
                masks[name] = MaskRef(None) if name in self.empty_means_absent else None
            elif path.lower() == ABSENT:
                masks[name] = MaskRef(None)
            else:
                of_row = values if column == "mask" else None
                masks[name] = MaskRef(self.finder.path(path), self.values.get(name) or of_row)
        return masks

    def _label_values(
        self, cells: Sequence[LabelValue], what: str, line: int | None = None, record: str | None = None
    ) -> tuple[LabelValue, ...]:
        """Numbers or colours; a fault and () for anything else, and for a mixture of both."""
        try:
            values = tuple(label_value(str(cell)) for cell in cells)
        except ValueError:
            values = ()
        if len({is_colour(value) for value in values}) != 1:
            cell = "|".join(map(str, cells))
            expected = "whole numbers of at least 1 (0 is the background), or colours, with | between: 1|2|3, #ff0000"
            self.fault(FaultKind.MALFORMED, f"{what} is {cell!r}", line, record, expected=expected)
            return ()
        return values

    def _patients(self, records: list[Record]) -> None:
        """Without a patient every row is its own one; that can hide a leak, so a warning is printed."""
        alone = [i for i, record in enumerate(records) if not record.patient]
        for i in alone:
            object.__setattr__(records[i], "patient", records[i].id)  # still being built
        if alone:
            known = "patient" in self.table.columns or "group" in self.table.columns
            what = f"{len(alone)} rows without a patient" if known else "no column patient"
            self.warnings.append(f"{self.table.path}: {what}: each such row is taken as its own patient")


def _did_you_mean(like: str | None) -> str | None:
    return None if like is None else f"did you mean {like}?"
