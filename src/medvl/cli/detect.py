"""medvl detect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def detect(
    model: Annotated[str, typer.Argument(help="run or model folder of task: detect")],
    images: Annotated[list[Path], typer.Argument(help="images: PNG, JPEG, TIFF, DICOM, NIfTI")],
    out: Annotated[Path, typer.Option(help="folder for detections.csv and overlays")],
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="lowest score; default detect.score_threshold")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print the rows of detections.csv as JSON")] = False,
) -> None:
    """Find boxes in images: detections.csv in native pixels, and each image with its boxes drawn in."""
    import json

    from medvl.infer.detect import detect_files

    rows = detect_files(model, images, out, threshold=threshold, device=device)
    if as_json:
        print(json.dumps({"detections": rows, "out": str(out)}))
        return
    for row in rows:
        print(f"{row['id']}  {row['class']} {row['score']:.2f}  {row['x0']} {row['y0']} {row['x1']} {row['y1']}")
    print(f"{len(rows)} boxes on {len({row['id'] for row in rows})} of {len(images)} images; {out}: detections.csv")
