"""XLSX as people and programs make it: cover sheets, merged cells, formulas, number formats, wrong dimensions.

openpyxl gives the values; the XML of the sheet is read besides for what it does not give while it streams: merged
ranges, and formulas whose value was never computed.
"""

from __future__ import annotations

import datetime
import re
import warnings as python_warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medvl.core.errors import Fault, InputError
from medvl.data.cells import Grid, cell_text
from medvl.data.packed import open_file

MAX_BYTES = 1 << 29  # of all parts of the file, unpacked
HEADER_WITHIN = 30  # rows at the top, empty ones not counted
_OLD = b"\xd0\xcf\x11\xe0"  # of .xls, and of XLSX behind a password
_MARKUP = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_CONTROLS = {"09": "\t", "0A": "\n", "0D": ""}
_ESCAPED = re.compile(r"_x00(09|0A|0D)_")  # how XLSX writes line breaks of other programs
_MAX_WHOLE = 10**15  # a spreadsheet keeps 15 digits
# What makes a formula one: cells, functions, other sheets. A report that begins with "=" has none of them, and a
# program that writes it as a formula stores no value, or 0.
_REFERS = re.compile(r"\$|!|&|\b[A-Za-z]{1,3}[0-9]+\b|[A-Za-z.]+\(")
_COMPUTE = "open the file in a spreadsheet program and save it there: that computes them"


@dataclass
class SheetFacts:
    """What stands in the XML of a sheet beside its values. Places are (row, column) from 1."""

    merged: list[tuple[int, int, int]] = field(default_factory=list)  # (first row, last row, column)
    uncomputed: list[tuple[int, int]] = field(default_factory=list)  # formulas without a value
    typed: dict[tuple[int, int], str] = field(default_factory=dict)  # text that begins with "=", which is no formula
    num_zero: Counter[int] = field(default_factory=Counter)  # column -> formulas whose value is 0
    num_formulas: Counter[int] = field(default_factory=Counter)  # by column


def read_xlsx(path: Path, needed: Sequence[str], notes: list[str], faults: list[Fault]) -> Grid:
    """The rows of the sheet that holds the table, from its header on.

    The sheet is the one with a row of all `needed` names near its top (without `needed`: the first with anything in
    it). InputError: a file that is damaged, too large or behind a password; several such sheets; formulas without
    values.
    """
    import openpyxl

    book = None
    try:
        _check_file(path)
        with python_warnings.catch_warnings():
            python_warnings.simplefilter("ignore")  # of drawings and rules that are no cells
            with open_file(path) as file:
                book = openpyxl.load_workbook(file, read_only=True, data_only=True)
                sheet = _choose_sheet(book, needed, path, notes)
                facts = _facts(path, sheet)
                yield from _rows(sheet, facts, path, needed, notes, faults)
    except (InputError, GeneratorExit):
        raise
    except Exception as error:  # zip, XML, key, index and value errors, as they come out of a damaged file
        what = f"cannot be read as XLSX ({type(error).__name__}: {str(error)[:200]})"
        raise InputError.damaged(what, file=path, remedy="open it in a spreadsheet program and save it again") from None
    finally:
        if book is not None:
            book.close()


def write_xlsx(path: Path, names: list[str], rows: list[list[str]]) -> None:
    """A header and rows, every cell as text."""
    import openpyxl
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

    for row in (names, *rows):
        for value in row:
            if ILLEGAL_CHARACTERS_RE.search(value):
                raise InputError.malformed(
                    f"XLSX cannot hold control characters: {value!r}", file=path, remedy="write CSV"
                )
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("manifest")
    for row in (names, *rows):
        cells = [WriteOnlyCell(sheet, value=value) for value in row]
        for cell in cells:
            cell.data_type = "s"  # a text that begins with "=" is no formula
        sheet.append(cells)
    with path.open("wb") as stream:
        book.save(stream)


def _check_file(path: Path) -> None:
    """InputError for what must not be opened at all."""
    try:
        with open_file(path) as file:
            if file.read(4) == _OLD:
                raise InputError.unsupported(
                    "an old .xls file, or one behind a password", file=path, remedy="save it as .xlsx"
                )
            archive = zipfile.ZipFile(file)
            size = sum(item.file_size for item in archive.infolist())
            if size > MAX_BYTES:
                raise InputError.too_large(
                    f"{size:,} bytes when unpacked", file=path, expected=f"at most {MAX_BYTES:,}"
                )
            for item in archive.infolist():
                if item.filename.endswith((".xml", ".rels")):
                    with archive.open(item) as part:
                        if re.search(rb"<!(DOCTYPE|ENTITY)", part.read(4096), re.IGNORECASE):
                            what = f"{item.filename} declares entities, as no spreadsheet program writes them"
                            raise InputError.unsupported(what, file=path)
    except zipfile.BadZipFile as error:
        raise InputError.damaged(f"cannot be read as XLSX ({error})", file=path) from None


