"""Paths as people write them in a manifest -> files of this machine.

A backslash is read as a slash, and capitals and small letters are not distinguished, where the path as it is
written does not exist: both are counted and reported. An absolute path of another kind of system is a fault.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from medvl.core.errors import Fault
from medvl.data.packed import exists, in_pack, names_in
from medvl.data.record import NOT_A_MASK

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|file:/", re.IGNORECASE)


def path_columns(columns: Iterable[str]) -> list[str]:
    """The columns of a manifest that hold paths; a cell of `mask_NAME` may also be a remark."""
    return [name for name in columns if name in ("image", "mask") or (name[:5] == "mask_" and name not in NOT_A_MASK)]


class PathFinder:
    """Paths relative to the folder of a manifest; one object per distinct cell, since many rows share an image."""

    def __init__(self, manifest: Path) -> None:
        self._manifest = manifest
        self._folder = manifest.parent
        self._paths: dict[str, Path] = {}
        self._names: dict[Path, dict[str, list[str]]] = {}  # folder -> names in small letters -> names
        self._backslashes: list[str] = []
        self._other_case: list[str] = []
        self._absolute: list[str] = []
        self._too_long: list[str] = []
        self._is_packed = in_pack(manifest) is not None
        self._outside: list[str] = []

    def path(self, cell: str) -> Path:
        """The file that a cell means, whether it exists or not."""
        if cell not in self._paths:
            self._paths[cell] = self._find(cell)
        return self._paths[cell]

    def notes(self) -> list[str]:
        """What was read in another way than it is written, with counts."""
        notes = []
        if self._backslashes:
            what = f"{len(self._backslashes)} paths are written with \\ and read with /"
            notes.append(f"{self._manifest}: {what}, e.g. {self._backslashes[0]}")
        if self._other_case:
            what = f"{len(self._other_case)} paths differ from their file in capitals or accents alone, and are taken"
            notes.append(f"{self._manifest}: {what}, e.g. {self._other_case[0]}")
        return notes

    def faults(self) -> list[Fault]:
        """One for all absolute paths of another kind of system, and one for those that no system allows."""
        faults = []
        if self._too_long:
            what = f"{len(self._too_long)} paths are longer than a path can be, e.g. {self._too_long[0][:40]}..."
            faults.append(
                Fault.out_of_range(
                    what, self._manifest, expected=f"at most {_MAX_NAME} bytes a name, {_MAX_PATH} in all"
                )
            )
        if self._outside:
            what = f"{len(self._outside)} paths leave the pack, e.g. {self._outside[0]}"
            faults.append(Fault.malformed(what, self._manifest, expected="paths of files in it"))
        if not self._absolute:
            return faults
        first = self._absolute[0]
        parts = re.split(r"[\\/]+", first)
        tails = ("/".join(parts[i:]) for i in range(1, len(parts)))
        near = next((tail for tail in tails if exists(self._folder / tail)), None)
        what = f"{len(self._absolute)} paths are absolute paths of Windows or URLs of files, e.g. {first}"
        remedy = f"{near} is there: write it so" if near else "copy the files beside it and write e.g. images/a.png"
        return [
            *faults,
            Fault.malformed(what, self._manifest, expected="paths relative to the manifest", remedy=remedy),
        ]

    def _find(self, cell: str) -> Path:
        path = self._folder / cell
        if len(cell) > _MAX_NAME // 4 and _is_too_long(path):
            self._too_long.append(cell)
            return Path()
        if self._is_packed and (Path(cell).is_absolute() or ".." in Path(cell).parts):
            self._outside.append(cell)
            return Path()
        if _exists(path):
            return path
        if _WINDOWS.match(cell) and os.name != "nt":
            self._absolute.append(cell)
            return path
        if "\\" in cell:
            other = self._folder / cell.replace("\\", "/")
            existing = other if _exists(other) else self._same_letters(other)
            if existing is not None:
                self._backslashes.append(cell)
                return existing
            return path
        existing = self._same_letters(path)
        if existing is None:
            return path
        self._other_case.append(f"{cell} for {existing.name}")
        return existing

    def _same_letters(self, path: Path) -> Path | None:
        """The one existing file whose path has these letters, capitals and forms of accents apart."""
        if not path.is_relative_to(self._folder):
            return None
        existing = self._folder
        for part in path.relative_to(self._folder).parts:
            if part == ".." or _exists(existing / part):
                existing /= part
                continue
            names = self._in_folder(existing).get(_letters(part), [])
            if len(names) != 1:
                return None
            existing /= names[0]
        return existing

    def _in_folder(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for name in names_in(folder):
                    names[_letters(name)].append(name)
            except OSError:  # no folder, or not to be read: nothing is in it
                pass
            self._names[folder] = names
        return self._names[folder]


_MAX_NAME, _MAX_PATH = 255, 4095  # bytes


def _is_too_long(path: Path) -> bool:
    names = [len(part.encode(errors="replace")) for part in path.parts]
    return max(names) > _MAX_NAME or sum(names) + len(names) > _MAX_PATH


def _letters(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _exists(path: Path) -> bool:
    try:
        return exists(path)
    except (OSError, ValueError):  # a name that is too long, or that no system allows
        return False
