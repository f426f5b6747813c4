"""medvl predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[str, typer.Argument(help="model or run folder; medvl:lvit_regions ships with medvl")],
    images: Annotated[list[Path], typer.Argument(help="images: PNG, JPEG, TIFF, DICOM, NIfTI")],
    out: Annotated[Path, typer.Option(help="folder for masks, overlays and predictions.csv")],
    text: Annotated[list[str] | None, typer.Option(help="what to segment; repeat for several phrases")] = None,
    context: Annotated[
        list[str] | None, typer.Option(help="a clinical variable that the model takes, e.g. age=63; repeat for more")
    ] = None,
    threshold: Annotated[float, typer.Option(help="probability above which a pixel belongs to the mask")] = 0.5,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print the rows of predictions.csv as JSON")] = False,
) -> None:
    """Segment images by text. Masks (PNG; NIfTI with spacing), overlays and predictions.csv at native size."""
    import json

    from medvl.errors import InputError
    from medvl.infer.batch import predict_files

    given = {}
    for word in context or []:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--context {word!r} is not name=value", expected="e.g. --context age=63")
        given[name.strip()] = value.strip()
    rows = predict_files(model, images, text or [], out, threshold=threshold, device=device, context=given)
    if as_json:
        print(json.dumps({"predictions": rows, "out": str(out)}))
    else:
        for row in rows:
            print(f"{row['mask']}  {row['text']!r}  {row['pred_px']} px", flush=True)
