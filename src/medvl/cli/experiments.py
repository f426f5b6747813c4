"""medvl x: what researchers run around the core: sweeps, published tables, learning curves, which masks next."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medvl.cli.options import ExcelSafe


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
    others (exit code 2 at the end). Several processes may work at one sweep.
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
    table: Annotated[str | None, typer.Argument(help="g2d-table1, 2a, 2b, 3, 4, 5, 7 or 8; none: list them")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value for every trained cell")] = None,
    data: Annotated[Path | None, typer.Option(help="folder of the sets: DATA/LAYOUT/manifest.csv")] = None,
    run: Annotated[list[str] | None, typer.Option(help="NAME=RUN, a pre-trained row; repeat for more")] = None,
    imagenet: Annotated[Path | None, typer.Option(help="ImageNet weights of the ResNet, torchvision's keys")] = None,
    pretrain: Annotated[Path | None, typer.Option(help="recipe of the pre-trainings of tables 5 and 8")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="of every trained cell")] = 1,
    fractions: Annotated[str | None, typer.Option(help="of the labels, e.g. 0.01,0.1; default the table's")] = None,
    split: Annotated[str, typer.Option(help="split to score; test is logged in each model's folder")] = "test",
    out: Annotated[Path | None, typer.Option(help="default runs/TABLE")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list cells and absent sets, and stop")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print benchmark.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Run a published table on whatever of its sets is here, beside the published rows.

    Sets are those that medvl data import wrote; absent ones are listed, never filled in. A finished cell is not run
    again.
    """
    import json

    from medvl import __version__
    from medvl.core.errors import InputError
    from medvl.experiments.benchmark import run_benchmark
    from medvl.experiments.benchmark_given import Given
    from medvl.experiments.benchmark_page import as_json as content
    from medvl.experiments.benchmark_page import as_markdown, write_page
    from medvl.experiments.published_tables import published_table, table_names
    from medvl.experiments.sweep_run import as_table

    if table is None:
        names = {name: published_table(name).title for name in table_names()}
        print(json.dumps({"tables": names}) if as_json else "\n".join(f"{a:14} {b}" for a, b in names.items()))
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
        fractions=_fractions(fractions),
        split=split,
        overrides=tuple(overrides or ()),
    )
    made = run_benchmark(published, given, dry_run=dry_run)
    if not dry_run:
        write_page(made, given, __version__)
    if as_json:
        print(json.dumps(content(made, given, __version__)))
    elif dry_run:
        cells = as_table(made.outcomes) if made.outcomes else "no cell is trained; the given runs are asked"
        if not made.rows:
            cells = f"no cell can be run on what is in {given.data}"
        lines = ("absent  {column}: {set}", "        obtained: {obtained}", "        then: {command}")
        gone = [line.format(**one) for one in made.absent for line in lines]
        print("\n".join([cells, *gone, *(f"not run  {text}" for text in made.left_out)]))
    else:
        print(as_markdown(made, given))
    if made.failed:
        raise typer.Exit(2)


def _runs(words: list[str]) -> dict[str, Path]:
    from medvl.core.errors import InputError

    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name or not path or name in found:
            raise InputError.malformed(f"--run {word}", expected="NAME=RUN, each name once")
        found[name] = Path(path)
    return found


