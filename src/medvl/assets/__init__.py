"""What ships with medvl: a small real data set, a trained model, the demo's recipe."""

from __future__ import annotations

from pathlib import Path

SHIPPED = "medvl:"  # prefix of their names: medvl:cxr_regions


def shipped_table(name: str | Path) -> Path:
    """`medvl:SET` or `medvl:SET/TABLE` -> the path of the table in the set's pack, whether it exists or not."""
    data_set, _, table = Path(name).as_posix().removeprefix(SHIPPED).partition("/")
    return Path(__file__).parent / data_set / f"{data_set}.tar" / (table or "manifest.csv")
