"""medvl train and medvl fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.options import AsJson, ExcelSafe
from medvl.core.task import task_names


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
    try:
        run(config, out, resume=resume, dry_run=dry_run, accept_changed_data=accept_changed_data, command=_command())
    except KeyboardInterrupt as stop:
        print(how_to_go_on(out), file=sys.stderr)
        raise typer.Exit(getattr(stop, "exit_code", 130)) from None
    except OSError:  # a full disk
        if can_resume(out):
            print(how_to_go_on(out), file=sys.stderr)
        raise


def fit(
    table: Annotated[str, typer.Argument(help="CSV, JSONL, XLSX or Parquet; or medvl:cxr_regions, which ships")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, over the plan: train.epochs=5, data.columns={image: Path}")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the run folder to make, or to go on with; default runs/TABLE")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help=f"train {' | '.join(task_names())}; default: what the columns of the table allow"),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="open the test split too, which is logged in the run")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="stop after the plan and the time that it takes")] = False,
    seed: Annotated[int, typer.Option(help="of the split and of the training")] = 0,
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """From a table to a model and its report: audit, split, plan, train, evaluate. The same command goes on.

    Masks and texts train LViT, masks alone a U-Net; where most images have no mask, they are learned from too. Boxes
    train a detector, reports without masks a G2D pre-training, labels a classifier. What was decided is printed, and
    stands in RUN/fit and RUN/config.yaml. The table is never written to. Exit code 1 when a patient or an image stands
    in two splits, 2 when the table has faults.
    """
    import json

    from medvl.train.fit_table import fit_table

    name = Path(table.removeprefix("medvl:")).stem
    result = fit_table(
        table,
        out or Path("runs") / name,
        task=task,
        overrides=overrides or (),
        seed=seed,
        test=test,
        dry_run=dry_run,
        command=_command(),
    )
    if as_json:
        made = {"run": str(result.run), "task": result.task, "report": str(result.report), "summary": result.summary}
        print(json.dumps(made))
    elif result.report is not None:
        print(f"model   {result.run}\nreport  {result.report}\nnext    medvl predict {result.run} IMAGES --out FOLDER")


def _command() -> str:
    import sys

    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
