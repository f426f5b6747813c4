"""medvl x: what researchers run around the core: sweeps, published tables, learning curves, which masks next."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.options import OTHER_COLUMNS, AsJson, Device, ExcelSafe, numbers_of, show


def sweep(
    file: Annotated[Path, typer.Argument(help="sweep YAML: recipe, grid, variants, seeds")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value for every cell, e.g. train.accelerator=cpu")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for one run per cell; default runs/NAME")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the sets that $DATA in the sweep stands for")] = None,
    only: Annotated[list[str] | None, typer.Option(help="run this variant only; repeat for more")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the cells, done and open, and stop")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Train and score every cell of an experiment: grid x variants x seeds. One result file per finished cell.

    A finished cell is not run again, an interrupted one continues, one that fails on its input does not stop the
    others (exit code 2 at the end). Several processes may work at one sweep. When every cell is done, a table in OUT
    compares the variants.
    """
    from medvl.experiments.sweep_run import as_table, run_sweep

    outcomes = run_sweep(
        file,
        out or Path("runs") / file.stem,
        data=data,
        only=only or (),
        overrides=overrides or (),
        dry_run=dry_run,
    )
    print(as_table(outcomes))
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(2)


def benchmark(
    table: Annotated[str | None, typer.Argument(help="such as g2d-table1 or lvit-main; none: list them")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every trained cell")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the sets: DATA/LAYOUT/manifest.csv")] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(help="NAME=RUN, a row: a pre-training for G2D's tables, a segmenter for LViT's; repeat"),
    ] = None,
    imagenet: Annotated[Path | None, typer.Option(help="ImageNet weights of the ResNet, torchvision's keys")] = None,
    pretrain: Annotated[Path | None, typer.Option(help="recipe of the pre-trainings of tables 5 and 8")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="of every trained cell")] = 1,
    fractions: Annotated[str | None, typer.Option(help="of the labels, e.g. 0.01,0.1; default the table's")] = None,
    split: Annotated[str, typer.Option(help="split to score; test is logged in each model's folder")] = "test",
    out: Annotated[Path | None, typer.Option(help="default runs/TABLE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list cells and absent sets, and stop")] = False,
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Run a published table on whatever of its sets is here, beside the published rows.

    Sets are those that medvl data import wrote; absent ones are listed, never filled in. A finished cell is not run
    again. None of these tables has been reproduced yet: no set was at hand whole (docs/howto/benchmark.md).
    """
    from medvl import __version__
    from medvl.core.errors import InputError
    from medvl.experiments.benchmark import Given, run_benchmark
    from medvl.experiments.benchmark_page import as_json as content
    from medvl.experiments.benchmark_page import as_markdown, as_plan, write_page
    from medvl.experiments.published_tables import published_table, table_names

    if table is None:
        titles = {name: published_table(name).title for name in table_names()}
        show({"tables": titles}, "\n".join(f"{name:14} {title}" for name, title in titles.items()), as_json)
        return
    published = published_table(table)
    if data is None:
        raise InputError.missing("no folder of the sets", expected="--data DIR, which holds LAYOUT/manifest.csv")
    given = Given(
        data=data,
        out=out or Path("runs") / table,
        runs=_runs(run or []),
        imagenet=imagenet,
        pretrain=pretrain,
        seeds=seeds,
        fractions=None if fractions is None else _fractions(fractions),
        split=split,
        overrides=tuple(overrides or ()),
    )
    result = run_benchmark(published, given, dry_run=dry_run)
    if not dry_run:
        write_page(result, given, __version__)
    text = as_plan(result, given) if dry_run else as_markdown(result, given)
    show(content(result, given, __version__), text, as_json)
    if result.failed:
        raise typer.Exit(2)


def _runs(words: list[str]) -> dict[str, Path]:
    from medvl.core.errors import InputError

    runs: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path or name in runs:
            raise InputError.malformed(f"--run {word}", expected="NAME=RUN, each name once")
        runs[name] = Path(path)
    return runs


def _fractions(text: str) -> list[float]:
    from medvl.core.errors import InputError

    fractions = numbers_of(text, "--fractions")
    if any(value not in (0.01, 0.1, 1.0) for value in fractions):
        raise InputError.out_of_range(f"--fractions {text}", expected="of 0.01, 0.1 and 1, with commas between them")
    return fractions


class Unit(StrEnum):
    """What n counts."""

    images = "images"
    patients = "patients"
    records = "records"


def label_budget(
    runs: Annotated[list[str], typer.Argument(help="finished runs of one method, or the results folder of a sweep")],
    target_dice: Annotated[float, typer.Option(help="Dice per image on val to reach")],
    unit: Annotated[Unit, typer.Option(help="what is counted; records are rows of the manifest")] = Unit.images,
    variant: Annotated[str | None, typer.Option(help="which variant, where a results folder holds several")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="that of result cells which do not say how many images are labelled")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for learning_curve.csv, .json and .png")] = Path("label-budget"),
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Say how many more masks a target Dice would take, by the learning curve of runs at 3 or more label fractions.

    The curve is c - a n^-b. A run without an evaluation in RUN/report/val is evaluated first. The estimate has a 95 %
    interval over seeds and label draws, and says where it is an extrapolation or where the fitted ceiling lies below
    the target. How often such intervals hold is simulated for the fitted curve; no estimate has been checked by
    annotating more masks.
    """
    from medvl.experiments.label_budget import as_text
    from medvl.experiments.label_budget import label_budget as run

    result = run(
        runs, target_dice, unit=unit.value, variant=variant, manifest=manifest, out=out, device=device, seed=seed
    )
    show(result, as_text(result, out), as_json)


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
    device: Device = "cpu",
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Name the unlabelled training cases whose mask would help most: uncertain ones, unlike each other.

    Candidates are the training images whose masks are hidden by data.label_fraction or not there. No mask is read. It
    was tried once, on the shipped set, and was no better than chance: 20 suggested patients gave the Dice of 20 random
    ones (difference -0.002 [-0.005, +0.002], five draws).
    """
    from medvl.experiments.suggest import suggest as run_suggest

    rows = run_suggest(run, num, by=by.value, out=out, diversity=diversity, random=random, device=device)
    lines = [
        f"{row['order']:>4}  patient {row['patient']}  {row['image']}"
        + ("" if row["score"] is None else f"  score {row['score']:.3f}")
        for row in rows
    ]
    show({"suggestions": rows, "out": str(out)}, "\n".join([*lines, f"written: {out}"]), as_json)


def localise(
    model: Annotated[str, typer.Argument(help="run or model folder of a pre-training (task: pretrain)")],
    manifest: Annotated[Path, typer.Argument(help="manifest whose masks are looked for")],
    overrides: Annotated[list[str] | None, typer.Argument(help=OTHER_COLUMNS)] = None,
    target: Annotated[str, typer.Option(help="column of the mask: mask, or NAME of mask_NAME")] = "mask",
    lungs: Annotated[str | None, typer.Option(help="NAME of the column of the lung field, for comparison")] = None,
    text_column: Annotated[
        str, typer.Option(help="column of the reports; read of models with pretrain.mask.source=evidence only")
    ] = "text",
    split: Annotated[str, typer.Option(help="train, val, test, or all (then each split apart too)")] = "val",
    out: Annotated[Path | None, typer.Option(help="folder for cases.csv and summary.json")] = None,
    seed: Annotated[int, typer.Option(help="of the order in which masks are shuffled")] = 0,
    as_json: AsJson = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Compare where a pre-trained model looks (attention, pseudo mask, decoder) with masks it was never trained on.

    Overlap, pointing game and ROC area, each with a 95 % interval by patient, beside the mask of another image
    (shuffled), the lung field and chance. On phantoms the attention found consolidations and nodules, and
    effusions, enlarged hearts and pneumothoraces no better than another image's; after 122 real pairs it found lesions
    no better than chance.
    """
    from medvl.data.columns import table_columns
    from medvl.data.records import load_manifest
    from medvl.evaluation.record import refuse_other_results
    from medvl.experiments.localise import as_text, localisation

    classes = [name.removeprefix("mask_") for name in (target, *([lungs] if lungs else []))]
    # A mask cell that is empty is nothing to look for here, whatever it means elsewhere.
    records = load_manifest(
        manifest,
        text_column=text_column,
        classes=classes if classes != ["mask"] else None,
        columns=table_columns(overrides or ()),
    )
    same = {"model": model, "split": split, "target": classes[0], "manifest": str(records.path)}
    refuse_other_results(out, evaluation="localise", split_hash=records.split_hash(), **same)
    record = localisation(
        model, records, split=split, target=classes[0], lungs=classes[1] if lungs else None, out=out, seed=seed
    )
    show(record.summary, as_text(record.summary), as_json)


