"""A published table of G2D on whatever of its sets is here: cells by `medvl x sweep`, a page beside the published rows.

A column of a table is a set (DATA/LAYOUT/manifest.csv, as `medvl data import LAYOUT` writes it) and a protocol. Columns
whose set is absent are listed, never filled in. Rows are random weights, ImageNet weights (`--imagenet FILE`) and the
given pre-trained runs; tables 5 and 8 pre-train their own rows on DATA/mimic-cxr.

Trained cells are those of a sweep, which is written to OUT/sweep.yaml with one recipe per column, so that what is run
can be read, resumed and shared between processes. Zero-shot cells ask the given runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medvl.config import load_config
from medvl.core.errors import InputError, warn
from medvl.core.files import write_json, write_text
from medvl.core.plain_yaml import yaml_text
from medvl.core.task import find_task
from medvl.data.importers.layouts import get_layout
from medvl.experiments.benchmark_given import PRETRAIN_SET, Given, remember
from medvl.experiments.published_tables import PublishedTable
from medvl.experiments.sweep import load_sweep, slug
from medvl.experiments.sweep_run import Outcome, run_sweep, without_machine_paths
from medvl.experiments.sweep_score import device_of
from medvl.experiments.zero_shot_cells import AskClasses, Asked, AskPhrases, score_asked
from medvl.inference.model_folder import find_model

RANDOM, IMAGENET = "random", "ImageNet"
RESULTS = Path("cells", "results")  # in OUT: a JSON for each finished cell
FRACTIONS = {"1 %": 0.01, "10 %": 0.1, "100 %": 1.0}
Path_ = tuple[str, ...]  # of a value in a result file


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of a published table is here.

    `published` and `ours` say where in a result file the number stands: by the table's own convention, and by medvl's.
    Of a column that is trained one place (for every fraction), of one that is asked one per number of the table.
    """

    layout: str
    recipe: dict[str, Any] = field(default_factory=dict)  # of `medvl train`; empty where nothing is trained
    ask: dict[str, Any] = field(default_factory=dict)  # of `medvl classify` or `medvl ground`
    published: tuple[Path_, ...] = ()
    ours: tuple[Path_, ...] = ()
    has_decoder: bool = False  # a pre-trained decoder can be taken over
    note: str = ""


def _mean(*names: str) -> tuple[Path_, ...]:
    return tuple(("metrics", name, "mean") for name in names)


_FILM = {"in_channels": 1, "normalize": "none"}  # the encoder brings each image to mean 0, deviation 1


def _segment(layout: str, protocol: str) -> Column:
    recipe = {"protocol": protocol, "data": dict(_FILM)}
    return Column(layout, recipe, {}, _mean("dice_mgca"), _mean("dice_per_image"), True)


def _detect(layout: str) -> Column:
    return Column(layout, {"protocol": "mgca_detection", "data": dict(_FILM)}, {}, _mean("map_published"), _mean("map"))


def _classify(layout: str, protocol: str, metric: str = "macro_auc") -> Column:
    return Column(layout, {"protocol": protocol, "data": dict(_FILM)}, {}, _mean(metric), _mean(metric))


def _ask_classes(layout: str, protocol: str, rule: str, note: str, classes: list[str] | None = None) -> Column:
    """`rule`: of the published practice, the threshold of each class chosen on the scored split."""
    ask = {"zero_shot": "classify", "protocol": protocol, **({"classes": classes} if classes else {})}
    tuned = ("decisions", "*published practice", f"{rule}*", "macro")
    fair = ("decisions", "!published practice", f"{rule}*", "macro")
    auc = ("metrics", "auc", "mean")
    published = (auc, (*tuned, "f1", "mean"), (*tuned, "accuracy", "mean"))
    return Column(layout, {}, ask, published, (auc, (*fair, "f1", "mean"), (*fair, "accuracy", "mean")), note=note)


def _ground(layout: str, phrase: str) -> Column:
    measures = _mean("recall", "iou", "dice")
    note = "grounding: all positive cases of the split, not MedKLIP's list; threshold of val (the paper gives none)"
    return Column(layout, {}, {"zero_shot": "ground", "phrase": phrase}, measures, measures, note=note)


