"""medvl plan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe


class Unit(StrEnum):
    """What n counts."""

    images = "images"
    patients = "patients"
    records = "records"


def plan(
    runs: Annotated[list[str], typer.Argument(help="finished runs of one method, or the results folder of a sweep")],
    target_dice: Annotated[float, typer.Option(help="Dice per image on val to reach")],
    unit: Annotated[Unit, typer.Option(help="what is counted; records are rows of the manifest")] = Unit.images,
    variant: Annotated[str | None, typer.Option(help="which variant, where a results folder holds several")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="that of result cells which do not say how many images are labelled")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for learning_curve.csv, .json and .png")] = Path("plan"),
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps: where a run is evaluated")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print learning_curve.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """How many more masks a target Dice would take: the learning curve c - a n^-b of runs at 3 label fractions or more.

    A run without an evaluation in RUN/report/val is evaluated first. The answer has a 95 % interval over seeds and
    label draws, and says where it is an extrapolation or where the fitted ceiling lies below the target.
    """
    import json

    from medvl.experiments.label_budget import as_text
    from medvl.experiments.label_budget import plan as run

    result = run(
        runs, target_dice, unit=unit.value, variant=variant, manifest=manifest, out=out, device=device, seed=seed
    )
    print(json.dumps(result) if as_json else as_text(result, out))
