"""medvl train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path | None, typer.Argument(help="YAML recipe; not needed with --resume")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. train.lr=3e-4")] = None,
    out: Annotated[Path | None, typer.Option(help="the run folder to make (or to resume)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and stop; nothing is written")] = False,
    accept_changed_data: Annotated[
        bool, typer.Option("--accept-changed-data", help="resume although manifest, splits or images differ")
    ] = False,
) -> None:
    """Train a recipe into a run folder. The plan (data, size, time, memory) is printed first."""
    import sys

    from medvl.config import load_config, recipe_names
    from medvl.core.errors import InputError
    from medvl.train.run import train as run
    from medvl.train.run_folder import can_resume, how_to_go_on

    if recipe is not None and "=" in str(recipe) and not recipe.exists():
        overrides, recipe = [str(recipe), *(overrides or [])], None
    if recipe is None and not resume:
        raise InputError.missing(
            "no recipe",
            expected=f"a YAML file, or one of the recipes that come with medvl: {', '.join(recipe_names())}",
            remedy="e.g. medvl train lvit_regions --out runs/lvit; or, from a table alone, medvl fit TABLE --out RUN",
        )
    if out is None and recipe is not None:
        out = Path("runs") / recipe.stem
    if out is None:
        raise InputError.missing("no run folder", expected="--out RUN")
    if resume and overrides:
        raise InputError.conflict("a resumed run keeps its configuration", remedy="drop the key=value overrides")
    config = None if recipe is None else load_config(recipe, overrides or ())
    if accept_changed_data and not resume:
        raise InputError.conflict("--accept-changed-data without --resume", expected="both, or neither")
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    try:
        run(config, out, resume=resume, dry_run=dry_run, accept_changed_data=accept_changed_data, command=command)
    except KeyboardInterrupt as stop:
        print(how_to_go_on(out), file=sys.stderr)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    except OSError:  # a full disk
        if can_resume(out):
            print(how_to_go_on(out), file=sys.stderr)
        raise
