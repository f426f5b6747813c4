"""What is missing of a published set in a folder: files expected and found, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from medvl.data.importers.layouts import Layout, Part
from medvl.data.importers.set_files import need_folder, walk


@dataclass(frozen=True, slots=True)
class PartFound:
    """How many files of a part there are."""

    part: Part
    num_found: int

    @property
    def num_missing(self) -> int:
        """Files that are wanting; of a part without a published number 1 when there is none."""
        return max((1 if self.part.num is None else self.part.num) - self.num_found, 0)

    @property
    def complete(self) -> bool:
        """Nothing is missing, or nothing that is required."""
        return not self.part.required or not self.num_missing


def examine(layout: Layout, folder: str | Path) -> tuple[PartFound, ...]:
    """Count the files of every part of a layout below a folder. InputError: no such folder.

    The number of files is compared with the published one; whether each file belongs to the set is what the import
    checks.
    """
    folder = need_folder(folder, layout.name)
    counts = dict.fromkeys(layout.parts, 0)
    for path in walk(folder):
        relative = path.relative_to(folder).as_posix()
        for part in _matching(layout.parts, relative):
            counts[part] += 1
    return tuple(PartFound(part, number) for part, number in counts.items())


def _matching(parts: Sequence[Part], relative: str) -> list[Part]:
    return [part for part in parts if any(fnmatchcase(relative, pattern) for pattern in part.patterns)]
