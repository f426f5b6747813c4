"""One cell of a table as text, and the words that programs write where there is nothing."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Any

Grid = Iterator[tuple[int, list[str]]]  # (line, cells), the header among them

# Whole cells only, in capitals or not: pandas, R, SPSS, SQL and spreadsheets write them. "NA12" is a name.
_MISSING = {"nan", "none", "n/a", "#n/a", "<na>", "null", "-", "--", "–", "—"}
_MISSING_AS_WRITTEN = {"NA", "NaT"}  # in small letters they are words
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"


def is_missing(cell: str) -> bool:
    """Whether a cell that is not empty says that there is nothing: nan, None, N/A, NULL, "-", invisible signs."""
    if not cell or len(cell) > 8:
        return False
    return cell in _MISSING_AS_WRITTEN or cell.lower() in _MISSING or not cell.strip(_INVISIBLE + " ")


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