def _fractions(words: str | None) -> list[float] | None:
    from medvl.core.errors import InputError

    if words is None:
        return None
    try:
        found = [float(word) for word in words.split(",")]
    except ValueError:
        found = []
    if not found or any(value not in (0.01, 0.1, 1.0) for value in found):
        raise InputError.out_of_range(f"--fractions {words}", expected="of 0.01, 0.1 and 1, with commas between them")
    return found


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
    out: Annotated[Path, typer.Option(help="folder for learning_curve.csv, .json and .png")] = Path("plan"),
    seed: Annotated[int, typer.Option(help="of the bootstrap")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps: where a run is evaluated")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print learning_curve.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """How many more masks a target Dice would take: the learning curve c - a n^-b of runs at 3 label fractions or more.

    A run without an evaluation in RUN/report/val is evaluated first. The answer has a 95 % interval over seeds and
    label draws, and says where it is an extrapolation or where the fitted ceiling lies below the target.
    """
    import json

    from medvl.experiments.label_budget import as_text
    from medvl.experiments.label_budget import plan as run

    result = run(
        runs, target_dice, unit=unit.value, variant=variant, manifest=manifest, out=out, device=device, seed=seed
    )
    print(json.dumps(result) if as_json else as_text(result, out))


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


def localise(
    model: Annotated[str, typer.Argument(help="run or model folder of a pre-training (task: pretrain)")],
    manifest: Annotated[Path, typer.Argument(help="manifest whose masks are looked for")],
    target: Annotated[str, typer.Option(help="column of the mask: mask, or NAME of mask_NAME")] = "mask",
    lungs: Annotated[str | None, typer.Option(help="NAME of the column of the lung field, for comparison")] = None,
    text_column: Annotated[
        str, typer.Option(help="column of the reports; read of models with pretrain.mask.source=evidence only")
    ] = "text",
    split: Annotated[str, typer.Option(help="train, val, test, or all (then each split apart too)")] = "val",
    out: Annotated[Path | None, typer.Option(help="folder for cases.csv and summary.json")] = None,
    seed: Annotated[int, typer.Option(help="of the order in which masks are shuffled")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print summary.json")] = False,
    excel_safe: ExcelSafe = False,
) -> None:
    """Where a pre-trained model looks: attention, pseudo mask and decoder against masks it was never trained on.

    Overlap, pointing game and ROC area, each with a 95 % interval by patient, beside the mask of another image
    (shuffled), the lung field and chance.
    """
    import json

    from medvl.data.records import load_manifest
    from medvl.evaluation.record import refuse_other_results
    from medvl.experiments.localise import as_text, localisation

    classes = [name.removeprefix("mask_") for name in (target, *([lungs] if lungs else []))]
    # A mask cell that is empty is nothing to look for here, whatever it means elsewhere.
    records = load_manifest(manifest, text_column=text_column, classes=classes if classes != ["mask"] else None)
    same = {"model": model, "split": split, "target": classes[0], "manifest": str(records.path)}
    refuse_other_results(out, evaluation="localise", split_hash=records.split_hash(), **same)
    record = localisation(
        model, records, split=split, target=classes[0], lungs=classes[1] if lungs else None, out=out, seed=seed
    )
    print(json.dumps(record.summary) if as_json else as_text(record.summary))


def pretrain_text(
    manifest: Annotated[str, typer.Argument(help="manifest: CSV, JSONL, XLSX, Parquet; its images are not read")],
    out: Annotated[Path, typer.Option(help="new folder for the text encoder")],
    steps: Annotated[int, typer.Option(help="optimizer steps")] = 2000,
    dim: Annotated[int, typer.Option(help="width, a multiple of 4; must equal text.dim later")] = 128,
    layers: Annotated[int, typer.Option(help="depth; must equal text.layers later")] = 2,
    tokenizer: Annotated[Path | None, typer.Option(help="folder of medvl data tokenizer; else words")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="cut longer texts")] = None,
    batch_size: Annotated[int, typer.Option(help="texts per step")] = 32,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 2e-3,
    seed: Annotated[int, typer.Option(help="weights, order and masks")] = 0,
    text_column: Annotated[str, typer.Option(help="column that holds the reports")] = "text",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:0, mps")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Masked language modelling on report texts alone; text.init=FOLDER then starts the built-in encoder from it.

    Judged on the split val (or, without one, on a tenth of the texts) before and after, beside a guess by word
    frequency. The folder derives from report text.
    """
    import json

    from medvl.core.errors import InputError
    from medvl.data.corpus import read_corpus
    from medvl.experiments.masked_language import pretrain_text as run

    if max_tokens is not None and max_tokens < 1:
        raise InputError.out_of_range(f"--max-tokens is {max_tokens}", expected="at least 1")
    result = run(
        read_corpus(manifest, text_column),
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
    if as_json:
        print(json.dumps({"folder": str(out), **result}))
        return
    print(
        f"{out}: {result['train_texts']} training and {result['val_texts']} validation texts "
        f"(told apart by {result['told_apart_by']}), vocabulary {result['vocabulary']}, {result['minutes']} min"
    )
    print("masked validation tokens  perplexity  accuracy")
    for name in ("unigram", "before", "after"):
        print(f"  {name:22}  {result[name]['perplexity']:10.2f}  {result[name]['accuracy']:8.3f}")
