"""Tables whose columns have other names: `data.columns: {image: Path, patient: PatientID}`, given or guessed.

The keys are medvl's names, the values those of the table. A table that is read so looks like any manifest to all that
comes after. Where a table has no column for `id`, the names of the images are taken.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medvl.core.errors import Fault, InputError, nearest
from medvl.data.images import IMAGE_SUFFIXES
from medvl.data.tables import Table, read_table

NAMES = tuple("id image text mask mask_values boxes labels patient study view split licence".split())
ALIASES = {"group": "patient", "label": "labels"}
MAX_ID_BYTES = 150  # what follows in a file name has room

# Usual names of other tables, without case, spaces and underscores.
_USUAL = {
    "id": "imageid dicomid caseid sampleid recordid",
    "image": "imagepath imagefile imagefilename imagename imageindex img imgpath imgfile path filepath filename file",
    "text": "report reports reporttext caption captions sentence description prompt",
    "mask": "maskpath maskfile maskfilename maskname segmentation segmentationpath seg segpath",
    "labels": "findinglabels classlabel classlabels classname diagnosis diagnoses",
    "patient": "patientid patientidentifier subject subjectid participantid",
    "study": "studyid studyinstanceuid",
    "view": "viewposition projection",
    "split": "subset datasplit partition",
    "licence": "license",
}
_NAME_OF = {usual: name for name, group in _USUAL.items() for usual in group.split()}


@dataclass(frozen=True, slots=True)
class ColumnGuess:
    """`columns`: medvl's name -> the table's. `ambiguous`: medvl's name -> the columns that it may be."""

    columns: Mapping[str, str]
    ambiguous: Mapping[str, tuple[str, ...]]
    has_ids: bool = True

    def lines(self) -> list[str]:
        """What was guessed, and what a name may be, with the key that says so in a recipe."""
        lines = []
        if self.columns:
            ids = "" if self.has_ids else "; ids are the names of the images"
            lines.append(f"the columns are read as {shown(self.columns)}: write that into a recipe{ids}")
        for name, several in self.ambiguous.items():
            lines.append(f"{name} may be {' or '.join(several)}, and none is read as such: {shown({name: several[0]})}")
        return lines

    def without(self, name: str) -> ColumnGuess:
        """The guess where `name` is known."""
        columns = {key: column for key, column in self.columns.items() if key != name}
        ambiguous = {key: several for key, several in self.ambiguous.items() if key != name}
        return replace(self, columns=columns, ambiguous=ambiguous)

    def check(self, path: str | Path) -> None:
        """InputError with the key to set where a name may be one of several columns."""
        if self.ambiguous:
            example = {**self.columns, **{name: several[0] for name, several in self.ambiguous.items()}}
            what = "; ".join(f"{name} may be {' or '.join(several)}" for name, several in self.ambiguous.items())
            raise InputError.ambiguous(
                f"columns: {what}", file=path, line=1, expected="one of them", remedy=shown(example)
            )


def shown(columns: Mapping[str, str]) -> str:
    """The key of a recipe or an override: `data.columns={image: Path}`."""
    cells = ", ".join(f"{name}: {_quoted(column)}" for name, column in columns.items())
    return f"data.columns={{{cells}}}"


def table_columns(overrides: Sequence[str]) -> dict[str, str] | None:
    """`data.columns={image: Path}` of a command line; None where it is not given.

    Raises:
        InputError: another key, or no mapping of names.
    """
    from medvl.config.overrides import parse_override

    columns = None
    for override in overrides:
        key, columns = parse_override(override, "data.columns={image: Path}")
        names = columns.items() if isinstance(columns, dict) else [(0, 0)]
        if key != "data.columns" or not all(isinstance(word, str) for pair in names for word in pair):
            raise InputError.malformed(f"{override[:80]!r}", expected="data.columns={image: Path, patient: PatientID}")
    return columns


def guess_columns(header: Iterable[str]) -> ColumnGuess:
    """Which columns of a table are which of a manifest, by the usual names. Those with medvl's own names are known."""
    header = tuple(header)
    known = {ALIASES.get(name, name) for name in header}
    known |= {"mask"} if any(name.startswith("mask_") for name in header) else set()
    candidates: dict[str, list[str]] = {}
    for column in header:
        plain = re.sub(r"[^a-z0-9]", "", column.lower())
        name = _NAME_OF.get(plain) or ALIASES.get(plain) or (plain if plain in NAMES else None)
        if name is not None and name not in known:
            candidates.setdefault(name, []).append(column)
    columns = {name: several[0] for name, several in candidates.items() if len(several) == 1}
    has_ids = "id" in known | set(columns)
    if not has_ids and "image" in known:
        columns["image"] = "image"  # ids are made of the images' names
    ambiguous = {name: tuple(several) for name, several in candidates.items() if len(several) > 1}
    return ColumnGuess(columns, ambiguous, has_ids)


