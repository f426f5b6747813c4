"""The table of a finished sweep: each variant with its interval and its difference from the reference.

`medvl x sweep` writes it when no cell is open, under the name of the sweep: NAME.json, which docs/tables/ keeps of
published experiments, and NAME.md, which a person reads.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError
from medvl.core.files import write_json, write_text
from medvl.evaluation.compare import compare
from medvl.experiments.sweep import Cell, Sweep
from medvl.experiments.sweep_score import scorer_of

FORMAT = "medvl-table/1"
KEPT = (
    "title", "titles", "tested", "split", "manifest_hash", "split_hash", "threshold", "grid", "empty_mask", "num_cases",
    "num_patients", "bootstrap", "test",
)  # fmt: skip


def write_table(sweep: Sweep, out: Path, data: Path | None) -> dict[str, Any]:
    """Compare the runs of a sweep whose cells are all done; write `out`/NAME.json and NAME.md.

    The variants that are evaluated are compared by grid point, seeds of a variant as one method (see
    `medvl.evaluation.compare`). A pre-training has no row; its minutes are counted.

    Args:
        data: the folder that `$DATA` stands for.

    Raises:
        InputError: a result file that is damaged, or runs that cannot be compared (other cases, for example).
    """
    results = {cell.name: read_result(out / "results" / f"{cell.name}.json") for cell in sweep.cells()}
    groups: list[dict[str, Any]] = []
    for point in sweep.grid_points():
        by_task: dict[str, list[Cell]] = {}
        for cell in sweep.cells():
            config = sweep.config(cell, out, data)
            if cell.grid == point and cell.query is None and scorer_of(config).evaluates:
                by_task.setdefault(config.task, []).append(cell)
        for cells in by_task.values():
            if len({cell.variant for cell in cells}) > 1:
                groups.append(_group(sweep, out, data, point, cells, results))
    first = next(iter(results.values()))
    minutes = [float(result["minutes"]) for result in results.values()]
    table = {
        "format": FORMAT,
        "name": sweep.path.stem,
        "title": sweep.title,
        "text": " ".join(sweep.text.split()),
        "command": sweep.command,
        "cells": len(results),
        "minutes": {"all": round(sum(minutes), 1), "longest": max(minutes)},
        "machine": first["machine"],
        "versions": first["versions"],
        "groups": groups,
    }
    write_json(out / f"{sweep.path.stem}.json", table)
    write_text(out / f"{sweep.path.stem}.md", "\n".join(as_markdown(table)) + "\n")
    return table


def as_markdown(table: Mapping[str, Any]) -> list[str]:
    """The lines of a table: one for each grid point and variant."""
    heads: list[str] | None = None
    lines: list[str] = []
    for group in table["groups"]:
        keys = list(group["grid_point"])
        tested = group["tested"]
        titles = [group["titles"][metric].partition(" (")[0] for metric in tested]
        values = [f"{titles[0]} [95 %]", f"difference from {group['reference']} [95 %]", *titles[1:]]
        head = [*(key.rpartition(".")[2].replace("_", " ") for key in keys), "variant", *values]
        head += ["parameters", "minutes"]
        if head != heads:
            lines += ([""] if lines else []) + [_row(head), _row(["---"] * len(head))]
            heads = head
        for row in group["rows"]:
            main, *others = (row["metrics"][metric] for metric in tested)
            cells = [*(str(group["grid_point"][key]) for key in keys), row["name"], _interval(main)]
            cells += [_difference(main.get("difference")), *(_number(metric["mean"]) for metric in others)]
            parameters = "" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M"
            lines.append(_row([*cells, parameters, f"{row['minutes']:.1f}"]))
    return lines


def outcome(group: Mapping[str, Any]) -> str:
    """What came out, in a sentence: which rows are above and below the reference, and which are within noise."""
    by_kind: dict[str, list[str]] = {"better": [], "worse": [], "within noise": []}
    for row in group["rows"]:
        gap = row["metrics"][group["tested"][0]].get("difference")
        if gap is None or gap["lo"] is None:
            continue
        kind = "within noise" if gap["lo"] <= 0 <= gap["hi"] else "better" if gap["mean"] > 0 else "worse"
        by_kind[kind].append(row["name"])
    parts = [f"{kind}: {'; '.join(names) or 'none'}" for kind, names in by_kind.items()]
    values = group["grid_point"].items()
    point = ", ".join(f"{key.rpartition('.')[2].replace('_', ' ')} {value}" for key, value in values)
    return f"Against {group['reference']}{f' at {point}' if point else ''}: {'. '.join(parts)}."


def _group(
    sweep: Sweep,
    out: Path,
    data: Path | None,
    point: Mapping[str, Any],
    members: Sequence[Cell],
    results: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The comparison of the cells of one task at one grid point."""
    names = [cell.variant for cell in members]
    compared = compare(
        [str(out / cell.name) for cell in members],
        split=sweep.evaluate.split,
        manifest_path=sweep.scoring_manifest(data),
        names=names,
        reference=sweep.reference if sweep.reference in names else None,
        overrides=sweep.scoring_words,
    )
    order = {name: place for place, name in enumerate(sweep.variants)}
    rows = []
    for method in sorted(compared["methods"], key=lambda method: order[method["name"]]):
        chosen = [results[cell.name] for cell in members if cell.variant == method["name"]]
        run = out / next(cell.name for cell in members if cell.variant == method["name"])
        metrics = {name: _without(metric, ("by_seed",)) for name, metric in method["metrics"].items()}
        rows.append(
            {
                "name": method["name"],
                "num_seeds": method["num_seeds"],
                "minutes": round(statistics.mean(float(result["minutes"]) for result in chosen), 2),
                "parameters": _parameters(run),
                "metrics": metrics,
            }
        )
    return {
        "grid_point": dict(point),
        "reference": compared["reference"],
        **{key: compared[key] for key in KEPT if key in compared},
        "rows": rows,
    }


def read_result(path: Path) -> dict[str, Any]:
    """The result file of a cell. InputError where it is damaged."""
    what = "damaged (no mapping)"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(stored, dict):
            return stored
    except ValueError as error:  # no JSON, no UTF-8
        what = f"damaged ({error})"
    remedy = "delete it: the same sweep then makes it again"
    raise InputError.damaged(what, file=path, expected="a whole result file of a cell", remedy=remedy)


def _parameters(run: Path) -> int | None:
    """Trained parameters of a run, from its plan."""
    plan = run / "plan.json"
    number = json.loads(plan.read_text(encoding="utf-8")).get("parameters") if plan.is_file() else None
    return None if number is None else int(number)


def _without(values: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(metric: Mapping[str, Any]) -> str:
    bounds = "" if metric.get("lo") is None else f" [{metric['lo']:.3f}, {metric['hi']:.3f}]"
    return f"{_number(metric['mean'])}{bounds}"


def _difference(gap: Mapping[str, Any] | None) -> str:
    """A difference; one whose interval holds 0 is within noise, and is called that."""
    if gap is None:
        return "reference"
    if gap["lo"] is None:
        return f"{gap['mean']:+.3f}"
    noise = ", within noise" if gap["lo"] <= 0 <= gap["hi"] else ""
    return f"{gap['mean']:+.3f} [{gap['lo']:+.3f}, {gap['hi']:+.3f}]{noise}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
