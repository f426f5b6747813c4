"""The published tables of papers, as printed (config/published/*.yaml), and what each of their columns is here."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

import medvl.config
from medvl.config.ranges import SECTION
from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import read_typed
from medvl.metrics.convention import explain

FOLDER = Path(medvl.config.__file__).with_name("published")
Cell = tuple[float | None, ...]


Convention = Literal["per image", "pooled"]  # a mean over images, or one ratio over the pixels of all


@dataclass(config=SECTION, frozen=True, slots=True)
class PublishedTable:
    """One table. A column has one number for each of `of` (fractions of the labels, or metrics)."""

    name: str  # g2d-table1
    title: str
    source: str
    of: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]  # method -> a cell per column, of None where the paper has no number
    unit: Literal["percent", "plain"] = "percent"
    convention: Convention | None = None  # of columns of Dice and mIoU
    row_sources: dict[str, str] = field(default_factory=dict)  # rows that stand elsewhere than in `source`
    note: str = ""


@dataclass(config=SECTION)
class _Table:
    title: str
    of: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell | None, ...]]
    source: str | None = None  # None = that of the file
    unit: Literal["percent", "plain"] = "percent"
    convention: Convention | None = None
    row_sources: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(config=SECTION)
class _File:
    source: str
    tables: dict[str, _Table]


@cache
def read_tables(folder: Path = FOLDER) -> dict[str, PublishedTable]:
    """All tables of a folder by name. InputError on a file that holds anything else, or numbers that cannot be."""
    tables = {}
    for path in sorted(folder.glob("*.yaml")):
        file = read_typed(path, _File)
        for name, table in file.tables.items():
            empty: Cell = (None,) * len(table.of)
            rows = {method: tuple(cell or empty for cell in cells) for method, cells in table.rows.items()}
            if any([len(cell) for cell in cells] != [len(table.of)] * len(table.columns) for cells in rows.values()):
                expected = f"{len(table.columns)} columns of {len(table.of)} numbers"
                raise InputError.wrong_shape(
                    f"a row of {name} has another number of cells", file=path, expected=expected
                )
            _check(name, table, rows, path)
            source = table.source or file.source
            further = (table.unit, table.convention, table.row_sources, table.note)
            tables[name] = PublishedTable(name, table.title, source, table.of, table.columns, rows, *further)
    return tables


def possible_pair(dice: float, iou: float, convention: Convention) -> bool:
    """Whether a Dice and an IoU, in percent with two decimals, can be of the same masks (see metrics/convention.py)."""
    verdict = explain(f"{dice:.2f}%", f"{iou:.2f}%").verdict
    return verdict == "pooled" if convention == "pooled" else verdict != "impossible"


def _check(name: str, table: _Table, rows: dict[str, tuple[Cell, ...]], path: Path) -> None:
    """InputError where a row of `row_sources` is none, or a pair of Dice and IoU is not possible."""
    if unknown := [method for method in table.row_sources if method not in rows]:
        raise InputError.unknown(f"row_sources of {name} names no row: {unknown[0]}", file=path)
    if table.convention is None:
        return
    if table.of != DICE_IOU:
        raise InputError.conflict(f"{name} has a convention", file=path, expected=f"of: {', '.join(DICE_IOU)}")
    for method, cells in rows.items():
        for dice, iou in cells:
            if dice is not None and iou is not None and not possible_pair(dice, iou, table.convention):
                what = f"{name}, {method}: Dice {dice} with mIoU {iou}"
                expected = f"a pair that is possible {table.convention}"
                raise InputError.conflict(what, file=path, record=method, expected=expected)


def table_names() -> list[str]:
    """g2d-table1, g2d-table2a, ..."""
    return list(read_tables())


def published_table(name: str) -> PublishedTable:
    """The table of that name. InputError on an unknown one, naming the nearest."""
    tables = read_tables()
    if name not in tables:
        like = nearest(name, tables)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.unknown(f"no table {name}", expected=", ".join(tables), remedy=remedy)
    return tables[name]


DICE_IOU = ("Dice", "mIoU")
FRACTIONS = {"1 %": 0.01, "10 %": 0.1, "100 %": 1.0}
Path_ = tuple[str, ...]  # of a value in a result file


@plain_dataclass(frozen=True, slots=True)
class Column:
    """What a column of a published table is here.

    `published` and `ours` say where in a result file the number stands: by the table's own convention, and by medvl's.
    Of a column that is trained one place (for every fraction), of one that is asked one per number of the table.
    """

    layout: str  # "" where no set is needed
    recipe: dict[str, Any] = field(default_factory=dict)  # of `medvl train`; empty where nothing is trained
    ask: dict[str, Any] = field(default_factory=dict)  # what the given runs are asked, and how: see benchmark_cells.py
    published: tuple[Path_, ...] = ()
    ours: tuple[Path_, ...] = ()
    has_decoder: bool = False  # a pre-trained decoder can be taken over
    note: str = ""
    label_fraction: float | None = None  # runs trained on another one are no row; None = any


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
    ask = {"kind": "classify", "protocol": protocol, **({"classes": classes} if classes else {})}
    tuned = ("decisions", "*published practice", f"{rule}*", "macro")
    fair = ("decisions", "!published practice", f"{rule}*", "macro")
    auc = ("metrics", "auc", "mean")
    published = (auc, (*tuned, "f1", "mean"), (*tuned, "accuracy", "mean"))
    return Column(layout, {}, ask, published, (auc, (*fair, "f1", "mean"), (*fair, "accuracy", "mean")), note=note)


def _ground(layout: str, phrase: str) -> Column:
    measures = _mean("recall", "iou", "dice")
    note = "grounding: all positive cases of the split, not MedKLIP's list; threshold of val (the paper gives none)"
    return Column(layout, {}, {"kind": "ground", "phrase": phrase}, measures, measures, note=note)


_SIZE = (("size", "parameters_m"), ("size", "gflops"))
_COUNTED = (
    "measured: the network without its text encoder, its convolutions and matrix products, at the run's own image "
    "size, a text of ten words"
)
_RELEASED = (
    "Dice and mIoU as LViT's released program takes them: on the network's grid, the mask resized by OpenCV's bilinear "
    "rule and then > 0, two empty masks 0; in brackets medvl's, on the image's own grid, two empty masks 1"
)


def _score_masks(layout: str, label_fraction: float | None = None) -> Column:
    """Segmentation runs on a set of LViT's."""
    published = (("released", "dice", "mean"), ("released", "iou", "mean"))
    ours = _mean("dice_per_image", "iou_per_image")
    ask = {"kind": "segment"}
    return Column(layout, {}, ask, published, ours, note=_RELEASED, label_fraction=label_fraction)


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
    "QaTa-COV19": _score_masks("qata"),
    "MosMedData+": _score_masks("mosmed"),
    "MoNuSeg": _score_masks("monuseg"),
    "QaTa-COV19 at 25 % of the labels": _score_masks("qata", 0.25),
    "QaTa-COV19 at 50 % of the labels": _score_masks("qata", 0.5),
    "network": Column("", {}, {"kind": "size"}, _SIZE, _SIZE, note=_COUNTED),
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


def column_of(table: PublishedTable, name: str) -> Column:
    """What the column `name` of a table is here."""
    return OTHERWISE.get(table.name, {}).get(name) or COLUMNS[name]
