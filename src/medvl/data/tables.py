"""Rows of a CSV, JSONL, XLSX or Parquet table, as text, each with the line it stands on; and the way back."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.errors import Fault, InputError

SUFFIXES = (".csv", ".jsonl", ".xlsx", ".parquet")


@dataclass(frozen=True, slots=True)
class Table:
    """Every cell is text without outer white space; an absent cell is "".

    `rows` holds (line, {column: cell}). The line is that of the file (CSV, JSONL), of the sheet (XLSX) or the number
    of the row from 1 (Parquet).
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    faults: tuple[Fault, ...]


def read_table(path: str | Path) -> Table:
    """Read a table by its suffix. A table that cannot be opened is an InputError; faults of single rows are listed."""
    path = Path(path)
    if not path.is_file():
        raise InputError("no such file", file=path, expected="a table: " + ", ".join(SUFFIXES))
    readers = {".csv": _csv, ".jsonl": _jsonl, ".xlsx": _xlsx, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path.suffix or 'no suffix'} is no table that can be read", file=path, expected=_EXPECTED)
    faults: list[Fault] = []
    try:
        columns, rows = reader(path, faults)
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text ({error.reason})", file=path, remedy="save the table as UTF-8") from None
    return Table(path, columns, tuple(rows), tuple(faults))


def write_table(path: str | Path, rows: Iterable[Mapping[str, str]], columns: Sequence[str] | None = None) -> None:
    """Write rows by the suffix of `path`, atomically. Without `columns` they stand in the order of first appearance."""
    path = Path(path)
    rows = list(rows)
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    unknown = {name for row in rows for name in row} - set(names)
    if unknown:
        raise InputError(f"cells of unknown columns: {', '.join(sorted(unknown))}", file=path)
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".xlsx": _write_xlsx, ".parquet": _write_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"{path.suffix or 'no suffix'} is no table that can be written", file=path, expected=_EXPECTED)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(temporary, names, [[row.get(name, "") for name in names] for row in rows])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_EXPECTED = "one of " + ", ".join(SUFFIXES)
_Rows = list[tuple[int, dict[str, str]]]


def _header(names: Sequence[str], path: Path) -> tuple[str, ...]:
    columns = tuple(name.strip() for name in names)
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        raise InputError("the columns are not separated by commas", file=path, line=1, remedy="save it with commas")
    twice = sorted({name for name in columns if columns.count(name) > 1 and name})
    if twice:
        raise InputError(f"columns that stand twice: {', '.join(twice)}", file=path, line=1)
    return columns


def _csv(path: Path, faults: list[Fault]) -> tuple[tuple[str, ...], _Rows]:
    rows: _Rows = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        try:
            columns = _header(next(reader, []), path)
            start = reader.line_num + 1
            for cells in reader:
                line, start = start, reader.line_num + 1  # a cell may hold line breaks: a row starts after the last
                if not any(cells):
                    continue
                if len(cells) != len(columns):
                    faults.append(Fault(f"{len(cells)} cells", path, line, expected=f"{len(columns)}, as the header"))
                    continue
                rows.append((line, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}))
        except csv.Error as error:
            raise InputError(f"not valid CSV: {error}", file=path, line=reader.line_num) from None
    return columns, rows


def _jsonl(path: Path, faults: list[Fault]) -> tuple[tuple[str, ...], _Rows]:
    rows: _Rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            faults.append(Fault(f"not valid JSON: {error.msg}", path, line))
            continue
        if not isinstance(found, dict):
            faults.append(Fault("not a JSON object", path, line, expected="one object a line"))
            continue
        try:
            rows.append((line, {str(name).strip(): _cell(value) for name, value in found.items()}))
        except TypeError as error:
            faults.append(Fault(str(error), path, line, expected="text, numbers, or lists of them"))
    columns = tuple(dict.fromkeys(name for _, row in rows for name in row))
    for _, row in rows:
        for name in columns:
            row.setdefault(name, "")
    return columns, rows


def _xlsx(path: Path, faults: list[Fault]) -> tuple[tuple[str, ...], _Rows]:
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # zip, XML and key errors, as they come
        raise InputError(f"cannot be read as XLSX ({type(error).__name__}: {error})", file=path) from None
    try:
        sheet = book.worksheets[0]
        return _grid(enumerate(sheet.iter_rows(values_only=True), start=1), path, faults)
    finally:
        book.close()


def _parquet(path: Path, faults: list[Fault]) -> tuple[tuple[str, ...], _Rows]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as Parquet ({error})", file=path) from None
    columns = [column.to_pylist() for column in table.columns]
    grid = [tuple(table.column_names), *zip(*columns, strict=True)]
    return _grid(enumerate(grid, start=0), path, faults)


def _grid(grid: Iterator[tuple[int, Sequence[Any]]], path: Path, faults: list[Fault]) -> tuple[tuple[str, ...], _Rows]:
    """A header and rows of loose values, as spreadsheets hold them: empty columns and rows are left out."""
    _, header = next(grid, (0, ()))
    columns = _header(["" if name is None else str(name) for name in header], path)
    rows: _Rows = []
    for line, values in grid:
        try:
            cells = [_cell(value) for value in values]
        except TypeError as error:
            faults.append(Fault(str(error), path, line, expected="text, numbers, or lists of them"))
            continue
        cells += [""] * (len(columns) - len(cells))  # a sheet stores no trailing empty cells
        if any(cells):
            rows.append((line, {name: cell for name, cell in zip(columns, cells, strict=False) if name}))
    return tuple(name for name in columns if name), rows


def _cell(value: Any) -> str:
    """One value as text: whole floats lose their `.0`, lists are joined with `|`."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return "|".join(_cell(item) for item in value)
    if isinstance(value, dict):
        raise TypeError("a cell holds an object")
    return str(value).strip()


def _write_csv(path: Path, names: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def _write_jsonl(path: Path, names: list[str], rows: list[list[str]]) -> None:
    lines = (json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_xlsx(path: Path, names: list[str], rows: list[list[str]]) -> None:
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    for row in (names, *rows):
        for value in row:
            if ILLEGAL_CHARACTERS_RE.search(value):
                raise InputError(f"XLSX cannot hold control characters: {value!r}", file=path, remedy="write CSV")
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("manifest")
    for row in (names, *rows):
        cells = [WriteOnlyCell(sheet, value=value) for value in row]
        for cell in cells:
            cell.data_type = "s"  # a text that begins with "=" is no formula
        sheet.append(cells)
    with path.open("wb") as stream:
        book.save(stream)


def _write_parquet(path: Path, names: list[str], rows: list[list[str]]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {name: pyarrow.array([row[i] for row in rows], pyarrow.string()) for i, name in enumerate(names)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
