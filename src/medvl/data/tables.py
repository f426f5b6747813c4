"""Rows of a CSV, JSONL, XLSX or Parquet table, as text, each with the line it stands on; and the way back.

Tables are read as they come: in several encodings, with several separators, with rows above the header.
Nothing is left out without a word: what is passed over (rows above the header, columns without a name, another sheet)
or read in another way than the usual (a separator, an encoding) stands in `Table.notes`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from medvl.core.csv_cells import Writer, read_cell
from medvl.core.errors import Fault, InputError
from medvl.core.files import parse_json, whole_file
from medvl.core.plain_yaml import NO_TEXT
from medvl.data.cells import Grid, cell_text
from medvl.data.packed import is_file, open_file, table_of
from medvl.data.spreadsheets import HEADER_WITHIN, read_xlsx, write_xlsx

SUFFIXES = (".csv", ".tsv", ".jsonl", ".xlsx", ".parquet")
_EXPECTED = "one of " + ", ".join(SUFFIXES)
_MAX_VALUES = 100_000_000  # of a Parquet file
_Rows = list[tuple[int, dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Table:
    """Every cell is text without outer white space; an absent cell is "".

    `rows` holds (line, {column: cell}). The line is that of the file (CSV, JSONL), of the sheet (XLSX) or the number
    of the row from 1 (Parquet). `notes` say how the table was read where that is not the usual way.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()


def read_table(path: str | Path, needed: Sequence[str] = ()) -> Table:
    """Read a table by its suffix, of a pack its first one. Faults of single rows are listed.

    Args:
        needed: columns by which the header is known, where rows stand above it, and the sheet of a workbook.

    Raises:
        InputError: a table that cannot be opened.
    """
    path = table_of(path)
    if not is_file(path):
        raise InputError.missing_file("no such file", file=path, expected="a table: " + ", ".join(SUFFIXES))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError.unsupported(
            f"{path.suffix or 'no suffix'} is no table that can be read", file=path, expected=_EXPECTED
        )
    notes: list[str] = []
    faults: list[Fault] = []
    if suffix == ".jsonl":
        rows = list(read_jsonl(path, notes, faults))
        columns = tuple(dict.fromkeys(name for _, row in rows for name in row))
        rows = [(line, {name: row.get(name, "") for name in columns}) for line, row in rows]
    elif suffix == ".parquet":
        columns, rows = _named(_parquet(path), path, needed, notes, faults)
    elif suffix == ".xlsx":
        columns, rows = _named(read_xlsx(path, needed, notes, faults), path, needed, notes, faults, padded=True)
    else:
        columns, rows = _named(read_csv(path, needed, notes), path, needed, notes, faults)
    for line, row in rows:
        for name, cell in row.items():
            if NO_TEXT.search(cell):
                faults.append(Fault.malformed(f"column {name} holds a character that no text has", path, line))
    return Table(path, columns, tuple(rows), tuple(faults), tuple(notes))


