"""What `medvl x benchmark` prints and writes: a table per column of the paper's, measured rows beside published."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvl.core.csv_cells import Writer
from medvl.core.files import write_json, write_text
from medvl.experiments.benchmark import Benchmark, Given, Measured
from medvl.experiments.sweep_run import as_table

FORMAT = "medvl-benchmark/1"
EMPTY = ""
SCALES = {"percent": 100.0, "plain": 1.0}  # of measured values, which are 0 to 1 where the table has percent


def write_page(benchmark: Benchmark, given: Given, version: str) -> list[Path]:
    """Write benchmark.md, benchmark.csv and benchmark.json into OUT; -> their paths."""
    paths = [given.out / f"benchmark.{suffix}" for suffix in ("md", "csv", "json")]
    given.out.mkdir(parents=True, exist_ok=True)
    write_text(paths[0], as_markdown(benchmark, given))
    write_text(paths[1], as_csv(benchmark))
    write_json(paths[2], as_json(benchmark, given, version))
    return paths


def as_plan(benchmark: Benchmark, given: Given) -> str:
    """What a dry run shows: the cells, the absent sets and how to come by them, and what is not run."""
    if not benchmark.rows:
        cells = f"no cell can be run on what is in {given.data}"
    else:
        cells = as_table(benchmark.outcomes) if benchmark.outcomes else "no cell is trained; the given runs are asked"
    form = "absent  {column}: {set}\n        obtained: {obtained}\n        then: {command}"
    absent = [form.format(**one) for one in benchmark.absent]
    return "\n".join([cells, *absent, *(f"not run  {text}" for text in benchmark.left_out)])


def as_markdown(benchmark: Benchmark, given: Given) -> str:
    """The page."""
    table = benchmark.table
    scale = SCALES[table.unit]
    lines = [f"# {table.name}: {table.title}", ""]
    lines += [f"Rows marked *published* are from {table.source}, nothing in them was measured here. ", ""]
    lines += [
        f"Measured rows: split `{given.split}`, {given.seeds} seed{'s' if given.seeds > 1 else ''} planned, "
        f"{'percent; ' if table.unit == 'percent' else ''}"
        "the number by the table's own convention, in brackets medvl's where the two differ; several seeds: mean ± sd "
        "(how many). A cell that has not been run is empty; undefined: run, but the measure has no value there.",
        "",
    ]
    if table.convention:
        lines += [f"Published Dice and mIoU: {table.convention}.", ""]
    if benchmark.changed:
        lines += [f"Not at the protocol's settings: `{' '.join(benchmark.changed)}`.", ""]
    printed = "{:.2f}" if table.convention else "{:.1f}"  # with the paper's digits
    missing = {one["column"] for one in benchmark.absent}
    for name in table.columns:
        lines += [f"## {name}", ""]
        if name in missing:
            lines += ["The set is absent (below): only published rows.", ""]
        lines += ["| method | " + " | ".join(table.of) + " |", "| --- " * (len(table.of) + 1) + "|"]
        for row in benchmark.rows:
            if name not in missing and any((row, name, of) in benchmark.cells for of in table.of):
                numbers = [cell_text(benchmark.cells.get((row, name, of)), scale) for of in table.of]
                lines.append(f"| {row} | {' | '.join(numbers)} |")
        column = table.columns.index(name)
        for method, cells in table.rows.items():
            numbers = [EMPTY if value is None else printed.format(value) for value in cells[column]]
            if any(numbers):
                lines.append(f"| {method}, *published* | {' | '.join(numbers)} |")
        lines.append("")
    if benchmark.absent:
        lines += ["## Absent sets", ""]
        for one in benchmark.absent:
            lines.append(f"- {one['column']}: {one['set']}. Obtained: {one['obtained']}. Then `{one['command']}`.")
        lines.append("")
    lines += [f"- not run: {text}" for text in benchmark.left_out]
    lines += [f"- {text}" for text in (*benchmark.notes, *filter(None, [table.note]))]
    lines += [f"- {method}: {source}" for method, source in table.row_sources.items()]
    lines += [f"- failed: {name}: {error}" for name, error in benchmark.failed]
    lines += [f"- {one.cell.name}: {one.note}" for one in benchmark.outcomes if one.state == "done" and one.note]
    if any("*" in method for method in table.rows):
        lines.append("- `*`: the method used extra annotations (the paper's mark)")
    return "\n".join(lines).rstrip() + "\n"


def cell_text(cell: Measured | None, scale: float) -> str:
    """A measured cell as the page has it; empty where nothing was measured."""
    if cell is None or not cell.published:
        return EMPTY
    first = _over_seeds(cell.published, scale)
    return first if cell.ours == cell.published else f"{first} [{_over_seeds(cell.ours, scale)}]"


def as_csv(benchmark: Benchmark) -> str:
    """One line per method, column and number; published and measured ones told apart by `kind`."""
    out = io.StringIO()
    writer = Writer(out)
    writer.writerow(["column", "of", "method", "kind", "seeds", "value", "sd", "value_medvl_convention"])
    table, scale = benchmark.table, SCALES[benchmark.table.unit]
    for (row, column, of), cell in benchmark.cells.items():
        if cell.published:
            known, ours = ([v for v in values if v is not None] for values in (cell.published, cell.ours))
            value, other = (
                _number(statistics.mean(values), scale) if values else "undefined" for values in (known, ours)
            )
            spread = _number(statistics.stdev(known), scale) if len(known) > 1 else EMPTY
            writer.writerow([column, of, row, "measured", len(cell.published), value, spread, other])
    for method, cells in table.rows.items():
        for column, values in zip(table.columns, cells, strict=True):
            for of, number in zip(table.of, values, strict=True):
                if number is not None:
                    writer.writerow([column, of, method, "published", EMPTY, number, EMPTY, EMPTY])
    return out.getvalue()


def as_json(benchmark: Benchmark, given: Given, version: str) -> dict[str, Any]:
    """What was measured, and what was not and why."""
    return {
        "format": FORMAT,
        "table": benchmark.table.name,
        "split": given.split,
        "seeds": given.seeds,
        "overrides": benchmark.changed,
        "version": version,
        "measured": [
            {"method": row, "column": column, "of": of, "published_convention": cell.published, "medvl": cell.ours}
            for (row, column, of), cell in benchmark.cells.items()
            if cell.published
        ],
        "absent": benchmark.absent,
        "not_run": benchmark.left_out,
        "failed": [{"cell": name, "error": error} for name, error in benchmark.failed],
        "open": [one.cell.name for one in benchmark.outcomes if one.state != "done"],
    }


def _over_seeds(values: Sequence[float | None], scale: float) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "undefined"
    if len(values) == 1:
        return _number(known[0], scale)
    spread = f" ± {_number(statistics.stdev(known), scale)}" if len(known) > 1 else ""
    gone = f", {len(values) - len(known)} undefined" if len(known) < len(values) else ""
    return f"{_number(statistics.mean(known), scale)}{spread} ({len(known)}{gone})"


def _number(value: float, scale: float) -> str:
    return f"{scale * value:.1f}"
