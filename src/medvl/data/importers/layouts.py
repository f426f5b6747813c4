"""The registry of published layouts: what their folders hold, where they are obtained, on what terms, who imports them.

An importer declares its layouts in a file of its own, NAME.yaml beside NAME.py, and is found there: a new one is these
two files. Listing the layouts imports none of them.

Labels in the manifests of all layouts, for whoever reads them (classification, detection):

- `labels`: the positive labels of the row, `|` between them; `none` = none of the layout's labels is positive; empty =
  not annotated.
- `labels_unknown`: those of which neither is known (uncertain, not mentioned): no loss, not scored. Without this column
  everything is known.
- `Layout.labels`: all labels of a set, in the order of its table. What is in neither column is negative.

Segmentation sets mark absence with `none` in their mask column, boxes stand in boxes.csv.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.dataclasses import dataclass

import medvl.data.importers
from medvl.config.ranges import SECTION
from medvl.core.errors import InputError, nearest
from medvl.core.files import NEW_OUT, refuse_source
from medvl.core.plain_yaml import read_typed
from medvl.data.importers.set_files import need_folder, walk

if TYPE_CHECKING:
    from medvl.data.importers.cases import ImportResult


@dataclass(config=SECTION, frozen=True, slots=True)
class Part:
    """Files that belong to a set: shell patterns for their path below the folder ("*" also stands for "/").

    `num`: how many the published set has, None where that is up to the user (then one will do). A part that is not
    `required` may be absent. `names`: patterns of files of the folder itself or of a folder in it.
    """

    what: str
    files: tuple[str, ...] = ()
    num: int | None = None
    required: bool = True
    names: tuple[str, ...] = ()

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns."""
        return self.files + tuple(pattern for name in self.names for pattern in (name, f"*/{name}"))

    def holds(self, relative: str) -> bool:
        """Whether a file, by its path below the folder, is one of the part."""
        return any(fnmatchcase(relative, pattern) for pattern in self.patterns)


@dataclass(config=SECTION, frozen=True, slots=True)
class Layout:
    """One published layout."""

    name: str
    title: str
    parts: tuple[Part, ...]
    obtained: str  # where the set is to be had
    terms: str
    met: str  # real files that the importer was tried on; for the rest it follows the set's description
    licence: str = ""  # of each row of its manifests; empty where the set is the user's own
    labels: tuple[str, ...] = ()  # all labels of the set; () where it has none or they are the user's own
    options: tuple[str, ...] = ()  # of the command line; passed on under their own names
    note: str = ""
    importer: str = ""  # "module:function" in this package; default NAME:import_NAME of NAME.yaml

    def function(self) -> Callable[..., ImportResult]:
        """The importer; its module is imported now. InputError when this installation does not have it."""
        module, _, name = self.importer.partition(":")
        try:
            return getattr(import_module(f"{__package__}.{module}"), name)  # type: ignore[no-any-return]
        except (ModuleNotFoundError, AttributeError) as error:
            raise InputError.missing_package(f"the importer of {self.name} is not installed ({error})") from None

    def check_out(self, folder: str | Path, out: str | Path) -> None:
        """Refuse an `out` that is the source itself or a file of the set. Every importer would replace it."""
        refuse_source(folder, out)
        if not Path(out).is_file():
            return
        # A link is looked at both as it is called and as the file that it leads to.
        for root, file in ((os.path.abspath(folder), os.path.abspath(out)), map(os.path.realpath, (folder, out))):
            relative = Path(os.path.relpath(file, root)).as_posix()
            if not relative.startswith("../") and any(part.holds(relative) for part in self.parts):
                raise InputError.exists(
                    "--out is a file of the set", file=out, expected=NEW_OUT, remedy="another --out"
                )

    def run(self, folder: str | Path, out: str | Path, **options: Any) -> ImportResult:
        """Import a folder. InputError for an option of another layout."""
        for name in options:
            if name not in self.options:
                takers = ", ".join(other.name for other in all_layouts().values() if name in other.options)
                raise InputError.conflict(f"--{name.replace('_', '-')} belongs to {takers}, not to {self.name}")
        self.check_out(folder, out)
        return self.function()(folder, out, **options)


