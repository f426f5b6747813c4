"""A published table of G2D on whatever of its sets is here: cells by `medvl x sweep`, a page beside the published rows.

A column of a table is a set (DATA/LAYOUT/manifest.csv, as `medvl data import LAYOUT` writes it) and a protocol. Columns
whose set is absent are listed, never filled in. Rows are random weights, ImageNet weights (`--imagenet FILE`) and the
given pre-trained runs; tables 5 and 8 pre-train their own rows on DATA/mimic-cxr.

Trained cells are those of a sweep, which is written to OUT/sweep.yaml with one recipe per column, so that what is run
can be read, resumed and shared between processes. The other cells ask the given runs: zero-shot, and in LViT's tables
segmentation runs, which are scored by its convention.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medvl.config import load_config
from medvl.config.differences import MACHINE_KEYS
from medvl.core.errors import InputError, warn
from medvl.core.files import write_json, write_text
from medvl.core.plain_yaml import yaml_text
from medvl.core.task import find_task
from medvl.data.importers.layouts import get_layout
from medvl.experiments.benchmark_cells import OF_SEGMENTATION, ask, values_at
from medvl.experiments.published_tables import (
    FRACTIONS,
    NOT_POSSIBLE,
    PRETRAININGS,
    Column,
    Path_,
    PublishedTable,
    column_of,
)
from medvl.experiments.sweep import load_sweep, slug
from medvl.experiments.sweep_run import Outcome, run_sweep, without_machine_paths
from medvl.inference.model_folder import find_model

RANDOM, IMAGENET = "random", "ImageNet"
PRETRAIN_SET = "mimic-cxr"
GIVEN = "given.json"  # in OUT: of which data and weights the cells are, so that those of others are none of it
RESULTS = Path("cells", "results")  # in OUT: a JSON for each finished cell


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line gives: the sets, the rows, and how much of it is run."""

    data: Path
    out: Path
    runs: Mapping[str, Path] = field(default_factory=dict)  # name -> run or model folder of task: pretrain
    imagenet: Path | None = None
    pretrain: Path | None = None  # recipe of tables 5 and 8
    seeds: int = 1
    fractions: Sequence[float] | None = None  # None = those of the table
    split: str = "test"
    overrides: Sequence[str] = ()

    @property
    def changed(self) -> list[str]:
        """The overrides that make it another experiment than the protocol's."""
        return [word for word in self.overrides if word.partition("=")[0] not in MACHINE_KEYS]


@dataclass(frozen=True, slots=True)
class Measured:
    """What there is of one row and column: a number per seed, by the table's convention and by medvl's (0 to 1).

    None: run, and undefined (MGCA's mAP where no image has both a prediction and a true box).
    """

    published: list[float | None]
    ours: list[float | None]


@dataclass
class Benchmark:
    """A table with what was measured for it. `cells` (row, column, number of `of`) -> values over the seeds."""

    table: PublishedTable
    rows: list[str]
    cells: dict[tuple[str, str, str], Measured]
    absent: list[dict[str, str]]
    left_out: list[str]  # rows or columns that cannot be run, each with its reason
    notes: list[str]
    outcomes: list[Outcome]  # of the trained cells
    failed: list[tuple[str, str]]  # cell, why
    changed: list[str]  # overrides that make the trained cells another experiment than the protocol's

    def add(self, row: str, column: str, of: str, measured: Measured) -> None:
        """One cell."""
        self.cells[row, column, of] = measured
        if row not in self.rows:
            self.rows.append(row)


