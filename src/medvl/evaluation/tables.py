"""Tables of results: the one CSV text and the one text table for a terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medvl.core.csv_cells import Writer


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, decimals: int | None = None) -> str:
    """A CSV file as text. NaN and None are empty cells.

    Args:
        decimals: of numbers with a fraction; None = all digits, so that they are read back to the bit.
    """
    file = io.StringIO()
    writer = Writer(file)
    writer.writerow(columns)
    writer.writerows([csv_cell(value, decimals) for value in row] for row in rows)
    return file.getvalue()


def csv_cell(value: Any, decimals: int | None = None) -> Any:
    """A value as `csv_text` writes it."""
    if not isinstance(value, float):
        return "" if value is None else value
    if math.isnan(value):
        return ""
    return float(value) if decimals is None else round(float(value), decimals)


def number_text(value: float | None, digits: int = 3, sign: str = "", missing: str = "n/a") -> str:
    """A number, or what stands where there is none."""
    return missing if value is None or math.isnan(value) else f"{value:{sign}.{digits}f}"


def interval_text(value: Mapping[str, Any], digits: int = 3, sign: str = "", missing: str = "n/a") -> str:
    """A metric {mean, lo, hi}: 0.512 [0.431, 0.590]; without the interval where there is none."""
    mean = number_text(value["mean"], digits, sign, missing)
    if value["mean"] is None or value.get("lo") is None:
        return mean
    return f"{mean} [{value['lo']:{sign}.{digits}f}, {value['hi']:{sign}.{digits}f}]"


def text_table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, indent: str = "  ") -> list[str]:
    """Lines of a table; columns are as wide as their longest cell, those of counts (int) are right-aligned."""
    table = [list(row) for row in rows]
    is_count = [bool(table) and all(isinstance(row[k], int) or row[k] == "" for row in table) for k in range(len(head))]
    cells = [list(head), *([str(cell) for cell in row] for row in table)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = []
    for row in cells:
        parts = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_count, strict=True)
        )
        lines.append(f"{indent}{'  '.join(parts)}".rstrip())
    return lines