def guess_table(path: str | Path, text_column: str = "text") -> ColumnGuess:
    """`guess_columns` of the header of a table; with another `text_column` the text is known.

    Raises:
        InputError: the image may be one of several columns; the message has the key to set.
    """
    table = read_table(path, needed=("image",))
    guess = guess_columns(table.columns)
    if text_column != "text":
        guess = guess.without("text")
    if "image" in guess.ambiguous:
        guess.check(table.path)
    return guess


def read_columns(path: str | Path, columns: Mapping[str, str] | None = None, *, make_ids: bool = False) -> Table:
    """The rows of a manifest by medvl's names.

    A column of `columns` that is not in the table is no fault where the table has medvl's own name: so the split or
    the evaluation table of a run is read with its configuration. A column that loses its name is set aside.

    Args:
        make_ids: a table without ids gets those of its images, also without `columns`.

    Raises:
        InputError: an unknown name, a column that is given twice or that the table does not have.
    """
    columns = dict(columns or {})
    _check_names(columns, path)
    makes_ids = make_ids or bool(columns)
    needed = [columns.get("image", "image"), *([] if makes_ids else ["id"])]
    table = read_table(path, needed=needed)
    if columns and not set(columns.values()) & set(table.columns):  # with rows above a header by medvl's names
        table = read_table(path, needed=["image"])
    table = _renamed(table, columns)
    return _with_ids(table) if makes_ids and "id" not in table.columns and "image" in table.columns else table


def _check_names(columns: Mapping[str, str], path: str | Path) -> None:
    for name in columns:
        if name not in NAMES and not name.startswith("mask_"):
            like = nearest(name, NAMES)
            remedy = f"did you mean {like}?" if like else None
            raise InputError.unknown(
                f"data.columns: unknown name {name}",
                file=path,
                expected=f"medvl's name: the table's; medvl's are {', '.join(NAMES)}, mask_NAME",
                remedy=remedy,
            )
    twice = [column for column, number in Counter(columns.values()).items() if number > 1]
    if twice:
        names = [name for name, column in columns.items() if column == twice[0]]
        remedy = "leave out id: it is made of the image's name" if set(names) == {"id", "image"} else None
        raise InputError.duplicate(
            f"data.columns: {' and '.join(names)} are both {twice[0]}",
            file=path,
            expected="each column once",
            remedy=remedy,
        )


def _renamed(table: Table, columns: Mapping[str, str]) -> Table:
    faults = []
    new_names: dict[str, str] = {}  # the table's -> medvl's
    for name, column in columns.items():
        if column in table.columns:
            new_names[column] = name
        elif name not in table.columns:
            like = nearest(column, table.columns)
            remedy = f"did you mean {like}?" if like else None
            names = ", ".join(table.columns)
            faults.append(
                Fault.missing_column(f"data.columns: no column {column} for {name}", table.path, 1, None, names, remedy)
            )
    if faults:
        raise InputError(faults)
    notes = list(table.notes)
    for name in list(new_names.values()):
        if name in table.columns and name not in new_names:
            aside = f"table_{name}"
            new_names[name] = aside
            notes.append(f"{table.path}: column {name} is not read as such: data.columns takes {columns[name]} for it")
    if not new_names:
        return table
    rows = tuple((line, {new_names.get(key, key): cell for key, cell in row.items()}) for line, row in table.rows)
    header = tuple(new_names.get(name, name) for name in table.columns)
    return replace(table, columns=header, rows=rows, notes=tuple(notes))


def _with_ids(table: Table) -> Table:
    stems = [image_stem(Path(row["image"].replace("\\", "/"))).lstrip(".") for _, row in table.rows]
    several = {stem for stem, num in Counter(stems).items() if num > 1}
    rows = tuple(
        (line, {"id": short_id(f"{stem}-{line}" if stem in several else stem), **row})
        for stem, (line, row) in zip(stems, table.rows, strict=True)
    )
    return replace(table, columns=("id", *table.columns), rows=rows)


def image_stem(path: Path) -> str:
    """The name of a file without the suffix of an image."""
    name = path.name.removesuffix(".gz")
    suffix = next((end for end in IMAGE_SUFFIXES if name.lower().endswith(end)), "")
    return (name[: len(name) - len(suffix)] if suffix else name) or name


def short_id(name: str) -> str:
    """`name`, cut to what an id may be; a hash keeps cut names apart."""
    if len(name.encode()) <= MAX_ID_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: MAX_ID_BYTES - 9].decode(errors='ignore')}-{digest}"


def _quoted(column: str) -> str:
    return column if re.fullmatch(r"[A-Za-z_][\w./-]*( [\w./-]+)*", column) else f'"{column}"'
