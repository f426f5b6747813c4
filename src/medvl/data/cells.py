"""One cell of a table as text, and the words that programs write where there is nothing."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Any

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
