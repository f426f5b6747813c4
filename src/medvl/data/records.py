"""Record and manifest: one row per (image, text, mask), read from CSV, JSONL, XLSX or Parquet.

Columns: `id, image, text, mask | mask_NAME, mask_values, boxes, labels, patient, study, view, split, licence` and any
further one. Paths are relative to the manifest. `group` is read as patient and `label` as labels; `labels` and
`mask_values` are separated by `|`; label values are whole numbers or, of a mask in colours, `#rrggbb`. Boxes stand in
the column `boxes` or in a `boxes.csv` (see `data/box_table.py`).

An empty mask, boxes or labels cell means NOT ANNOTATED: no loss, not scored. The word `none` means looked for and
absent: an empty mask, no box, no label.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medvl.data.box_table import Box as Box
from medvl.data.box_table import box_cell, boxes_file, joined
from medvl.data.mask_colours import LabelValue, is_colour, label_value
from medvl.data.tables import Table, read_table, write_table
from medvl.errors import Fault, InputError, nearest, warn

if TYPE_CHECKING:
    from medvl.data.slices import SliceChoice

ABSENT = "none"
SHIPPED = "medvl:"  # prefix of the sets in assets/: medvl:cxr_regions
SPLITS = ("train", "val", "test", "holdout")
_KNOWN = tuple("id image text mask mask_values boxes labels patient study view split licence".split())
_ALIASES = {"group": "patient", "label": "labels"}
NOT_A_MASK = {"mask_values", "mask_kind"}  # mask_kind: a remark in published tables, no path
_UNSAFE_ID = re.compile(r'[\x00-\x1f<>:"/\\|?*]|^\.|\s$')


@dataclass(frozen=True, slots=True)
class MaskRef:
    """Where a mask is. `path` None: looked for and absent.

    `values`: label values, or colours such as `#ff0000`; None: what the file means is decided by its values.
    """

    path: Path | None
    values: tuple[LabelValue, ...] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One row: an image, a text, and what the text refers to."""

    id: str
    image: Path
    text: str  # "" = no text
    masks: Mapping[str, MaskRef | None]  # class name -> reference; None = not annotated
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]
    patient: str
    study: str | None
    view: str | None
    split: str | None
    licence: str | None
    extra: Mapping[str, str]  # every other column
    line: int
    context: Mapping[str, str] = field(default_factory=dict)  # of data.context_columns; see data/context.py
    boxes_absent: bool = False  # boxes were looked for and there is none; without boxes False = not annotated
    labels_absent: bool = False  # labels were looked for and there is none; without labels False = not annotated


@dataclass(frozen=True, slots=True)
class Manifest:
    """The records of one file, in its order."""

    path: Path
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]

    def split(self, name: str) -> tuple[Record, ...]:
        """The records of one split. InputError when there is none, naming the splits there are."""
        found = tuple(record for record in self.records if record.split == name)
        if not found:
            counts = Counter(record.split or "(none)" for record in self.records)
            there = ", ".join(f"{key} ({number})" for key, number in sorted(counts.items()))
            raise InputError(
                f"no record in split {name}", file=self.path, expected=f"one of: {there}", remedy="medvl split MANIFEST"
            )
        return found

    def content_hash(self) -> str:
        """sha256 of all rows and of the bytes of their images and masks. Moving the folder does not change it."""
        digest = hashlib.sha256()
        files: set[Path] = set()
        for record in sorted(self.records, key=lambda record: record.id):
            masks = {name: self._mask_row(mask) for name, mask in sorted(record.masks.items())}
            boxes = [[box.label, box.x0, box.y0, box.x1, box.y1] for box in record.boxes]
            boxes += [[ABSENT]] if record.boxes_absent else []
            row: list[object] = [
                record.id,
                self._name(record.image),
                record.text,
                masks,
                boxes,
                record.labels,
                record.patient,
            ]
            row += [[ABSENT]] if record.labels_absent else []
            row += [record.study, record.view, record.split, record.licence, dict(sorted(record.extra.items()))]
            digest.update(json.dumps(row).encode())
            files.add(record.image)
            files.update(mask.path for mask in record.masks.values() if mask is not None and mask.path is not None)
        for path in sorted(files, key=self._name):
            digest.update(self._name(path).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"missing")
        return digest.hexdigest()

    def split_hash(self) -> str:
        """sha256 of the sorted (id, patient, split): equal for equal splits, whatever else the table holds."""
        keys = sorted((record.id, record.patient, record.split or "") for record in self.records)
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()

    def _name(self, path: Path) -> str:
        return _relative(str(path), str(self.path.parent))

    def _mask_row(self, mask: MaskRef | None) -> list[object] | None:
        return None if mask is None else [mask.path and self._name(mask.path), mask.values]


