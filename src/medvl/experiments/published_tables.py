"""The published tables of papers, as printed: config/published/*.yaml. Nothing in them was measured by medvl."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic.dataclasses import dataclass

import medvl.config
from medvl.config.ranges import SECTION
from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import read_typed

FOLDER = Path(medvl.config.__file__).with_name("published")
Cell = tuple[float | None, ...]


@dataclass(config=SECTION, frozen=True, slots=True)
class PublishedTable:
    """One table. Numbers in percent; a column has one number for each of `of` (fractions of the labels, or metrics)."""

    name: str  # g2d-table1
    title: str
    source: str
    of: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]  # method -> a cell per column, of None where the paper has no number


@dataclass(config=SECTION)
class _Table:
    title: str
    of: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell | None, ...]]


@dataclass(config=SECTION)
class _File:
    source: str
    tables: dict[str, _Table]


@cache
def _all_tables(folder: Path = FOLDER) -> dict[str, PublishedTable]:
    tables = {}
    for path in sorted(folder.glob("*.yaml")):
        file = read_typed(path, _File)
        for name, table in file.tables.items():
            empty: Cell = (None,) * len(table.of)
            rows = {method: tuple(cell or empty for cell in cells) for method, cells in table.rows.items()}
            if any([len(cell) for cell in cells] != [len(table.of)] * len(table.columns) for cells in rows.values()):
                expected = f"{len(table.columns)} columns of {len(table.of)} numbers"
                raise InputError.wrong_shape(
                    f"a row of {name} has another number of cells", file=path, expected=expected
                )
            tables[name] = PublishedTable(name, table.title, file.source, table.of, table.columns, rows)
    return tables


def table_names() -> list[str]:
    """g2d-table1, g2d-table2a, ..."""
    return list(_all_tables())


def published_table(name: str) -> PublishedTable:
    """The table of that name. InputError on an unknown one, naming the nearest."""
    tables = _all_tables()
    if name not in tables:
        like = nearest(name, tables)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.unknown(f"no table {name}", expected=", ".join(tables), remedy=remedy)
    return tables[name]
