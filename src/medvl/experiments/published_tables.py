"""The published tables of papers, as printed (config/published/*.yaml), and what each of their columns is here."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

import medvl.config
from medvl.config.ranges import SECTION
from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import read_typed

FOLDER = Path(medvl.config.__file__).with_name("published")
Cell = tuple[float | None, ...]


@dataclass(config=SECTION, frozen=True, slots=True)
class PublishedTable:
    """One table. Numbers in percent; a column has one number for each of `of` (fractions of the labels, or metrics)."""

    name: str  # g2d-table1
    title: str
    source: str
    of: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]  # method -> a cell per column, of None where the paper has no number


@dataclass(config=SECTION)
class _Table:
    title: str
    of: tuple[str, ...]
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell | None, ...]]


@dataclass(config=SECTION)
class _File:
    source: str
    tables: dict[str, _Table]


@cache
def _all_tables(folder: Path = FOLDER) -> dict[str, PublishedTable]:
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
            tables[name] = PublishedTable(name, table.title, file.source, table.of, table.columns, rows)
    return tables


def table_names() -> list[str]:
    """g2d-table1, g2d-table2a, ..."""
    return list(_all_tables())


def published_table(name: str) -> PublishedTable:
    """The table of that name. InputError on an unknown one, naming the nearest."""
    tables = _all_tables()
    if name not in tables:
        like = nearest(name, tables)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.unknown(f"no table {name}", expected=", ".join(tables), remedy=remedy)
    return tables[name]


FRACTIONS = {"1 %": 0.01, "10 %": 0.1, "100 %": 1.0}
Path_ = tuple[str, ...]  # of a value in a result file


@plain_dataclass(frozen=True, slots=True)
class Column:
    """What a column of a published table is here.

    `published` and `ours` say where in a result file the number stands: by the table's own convention, and by medvl's.
    Of a column that is trained one place (for every fraction), of one that is asked one per number of the table.
    """

    layout: str
    recipe: dict[str, Any] = field(default_factory=dict)  # of `medvl train`; empty where nothing is trained
    ask: dict[str, Any] = field(default_factory=dict)  # options of classification by prompts, or of grounding
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


def column_of(table: PublishedTable, name: str) -> Column:
    """What the column `name` of a table is here."""
    return OTHERWISE.get(table.name, {}).get(name) or COLUMNS[name]