@lru_cache(maxsize=65536)  # the same image and mask stand in many rows
def _relative(path: str, folder: str) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def load_manifest(
    path: str | Path,
    *,
    text_column: str = "text",
    classes: Sequence[str] | Mapping[str, Sequence[LabelValue]] | None = None,
    empty_means_absent: Sequence[str] = (),
    constant_text: str | None = None,
    check_files: bool | Literal["full"] = True,
    need_text: bool = False,
) -> Manifest:
    """Read a manifest (a file, or `medvl:cxr_regions`). All its faults are raised together as one InputError.

    Args:
        text_column: the column that holds the text.
        classes: None takes column `mask` (class "mask") if there is one, else every `mask_NAME`; a list takes those
            `mask_NAME`; a mapping {name: values} cuts classes out of the label map in `mask`.
        empty_means_absent: classes whose empty cell is an empty mask, not "not annotated".
        check_files: open each distinct file once, its header only; "full" decodes the pixels.
        constant_text: stands wherever a record has no text.
        need_text: an empty text is a fault.
    """
    manifest, faults = read_manifest(
        path,
        text_column=text_column,
        classes=classes,
        empty_means_absent=empty_means_absent,
        check_files=check_files,
        need_text=need_text,
    )
    if faults:
        raise InputError(faults)
    for message in manifest.warnings:
        warn(message)
    if constant_text:
        num_texts = sum(bool(row.text.strip()) for row in manifest.records)
        if num_texts:
            warn(
                f"{manifest.path}: {num_texts} of {len(manifest.records)} records have a text of their own in column "
                f"{text_column}; data.constant_text {constant_text!r} stands only for the others"
            )
        records = (row if row.text.strip() else replace(row, text=constant_text) for row in manifest.records)
        manifest = replace(manifest, records=tuple(records))
    return manifest


def read_manifest(
    path: str | Path,
    *,
    text_column: str = "text",
    classes: Sequence[str] | Mapping[str, Sequence[LabelValue]] | None = None,
    empty_means_absent: Sequence[str] = (),
    check_files: bool | Literal["full"] = True,
    need_text: bool = False,
    slices: SliceChoice = None,
    window: tuple[float, float] | None = None,
) -> tuple[Manifest, tuple[Fault, ...]]:
    """As `load_manifest`, but gives the faults beside the rows that can be read (the audit wants both).

    Args:
        slices, window: how the pixels of volumes are read with `check_files="full"`.
    """
    from medvl.data.file_checks import file_faults

    if str(path).startswith(SHIPPED):
        path = Path(__file__).parents[1] / "assets" / str(path).removeprefix(SHIPPED) / "manifest.csv"
    table = read_table(path)
    reader = _Reader(table, text_column, classes, tuple(empty_means_absent), need_text)
    records = reader.records()
    if check_files:
        reader.faults += file_faults(table.path, records, full=check_files == "full", slices=slices, window=window)
    manifest = Manifest(table.path, tuple(records), reader.classes, tuple(reader.warnings))
    return manifest, (*table.faults, *reader.faults)


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, str]], columns: Sequence[str] | None = None) -> None:
    """Write rows as a manifest, atomically; CSV, JSONL, XLSX or Parquet by the suffix of `path`."""
    write_table(path, rows, columns)