_CHEXPERT = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
_OTHER_LIST = "{} zero-shot: published on MedKLIP's list of test images, here on the importer's test split"
_CHEXPERT_TEST = "CheXpert zero-shot: published on the official 500 test images, here on the 202 of valid.csv"
_OTHER_SPLIT = "CXR14 fine-tuned, table 7: published on MedKLIP's own split and settings, here kad_finetune's"
COLUMNS: dict[str, Column] = {
    "SIIM segmentation": _segment("siim", "mgca_segmentation:siim"),
    "RSNA segmentation": _segment("rsna", "mgca_segmentation:rsna"),
    "RSNA detection": _detect("rsna"),
    "Object-CXR detection": _detect("object-cxr"),
    "SIIM grounding": _ground("siim", "pneumothorax"),
    "RSNA grounding": _ground("rsna", "pneumonia"),
    "RSNA zero-shot": _ask_classes("rsna", "medklip", "max f1", _OTHER_LIST.format("RSNA")),
    "SIIM zero-shot": _ask_classes("siim", "medklip", "max f1", _OTHER_LIST.format("SIIM")),
    "CXR14 zero-shot": _ask_classes("nih", "kad", "max mcc", ""),
    "CheXpert zero-shot": _ask_classes("chexpert", "kad", "max mcc", _CHEXPERT_TEST, _CHEXPERT),
    "CXR14 fine-tuned": _classify("nih", "kad_finetune"),  # the importer writes no label for No Finding
    "CheXpert linear": _classify("chexpert", "mgca_linear:chexpert"),
    "RSNA linear": _classify("rsna", "mgca_linear:rsna"),
    "COVIDx linear": _classify("covidx", "mgca_linear:covidx", "accuracy"),
}
_MEDKLIP = {name: _segment(name.split()[0].lower(), "medklip_segmentation") for name in COLUMNS if "segment" in name}
_MEDKLIP["CXR14 fine-tuned"] = replace(COLUMNS["CXR14 fine-tuned"], note=_OTHER_SPLIT)
OTHERWISE = {"g2d-table7": _MEDKLIP}  # columns of a name that another protocol stands for in this table
_OURS = "pseudo masks"
# Rows of tables 5 and 8 -> what is pre-trained for them. Equal settings are pre-trained once.
PRETRAININGS: dict[str, dict[str, dict[str, Any]]] = {
    "g2d-table5": {
        "a decoder: none": {"pretrain.decoder": "none"},
        "a decoder: reconstruction": {"pretrain.decoder": "reconstruction"},
        "b threshold: 75 %": {"pretrain.mask.threshold": "p75"},
        "b threshold: median": {"pretrain.mask.threshold": "median"},
        "b threshold: GMM": {"pretrain.mask.threshold": "gmm"},
        "c projector: 256": {"model.options.projection_dim": 256},
        "c projector: 512": {"model.options.projection_dim": 512},
        "d a mask per head": {"pretrain.mask.aggregate": False},
        "e heads: 1": {"model.options.heads": 1},
        "e heads: 2": {"model.options.heads": 2},
        "f without body mask": {"pretrain.mask.body_mask": False},
        "f without edge smoothing": {"pretrain.mask.smooth": "none"},
        _OURS: {},
    },
    "g2d-table8": {"shuffled pseudo masks": {"pretrain.shuffle_masks": True}, _OURS: {}},
}
NOT_POSSIBLE = {"e heads: 3": "3 heads do not divide the joint width"}


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


def column_of(table: PublishedTable, name: str) -> Column:
    """What the column `name` of a table is here."""
    return OTHERWISE.get(table.name, {}).get(name) or COLUMNS[name]


