"""The rows of a manifest, all its columns, as they must stand in another place."""

from __future__ import annotations

import os
from pathlib import Path

from medvl.data.box_table import cell_of
from medvl.data.cells import is_missing
from medvl.data.columns import read_columns
from medvl.data.manifest_paths import PathFinder, path_columns
from medvl.data.packed import is_file
from medvl.data.record import ABSENT, Manifest


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
