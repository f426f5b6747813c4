"""medvl detect: another spelling of medvl predict with a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.excel import ExcelSafe
from medvl.cli.predict import SLICE_HELP, SOURCES_HELP, line_of


def detect(
    model: Annotated[str, typer.Argument(help="run or model folder of task: detect")],
    sources: Annotated[list[str], typer.Argument(metavar="IMAGES", help=SOURCES_HELP)],
    out: Annotated[Path, typer.Option(help="folder for detections.csv and overlays")],
    slices: Annotated[str | None, typer.Option("--slice", help=SLICE_HELP)] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="lowest score; default detect.score_threshold")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print the rows of detections.csv as JSON")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Find boxes in images, as `medvl predict` with a detector: detections.csv in native pixels, and overlays."""
    import json

    from medvl.data.slices import parse_slice
    from medvl.inference.batch import predict_files

    rows = predict_files(
        model, sources, [], out, threshold=threshold, device=device, choice=parse_slice(slices), task="detect"
    )
    if as_json:
        print(json.dumps({"detections": rows, "out": str(out)}))
        return
    for row in rows:
        print(line_of(row))
    print(f"{len(rows)} boxes on {len({row['id'] for row in rows})} images; {out}: detections.csv")
