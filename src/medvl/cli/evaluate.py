"""medvl evaluate, medvl compare and medvl report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from medvl.cli.options import AsJson, Device, ExcelSafe
from medvl.cli.predict import SLICE_HELP


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
        str | None, typer.Option(help="0.5 unless said, or val: chosen on val by Dice per image")
    ] = None,
    empty_mask: Annotated[EmptyMask, typer.Option(help="score of a case whose two masks are empty")] = EmptyMask.one,
    group_by: Annotated[list[str] | None, typer.Option(help="manifest column to tabulate by; repeat for more")] = None,
    text_column: Annotated[str | None, typer.Option(help="column that holds the text")] = None,
    slices: Annotated[str | None, typer.Option("--slice", help=f"{SLICE_HELP} (a case is then a whole volume)")] = None,
    surface: Annotated[bool, typer.Option("--surface/--no-surface", help="compute HD95 and ASSD")] = True,
    probe: Annotated[bool, typer.Option("--probe", help="also ask with untrue texts: probe.json")] = False,
    probe_rows: Annotated[int | None, typer.Option(help="probe so many rows at most, a seeded choice")] = None,
    update_card: Annotated[bool, typer.Option("--update-card", help="write the metrics into the model's card")] = False,
    seed: Annotated[int, typer.Option(help="of the bootstrap and of the shuffled texts")] = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Score a model, or a folder of masks made by any program, on one split of a manifest.

    Writes cases.csv (one row per case) and summary.json: Dice and IoU in both conventions, Dice as MGCA's program
    counts it and of the positives, HD95, ASSD and lesions, each with a 95 % interval by patient. A folder of masks
    holds <id>.png or <id>__<phrase-slug>.png, and for several classes <id>__<class>.png. Of a classifier (task:
    classify): AUC, average precision, F1, calibration and the curves; its thresholds are chosen on val unless one is
    given. Of a detector (task: detect): both mAPs, COCO's AP, a fixed mean box beside them, and detections.csv; the
    threshold is the lowest score of a prediction.
    """
    import json
    import sys

    from medvl.core.errors import InputError, warn
    from medvl.data.images import SliceChoice, parse_slice
    from medvl.evaluation.model_inputs import open_inputs, task_of
    from medvl.evaluation.record import log_test, refuse_other_results
    from medvl.evaluation.text_sensitivity import probe as run_probe
    from medvl.evaluation.volumes import volumes_of
    from medvl.inference.model_folder import update_card as write_metrics
    from medvl.tasks.segment.evaluate import as_text, choose_threshold
    from medvl.tasks.segment.evaluate import evaluate as run

    words = list(overrides or [])
    if manifest is not None and "=" in str(manifest) and not manifest.exists():  # left out, an override follows
        words, manifest = [str(manifest), *words], None
    if text_column is not None:
        words.append(f"data.text_column={text_column}")
    choice = parse_slice(slices)
    if isinstance(choice, int):
        words.append(f"data.slice_index={choice}")
    task = task_of(source)
    if choice == "all" and (probe or probe_rows is not None or task in ("classify", "detect")):
        what = "--probe" if task in (None, "segment") else f"a model of task: {task}"
        raise InputError.unsupported(f"--slice all with {what}", file=source, expected="one slice: --slice N")
    if task in ("classify", "detect"):
        given = {
            "--empty-mask": empty_mask is not EmptyMask.one,
            "--group-by": bool(group_by),
            "--no-surface": not surface,
            "--probe": probe or probe_rows is not None,
        }
        summary, text = _without_masks(
            task, source, manifest, words, out, split, threshold, given, update_card, seed, device
        )
        print(json.dumps(summary) if as_json else text)
        return
    inputs = open_inputs(source, words, device=device)
    if inputs.model_folder is None and (threshold or probe or update_card):
        raise InputError.conflict(
            "a folder of masks has no threshold, no text and no card",
            file=source,
            remedy="leave out --threshold, --probe and --update-card",
        )
    records = inputs.manifest(manifest)
    if out.exists():
        described = inputs.source.describe()
        known = "model_hash" if "model_hash" in described else "model"  # a folder of masks is known by its name
        same = {
            "evaluation": "segment",
            known: described[known],
            "manifest_hash": records.content_hash(),
            "split": split,
        }
        refuse_other_results(out, **same)
    coverage = inputs.texts(records.split(split))
    if coverage is not None:
        print(coverage.line(split), file=sys.stderr)
        for line in coverage.warnings():
            warn(f"{records.path}: {split}: {line}")
    value, how = _number(threshold), "fixed"
    scored = volumes_of(inputs.source) if choice == "all" else inputs.source
    slice_index: SliceChoice = "all" if choice == "all" else inputs.data.slice_index
    if threshold == "val":
        value, _ = choose_threshold(
            scored,
            records.split("val"),
            records.classes,
            empty_mask=empty_mask.value,
            slice_index=slice_index,
        )
        how = "val"
    record = run(
        scored,
        records,
        split=split,
        threshold=value,
        threshold_source=how,
        empty_mask=empty_mask.value,
        seed=seed,
        out=out,
        surface=surface,
        group_by=group_by or (),
        slice_index=slice_index,
        mgca_batch=inputs.mgca_batch,
    )
    summary = record.summary
    if inputs.model_folder is not None and split == "test":
        log_test(inputs.model_folder, record)
    if inputs.model_folder is not None and update_card:
        means = {name: metric["mean"] for name, metric in summary["metrics"].items()}
        write_metrics(
            inputs.model_folder, metrics={split: {**means, "grid": "native", "num_cases": summary["num_cases"]}}
        )
    if probe:
        result = run_probe(
            inputs.source,
            records,
            split=split,
            threshold=value,
            laterality=inputs.data.laterality,
            seed=seed,
            max_rows=probe_rows,
            empty_mask=empty_mask.value,
            slice_index=inputs.data.slice_index,
            out=out,
        ).summary
        summary = {**summary, "probe": result}
    print(json.dumps(summary) if as_json else as_text(summary, out))


