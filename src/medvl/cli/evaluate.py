"""medvl evaluate, medvl compare and medvl report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.options import AsJson, Device, ExcelSafe, names_of, show, split_overrides
from medvl.cli.predict import SLICE_HELP, How, Temperature


class ProtocolName(StrEnum):
    """Published protocols of zero-shot classification; what each sets: docs/reference/protocols.md."""

    chexzero = "chexzero"
    medklip = "medklip"
    kad = "kad"


class EmptyMask(StrEnum):
    """Dice and IoU of a case whose true and predicted masks are both empty."""

    one = "one"
    zero = "zero"
    skip = "skip"


def evaluate(
    source: Annotated[str, typer.Argument(help="model or run folder, medvl:lvit_regions, or a folder of masks")],
    manifest: Annotated[
        Path | None,
        typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet, or medvl:cxr_regions; default the model's own"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="how to read the data, e.g. data.text_column=text_derived")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="folder for cases.csv and summary.json, never over those of another model")
    ] = Path("evaluation"),
    split: Annotated[str, typer.Option(help="split to score; test is logged in the model's folder")] = "val",
    threshold: Annotated[
        str | None,
        typer.Option(help="a number, or val: chosen there. Default: masks 0.5, boxes as trained"),
    ] = None,
    empty_mask: Annotated[EmptyMask, typer.Option(help="score of a case whose two masks are empty")] = EmptyMask.one,
    group_by: Annotated[list[str] | None, typer.Option(help="manifest column to tabulate by; repeat for more")] = None,
    text_column: Annotated[str | None, typer.Option(help="column that holds the text")] = None,
    slices: Annotated[str | None, typer.Option("--slice", help=f"{SLICE_HELP} (a case is then a whole volume)")] = None,
    surface: Annotated[bool, typer.Option("--surface/--no-surface", help="compute HD95 and ASSD")] = True,
    probe: Annotated[
        bool, typer.Option("--probe", help="also re-run each case with changed texts: probe.json")
    ] = False,
    probe_rows: Annotated[int | None, typer.Option(help="with --probe: so many rows at most, a seeded choice")] = None,
    target: Annotated[
        str | None, typer.Option(help="pre-trained model: column mask, or NAME of mask_NAME, to look for [mask]")
    ] = None,
    phrase: Annotated[str | None, typer.Option(help="pre-trained model: one text for all records")] = None,
    sigma: Annotated[
        float | None, typer.Option(help="pre-trained model: Gaussian smoothing of the map in cells, 0 = none [1.5]")
    ] = None,
    how: Annotated[
        How | None, typer.Option(help="pre-trained model: value path of the attention pool [value], or its projector")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="pre-trained model: a,b,... to classify by prompts; default every label")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="of prompts: YAML of families; default the shipped one")] = None,
    family: Annotated[str | None, typer.Option(help="of prompts: family of that file [its first]")] = None,
    protocol: Annotated[ProtocolName | None, typer.Option(help="of prompts: published prompts and thresholds")] = None,
    temperature: Annotated[
        Temperature | None, typer.Option(help="of prompts: divide the cosines by that of the model, or by 1")
    ] = None,
    update_card: Annotated[bool, typer.Option("--update-card", help="write the metrics into the model's card")] = False,
    seed: Annotated[int, typer.Option(help="of the bootstrap and of the shuffled texts")] = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Score a model of any task, or a folder of masks made by any program, on one split of a manifest.

    Writes cases.csv (one row per case) and summary.json, with a 95 % interval by patient for each metric.

    Masks: Dice and IoU in both conventions, Dice as MGCA's program counts it and of the positives, HD95, ASSD and
    lesions. A folder of masks holds <id>.png or <id>__<phrase-slug>.png, and for several classes <id>__<class>.png.

    Classifier: AUC, average precision, F1, calibration and the curves; its thresholds are chosen on val unless one is
    given. Detector: both mAPs, COCO's AP, a fixed mean box beside them, and detections.csv.

    Pre-trained model: grounding of phrases where the manifest has masks (Dice, IoU, recall, pointing game, contrast,
    beside shuffled phrases and chance), else, or with an option of the prompts, classification by prompts against the
    labels (AUC, F1, accuracy, MCC). It was trained on neither.
    """
    from medvl.data.images import parse_slice
    from medvl.evaluation.request import EvaluationRequest, run_request

    words = list(overrides or [])
    if manifest is not None and "=" in str(manifest) and not manifest.exists():  # left out, an override follows
        words, manifest = [str(manifest), *words], None
    if text_column is not None:
        words.append(f"data.text_column={text_column}")
    choice = parse_slice(slices)
    if isinstance(choice, int):
        words.append(f"data.slice_index={choice}")
    options = {
        "empty-mask": None if empty_mask is EmptyMask.one else empty_mask.value,
        "group-by": group_by or None,
        "no-surface": None if surface else True,
        "probe": probe or None,
        "probe-rows": probe_rows,
        "target": target,
        "phrase": phrase,
        "sigma": sigma,
        "how": how and how.value,
        "classes": names_of(classes) if classes else None,
        "prompts": prompts,
        "family": family,
        "protocol": protocol and protocol.value,
        "temperature": temperature and temperature.value,
    }
    request = EvaluationRequest(
        source,
        manifest,
        out=out,
        overrides=words,
        split=split,
        threshold=threshold,
        choice=choice,
        seed=seed,
        device=device,
        updates_card=update_card,
        options={name: value for name, value in options.items() if value is not None},
    )
    summary, text = run_request(request)
    show(summary, text, as_json)


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
    text: Annotated[bool, typer.Option("--text/--no-text", help="show prompts in the pictures")] = True,
    seed: Annotated[int, typer.Option(help="of the bootstrap, the permutations, and cases of equal quality")] = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Compare runs on the same cases, over seeds and patients, with paired tests, and show cases side by side.

    Dice and IoU in both conventions, of classifiers AUC (macro and of each class). Runs that differ in nothing but
    their seeds are one method. A run without an evaluation in RUN/report/SPLIT is evaluated first. Folders that
    medvl evaluate wrote (masks of any program included) are taken as they are. Runs of several tasks give one table a
    task. With --folds the runs of a cross-validation are one run of all its cases.
    """
    from medvl.evaluation.compare import compare as run
    from medvl.evaluation.comparison_tables import as_text

    folders, overrides = split_overrides(runs)
    result = run(
        folders,
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
    show(result, as_text(result, out), as_json)


def report(
    model: Annotated[str, typer.Argument(help="run or model folder, or medvl:lvit_regions")],
    manifest: Annotated[Path | None, typer.Argument(help="manifest; default the one the model was trained on")] = None,
    split: Annotated[str, typer.Option(help="split to show; test is logged in the model's folder")] = "val",
    out: Annotated[Path | None, typer.Option(help="the HTML file; default RUN/report/SPLIT/report.html")] = None,
    text: Annotated[bool, typer.Option("--text/--no-text", help="show report text in the page")] = True,
    group_by: Annotated[
        list[str] | None, typer.Option(help="column to tabulate by; default: those with few values")
    ] = None,
    probe_rows: Annotated[int, typer.Option(help="rows of the text sensitivity at most, a seeded choice")] = 600,
    threshold: Annotated[float, typer.Option(help="probability above which a pixel belongs to the mask")] = 0.5,
    text_column: Annotated[str | None, typer.Option(help="column that holds the text")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Write one self-contained HTML page: curves, metrics with intervals, cases with contours, text sensitivity.

    Evaluates the split, and with five versions of each text, unless that is already in RUN/report/SPLIT. Of a
    pre-training (task: pretrain) the page shows what the run has logged: losses, retrieval against chance, panels with
    their reports.
    Of a classifier (task: classify): AUC and calibration of each class, the curves, the confusion matrix.
    Of a detector (task: detect): average precision beside a fixed mean box, precision and recall by score, images
    with their boxes.
    """
    from medvl.evaluation.report.page import make_report

    path, summary = make_report(
        model,
        manifest,
        split=split,
        out=out,
        include_text=text,
        group_by=group_by or (),
        probe_rows=probe_rows,
        threshold=threshold,
        overrides=[] if text_column is None else [f"data.text_column={text_column}"],
        device=device,
    )
    show({"report": str(path), "summary": summary}, str(path), as_json)