@cache
def all_layouts() -> dict[str, Layout]:
    """Name -> layout, of every NAME.yaml of this package, in the order of the files and of their entries.

    Raises:
        InputError: a file that is no list of layouts, or a name that stands twice.
    """
    layouts: dict[str, Layout] = {}
    for folder in medvl.data.importers.__path__:
        for path in sorted(Path(folder).glob("*.yaml")):
            for layout in read_typed(path, tuple[Layout, ...]):
                if layout.name in layouts:
                    raise InputError.duplicate(f"layout {layout.name} stands twice", file=path)
                importer = layout.importer or f"{path.stem}:import_{path.stem}"
                layouts[layout.name] = replace(layout, importer=importer)
    return layouts


def get_layout(name: str) -> Layout:
    """The layout of a name. InputError with the nearest name and the list of all."""
    layouts = all_layouts()
    if name not in layouts:
        like = nearest(name, layouts)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.unknown(f"unknown layout {name}", expected=", ".join(layouts), remedy=remedy)
    return layouts[name]


@plain_dataclass(frozen=True, slots=True)
class PartCount:
    """How many files of a part a folder has; None: no folder was looked at."""

    part: Part
    num_present: int | None

    @property
    def num_missing(self) -> int:
        """Files that are wanting; of a part without a published number 1 when there is none."""
        expected = 1 if self.part.num is None else self.part.num
        return 0 if self.num_present is None else max(expected - self.num_present, 0)

    @property
    def complete(self) -> bool:
        """Nothing is missing, or nothing that is required."""
        return not self.part.required or not self.num_missing

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        part = self.part
        values = {"what": part.what, "files": part.patterns, "expected": part.num, "required": part.required}
        counts = {} if self.num_present is None else {"found": self.num_present, "missing": self.num_missing}
        return {**values, **counts}

    def __str__(self) -> str:
        part = self.part
        expected = "at least one" if part.num is None else f"{part.num:,} files"
        text = f"{part.what}: {expected}{'' if part.required else ', optional'} ({' or '.join(part.patterns)})"
        if self.num_present is None:
            return text
        missing = f"{self.num_missing:,} MISSING" if part.required else "absent"
        return f"{text}: {self.num_present:,} found, {missing if self.num_missing else 'ok'}"


@plain_dataclass(frozen=True, slots=True)
class LayoutCheck:
    """What a layout consists of, and how much of it a folder has."""

    layout: Layout
    folder: Path | None
    parts: tuple[PartCount, ...]

    @property
    def complete(self) -> bool:
        """Whether no required file is missing."""
        return all(part.complete for part in self.parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        layout = self.layout
        facts: dict[str, Any] = {"layout": layout.name, "title": layout.title, "obtained": layout.obtained}
        facts |= {"terms": layout.terms, "met": layout.met, "note": layout.note}
        facts |= {} if self.folder is None else {"folder": str(self.folder), "complete": self.complete}
        return {**facts, "parts": [part.as_dict() for part in self.parts]}

    def __str__(self) -> str:
        layout = self.layout
        facts = {"labels": ", ".join(layout.labels), "obtained": layout.obtained, "terms": layout.terms}
        facts |= {"real files met": layout.met, "note": layout.note}
        lines = [f"{layout.name}: {layout.title}", *(f"  {part}" for part in self.parts)]
        lines += [f"  {label}: {text}" for label, text in facts.items() if text]
        if self.folder is not None:
            lines.append(f"{self.folder}: {'complete' if self.complete else 'something is missing'}")
        return "\n".join(lines)


def check_layout(name: str, folder: str | Path | None = None) -> LayoutCheck:
    """What a layout consists of; with a folder, the files of every part below it are counted.

    The number of files is compared with the published one; whether each file belongs to the set is what the import
    checks. InputError: no such layout or folder.
    """
    layout = get_layout(name)
    if folder is None:
        return LayoutCheck(layout, None, tuple(PartCount(part, None) for part in layout.parts))
    folder = need_folder(folder, layout.name)
    files = [path.relative_to(folder).as_posix() for path in walk(folder)]
    return LayoutCheck(layout, folder, tuple(PartCount(part, sum(map(part.holds, files))) for part in layout.parts))


def markdown() -> str:
    """What every layout consists of, for docs/reference/importers.md."""
    return "\n".join(f"## {name}\n\n```text\n{check_layout(name)}\n```\n" for name in all_layouts())