def write_table(path: str | Path, rows: Iterable[Mapping[str, str]], columns: Sequence[str] | None = None) -> None:
    """Write rows by the suffix of `path`, atomically. Without `columns` they stand in the order of first appearance."""
    path = Path(path)
    rows = list(rows)
    names = list(columns) if columns is not None else list(dict.fromkeys(name for row in rows for name in row))
    unknown = {name for row in rows for name in row} - set(names)
    if unknown:
        raise InputError.unknown(f"cells of unknown columns: {', '.join(sorted(unknown))}", file=path)
    writers = {".csv": write_csv, ".jsonl": write_jsonl, ".xlsx": write_xlsx, ".parquet": _write_parquet}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise InputError.unsupported(
            f"{path.suffix or 'no suffix'} is no table that can be written", file=path, expected=_EXPECTED
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        writer(temporary, names, [[row.get(name, "") for name in names] for row in rows])


def _named(
    grid: Grid,
    path: Path,
    needed: Sequence[str],
    notes: list[str],
    faults: list[Fault],
    *,
    padded: bool = False,
) -> tuple[tuple[str, ...], _Rows]:
    """A header and rows of a grid. `padded`: rows may be shorter than the header, as a sheet stores them."""
    top: list[tuple[int, list[str]]] = []  # rows that are not empty, as far as the header is looked for
    for line, cells in grid:
        if any(cells):
            top.append((line, cells))
        if top and (set(needed) <= set(top[-1][1]) or len(top) == HEADER_WITHIN):
            break
    if not top:
        return (), []
    number = next((i for i, (_, cells) in enumerate(top) if set(needed) <= set(cells)), 0)
    line, names = top[number]
    if number:
        notes.append(f"{path}: {number} rows above the header (line {line}) are not read")
    while names and not names[-1]:
        names = names[:-1]
    twice = sorted({name for name in names if names.count(name) > 1 and name})
    if twice:
        raise InputError.duplicate(f"columns that stand twice: {', '.join(twice)}", file=path, line=line)
    rows: _Rows = []
    unnamed: dict[int, int] = {}  # column -> cells that are not empty
    for line, cells in chain(top[number + 1 :], grid):
        if not any(cells):
            continue
        missing = len(names) - len(cells)
        if not padded and (missing > 0 or any(cells[len(names) :])):
            faults.append(Fault.malformed(f"{len(cells)} cells", path, line, expected=f"{len(names)}, as the header"))
            continue
        cells = cells + [""] * missing
        row = {name: cell for name, cell in zip(names, cells, strict=False) if name}
        if not any(row.values()):
            faults.append(
                Fault.missing_column(
                    "cells only in columns without a name", path, line, remedy="name them or empty them"
                )
            )
            continue
        for column, cell in enumerate(cells):
            if cell and not (column < len(names) and names[column]):
                unnamed[column + 1] = unnamed.get(column + 1, 0) + 1
        rows.append((line, row))
    for column, count in unnamed.items():
        notes.append(f"{path}: column {column} has no name: its {count} cells are not read")
    return tuple(name for name in names if name), rows


def _parquet(path: Path) -> Grid:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as file:
            metadata = pyarrow.parquet.read_metadata(file)
            size = metadata.num_rows * metadata.num_columns
            if size > _MAX_VALUES:
                raise InputError.too_large(
                    f"a table of {size:,} values", file=path, expected=f"at most {_MAX_VALUES:,}"
                )
            file.seek(0)
            table = pyarrow.parquet.read_table(file)
        columns = [column.to_pylist() for column in table.columns]
    except InputError:
        raise
    except Exception as error:  # of a damaged file: of Arrow, of the operating system, of values out of range
        raise InputError.damaged(f"cannot be read as Parquet ({str(error)[:200]})", file=path) from None
    yield 0, [name.strip() for name in table.column_names]
    for line, values in enumerate(zip(*columns, strict=True), start=1):
        try:
            yield line, [cell_text(value) for value in values]
        except TypeError as error:
            raise InputError.malformed(
                str(error), file=path, line=line, expected="text, numbers, or lists of them"
            ) from None


def _write_parquet(path: Path, names: list[str], rows: list[list[str]]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {name: pyarrow.array([row[i] for row in rows], pyarrow.string()) for i, name in enumerate(names)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


MAX_BYTES = 1 << 30
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def table_text(path: Path, warnings: list[str]) -> str:
    """The text of a file: UTF-8, or what a byte order mark says. InputError naming the encoding it seems to have."""
    with open_file(path) as file:
        size = file.seek(0, io.SEEK_END)
        if size > MAX_BYTES:
            raise InputError.too_large(f"a table of {size:,} bytes", file=path, expected=f"at most {MAX_BYTES:,}")
        file.seek(0)
        data = file.read()
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and data[:1000].count(0) > len(data[:1000]) // 4:
        raise InputError.damaged(
            "UTF-16 without a byte order mark, or no text at all", file=path, remedy="save it as UTF-8"
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"not UTF-8 (byte 0x{data[error.start]:02x})"
        if encoding == "utf-8":
            what += "; it may be Windows-1252 or Latin-1, as older programs save it"
        raise InputError.damaged(
            what, file=path, line=line, remedy="save the table as UTF-8 (Excel: CSV UTF-8)"
        ) from None
    if encoding == "utf-16":
        warnings.append(f"{path}: is in UTF-16; UTF-8 is the usual")
    return text


def read_csv(path: Path, needed: Sequence[str], warnings: list[str]) -> Grid:
    """The rows of a CSV file, each with the line on which it starts."""
    text = table_text(path, warnings)
    separator = _separator(text, needed)
    if separator != ("\t" if path.suffix.lower() == ".tsv" else ","):
        warnings.append(f"{path}: its columns are separated by {_SEPARATORS[separator]}; commas are the usual")
    return _csv_rows(path, text, separator)


def _csv_rows(path: Path, text: str, separator: str) -> Grid:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = None
            if "unexpected end" in str(error) or "expected after" in str(error):
                remedy = 'a quote (") in a cell is written twice, and the cell stands in quotes'
            raise InputError.damaged(f"not valid CSV: {error}", file=path, line=line, remedy=remedy) from None
        if not (line == 1 and len(cells) <= 2 and cells and cells[0].lower().startswith("sep=")):  # Excel's own hint
            yield line, [read_cell(cell).strip() for cell in cells]
        line = reader.line_num + 1  # a cell may hold line breaks: a row starts after the last


def _separator(text: str, needed: Sequence[str]) -> str:
    """The separator with which a line near the top has the needed columns; else the one that makes most of line 1."""
    lines = [line for line in text[:100_000].splitlines() if line.strip()][:20]
    best, most = ",", 0
    for separator in _SEPARATORS:
        for line in lines:
            cells = [cell.strip().strip('"') for cell in line.split(separator)]
            score = len(cells) if line is lines[0] else 0
            if needed and set(needed) <= set(cells):
                score += 1000
            if len(cells) > 1 and score > most:
                best, most = separator, score
    return best


def read_jsonl(path: Path, warnings: list[str], faults: list[Fault]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a JSONL file with their lines; a line that is no object of text, numbers and lists is a fault."""
    text = table_text(path, warnings)
    if text.lstrip()[:1] == "[":
        raise InputError.malformed(
            "a JSON array", file=path, expected="JSONL: one object a line, without [ ] around them"
        )
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = parse_json(content, file=path, line=line)
        except InputError as error:
            faults += error.faults
            continue
        if not isinstance(row, dict):
            faults.append(Fault.malformed("not a JSON object", path, line, expected="one object a line"))
            continue
        names = [str(name).strip() for name in row]
        if len(set(names)) < len(names) or len(names) < _num_keys(content, row):
            faults.append(Fault.duplicate("a key stands twice in one object", path, line, expected="each key once"))
            continue
        try:
            yield line, {name: cell_text(value) for name, value in zip(names, row.values(), strict=True)}
        except TypeError as error:
            faults.append(Fault.malformed(str(error), path, line, expected="text, numbers, or lists of them"))


def _num_keys(content: str, row: dict[str, object]) -> int:
    """How many keys the outer object of a line has, those that stand twice too."""
    if content.count('":') + content.count('" :') <= len(row):  # no more than there are: the common case
        return len(row)
    counts: list[int] = []
    json.loads(content, object_pairs_hook=lambda pairs: counts.append(len(pairs)))
    return counts[-1]


def write_csv(path: Path, names: list[str], rows: list[list[str]]) -> None:
    """A header and rows."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        Writer(stream).writerows([names, *rows])


def write_jsonl(path: Path, names: list[str], rows: list[list[str]]) -> None:
    """One object a row."""
    lines = (json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
