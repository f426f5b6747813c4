"""medvl compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(help="runs, models or evaluation folders; and data.KEY=VALUE, as in medvl evaluate"),
    ],
    split: Annotated[str, typer.Option(help="split to compare on; opening test is logged in each model")] = "val",
    manifest: Annotated[Path | None, typer.Option(help="score runs on this one; default each run's own")] = None,
    out: Annotated[Path, typer.Option(help="folder for compare.csv, compare.json, compare.html, cases.png")] = Path(
        "comparison"
    ),
    reference: Annotated[str | None, typer.Option(help="method to compare the others with; default the first")] = None,
    names: Annotated[
        list[str] | None, typer.Option(help="a name for each method, or for each run; repeat for more")
    ] = None,
    folds: Annotated[
        bool, typer.Option("--folds", help="pool runs that differ in data.manifest alone: folds of one set")
    ] = False,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="draw the same cases under all methods")
    ] = True,
    text: Annotated[bool, typer.Option("--text/--no-text", help="show phrases in the pictures")] = True,
    seed: Annotated[int, typer.Option(help="of the bootstrap, the permutations, and cases of equal quality")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps: where a run is evaluated")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print compare.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Compare runs on the same cases, over seeds and patients, with paired tests, and show cases side by side.

    Dice and IoU in both conventions, of classifiers AUC (macro and of each class). Runs that differ in nothing but
    their seeds are one method. A run without an evaluation in RUN/report/SPLIT is evaluated first. Folders written by
    medvl evaluate (masks of any program included), classify and ground are taken as they are. Runs of several tasks
    give one table a task. With --folds the runs of a cross-validation are one run of all its cases.
    """
    import json

    from medvl.evaluation.compare import compare as run
    from medvl.evaluation.comparison_tables import as_text

    overrides = [word for word in runs if "=" in word and not Path(word).exists()]
    result = run(
        [word for word in runs if word not in overrides],
        split=split,
        manifest_path=manifest,
        names=names or (),
        reference=reference,
        overrides=overrides,
        folds=folds,
        out=out,
        device=device,
        seed=seed,
        pictures=pictures,
        include_text=text,
    )
    print(json.dumps(result) if as_json else as_text(result, out))