def run_benchmark(table: PublishedTable, given: Given, *, dry_run: bool = False) -> Benchmark:
    """Run the open cells of a table and collect all. What is done is not done again; `dry_run` runs nothing.

    Raises:
        InputError: no set of the table is here (`dry_run` lists what is absent), a run that is no pre-training, no
            recipe for tables 5 and 8.
    """
    pretrainings = PRETRAININGS.get(table.name)
    _check_runs(table, given)
    present, absent = _sets(table, given, dry_run)
    trained = {name: column for name, column in present.items() if column.recipe}
    prompted = {name: column for name, column in present.items() if column.ask}
    if pretrainings is None:
        left_out = _without_rows(given, bool(trained))
    else:
        left_out = [f"{row}: {why}" for row, why in NOT_POSSIBLE.items() if row in table.rows]
    if prompted and not given.runs:
        raise InputError.missing(f"{table.name} asks given runs", remedy="--run NAME=RUN")
    if prompted and not trained and given.overrides:
        warn(f"nothing is trained for {table.name}: {' '.join(given.overrides)} has no effect")
        given = replace(given, overrides=())
    if not dry_run:
        sets = [column.layout for column in present.values() if column.layout] + (
            [PRETRAIN_SET] if pretrainings is not None else []
        )
        remember(given, table.name, sorted(set(sets)))
    notes = list(dict.fromkeys(column.note for column in present.values() if column.note))
    benchmark = Benchmark(table, [], {}, absent, left_out, notes, [], [], given.changed)
    if trained:
        _run_trained(benchmark, trained, given, dry_run)
    for name, column in prompted.items():
        for row, run in given.runs.items():
            if why := _other_labels(column, run):
                benchmark.left_out.append(f"{name}, {row}: {why}")
                continue
            results = []
            try:
                results = [] if dry_run else [_ask(given, name, column, row, run)]
            except InputError as error:
                benchmark.failed.append((f"{name}, {row}", str(error)))
            for number, of in enumerate(table.of):
                benchmark.add(row, name, of, _measured(results, column.published[number], column.ours[number]))
    return benchmark


def _other_labels(column: Column, run: Path) -> str:
    """Why a run is no row of a column that is of a fraction of the labels; "" where it is one."""
    fraction = load_config(find_model(run) / "config.yaml").data.label_fraction
    if column.label_fraction in (None, fraction):
        return ""
    return f"trained on {fraction:.0%} of the labels"


def _check_runs(table: PublishedTable, given: Given) -> None:
    taken = [name for name in given.runs if name in (RANDOM, IMAGENET)]
    if taken:
        raise InputError.conflict(f"--run {taken[0]}=...: that row is there already", remedy="another name")
    segments = any(column_of(table, name).ask.get("kind") in OF_SEGMENTATION for name in table.columns)
    wanted = find_task("segment" if segments else "pretrain")
    for name, run in given.runs.items():
        task = find_task(load_config(find_model(run) / "config.yaml").task)
        if task is not wanted:
            raise InputError.unsupported(
                f"--run {name}: a run of task: {task.name}", file=run, expected=f"a run of task: {wanted.name}"
            )
    if not given.data.is_dir():
        raise InputError.missing_file(
            "no such folder", file=given.data, expected="the folder that holds the sets (--data)"
        )


def _sets(table: PublishedTable, given: Given, dry_run: bool) -> tuple[dict[str, Column], list[dict[str, str]]]:
    """The columns whose sets are here, and what is said of the others."""
    columns = {name: column_of(table, name) for name in table.columns}
    present = {name: column for name, column in columns.items() if not column.layout or _manifest(given, column)}
    absent = [_absent(given, name, column) for name, column in columns.items() if name not in present]
    pretrains = table.name in PRETRAININGS
    if pretrains and _manifest(given, Column(PRETRAIN_SET)) is None:
        if not dry_run:
            raise InputError.missing_file(
                f"{table.name} pre-trains its rows, and the pairs are not here",
                file=given.data / PRETRAIN_SET / "manifest.csv",
                remedy=f"medvl data check {PRETRAIN_SET}; medvl data import {PRETRAIN_SET} FOLDER --out that file",
            )
        absent = [_absent(given, "pre-training of all rows", Column(PRETRAIN_SET)), *absent]
        present = {}  # no row without them
    if pretrains and given.pretrain is None and present:
        raise InputError.missing(f"{table.name} pre-trains its rows", remedy="--pretrain recipes/g2d.yaml")
    if not present and not dry_run:
        wanted = "; ".join(f"{one['column']}: {one['expected']}" for one in absent)
        remedy = "--dry-run says where each is obtained, medvl data check LAYOUT of what it consists"
        raise InputError.missing_file(f"no set of {table.name} is in {given.data}", expected=wanted, remedy=remedy)
    return present, absent


