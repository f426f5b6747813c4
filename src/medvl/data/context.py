"""Clinical variables beside the text: manifest columns (age, sex, laboratory values) as words or as tokens.

How a column is read is learned from the training split, once, and saved with the model. A cell is a number, a category
or missing (empty). A category that training does not know is taken as missing and counted apart; a number that cannot
be read is an error. Nothing is guessed.

Privacy: numbers are never written as digits, only as the fifth of the training values that they lie in; a category is
kept only if `MIN_PATIENTS` training patients share it and it holds no number of more than two digits.

Shapes: N rows, k columns.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from medvl.config import DataConfig
from medvl.core.errors import Fault, InputError, nearest, warn
from medvl.data.record import Manifest, Record

Kind = Literal["number", "category"]
Context = Mapping[str, str]  # column -> cell, "" = missing

FIFTHS = ("very low", "low", "middle", "high", "very high")
MIN_PATIENTS = 3  # as many as a word needs texts for its place in the vocabulary
NUM_LISTED = 20  # faults in one message
_LONG_NUMBER = re.compile(r"\d{3}")
_SEX = {"m": "male", "f": "female", "o": "other"}  # the codes of DICOM's Patient's Sex


@dataclass(frozen=True, slots=True)
class Column:
    """One variable. A number has mean, sd and the four inner edges of its fifths, a category its known values."""

    name: str
    kind: Kind
    mean: float = 0.0
    sd: float = 1.0
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    def value(self, cell: str) -> float:
        """The standardised number, or the place of the category; NaN = missing. ValueError: an unreadable number."""
        if not cell.strip():
            return math.nan
        if self.kind == "number":
            return (_number(cell) - self.mean) / self.sd
        known = cell.strip().casefold()
        return float(self.categories.index(known)) if known in self.categories else math.nan

    def words(self, cell: str) -> str:
        """As the text says it: "age high", "sex male", "crp val missing". ValueError: an unreadable number."""
        name, value = self.name.replace("_", " "), self.value(cell)
        if math.isnan(value):
            return f"{name} missing"
        if self.kind == "number":
            return f"{name} {FIFTHS[int(np.searchsorted(self.edges, _number(cell), side='right'))]}"
        category = self.categories[int(value)]
        return f"{name} {_SEX.get(category, category) if self.name == 'sex' else category}"

    def is_unknown(self, cell: str) -> bool:
        """A category that stands there and that training does not know."""
        return self.kind == "category" and bool(cell.strip()) and math.isnan(self.value(cell))


@dataclass(frozen=True, slots=True)
class ContextRules:
    """How the columns are read, and whether the text says them or tokens of their own do."""

    mode: Literal["text", "tokens"]
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in their order."""
        return tuple(column.name for column in self.columns)

    @property
    def num_categories(self) -> list[int | None]:
        """Per column; None = it holds numbers."""
        return [len(column.categories) if column.kind == "category" else None for column in self.columns]

    def values(self, rows: Sequence[Context]) -> NDArray[np.float32]:
        """(N, k): standardised numbers and places of categories; NaN = missing, also a column that a row lacks."""
        return np.array(
            [[self._read(column, row, column.value) for column in self.columns] for row in rows], dtype=np.float32
        ).reshape(len(rows), len(self.columns))

    def written(self, text: str, row: Context) -> str:
        """The text as the encoder reads it: in mode "text" the context stands before it, where no cut reaches it."""
        if self.mode == "tokens":
            return text
        words = ", ".join(self._read(column, row, column.words) for column in self.columns)
        return f"{words}. {text}".rstrip()

    def check(self, records: Iterable[Record], file: Path) -> None:
        """InputError with every number that cannot be read: file, record, column."""
        numbers = [column.name for column in self.columns if column.kind == "number"]
        if faults := _unreadable_cells(numbers, records, file):
            raise InputError(faults)

    def counts(self, records: Sequence[Record]) -> dict[str, dict[str, int]]:
        """{column: {"missing": empty cells, "unknown": categories that training does not know}}."""
        counts = {}
        for column in self.columns:
            cells = [record.context.get(column.name, "") for record in records]
            counts[column.name] = {
                "missing": sum(not cell.strip() for cell in cells),
                "unknown": sum(column.is_unknown(cell) for cell in cells),
            }
        return counts

    def lacking(self, row: Context) -> list[str]:
        """The columns that are missing in a row, or unknown there."""
        return [column.name for column in self.columns if math.isnan(self._read(column, row, column.value))]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` reads them."""
        return {"format": "medvl-context/1", "as": self.mode, "columns": [asdict(column) for column in self.columns]}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ContextRules:
        """The rules that `to_dict` gave."""
        columns = [
            Column(**{**column, "edges": tuple(column["edges"]), "categories": tuple(column["categories"])})
            for column in stored["columns"]
        ]
        return cls(stored["as"], tuple(columns))

    def _read(self, column: Column, row: Context, how: Any) -> Any:
        cell = row.get(column.name, "")
        try:
            return how(cell)
        except ValueError:
            raise InputError([_unreadable(column.name, cell)]) from None


def learn_rules(records: Sequence[Record], data: DataConfig, file: Path) -> ContextRules:
    """The rules of `data.context_columns` from the training records.

    Numbers: mean, sd and fifths over the records. Categories: compared without case. A column whose kind is not said
    holds numbers if at least half of its filled cells read as numbers.

    Raises:
        InputError: a column without a value, with one value only, or without a category that enough patients share;
            a number that cannot be read.
    """
    faults: list[Fault] = []
    columns = [_learn(name, kind, records, file, faults) for name, kind in column_kinds(data).items()]
    if faults:
        raise InputError(faults)
    rules = ContextRules(data.context_as, tuple(column for column in columns if column is not None))
    rules.check(records, file)
    return rules


_Cell = TypeVar("_Cell")


def column_kinds(data: DataConfig) -> dict[str, str]:
    """{column: "auto" | "number" | "category"} of `data.context_columns`."""
    columns = data.context_columns
    return dict(columns) if isinstance(columns, dict) else dict.fromkeys(columns, "auto")


def add_context(manifest: Manifest, data: DataConfig, seed: int, *, needed: bool) -> Manifest:
    """The manifest whose records know their context; with `data.context_shuffle` that of another patient.

    With `data.text_shuffle` each record has the text of another patient.

    Args:
        seed: of the shuffling.
        needed: a column that is not there is an error; else it is missing of every record, with a warning.

    Raises:
        InputError: `data.context_shuffle` or `context_missing` without columns, or a split of one patient to shuffle.
    """
    if data.text_shuffle:
        warn(f"{manifest.path}: each record has the text of another patient (data.text_shuffle, a control)")
        texts = _of_others(manifest, [record.text for record in manifest.records], seed, "data.text_shuffle")
        rows = zip(manifest.records, texts, strict=True)
        manifest = replace(manifest, records=tuple(replace(row, text=text) for row, text in rows))
    kinds = column_kinds(data)
    if not kinds:
        if data.context_shuffle or data.context_missing:
            raise InputError.conflict(
                "data.context_shuffle or context_missing without data.context_columns", remedy="leave it out"
            )
        return manifest
    present = [*manifest.records[0].extra, "view"]
    absent = [name for name in kinds if name not in present]
    if absent and needed:
        like = nearest(absent[0], present)
        raise InputError.missing_column(
            f"no column {', '.join(absent)} for data.context_columns",
            file=manifest.path,
            expected=f"some of {', '.join(present)}",
            remedy=f"did you mean {like}?" if like else None,
        )
    for name in absent:
        warn(f"{manifest.path}: no column {name}: this clinical variable is taken as missing of every record")
    missing = {word.strip().casefold() for word in data.context_missing}
    cells: list[Context] = [{name: _cell(record, name, missing) for name in kinds} for record in manifest.records]
    if data.context_shuffle:
        cells = _of_others(manifest, cells, seed, "data.context_shuffle")
    return replace(
        manifest, records=tuple(replace(row, context=cell) for row, cell in zip(manifest.records, cells, strict=True))
    )


def _learn(name: str, kind: str, records: Sequence[Record], file: Path, faults: list[Fault]) -> Column | None:
    filled = [(row.context[name].strip(), row.patient) for row in records if row.context[name].strip()]
    read = [number for cell, _ in filled if (number := _number_or_none(cell)) is not None]

    def fault(what: str, remedy: str) -> None:
        faults.append(Fault.empty(f"column {name} {what}", file=file, remedy=remedy))

    if not filled:
        fault("has no value in the train split", "leave it out of data.context_columns")
        return None
    if kind == "number" or (kind == "auto" and 2 * len(read) >= len(filled)):
        if len(set(read)) < 2 and len(read) < len(filled):
            faults += _unreadable_cells([name], records, file)
            return None
        if len(set(read)) < 2:
            fault("has fewer than two different numbers in the train split", "leave it out of data.context_columns")
            return None
        edges = np.quantile(read, [0.2, 0.4, 0.6, 0.8])
        sd = float(np.std(read))
        # Rounded, for an edge may be a patient's own value; to digits of the deviation, so that years have five fifths.
        rounded = np.round(edges, 1 - math.floor(math.log10(sd))).tolist()
        return Column(name, "number", float(np.mean(read)), sd, tuple(rounded))
    patients: dict[str, set[str]] = {}
    for cell, patient in filled:
        patients.setdefault(cell.casefold(), set()).add(patient)
    kept = sorted(c for c, holders in patients.items() if len(holders) >= MIN_PATIENTS and not _LONG_NUMBER.search(c))
    if not kept:
        fault(
            f"has no category that {MIN_PATIENTS} training patients share ({len(patients)} different ones)",
            "leave it out of data.context_columns, or group its values",
        )
        return None
    return Column(name, "category", categories=tuple(kept))


def _of_others(manifest: Manifest, cells: Sequence[_Cell], seed: int, key: str) -> list[_Cell]:
    """Each record gets the cells of the next patient of its split, in an order that is drawn."""
    groups: dict[str | None, dict[str, list[int]]] = {}
    for i, record in enumerate(manifest.records):
        groups.setdefault(record.split, {}).setdefault(record.patient, []).append(i)
    result = list(cells)
    for split, patients in groups.items():
        if len(patients) < 2:
            raise InputError.empty(
                f"{key} and one patient in the {split} split",
                file=manifest.path,
                expected="at least two patients in each split",
            )
        names = sorted(patients)
        order = [names[i] for i in np.random.default_rng([seed, 7]).permutation(len(names))]
        for patient, other in zip(order, [*order[1:], order[0]], strict=True):
            for n, i in enumerate(patients[patient]):
                result[i] = cells[patients[other][n % len(patients[other])]]
    return result


def _cell(record: Record, name: str, missing: Set[str]) -> str:
    cell = record.extra[name] if name in record.extra else (record.view or "") if name == "view" else ""
    return "" if cell.strip().casefold() in missing else cell


def _number(cell: str) -> float:
    """ValueError for what is no finite number."""
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(cell)
    return value


def _number_or_none(cell: str) -> float | None:
    try:
        return _number(cell)
    except ValueError:
        return None


def _unreadable_cells(names: Sequence[str], records: Iterable[Record], file: Path) -> list[Fault]:
    """The cells of columns of numbers that are none; the first `NUM_LISTED` and the number of the others."""
    faults = []
    for record in records:
        for name in names:
            cell = record.context.get(name, "")
            if cell.strip() and _number_or_none(cell) is None:
                faults.append(_unreadable(name, cell, file, record))
    more = (
        [Fault(f"and {len(faults) - NUM_LISTED} more", kind=faults[0].kind, file=file)]
        if len(faults) > NUM_LISTED
        else []
    )
    return [*faults[:NUM_LISTED], *more]


def _unreadable(name: str, cell: str, file: Path | None = None, record: Record | None = None) -> Fault:
    return Fault.malformed(
        f"column {name}: {cell!r} is no number",
        file=file,
        line=None if record is None else record.line,
        record=None if record is None else record.id,
        expected="a number with a decimal point, or an empty cell where it is missing",
        remedy=f"if that means missing, data.context_missing: [{cell!r}]; if {name} holds categories, "
        f"data.context_columns: {{{name}: category}}",
    )


def say_unknown(rules: ContextRules, records: Sequence[Record]) -> None:
    """Warn of categories that training did not know."""
    for column in rules.columns:
        cells = (record.context.get(column.name, "") for record in records)
        odd = Counter(cell.strip() for cell in cells if column.is_unknown(cell))
        if odd:
            warn(
                f"{column.name}: {odd.total()} of {len(records)} records have a value that training did not know "
                f"({', '.join(sorted(odd)[:5])}): taken as missing"
            )