def _choose_sheet(book: Any, needed: Sequence[str], path: Path, notes: list[str]) -> Any:
    for sheet in book.worksheets:
        sheet.reset_dimensions()  # some programs store a range smaller than the sheet
    filled = {sheet.title: rows for sheet in book.worksheets if (rows := _top(sheet))}
    if not filled:
        raise InputError.empty("no sheet with anything in it", file=path, expected="a table")
    fitting = [title for title, rows in filled.items() if any(set(needed) <= set(row) for row in rows)]
    shown = [title for title in fitting if book[title].sheet_state == "visible"] or fitting
    if needed and len(shown) > 1:
        raise InputError.ambiguous(
            f"{len(shown)} sheets hold a table: {', '.join(shown)}",
            file=path,
            expected=f"one sheet with the columns {', '.join(needed)}",
            remedy="leave one of them in the file, or save it as CSV",
        )
    if needed and not shown and len(filled) > 1:
        what = f"no sheet has the columns {', '.join(needed)} (sheets: {', '.join(filled)})"
        raise InputError.missing_column(what, file=path, remedy="name the columns so in the sheet of the table")
    title = shown[0] if needed and shown else next(iter(filled))
    if len(filled) > 1:
        others = ", ".join(name for name in filled if name != title)
        notes.append(f"{path}: sheet {title} is read, not {others}")
    return book[title]


def _top(sheet: Any) -> list[list[str]]:
    """The first rows that hold anything."""
    rows = []
    for values in sheet.iter_rows(values_only=True):
        row = ["" if value is None else str(value).strip() for value in values]
        if any(row):
            rows.append(row)
        if len(rows) == HEADER_WITHIN:
            break
    return rows


def _facts(path: Path, sheet: Any) -> SheetFacts:
    facts = SheetFacts()
    member = str(sheet._worksheet_path).lstrip("/")  # openpyxl streams a sheet without its merged ranges
    with open_file(path) as file, zipfile.ZipFile(file) as archive, archive.open(member) as stream:
        for _, element in ElementTree.iterparse(stream, events=("end",)):
            if element.tag == f"{_MARKUP}c":
                _note_formula(element, facts)
                element.clear()
            elif element.tag == f"{_MARKUP}row":
                element.clear()
            elif element.tag == f"{_MARKUP}mergeCell":
                first, _, last = element.get("ref", "").partition(":")
                (row, column), (last_row, _) = _place(first), _place(last or first)
                if last_row > row:
                    facts.merged.append((row, last_row, column))
    return facts


def _note_formula(cell: ElementTree.Element, facts: SheetFacts) -> None:
    formula = cell.findtext(f"{_MARKUP}f")
    if formula is None:
        return
    place = _place(cell.get("r", ""))
    value = (cell.findtext(f"{_MARKUP}v") or "").strip()
    facts.num_formulas[place[1]] += 1
    empty = not value and cell.get("t", "n") != "str"
    zero = value == "0" and cell.get("t", "n") == "n"
    if formula and not _REFERS.search(formula) and (empty or (zero and re.search("[A-Za-z]", formula))):
        facts.typed[place] = f"={formula}"
    elif empty:
        facts.uncomputed.append(place)
    elif zero:
        facts.num_zero[place[1]] += 1


def _place(reference: str) -> tuple[int, int]:
    """B12 -> (12, 2). ValueError for what is no cell."""
    match = re.fullmatch(r"\$?([A-Z]{1,3})\$?([0-9]{1,7})", reference)
    if match is None:
        raise ValueError(f"{reference[:20]!r} is no cell")
    column = 0
    for letter in match[1]:
        column = 26 * column + ord(letter) - 64
    return int(match[2]), column