def _run_trained(benchmark: Benchmark, columns: Mapping[str, Column], given: Given, dry_run: bool) -> None:
    """Add the cells that are trained."""
    named = write_sweep(benchmark.table, columns, given)
    benchmark.outcomes += run_sweep(
        given.out / "sweep.yaml", given.out / "cells", data=given.data, overrides=given.overrides, dry_run=dry_run
    )
    benchmark.failed += [(outcome.cell.name, outcome.error) for outcome in benchmark.outcomes if outcome.error]
    for variant, (row, name, of) in named.items():
        paths = [given.out / RESULTS / f"{slug(variant)}-seed{seed}.json" for seed in range(given.seeds)]
        results = [_read(path) for path in paths if path.is_file()]
        benchmark.add(row, name, of, _measured(results, columns[name].published[0], columns[name].ours[0]))


def write_sweep(table: PublishedTable, columns: Mapping[str, Column], given: Given) -> dict[str, tuple[str, str, str]]:
    """Write OUT/sweep.yaml and a recipe per column; -> variant -> (row, column, fraction as the table writes it)."""
    given.out.mkdir(parents=True, exist_ok=True)
    variants: dict[str, dict[str, Any]] = {}
    named: dict[str, tuple[str, str, str]] = {}
    made = PRETRAININGS.get(table.name)
    if made is not None:
        assert given.pretrain is not None
        for row, changes in made.items():
            manifest = f"$DATA/{PRETRAIN_SET}/manifest.csv"
            settings = {"recipe": str(given.pretrain.resolve()), "data.manifest": manifest}
            variants[f"pre-training, {row}"] = {**settings, **changes}
    for name, column in columns.items():
        recipe = {**column.recipe, "data": {**column.recipe["data"], "manifest": f"$DATA/{column.layout}/manifest.csv"}}
        file = f"{slug(name)}.yaml"
        write_text(given.out / file, yaml_text(recipe))
        for of in table.of:
            fraction = FRACTIONS[of]
            for row, changes in _rows(given, column, made).items():
                variant = f"{name} {of}, {row}"
                named[variant] = (row, name, of)  # others may have been run before
                if given.fractions is None or fraction in given.fractions:
                    variants[variant] = {"recipe": file, "data.label_fraction": fraction, **changes}
    if not any(variant in variants for variant in named):
        raise InputError.empty(
            "no fraction of the table is asked for", expected=", ".join(map(str, FRACTIONS.values()))
        )
    first = next(iter(columns))
    sweep = {
        "title": f"{table.name}: {table.title}",
        "recipe": f"{slug(first)}.yaml",
        "variants": variants,
        "seeds": given.seeds,
        "evaluate": {"split": given.split},
    }
    write_text(given.out / "sweep.yaml", yaml_text(sweep, allow_unicode=True, width=1000))
    load_sweep(given.out / "sweep.yaml")
    return named