@dataclass
class _Reader:
    """Turns the rows of a table into records, collecting faults."""

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
    paths: dict[str, Path] = field(default_factory=dict)  # one object per distinct cell: many rows share an image

    def fault(self, what: str, line: int | None = None, record: str | None = None, **more: str | None) -> None:
        self.faults.append(Fault(what, self.table.path, line, record, more.get("expected"), more.get("remedy")))

    def records(self) -> list[Record]:
        """Every row with an id and an image; the rest are faults."""
        if not self._columns():
            return []
        boxes, faults = boxes_file(self.table.path)
        self.faults += faults
        seen: dict[str, int] = {}
        found = []
        for line, row in self.table.rows:
            record = self._record(line, row, boxes)
            if record.id in seen:
                self.fault(f"duplicate id, first on line {seen[record.id]}", line, record.id)
            seen.setdefault(record.id, line)
            found.append(record)
        unknown = sorted(set(boxes) - set(seen))
        if unknown:
            name = self.table.path.with_name("boxes.csv")
            self.warnings.append(f"{name}: {len(unknown)} ids that the manifest does not have, e.g. {unknown[0]}")
        if not self.table.rows and not self.table.faults:
            self.fault("no records", expected="at least one row below the header")
        if self.need_text:
            for record in found:
                if not record.text:
                    self.fault(f"no text in column {self.text_column}", record.line, record.id, expected="a text")
        self._patients(found)
        return [record for record in found if record.id and record.image.name]

    def _columns(self) -> bool:
        """Check the header and choose the columns; False when no row can be read."""
        have = self.table.columns
        for name, alias in ((known, alias) for alias, known in _ALIASES.items()):
            if name in have and alias in have:
                self.warnings.append(f"{self.table.path}: both {name} and {alias} are there; {name} is taken")
        meant = {_ALIASES.get(name, name) for name in have}
        required = ["id", "image"]
        if self.text_column != "text" or self.need_text:
            required.append(self.text_column)
        for name in required:
            if name not in have:
                remedy = _did_you_mean(nearest(name, [other for other in have if other not in _KNOWN]))
                self.fault(f"no column {name}", 1, expected=f"columns {', '.join(required)}", remedy=remedy)
        for name in have:  # a misspelt column would be dropped without a word
            absent = [known for known in _KNOWN if known not in meant and known not in required]
            if name.startswith("mask_"):  # a class of its own, however short its name
                absent = [known for known in absent if known == "mask_values"]
            close = difflib.get_close_matches(name, absent, n=1, cutoff=0.8)
            if close and name not in _ALIASES and name != self.text_column:
                self.fault(f"unknown column {name}", 1, remedy=f"did you mean {close[0]}? Rename it either way")
        mask_columns = {name.removeprefix("mask_"): name for name in have if name.startswith("mask_")}
        mask_columns = {name: column for name, column in mask_columns.items() if column not in NOT_A_MASK}
        if self.wanted is None:
            self.columns = {"mask": "mask"} if "mask" in have else mask_columns
        elif isinstance(self.wanted, Mapping):
            self.columns = dict.fromkeys(self.wanted, "mask")
            for name, cells in self.wanted.items():
                self.values[name] = self._label_values(cells, f"class {name}")
            if "mask" not in have:
                self.fault("no column mask", 1, expected="label maps, of which the classes are values")
            if "mask_values" in have:
                self.warnings.append(f"{self.table.path}: mask_values is not used, the classes name their values")
        else:
            self.columns = {}
            for name in self.wanted:
                column = "mask" if name == "mask" else f"mask_{name}"
                self.columns[name] = column
                if column not in have:
                    like = nearest(name.removeprefix("mask_"), mask_columns)
                    self.fault(f"no column {column}", 1, expected=f"one for class {name}", remedy=_did_you_mean(like))
        self.classes = tuple(self.columns)
        for name in self.empty_means_absent:
            if name not in self.classes:
                remedy = _did_you_mean(nearest(name, self.classes))
                what = f"empty_means_absent names no class: {name}"
                self.fault(what, expected=", ".join(self.classes), remedy=remedy)
        aliases = {alias for alias, known in _ALIASES.items() if known not in have}
        used = {*_KNOWN, *aliases} - {"text", "mask"} | {self.text_column, *self.columns.values()}
        self.extra = tuple(name for name in have if name not in used)
        return "id" in have and "image" in have and all(column in have for column in self.columns.values())

    def _record(self, line: int, row: Mapping[str, str], boxes: Mapping[str, list[Box]]) -> Record:
        name = row["id"]
        if not name:
            self.fault("no id", line)
        elif _UNSAFE_ID.search(name) or len(name.encode()) > 150:
            expected = 'up to 150 bytes, no leading dot, none of / \\ : * ? " < > |'
            self.fault("the id cannot be a file name", line, name, expected=expected)
        if not row["image"]:
            self.fault("no image", line, name or None, expected="a path relative to the manifest")
        split = row.get("split") or None
        if split is not None and split not in SPLITS:
            remedy = _did_you_mean(nearest(split, SPLITS))
            self.fault(f"unknown split {split}", line, name, expected=", ".join(SPLITS), remedy=remedy)
        cell_of_labels = row.get("labels", row.get("label", ""))
        labels = tuple(label.strip() for label in cell_of_labels.split("|") if label.strip())
        no_label = any(label.lower() == ABSENT for label in labels)
        if no_label and len(labels) > 1:
            self.fault(f"labels: {ABSENT} beside a label", line, name, expected=f"{ABSENT} alone, or labels")
        cell = box_cell(row.get("boxes", ""), self.table.path, line, name)
        self.faults += cell[2]
        found, absent, contradict = joined(cell, boxes, name)
        if contradict:
            self.fault("boxes and boxes.csv: one says none", line, name, expected="the same in both")
        return Record(
            id=name,
            image=self._path(row["image"]) if row["image"] else Path(),
            text=row.get(self.text_column, ""),
            masks=self._masks(line, row),
            boxes=found,
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

    def _path(self, cell: str) -> Path:
        if cell not in self.paths:
            self.paths[cell] = self.table.path.parent / cell
        return self.paths[cell]

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
                masks[name] = MaskRef(self._path(path), self.values.get(name) or (values if column == "mask" else None))
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
            self.fault(f"{what} is {cell!r}", line, record, expected=expected)
            return ()
        return values

    def _patients(self, records: list[Record]) -> None:
        """Without a patient every row is its own one; that can hide a leak, so it is said."""
        alone = [i for i, record in enumerate(records) if not record.patient]
        for i in alone:
            object.__setattr__(records[i], "patient", records[i].id)  # still being built
        if alone:
            known = "patient" in self.table.columns or "group" in self.table.columns
            what = f"{len(alone)} rows without a patient" if known else "no column patient"
            self.warnings.append(f"{self.table.path}: {what}: each such row is taken as its own patient")


def _did_you_mean(like: str | None) -> str | None:
    return None if like is None else f"did you mean {like}?"