def report(
    model: Annotated[str, typer.Argument(help="run or model folder, or medvl:lvit_regions")],
    manifest: Annotated[Path | None, typer.Argument(help="manifest; default the one the model was trained on")] = None,
    split: Annotated[str, typer.Option(help="split to show; test is logged in the model's folder")] = "val",
    out: Annotated[Path | None, typer.Option(help="the HTML file; default RUN/report/SPLIT/report.html")] = None,
    text: Annotated[bool, typer.Option("--text/--no-text", help="show report text in the page")] = True,
    group_by: Annotated[
        list[str] | None, typer.Option(help="column to tabulate by; default: those with few values")
    ] = None,
    probe_rows: Annotated[int, typer.Option(help="rows of the text probe at most, a seeded choice")] = 600,
    threshold: Annotated[float, typer.Option(help="probability above which a pixel belongs to the mask")] = 0.5,
    text_column: Annotated[str | None, typer.Option(help="column that holds the text")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Write one self-contained HTML page: curves, metrics with intervals, cases with contours, the text probe.

    Evaluates and probes the split unless the results are already in RUN/report/SPLIT. Of a pre-training (task:
    pretrain) the page shows what the run has logged: losses, retrieval against chance, panels with their reports.
    Of a classifier (task: classify): AUC and calibration of each class, the curves, the confusion matrix.
    Of a detector (task: detect): average precision beside a fixed mean box, precision and recall by score, images
    with their boxes.
    """
    import json

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
    print(json.dumps({"report": str(path), "summary": summary}) if as_json else str(path))


def _without_masks(
    task: str,
    source: str,
    manifest: Path | None,
    words: list[str],
    out: Path,
    split: str,
    threshold: str | None,
    given: dict[str, bool],
    update_card: bool,
    seed: int,
    device: str,
) -> tuple[dict[str, Any], str]:
    """Score a classifier or detector; log test and write the card as for masks. `given`: options that are about masks.

    -> the summary, and as a text.
    """
    from medvl.config import load_config, manifest_path
    from medvl.core.errors import InputError
    from medvl.evaluation.model_inputs import read_as_trained
    from medvl.evaluation.record import log_test, refuse_other_results
    from medvl.inference.model_folder import find_model, weights_hash
    from medvl.inference.model_folder import update_card as write_metrics
    from medvl.tasks.classify import evaluate as classifier
    from medvl.tasks.detect import evaluate as detector

    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        kind = {"classify": "classifier", "detect": "detector"}[task]
        raise InputError.conflict(
            f"{', '.join(wrong)} for a {kind}", file=source, remedy="leave it out: it is about masks"
        )
    value = None if threshold in (None, "val") else _number(threshold)
    if out.exists():
        config = load_config(find_model(source) / "config.yaml")
        records, _ = read_as_trained(config, manifest or manifest_path(config), words)
        same = {"model_hash": weights_hash(source), "manifest_hash": records.content_hash(), "split": split}
        refuse_other_results(out, evaluation=task, **same)
    if task == "detect":
        if threshold == "val":
            raise InputError.conflict("--threshold val for a detector", file=source, expected="a score from 0 to 1")
        record = detector.evaluate_detector(
            source, manifest, split=split, threshold=value, overrides=words, out=out, seed=seed, device=device
        )
        text = detector.as_text(record.summary, out)
    else:
        own = manifest_path(load_config(find_model(source) / "config.yaml")) if manifest is None else manifest
        record = classifier.evaluate_classifier(
            source, own, split=split, threshold=value, overrides=words, out=out, seed=seed, device=device
        )
        text = classifier.as_text(record.summary, out)
    if split == "test":
        log_test(source, record)
    if update_card:
        means = {name: metric["mean"] for name, metric in record.metrics.items()}
        write_metrics(source, metrics={split: {**means, "num_cases": record.num_cases}})
    return record.summary, text


def _number(threshold: str | None) -> float:
    from medvl.core.errors import InputError

    if threshold is None or threshold == "val":
        return 0.5
    try:
        value = float(threshold)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise InputError.out_of_range(f"threshold {threshold}", expected="a probability from 0 to 1, or val")
    return value


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
    device: Device = "cpu",
    as_json: AsJson = False,
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