def pretrain_text(
    manifest: Annotated[str, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet; its images are not read")],
    out: Annotated[Path, typer.Option(help="new folder for the text encoder")],
    overrides: Annotated[list[str] | None, typer.Argument(help=OTHER_COLUMNS)] = None,
    steps: Annotated[int, typer.Option(help="optimizer steps")] = 2000,
    dim: Annotated[int, typer.Option(help="width, a multiple of 4; must equal text.dim later")] = 128,
    layers: Annotated[int, typer.Option(help="depth; must equal text.layers later")] = 2,
    tokenizer: Annotated[Path | None, typer.Option(help="folder of medvl data tokenizer; else words")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="cut longer texts")] = None,
    batch_size: Annotated[int, typer.Option(help="texts per step")] = 32,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 2e-3,
    seed: Annotated[int, typer.Option(help="weights, order and masks")] = 0,
    text_column: Annotated[str, typer.Option(help="column that holds the reports")] = "text",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train the built-in text encoder on report texts alone, by masked language modelling: text.init=FOLDER.

    Judged on the split val (or, without one, on a tenth of the texts) before and after, beside a guess by word
    frequency. The folder derives from report text. Whether it helps any later task has not been measured.
    """
    from medvl.data.columns import table_columns
    from medvl.data.corpus import read_corpus
    from medvl.experiments.masked_language import pretrain_text as run

    result = run(
        read_corpus(manifest, text_column, table_columns(overrides or ())),
        out,
        steps=steps,
        dim=dim,
        layers=layers,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device,
    )
    lines = [
        f"{out}: {result['train_texts']} training and {result['val_texts']} validation texts "
        f"(distinguished by {result['told_apart_by']}), vocabulary {result['vocabulary']}, {result['minutes']} min",
        "masked validation tokens  perplexity  accuracy",
    ]
    for name in ("unigram", "before", "after"):
        lines.append(f"  {name:22}  {result[name]['perplexity']:10.2f}  {result[name]['accuracy']:8.3f}")
    show({"folder": str(out), **result}, "\n".join(lines), as_json)
