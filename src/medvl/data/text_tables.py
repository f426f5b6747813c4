"""CSV and JSONL as they come: encodings, separators, rows before the header; what is damaged is named."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from medvl.core.csv_cells import Writer, read_cell
from medvl.core.errors import Fault, InputError
from medvl.core.files import parse_json
from medvl.data.cells import Grid, cell_text
from medvl.data.packed import open_file

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