def _rows(given: Given, column: Column, made: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Row -> where its weights come from."""
    parts = {"init_parts": "encoder"} if column.has_decoder else {}
    if made is not None:
        # The paper's 65.6 of these tables is that of the whole network; alignment alone has no decoder to give.
        assert given.pretrain is not None
        words = [word for word in given.overrides if word.startswith(("model.size=", "model.encoder="))]
        encoder = load_config(given.pretrain, words).model.encoder
        return {
            row: {"model.encoder": encoder, "init": f"g2d:@pre-training, {row}"}
            | (parts if changes.get("pretrain.decoder") == "none" else {})
            for row, changes in made.items()
        }
    own_encoder = _encoder(given)
    rows: dict[str, dict[str, Any]] = {RANDOM: dict(own_encoder)}
    if given.imagenet is not None:
        rows[IMAGENET] = {**own_encoder, "init": f"weights:{given.imagenet.resolve()}"}
    for name, run in given.runs.items():
        config = load_config(find_model(run) / "config.yaml")
        start = {"model.encoder": config.model.encoder, "init": f"g2d:{run.resolve()}"}
        if not column.has_decoder:
            rows[name] = start
            continue
        rows[f"{name} (encoder)"] = start | parts
        if config.pretrain.decoder != "none":
            rows[f"{name} (encoder-decoder)"] = start
    return rows


def _encoder(given: Given) -> dict[str, Any]:
    """The given runs' image encoder, for the rows that they are compared with; a protocol's own without runs."""
    encoders = {load_config(find_model(run) / "config.yaml").model.encoder for run in given.runs.values()}
    if len(encoders) > 1:
        raise InputError.mismatch(
            f"the given runs have different image encoders: {', '.join(sorted(map(str, encoders)))}"
        )
    return {"model.encoder": encoders.pop()} if encoders else {}


def _without_rows(given: Given, trained: bool) -> list[str]:
    if not trained or given.imagenet is not None:
        return []
    return ["ImageNet: no weights given (--imagenet FILE, a ResNet in torchvision's keys)"]


def _manifest(given: Given, column: Column) -> Path | None:
    path = given.data / column.layout / "manifest.csv"
    return path if path.is_file() else None


def _absent(given: Given, name: str, column: Column) -> dict[str, str]:
    layout = get_layout(column.layout)
    return {
        "column": name,
        "set": layout.title,
        "expected": str(Path("DATA") / column.layout / "manifest.csv"),
        "obtained": layout.obtained,
        "command": f"medvl data import {column.layout} FOLDER --out DATA/{column.layout}/manifest.csv",
    }


def _ask(given: Given, name: str, column: Column, row: str, run: Path) -> dict[str, Any]:
    """The result of a column that trains nothing; kept where the trained cells are."""
    path = given.out / RESULTS / f"{slug(name)}__{slug(row)}.json"
    manifest = given.data / column.layout / "manifest.csv" if column.layout else None
    summary = ask(column.ask, run, manifest, given.split, given.out / "cells" / path.stem)
    roots = {given.data: "$DATA", given.out: "$OUT", Path.home(): "~", Path.cwd(): "."}
    kept = without_machine_paths({**summary, "variant": f"{name}, {row}"}, roots)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, kept)
    return summary


def _measured(results: list[dict[str, Any]], published: Path_, ours: Path_) -> Measured:
    return Measured(values_at(results, published), values_at(results, ours))


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def remember(given: Given, table: str, layouts: Sequence[str]) -> None:
    """Write OUT/given.json, or add to it.

    Raises:
        InputError: what lies in OUT was made of other weights, data or settings.
    """
    path = given.out / GIVEN
    settings: dict[str, Any] = {"table": table, "split": given.split, "overrides": given.changed}
    settings |= {f"--run {name}": _hash(find_model(run) / "model.safetensors") for name, run in given.runs.items()}
    settings |= {f"--data {name}": _hash(given.data / name / "manifest.csv") for name in layouts}
    for name, file in (("--imagenet", given.imagenet), ("--pretrain", given.pretrain)):
        if file is not None:
            settings[name] = _hash(file)
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    other = [name for name, value in settings.items() if name in before and before[name] != value]
    if other:
        raise InputError.exists(
            f"the folder holds cells of another {', another '.join(other)}",
            file=given.out,
            expected="what they were made of, or a folder of their own",
            remedy="another --out",
        )
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(path, {**before, **settings})


def _hash(path: Path) -> str:
    """sha256 of a file. InputError when it is not there."""
    if not path.is_file():
        raise InputError.missing_file("no such file", file=path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
