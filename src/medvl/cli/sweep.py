"""medvl sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe


def sweep(
    file: Annotated[Path, typer.Argument(help="sweep YAML: recipe, grid, variants, seeds")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value for every cell, e.g. train.accelerator=cpu")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for one run per cell; default runs/NAME")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the sets that $DATA in the sweep stands for")] = None,
    only: Annotated[list[str] | None, typer.Option(help="run this variant only; repeat for more")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the cells, done and open, and stop")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Train and score every cell of an experiment: grid x variants x seeds. One result file per finished cell.

    A finished cell is not run again, an interrupted one continues, one that fails on its input does not stop the
    others (exit code 2 at the end). Several processes may work at one sweep.
    """
    from medvl.experiments.sweep_run import as_table, run_sweep

    outcomes = run_sweep(
        file,
        out or Path("runs") / file.stem,
        data=data,
        only=only or (),
        overrides=overrides or (),
        dry_run=dry_run,
    )
    print(as_table(outcomes))
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(2)
