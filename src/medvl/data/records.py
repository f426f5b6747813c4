"""Manifests: from CSV, JSONL, XLSX or Parquet, all faults of a table together, and their rows for another place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medvl.core.errors import Fault, InputError, warn
from medvl.data.box_table import cell_of
from medvl.data.cells import is_missing
from medvl.data.columns import read_columns
from medvl.data.file_checks import file_faults
from medvl.data.images import SliceChoice
from medvl.data.manifest_paths import PathFinder, path_columns
from medvl.data.mask_colours import LabelValue
from medvl.data.packed import is_file
from medvl.data.record import ABSENT, Manifest
from medvl.data.record_rows import RecordReader
from medvl.data.tables import write_table

if TYPE_CHECKING:
    from medvl.config import DataConfig


def load_manifest(
    path: str | Path,
    *,
    text_column: str = "text",
    classes: Sequence[str] | Mapping[str, Sequence[LabelValue]] | None = None,
    empty_means_absent: Sequence[str] = (),
    constant_text: str | None = None,
    check_files: bool | Literal["full"] = True,
    need_text: bool = False,
    columns: Mapping[str, str] | None = None,
    make_ids: bool = False,
) -> Manifest:
    """Read a manifest: a table, a pack of one (`packed.py`), or `medvl:cxr_regions`.

    Args:
        text_column: the column that holds the text.
        classes: None takes column `mask` (class "mask") if there is one, else every `mask_NAME`; a list takes those
            `mask_NAME`; a mapping {name: values} cuts classes out of the label map in `mask`.
        empty_means_absent: classes whose empty cell is an empty mask, not "not annotated".
        check_files: open each distinct file once, its header only; "full" decodes the pixels.
        constant_text: stands wherever a record has no text.
        need_text: an empty text is a fault.
        columns, make_ids: names of the table's columns, see `data/columns.py`.

    Raises:
        InputError: all faults of the manifest together.
    """
    manifest, faults = read_manifest(
        path,
        text_column=text_column,
        classes=classes,
        empty_means_absent=empty_means_absent,
        check_files=check_files,
        need_text=need_text,
        columns=columns,
        make_ids=make_ids,
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
                f"{text_column}; data.constant_text {constant_text!r} stands only for the others "
                "(for all, where that column is empty)"
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
    columns: Mapping[str, str] | None = None,
    make_ids: bool = False,
) -> tuple[Manifest, tuple[Fault, ...]]:
    """As `load_manifest`, but gives the faults beside the rows that can be read (the audit wants both).

    Args:
        slices, window: how the pixels of volumes are read with `check_files="full"`.
    """
    table = read_columns(path, columns, make_ids=make_ids)
    reader = RecordReader(table, text_column, classes, tuple(empty_means_absent), need_text)
    records = reader.records()
    if check_files and not reader.finder.faults():
        reader.faults += file_faults(table.path, records, full=check_files == "full", slices=slices, window=window)
    manifest = Manifest(table.path, tuple(records), reader.classes, tuple(reader.warnings), dict(columns or {}))
    return manifest, (*table.faults, *reader.faults)


def configured_manifest(
    data: DataConfig, path: str | Path | None = None, *, check_files: bool | Literal["full"] = True
) -> Manifest:
    """Load the manifest of a configuration, or another one, read the same way.

    Raises:
        InputError: no manifest is named; its faults.
    """
    if path is None and not data.manifest:
        raise InputError.missing("no manifest", expected="data.manifest in the recipe or data.manifest=FILE")
    return load_manifest(
        path or data.manifest,
        text_column=data.text_column,
        classes=data.classes,
        empty_means_absent=data.empty_means_absent,
        constant_text=data.constant_text,
        check_files=check_files,
        columns=data.columns,
    )


def write_manifest(path: str | Path, rows: Iterable[Mapping[str, str]], columns: Sequence[str] | None = None) -> None:
    """Write rows as a manifest, atomically; CSV, JSONL, XLSX or Parquet by the suffix of `path`."""
    write_table(path, rows, columns)


def moved_rows(manifest: Manifest, out: Path) -> tuple[list[str], list[dict[str, str]]]:
    """-> columns by medvl's names and rows, one per record in its order: paths relative to `out`, boxes in a column.

    Args:
        manifest: loaded without faults.
        out: the manifest that will be written.
    """
    table = read_columns(manifest.path, manifest.columns)
    source, target = manifest.path.parent.resolve(), out.parent.resolve()
    columns, rows = list(table.columns), [dict(row) for _, row in table.rows]
    if source == target:
        return columns, rows
    paths = path_columns(columns)
    finder = PathFinder(source / manifest.path.name)
    moves_boxes = is_file(source / "boxes.csv")
    if moves_boxes and "boxes" not in columns:
        columns.append("boxes")
    for row, record in zip(rows, manifest.records, strict=True):
        for name in paths:
            cell = row[name]
            path = finder.path(cell) if cell else source
            is_path = name in ("image", "mask") or is_file(path)  # mask_NAME may also be a remark
            if cell and cell.lower() != ABSENT and not is_missing(cell) and is_path and not Path(cell).is_absolute():
                row[name] = Path(os.path.relpath(path, target)).as_posix()
        if moves_boxes:
            row["boxes"] = cell_of(record.boxes, record.boxes_absent)
    return columns, rows
