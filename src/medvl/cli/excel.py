"""`--excel-safe`, an option of every verb that writes CSV."""

from __future__ import annotations

from typing import Annotated

import typer

from medvl.core.csv_cells import mark_formulas


def _mark(value: bool) -> bool:
    mark_formulas(value)
    return value


ExcelSafe = Annotated[
    bool,
    typer.Option(
        "--excel-safe",
        callback=_mark,
        help="put an apostrophe before text in CSV files that a spreadsheet would run as a formula (= + - @)",
    ),
]
