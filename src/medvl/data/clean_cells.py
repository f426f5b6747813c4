"""Cells that say that there is nothing (nan, None, N/A ...) become empty and are counted; so are rounded numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from medvl.data.cells import is_missing

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
