"""medvl predict."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medvl.cli.options import AsJson, Device, ExcelSafe, names_of, show, split_overrides

SOURCES_HELP = (
    "images (PNG, JPEG, TIFF, DICOM, NIfTI, NRRD, MHA, NPY), folders (with all folders below), globs in quotes, "
    "manifests; data.columns={image: Path} reads a table with other names"
)
SLICE_HELP = "of volumes and files of several frames: a number from 0, or all"


class How(StrEnum):
    """How a cell of the image gets into the space of the texts."""

    value = "value"
    projector = "projector"


class Temperature(StrEnum):
    """What the cosines are divided by before the softmax."""

    model = "model"
    none = "none"


def predict(
    model: Annotated[str, typer.Argument(help="model or run folder; medvl:lvit_regions ships with medvl")],
    sources: Annotated[list[str], typer.Argument(metavar="IMAGES", help=SOURCES_HELP)],
    out: Annotated[Path, typer.Option(help="folder for the table, masks, maps and overlays")],
    text: Annotated[list[str] | None, typer.Option(help="what to look for; repeat for several texts")] = None,
    classes: Annotated[
        str | None, typer.Option(help="pre-trained model: classes to give the probabilities of, e.g. effusion,edema")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="of a manifest: column of the texts; default as in training")
    ] = None,
    slices: Annotated[str | None, typer.Option("--slice", help=f"{SLICE_HELP} (one mask volume)")] = None,
    context: Annotated[
        list[str] | None, typer.Option(help="a clinical variable that the model takes, e.g. age=63; repeat for more")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="of masks and classes: probability [0.5]; of boxes: lowest score; pre-trained: cosine"),
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="pre-trained model: Gaussian smoothing of the map in cells, 0 = none [1.5]")
    ] = None,
    how: Annotated[
        How | None, typer.Option(help="pre-trained model: value path of the attention pool [value], or its projector")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="with --classes: YAML of prompt families; default the shipped one")
    ] = None,
    family: Annotated[str | None, typer.Option(help="with --classes: family of that file [its first]")] = None,
    temperature: Annotated[
        Temperature | None, typer.Option(help="with --classes: divide the cosines by that of the model, or by 1")
    ] = None,
    device: Device = "cpu",
    max_megapixels: Annotated[
        float | None, typer.Option(min=100, help="of an image or slice; larger ones are refused [100]")
    ] = None,
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Ask a model about images, by its task: masks of texts, boxes, probabilities of classes. All at native size.

    Segmentation: masks as PNG (and NIfTI with spacing), overlays, predictions.csv; of all slices of a volume one NIfTI
    mask of its shape. Detector: overlays and detections.csv. Classifier: predictions.csv. Pre-trained model: with
    --text a map of where each text is, with --threshold also its mask and box; with --classes probabilities by prompts.
    Rows of a manifest are given their own texts unless --text is given. Images of the same name are distinguished by
    their folders. Exit code 1 when some images could not be read.
    """
    from medvl.core.limits import allow_megapixels
    from medvl.data.columns import table_columns
    from medvl.data.images import parse_slice
    from medvl.inference.batch import predict_files

    if max_megapixels is not None:
        allow_megapixels(max_megapixels)
    options: dict[str, Any] = {"sigma": sigma, "how": how and how.value, "prompts": prompts, "family": family}
    options["temperature"] = temperature and temperature.value
    images, overrides = split_overrides(sources)
    rows = predict_files(
        model,
        images,
        text or [],
        out,
        threshold=threshold,
        device=device,
        context=_pairs(context or []),
        choice=parse_slice(slices),
        text_column=text_column,
        columns=table_columns(overrides),
        classes=names_of(classes or ""),
        options={name: value for name, value in options.items() if value is not None},
    )
    lines = lines_of(rows, model, threshold) or [f"no box was detected; {out}: detections.csv"]
    show({"predictions": rows, "out": str(out)}, "\n".join(lines), as_json)


def _pairs(words: list[str]) -> dict[str, str]:
    from medvl.core.errors import InputError

    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError.malformed(f"--context {word!r} is not name=value", expected="e.g. --context age=63")
        pairs[name.strip()] = value.strip()
    return pairs


def lines_of(rows: Sequence[dict[str, Any]], model: str, threshold: float | None) -> list[str]:
    """The rows for a terminal, and how to come by a threshold where a pre-trained model was given none.

    A cosine means something only for one model, set and `--how`.
    """
    lines = [line_of(row) for row in rows]
    if threshold is None and any("similarity" in row for row in rows):
        lines.append(
            f"mask and box need --threshold: medvl evaluate {model} MANIFEST, with masks of what is looked for, prints "
            "the best of val"
        )
    return lines


def line_of(row: dict[str, Any]) -> str:
    """A row of predictions.csv or detections.csv for a terminal."""
    if "similarity" in row:
        box = f"box x0 y0 x1 y1: {row['box']}" if row["box"] else "no box" if row["mask"] else "no mask, no box"
        highest = f"highest {row['highest']:.3f} at x {row['x']}, y {row['y']}"
        return f"{row['similarity']}  {row['text']!r}  {box}; {highest}"
    if "mask" in row:
        return f"{row['mask']}  {row['text']!r}  {row['pred_px']} px"
    if "score" in row:
        return f"{row['id']}  {row['class']} {row['score']:.2f}  {row['x0']} {row['y0']} {row['x1']} {row['y1']}"
    probs = ", ".join(f"{name.removeprefix('prob_')} {p:.3f}" for name, p in row.items() if name.startswith("prob_"))
    chosen = f"  {row['labels'] or 'no class'}" if "labels" in row else ""
    return f"{row['id']}{chosen}  ({probs})"
