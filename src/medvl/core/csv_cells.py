"""CSV as medvl writes it, and cells that a spreadsheet would run as a formula.

A cell that begins with = + - @, a tab or a line break is a formula to a spreadsheet, also where it came from a report
of a stranger. `mark_formulas` (`--excel-safe`) puts an apostrophe before such cells of every CSV that is written from
then on; numbers stay numbers. Whoever reads the file with medvl gets the cell as it was.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

_FORMULA = re.compile(r"[=+\-@\t\r\n]")
_MARKED = re.compile(r"'+[=+\-@\t\r\n]")  # one apostrophe more than the cell has
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_marks = False


class TextFile(Protocol):
    """What rows are written into."""

    def write(self, text: str, /) -> object: ...


class Writer:
    """`csv.writer` with line feeds, that marks cells where that is on. None is an empty cell."""

    def __init__(self, file: TextFile) -> None:
        self._writer = csv.writer(file, lineterminator="\n")

    def writerow(self, row: Iterable[Any]) -> None:
        """Write one row of cells."""
        self._writer.writerow([_written(cell) for cell in row])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write rows of cells."""
        for row in rows:
            self.writerow(row)


class DictWriter:
    """Rows {column: cell} under a header; a column that a row lacks is an empty cell."""

    def __init__(self, file: TextFile, columns: Sequence[str]) -> None:
        self._writer, self._columns = Writer(file), list(columns)

    def writeheader(self) -> None:
        """Write the names of the columns."""
        self._writer.writerow(self._columns)

    def writerow(self, row: Mapping[str, Any]) -> None:
        """Write one row. ValueError for a column that the header does not have."""
        if unknown := set(row) - set(self._columns):
            raise ValueError(f"cells of unknown columns: {', '.join(sorted(unknown))}")
        self._writer.writerow([row.get(name, "") for name in self._columns])

    def writerows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows."""
        for row in rows:
            self.writerow(row)


def read_dicts(file: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that medvl wrote, {column: cell}, without marks."""
    for row in csv.DictReader(file):
        yield {read_cell(name): read_cell(cell) if cell else cell for name, cell in row.items()}


def mark_formulas(on: bool) -> None:
    """Whether CSV files of this process mark the cells that a spreadsheet would run."""
    global _marks
    _marks = on


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would run this cell."""
    return _FORMULA.match(cell) is not None and _NUMBER.fullmatch(cell) is None


def read_cell(cell: str) -> str:
    """A cell of a CSV file without the mark."""
    return cell[1:] if _MARKED.match(cell) else cell


def _written(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return f"'{cell}" if _MARKED.match(cell) or (_marks and is_formula(cell)) else cell