def _rows(
    sheet: Any, facts: SheetFacts, path: Path, needed: Sequence[str], notes: list[str], faults: list[Fault]
) -> Iterator[tuple[int, list[str]]]:
    if facts.uncomputed:
        row, column = facts.uncomputed[0]
        what = f"{len(facts.uncomputed)} cells hold formulas that were never computed (the first: column {column})"
        raise InputError.empty(what, file=path, line=row, remedy=_COMPUTE)
    first: dict[int, str] = {}  # column -> the value of its merged range
    until: dict[int, int] = {}  # column -> the last row of it
    starts = {(row, column): last for row, last, column in facts.merged}
    header: list[str] = []
    num_filled: Counter[str] = Counter()
    dates: Counter[str] = Counter()
    num_long = 0
    for line, cells in enumerate(sheet.iter_rows(), start=1):
        texts = []
        for column, cell in enumerate(cells, start=1):
            try:
                texts.append(shown_text(cell))
            except TypeError as error:
                faults.append(Fault.malformed(f"column {column}: {error}", path, line))
                texts.append("")
        if facts.typed:
            texts = [facts.typed.get((line, column), text).strip() for column, text in enumerate(texts, start=1)]
        for column in [column for column, last in until.items() if line > last]:
            del until[column]
        for column in until:
            texts += [""] * (column - len(texts))
            if not texts[column - 1]:
                texts[column - 1] = first[column]
                num_filled[header[column - 1] if column <= len(header) else str(column)] += 1
        for column in range(1, len(texts) + 1) if starts else ():
            if (line, column) in starts:
                first[column], until[column] = texts[column - 1], starts[line, column]
        if not header and any(texts) and set(needed) <= set(texts):
            header = texts
            _check_zero_formulas(facts, header, path)
        for column, cell in enumerate(cells, start=1):
            value = getattr(cell, "value", None)
            num_long += isinstance(value, (int, float)) and abs(value) >= _MAX_WHOLE
            if isinstance(value, datetime.datetime) and column <= len(header):
                dates[header[column - 1]] += 1
        yield line, texts
    if facts.typed:
        what = f"{len(facts.typed)} cells begin with = and are no formulas: they are read as text"
        notes.append(f"{path}: {what}, e.g. {next(iter(facts.typed.values()))[:40]!r}")
    if num_filled:
        columns = ", ".join(f"{name} {number}" for name, number in num_filled.items())
        notes.append(f"{path}: cells of merged ranges hold the value of the first one ({columns})")
    if num_long:
        what = f"{num_long} numbers of more than 15 digits, of which a spreadsheet keeps 15"
        notes.append(f"{path}: {what}: format such columns as text before they are filled")
    for name in ("id", "image", "mask", "patient", "group"):
        if dates[name]:
            notes.append(f"{path}: column {name}: {dates[name]} cells are dates; a spreadsheet makes one of 1-2")


def _check_zero_formulas(facts: SheetFacts, header: Sequence[str], path: Path) -> None:
    """Programs that write formulas without computing them store 0, which is no name of a file and no text."""
    words = {"id", "image", "text", "mask", "patient", "group", "study", "split", "labels", "label"}
    for column, number in facts.num_zero.items():
        name = header[column - 1] if column <= len(header) else ""
        if number == facts.num_formulas[column] and (name in words or name.startswith(("mask_", "text_"))):
            what = f"column {name}: {number} formulas whose value is 0, as where they were never computed"
            raise InputError.empty(what, file=path, remedy=_COMPUTE)


def shown_text(cell: Any) -> str:
    """A cell as a spreadsheet shows it where that matters: 1 in the format 000 is 001.

    Raises:
        TypeError: an error of the spreadsheet (#REF!); #N/A is an empty cell.
    """
    value = getattr(cell, "value", None)
    if value is None:
        return ""
    if cell.data_type == "e":
        if value == "#N/A":
            return ""
        raise TypeError(f"the cell holds the error {value}")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and float(value).is_integer():
        return formatted(int(value), str(cell.number_format or ""))
    return _ESCAPED.sub(lambda match: _CONTROLS[match[1]], cell_text(value)).strip()


def formatted(value: int, number_format: str) -> str:
    """A whole number in a format of zeros, number signs and fixed text: 7 in `"P"000` is P007.

    Other formats (General, 0.00, #,##0, dates) change nothing: what counts is the number.
    """
    pieces = re.findall(r'"[^"]*"|\\.|[_*].|\[[^\]]*\]|[0#]|[^0#]', number_format.partition(";")[0])
    pieces = [piece for piece in pieces if len(piece) == 1 or piece[0] not in "_*["]  # blanks, fillings, colours
    places = [i for i, piece in enumerate(pieces) if piece in ("0", "#")]
    fixed = [piece for piece in pieces if piece not in ("0", "#")]
    plain = all(len(piece) > 1 or piece in "-/()_: " for piece in fixed)
    if not plain or value < 0 or (len(places) < 2 and not fixed) or "0" not in pieces:
        return str(value)
    digits = list(str(value))
    texts: list[str] = []
    for i in reversed(range(len(pieces))):
        piece = pieces[i]
        if i not in places:
            texts.append(piece.strip('"') if piece.startswith('"') else piece[-1])
        elif i == places[0]:
            texts.append("".join(digits) or ("0" if piece == "0" else ""))
        else:
            texts.append(digits.pop() if digits else ("0" if piece == "0" else ""))
    return "".join(reversed(texts))
