"""medvl suggest."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe


class By(StrEnum):
    """What is suggested as one."""

    patient = "patient"
    image = "image"


def suggest(
    run: Annotated[str, typer.Argument(help="finished run, supervised or semi-supervised")],
    num: Annotated[int, typer.Option(help="how many cases to name")] = 20,
    out: Annotated[Path, typer.Option(help="table of the cases: CSV, JSONL, XLSX or Parquet")] = Path(
        "suggestions.csv"
    ),
    by: Annotated[By, typer.Option(help="whole patients, as label fractions are drawn, or single images")] = By.patient,
    diversity: Annotated[
        float, typer.Option(help="exponent of the distance to what is labelled or chosen; 0: uncertainty alone")
    ] = 1.0,
    random: Annotated[
        int | None, typer.Option(help="a random choice of as many with this seed, to compare with")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as JSON")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Name the unlabelled training cases whose mask would help most: uncertain ones, unlike each other.

    Candidates are the training images whose masks are hidden by data.label_fraction or not there. No mask is read.
    """
    import json

    from medvl.experiments.suggest import suggest as run_suggest

    rows = run_suggest(run, num, by=by.value, out=out, diversity=diversity, random=random, device=device)
    if as_json:
        print(json.dumps({"suggestions": rows, "out": str(out)}))
        return
    for row in rows:
        score = "" if row["score"] is None else f"  score {row['score']:.3f}"
        print(f"{row['order']:>4}  patient {row['patient']}  {row['image']}{score}")
    print(f"written: {out}")