def run_benchmark(table: PublishedTable, given: Given, *, dry_run: bool = False) -> Benchmark:
    """Run the open cells of a table and collect all. What is done is not done again; `dry_run` runs nothing.

    Raises:
        InputError: no set of the table is here (`dry_run` lists what is absent), a run that is no pre-training, no
            recipe for tables 5 and 8.
    """
    made = PRETRAININGS.get(table.name)
    taken = [name for name in given.runs if name in (RANDOM, IMAGENET)]
    if taken:
        raise InputError.conflict(f"--run {taken[0]}=...: that row is there already", remedy="another name")
    for name, run in given.runs.items():
        task = load_config(find_model(run) / "config.yaml").task
        if not find_task(task).gives_encoder:
            raise InputError.unsupported(
                f"--run {name}: a run of task: {task}", file=run, expected="a run of task: pretrain"
            )
    if not given.data.is_dir():
        raise InputError.missing_file(
            "no such folder", file=given.data, expected="the folder that holds the sets (--data)"
        )
    present = {name: column_of(table, name) for name in table.columns if _manifest(given, column_of(table, name))}
    absent = [_absent(given, name, column_of(table, name)) for name in table.columns if name not in present]
    if made is not None and _manifest(given, Column(PRETRAIN_SET)) is None:
        if not dry_run:
            raise InputError.missing_file(
                f"{table.name} pre-trains its rows, and the pairs are not here",
                file=given.data / PRETRAIN_SET / "manifest.csv",
                remedy=f"medvl data check {PRETRAIN_SET}; medvl data import {PRETRAIN_SET} FOLDER --out that file",
            )
        absent = [_absent(given, "pre-training of all rows", Column(PRETRAIN_SET)), *absent]
        present = {}  # no row without them
    if made is not None and given.pretrain is None and present:
        raise InputError.missing(f"{table.name} pre-trains its rows", remedy="--pretrain recipes/g2d.yaml")
    if not present and not dry_run:
        wanted = "; ".join(f"{one['column']}: {one['expected']}" for one in absent)
        remedy = "--dry-run says where each is obtained, medvl data check LAYOUT of what it consists"
        raise InputError.missing_file(f"no set of {table.name} is in {given.data}", expected=wanted, remedy=remedy)
    trained = {name: column for name, column in present.items() if column.recipe}
    asked = {name: column for name, column in present.items() if column.ask}
    left_out = [] if made is not None else _without_rows(given, bool(trained))
    if made is not None:
        left_out += [f"{row}: {why}" for row, why in NOT_POSSIBLE.items() if row in table.rows]
    if asked and not given.runs:
        raise InputError.missing(f"{table.name} asks pre-trained runs", remedy="--run NAME=RUN")
    if asked and not trained and given.overrides:
        warn(f"nothing is trained for {table.name}: {' '.join(given.overrides)} has no effect")
        given = replace(given, overrides=())
    cells: dict[tuple[str, str, str], Measured] = {}
    outcomes: list[Outcome] = []
    failed: list[tuple[str, str]] = []
    rows: list[str] = []
    if not dry_run:
        sets = [column.layout for column in present.values()] + ([PRETRAIN_SET] if made is not None else [])
        remember(given, table.name, sorted(set(sets)))
    if trained:
        named = write_sweep(table, trained, given)
        outcomes = run_sweep(
            given.out / "sweep.yaml",
            given.out / "cells",
            data=given.data,
            overrides=given.overrides,
            dry_run=dry_run,
        )
        failed += [(outcome.cell.name, outcome.error) for outcome in outcomes if outcome.error]
        for variant, (row, name, of) in named.items():
            paths = [given.out / RESULTS / f"{slug(variant)}-seed{seed}.json" for seed in range(given.seeds)]
            found = [_read(path) for path in paths if path.is_file()]
            cells[row, name, of] = _measured(found, trained[name].published[0], trained[name].ours[0])
            rows.append(row)
    for name, column in asked.items():
        for row, run in given.runs.items():
            found = []
            try:
                found = [] if dry_run else [_ask(given, name, column, row, run)]
            except InputError as error:
                failed.append((f"{name}, {row}", str(error)))
            for number, of in enumerate(table.of):
                cells[row, name, of] = _measured(found, column.published[number], column.ours[number])
            rows.append(row)
    notes = list(dict.fromkeys(column.note for column in present.values() if column.note))
    return Benchmark(table, list(dict.fromkeys(rows)), cells, absent, left_out, notes, outcomes, failed, given.changed)


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
            said = {"recipe": str(given.pretrain.resolve()), "data.manifest": manifest}
            variants[f"pre-training, {row}"] = {**said, **changes}
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
        own = {"model.encoder": config.model.encoder, "init": f"g2d:{run.resolve()}"}
        if not column.has_decoder:
            rows[name] = own
            continue
        rows[f"{name} (encoder)"] = own | parts
        if config.pretrain.decoder != "none":
            rows[f"{name} (encoder-decoder)"] = own
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
    options = {key: value for key, value in column.ask.items() if key != "zero_shot"}
    manifest = str(given.data / column.layout / "manifest.csv")
    kinds: dict[str, type[AskClasses] | type[AskPhrases]] = {"classify": AskClasses, "ground": AskPhrases}
    asked: Asked = kinds[column.ask["zero_shot"]](run="@", manifest=manifest, split=given.split, **options)
    summary = score_asked(asked, run, given.out / "cells" / path.stem, device_of(find_model(run)))
    roots = {given.data: "$DATA", given.out: "$OUT", Path.home(): "~", Path.cwd(): "."}
    kept = without_machine_paths({**summary, "variant": f"{name}, {row}"}, roots)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, kept)
    return summary


def _measured(found: Sequence[Mapping[str, Any]], published: Path_, ours: Path_) -> Measured:
    return Measured(_values(found, published), _values(found, ours))


def _values(found: Sequence[Mapping[str, Any]], path: Path_) -> list[float | None]:
    """The value at `path` of each result, None where undefined.

    A key `part*` or `*part` is the first one that begins with or holds `part`, `!part` the first one that does not.
    """
    values: list[float | None] = []
    for content in found:
        node: Any = content
        for key in path:
            node = _child(node, key)
        values.append(None if node is None else float(node))
    return values


def _child(node: Any, key: str) -> Any:
    if not isinstance(node, Mapping):
        return None
    if key.startswith("!"):
        return next((node[name] for name in node if key[1:] not in name), None)
    if "*" not in key:
        return node.get(key)
    text, anywhere = key.strip("*"), key.startswith("*")
    return next((node[name] for name in node if (text in name if anywhere else name.startswith(text))), None)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
