"""One cell of a table as text, and the words that programs write where there is nothing."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Literal

Grid = Iterator[tuple[int, list[str]]]  # (line, cells), the header among them

# Whole cells only, in capitals or not: pandas, R, SPSS, SQL and spreadsheets write them. "NA12" is a name.
_MISSING = set(
    "nan none n/a #n/a <na> na n.a. n.a null nil (null) (none) \\n none. -nan nan. 1.#qnan 1.#ind "
    "#value! #ref! #div/0! #name? #num! #null!".split()
)
_MISSING_AS_WRITTEN = {"NaT"}  # in small letters it is a word
_LONGEST = 8


def is_missing(cell: str) -> bool:
    """Whether a cell that is not empty says that there is nothing: nan, None, N/A, NULL, #REF!, "-", "?", "[]".

    Of a few signs without any letter or digit only those with + or _ say something.
    """
    if not cell or len(cell) > _LONGEST:
        return False
    if cell in _MISSING_AS_WRITTEN or cell.lower() in _MISSING:
        return True
    return not any(c.isalnum() or c in "+_" for c in cell)  # ___ stands for what was taken out of a report


def cell_text(value: Any) -> str:
    """One value as text: whole floats lose their `.0`, a midnight its time, lists are joined with `|`.

    Raises:
        TypeError: an object, or bytes that are no text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return "|".join(cell_text(item) for item in value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise TypeError("a cell holds bytes") from None
    if isinstance(value, (dict, tuple, set)):
        raise TypeError("a cell holds an object")
    return str(value).strip()


# value: text, or a path; key: the row's own id, whatever it is; group: a patient or study; list: with | between;
# absence: the word none means looked for and absent
CellKind = Literal["value", "key", "group", "list", "absence"]

ABSENT = "none"
_ROUNDED = re.compile(r"[0-9](\.[0-9]+)?[eE]\+[0-9]+")  # 1.23457E+15: as a spreadsheet saves a long number


class CleanCells:
    """Cleans the rows of one table and counts what it changes."""

    def __init__(self, kinds: Mapping[str, CellKind]) -> None:
        self._kinds = kinds
        self._missing: dict[str, Counter[str]] = {}  # column -> word -> cells
        self._capital: Counter[str] = Counter()
        self._rounded: Counter[str] = Counter()

    def row(self, row: Mapping[str, str]) -> dict[str, str]:
        """The row with its missing cells empty."""
        cells = dict(row)
        for name, kind in self._kinds.items():
            cell = cells[name]
            if not cell:
                continue
            if kind == "list" and "|" in cell:
                parts = [part for part in cell.split("|") if not self._is_missing(name, kind, part.strip())]
                cells[name] = "|".join(parts)
            elif self._is_missing(name, kind, cell):
                cells[name] = ""
            elif kind in ("key", "group") and _ROUNDED.fullmatch(cell):
                self._rounded[name] += 1
        return cells

    def notes(self) -> list[str]:
        """One line for each column and kind, with the count."""
        notes = []
        for name, words in self._missing.items():
            shown = ", ".join(f"{_shown(word)} ({count})" for word, count in words.most_common(_MOST_SHOWN))
            more = ", ..." if len(words) > _MOST_SHOWN else ""
            notes.append(
                f"column {name}: {words.total()} cells say that there is nothing, read as empty: {shown}{more}"
            )
        for name, count in self._capital.items():
            what = f"{count} cells are 'None', read as {ABSENT}: looked for and absent"
            notes.append(f"column {name}: {what}; leave a cell empty where nobody looked")
        for name, count in self._rounded.items():
            what = f"{count} cells are numbers in the form 1.2E+15, whose last digits a spreadsheet has lost"
            notes.append(f"column {name}: {what}; save the column as text")
        return notes

    def _is_missing(self, name: str, kind: CellKind, cell: str) -> bool:
        if kind == "absence" and cell.lower() == ABSENT:
            if cell == "None":  # what Python writes where there is nothing
                self._capital[name] += 1
            return False
        if kind == "list" and cell.lower() == ABSENT and cell != "None":
            return False
        if kind != "key" and is_missing(cell):
            self._missing.setdefault(name, Counter())[cell] += 1
            return True
        return False


_MOST_SHOWN = 5


def _shown(word: str) -> str:
    return repr(word) if word.isprintable() and word.strip() else "invisible characters"
