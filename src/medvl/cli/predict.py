"""medvl predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.options import AsJson, Device, ExcelSafe, names_of, split_overrides

SOURCES_HELP = (
    "images (PNG, JPEG, TIFF, DICOM, NIfTI, NRRD, MHA, NPY), folders (with all folders below), globs in quotes, "
    "manifests; data.columns={image: Path} reads a table with other names"
)
SLICE_HELP = "of volumes and files of several frames: a number from 0, or all"


def predict(
    model: Annotated[str, typer.Argument(help="model or run folder; medvl:lvit_regions ships with medvl")],
    sources: Annotated[list[str], typer.Argument(metavar="IMAGES", help=SOURCES_HELP)],
    out: Annotated[Path, typer.Option(help="folder for masks, overlays and predictions.csv")],
    text: Annotated[list[str] | None, typer.Option(help="what to segment; repeat for several phrases")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="of a manifest: column of the phrases; default as in training")
    ] = None,
    slices: Annotated[str | None, typer.Option("--slice", help=f"{SLICE_HELP} (one mask volume)")] = None,
    context: Annotated[
        list[str] | None, typer.Option(help="a clinical variable that the model takes, e.g. age=63; repeat for more")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="of a pre-training: a,b,... whose probabilities are asked by prompts")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="of a pre-training: YAML of prompt families")] = None,
    family: Annotated[str | None, typer.Option(help="of a pre-training: family of that file")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="of masks and classes: probability [0.5]; of boxes: lowest score; of a pre-training's texts: a cosine "
            "from which a place is in the mask [no mask]"
        ),
    ] = None,
    device: Device = "cpu",
    max_megapixels: Annotated[
        float | None, typer.Option(min=100, help="of an image or slice; larger ones are refused [100]")
    ] = None,
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Ask a model of any task about images: masks of a text, boxes, probabilities of classes, where a text is.

    Of masks: PNG (and NIfTI with spacing), overlays and predictions.csv. Of all slices of a volume: one NIfTI mask of
    its shape. Of boxes: overlays and detections.csv. Rows of a manifest are asked with their own texts unless --text
    is given. Images of the same name are told apart by their folders. Exit code 1 when some images could not be read.
    """
    import json

    from medvl.core.errors import InputError
    from medvl.core.limits import allow_megapixels
    from medvl.data.columns import table_columns
    from medvl.data.images import parse_slice
    from medvl.inference.batch import predict_files

    if max_megapixels is not None:
        allow_megapixels(max_megapixels)
    given = {}
    for word in context or []:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError.malformed(f"--context {word!r} is not name=value", expected="e.g. --context age=63")
        given[name.strip()] = value.strip()
    images, overrides = split_overrides(sources)
    rows = predict_files(
        model,
        images,
        text or [],
        out,
        threshold=threshold,
        device=device,
        context=given,
        choice=parse_slice(slices),
        text_column=text_column,
        columns=table_columns(overrides),
        classes=[] if classes is None else names_of(classes),
        options={name: value for name, value in (("prompts", prompts), ("family", family)) if value is not None},
    )
    if as_json:
        print(json.dumps({"predictions": rows, "out": str(out)}))
    else:
        for row in rows:
            print(line_of(row), flush=True)
        if not rows:  # masks and probabilities have a row for every image
            print(f"no box was detected; {out}: detections.csv")


def line_of(row: dict[str, object]) -> str:
    """A row of predictions.csv or detections.csv for a terminal."""
    if "similarity" in row:
        box = f"box x0 y0 x1 y1: {row['box']}" if row["box"] else "no box"
        return (
            f"{row['similarity']}  {row['text']!r}  {box}; highest {row['highest']:.3f} at x {row['x']}, y {row['y']}"
        )
    if "mask" in row:
        return f"{row['mask']}  {row['text']!r}  {row['pred_px']} px"
    if "score" in row:
        return f"{row['id']}  {row['class']} {row['score']:.2f}  {row['x0']} {row['y0']} {row['x1']} {row['y1']}"
    probs = ", ".join(f"{name.removeprefix('prob_')} {p:.3f}" for name, p in row.items() if name.startswith("prob_"))
    return f"{row['id']}  {row['labels'] or 'no class'}  ({probs})" if "labels" in row else f"{row['id']}  {probs}"
