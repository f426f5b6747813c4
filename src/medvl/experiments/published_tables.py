"""The published tables of G2D, as printed (assets/published.yaml). Nothing in them was measured by medvl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import parse_yaml

Cell = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One table. Numbers in percent; a column has one number for each of `of` (fractions of the labels, or metrics)."""

    name: str  # g2d-table1
    title: str
    source: str
    of: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]  # method -> a cell per column, of None where the paper has no number


def table_names() -> list[str]:
    """g2d-table1, g2d-table2a, ..."""
    return list(_raw()["tables"])


def published_table(name: str) -> PublishedTable:
    """The table of that name. InputError on an unknown one, naming the nearest."""
    raw = _raw()
    if name not in raw["tables"]:
        like = nearest(name, raw["tables"])
        raise InputError(
            f"no table {name}",
            expected=", ".join(raw["tables"]),
            remedy=f"did you mean {like}?" if like else None,
        )
    table = raw["tables"][name]
    num = len(table["of"])
    rows = {method: tuple(_cell(cell, num) for cell in cells) for method, cells in table["rows"].items()}
    return PublishedTable(name, table["title"], raw["source"], tuple(table["of"]), tuple(table["columns"]), rows)


def _cell(values: Sequence[float | None] | None, num: int) -> Cell:
    return (None,) * num if values is None else tuple(values)


def _raw() -> dict:  # type: ignore[type-arg]
    text = files("medvl.assets").joinpath("published.yaml").read_text(encoding="utf-8")
    return parse_yaml(text)  # type: ignore[no-any-return]
