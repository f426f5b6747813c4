"""Cells of the results page: what is planned of them, and how values over seeds are written."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvl.evaluation.record import evaluation_of
from medvl.metrics.statistics import ENOUGH_DRAWS, FEW_PATIENTS

# Kinds of cells in the order of their tables.
TASKS = ("pretrain", "segment", "classify", "detect", "zero-shot classify", "ground")


# (hash of the manifest, label fraction, of patients or images): what the number of labelled patients follows from.
Draw = tuple[str, float, str]


def draw_of(cell: Mapping[str, Any]) -> Draw | None:
    """None for a cell without a configuration."""
    data = (cell.get("config") or {}).get("data")
    return data and (cell["manifest_hash"], data.get("label_fraction", 1.0), data.get("label_by", "patient"))


def task_of(cell: Mapping[str, Any]) -> str:
    """Of which of `TASKS` a result file is."""
    if "pretraining" in cell:
        return "pretrain"
    return evaluation_of(cell) or "segment"


@dataclass
class About:
    """What is planned and said of one folder of results."""

    title: str
    text: str
    command: str
    planned: dict[str, int]  # variant -> seeds; empty where nothing is planned
    grid: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    variants: Sequence[str] = ()  # in the order of the table
    names: frozenset[str] | None = None  # of the result files of a sweep; None = any
    tasks: Mapping[str, str] = field(default_factory=dict)  # variant -> what its cells are of, see TASKS
    once: frozenset[str] = frozenset()  # variants that the grid does not touch
    patients: Mapping[Draw, int] = field(default_factory=dict)  # labelled ones, of cells that do not say it themselves


def grid_titles(about: About, names: Sequence[str]) -> list[str]:
    """The last part of each grid key; none where the grid touches no variant of the table."""
    return [] if about.once >= set(names) else [key.rpartition(".")[2] for key in about.grid[0]]


def rows_of(
    about: About, names: Sequence[str], cells: list[dict[str, Any]]
) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """(first columns, cells over seeds) of each variant at each grid point; planned ones without a cell included."""
    columns = len(grid_titles(about, names))
    for i, point in enumerate(about.grid):
        for name in names:
            once = name in about.once
            if once and i > 0:
                continue
            here = {} if once else point
            group = [cell for cell in cells if cell["variant"] == name and cell.get("grid_point", {}) == here]
            if group or about.names is not None:
                done = f"{len(group)} / {about.planned.get(name, 1)}{no_result(about, group)}"
                values = [str(value) for value in here.values()] or [""] * columns
                yield [name, *values, done], group


def labelled_patients(cells: Sequence[Mapping[str, Any]]) -> dict[Draw, int]:
    """The fewest labelled patients of each draw that a cell tells."""
    found: dict[Draw, int] = {}
    for cell in cells:
        draw, num = draw_of(cell), (cell.get("labels") or {}).get("labelled_patients")
        if draw is not None and num is not None:
            found[draw] = min(num, found.get(draw, num))
    return found


def no_result(about: About, group: Sequence[Mapping[str, Any]]) -> str:
    """What must stand beside a mean over too few draws of too few patients; "" otherwise."""
    known = about.patients | labelled_patients(group)
    counts = [known[draw] for cell in group if (draw := draw_of(cell)) in known]
    if not counts or min(counts) >= FEW_PATIENTS or len(group) >= ENOUGH_DRAWS:
        return ""
    return f" ({min(counts)} labelled patients, fewer than ten draws: no result)"


def interval(metric: dict[str, Any] | None, sign: str = "") -> str:
    """`0.123 [0.100, 0.150]`; "" where there is no value."""
    if metric is None or metric["mean"] is None:
        return ""
    bounds = "" if metric.get("lo") is None else f" [{metric['lo']:{sign}.3f}, {metric['hi']:{sign}.3f}]"
    return f"{metric['mean']:{sign}.3f}{bounds}"


def machines(cells: list[dict[str, Any]]) -> list[str]:
    """Where the cells were run, each machine once."""
    return list(
        dict.fromkeys(
            f"{c['machine']['processor']}, {c['machine']['cores']} cores"
            + (f", {c['machine']['gpu']}" if c["machine"].get("gpu") else "")
            for c in cells
        )
    )


def over_seeds(values: list[float]) -> str:
    """The value of one seed; mean ± sd of several; "" of none."""
    if len(values) > 1:
        return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
    return f"{values[0]:.3f}" if values else ""


def mean(rows: list[dict[str, Any]], metric: str, with_interval: bool = True) -> str:
    """One seed: value and interval. Several: mean ± sd over seeds."""
    found = [row[metric] for row in rows if row.get(metric) and row[metric]["mean"] is not None]
    if len(found) == 1 and with_interval:
        return interval(found[0])
    return over_seeds([value["mean"] for value in found])
