"""medvl benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe


def benchmark(
    table: Annotated[str | None, typer.Argument(help="g2d-table1, 2a, 2b, 3, 4, 5, 7 or 8; none: list them")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every trained cell")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the sets: DATA/LAYOUT/manifest.csv")] = None,
    run: Annotated[list[str] | None, typer.Option(help="NAME=RUN, a pre-trained row; repeat for more")] = None,
    imagenet: Annotated[Path | None, typer.Option(help="ImageNet weights of the ResNet, torchvision's keys")] = None,
    pretrain: Annotated[Path | None, typer.Option(help="recipe of the pre-trainings of tables 5 and 8")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="of every trained cell")] = 1,
    fractions: Annotated[str | None, typer.Option(help="of the labels, e.g. 0.01,0.1; default the table's")] = None,
    split: Annotated[str, typer.Option(help="split to score; test is logged in each model's folder")] = "test",
    out: Annotated[Path | None, typer.Option(help="default runs/TABLE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list cells and absent sets, and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print benchmark.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Run a published table on whatever of its sets is here, beside the published rows.

    Sets are those that medvl import wrote; absent ones are listed, never filled in. Finished cells are not run again.
    """
    import json

    from medvl import __version__
    from medvl.core.errors import InputError
    from medvl.experiments.benchmark import run_benchmark
    from medvl.experiments.benchmark_given import Given
    from medvl.experiments.benchmark_page import as_json as content
    from medvl.experiments.benchmark_page import as_markdown, write_page
    from medvl.experiments.published_tables import published_table, table_names
    from medvl.experiments.sweep_run import as_table

    if table is None:
        names = {name: published_table(name).title for name in table_names()}
        print(json.dumps({"tables": names}) if as_json else "\n".join(f"{a:14} {b}" for a, b in names.items()))
        return
    published = published_table(table)
    if data is None:
        raise InputError("no folder of the sets", expected="--data DIR, which holds LAYOUT/manifest.csv")
    given = Given(
        data=data,
        out=out or Path("runs") / table,
        runs=_runs(run or []),
        imagenet=imagenet,
        pretrain=pretrain,
        seeds=seeds,
        fractions=_fractions(fractions),
        split=split,
        overrides=tuple(overrides or ()),
    )
    made = run_benchmark(published, given, dry_run=dry_run)
    if not dry_run:
        write_page(made, given, __version__)
    if as_json:
        print(json.dumps(content(made, given, __version__)))
    elif dry_run:
        cells = as_table(made.outcomes) if made.outcomes else "no cell is trained; the given runs are asked"
        if not made.rows:
            cells = f"no cell can be run on what is in {given.data}"
        lines = ("absent  {column}: {set}", "        obtained: {obtained}", "        then: {command}")
        gone = [line.format(**one) for one in made.absent for line in lines]
        print("\n".join([cells, *gone, *(f"not run  {text}" for text in made.left_out)]))
    else:
        print(as_markdown(made, given))
    if made.failed:
        raise typer.Exit(2)


def _runs(words: list[str]) -> dict[str, Path]:
    from medvl.core.errors import InputError

    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path or name in found:
            raise InputError(f"--run {word}", expected="NAME=RUN, each name once")
        found[name] = Path(path)
    return found


def _fractions(words: str | None) -> list[float] | None:
    from medvl.core.errors import InputError

    if words is None:
        return None
    try:
        found = [float(word) for word in words.split(",")]
    except ValueError:
        found = []
    if not found or any(value not in (0.01, 0.1, 1.0) for value in found):
        raise InputError(f"--fractions {words}", expected="of 0.01, 0.1 and 1, with commas between them")
    return found
