"""Reading the tables of published sets row by row, and finding their files by name."""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from medvl.core.errors import Fault, InputError, nearest


def stream_csv(path: Path, needed: Sequence[str], faults: list[Fault]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, {column: cell}) of a CSV (also .csv.gz), one row at a time; cells and names without outer white space.

    Rows with fewer or more cells than the header are faults and left out; empty cells at the end may be missing or
    superfluous, as published tables have them. InputError: no such file, not UTF-8, or a needed column is absent.
    """
    if not path.is_file():
        raise InputError.missing_file("no such table", file=path)
    with _open(path) as stream:
        reader = csv.reader(stream)
        try:
            names = [name.strip() for name in next(reader, [])]
            absent = [name for name in needed if name not in names]
            if absent:
                like = nearest(absent[0], names)
                remedy = f"did you mean {like}?" if like else None
                expected = ", ".join(needed)
                raise InputError.missing_column(
                    f"no column {', '.join(absent)}", file=path, line=1, expected=expected, remedy=remedy
                )
            start = reader.line_num + 1
            for cells in reader:
                line, start = start, reader.line_num + 1
                if not any(cells):
                    continue
                if any(cells[len(names) :]) or any(names[len(cells) :]):
                    faults.append(
                        Fault.malformed(f"{len(cells)} cells", path, line, expected=f"{len(names)}, as the header")
                    )
                    continue
                yield line, {name: cell.strip() for name, cell in zip(names, cells, strict=False) if name}
        except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError.damaged(f"cannot be read as CSV ({error})", file=path, line=reader.line_num) from None


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def find_file(folder: Path, names: Sequence[str], *, what: str = "table") -> Path:
    """The file of one of `names` in a folder, else in its direct sub-folders. InputError when none or several."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    return only_table(matching(folder, *(f"*/{name}" for name in names)), folder, " or ".join(names), what=what)


def only_table(paths: Sequence[Path], folder: Path, expected: str, *, what: str = "table") -> Path:
    """The one of `paths`. InputError when there is none or several."""
    if len(paths) == 1:
        return paths[0]
    if not paths:
        raise InputError.missing_file(f"no {what}", file=folder, expected=expected)
    raise InputError.ambiguous(f"several {what}s: {', '.join(map(str, paths))}", file=folder, expected=expected)


def need_folder(folder: str | Path, layout: str) -> Path:
    """The folder as a Path. InputError when it is none."""
    folder = Path(folder)
    if not folder.is_dir():
        remedy = f"medvl data check {layout} says what it holds"
        raise InputError.missing_file("no such folder", file=folder, expected=f"layout {layout}", remedy=remedy)
    return folder


# What file managers and archive programs leave beside the files of a set.
_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin"}


def belongs(path: Path, folder: Path) -> bool:
    """Whether a file below `folder` is one of the set: no name on the way begins with "." ("._a.png", .DS_Store)."""
    names = path.relative_to(folder).parts
    return not any(name.startswith(".") or name.lower() in _LEFT_BEHIND for name in names)


def matching(folder: Path, *patterns: str) -> list[Path]:
    """The files of a set below `folder` that match a pattern, in sorted order."""
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if belongs(path, folder)})


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, in sorted order, through links to folders too (each real folder once)."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if belongs(Path(root, name), Path(root)))
        for name in sorted(files):
            if belongs(Path(root, name), Path(root)):
                yield Path(root, name)


def index_files(folder: Path, suffixes: Sequence[str], *, stems: bool = False) -> dict[str, list[Path]]:
    """File name (or stem) -> every file below the folder that has it. Suffixes in lower case; ("",) takes all."""
    files: dict[str, list[Path]] = {}
    for path in walk(folder):
        if path.name.lower().endswith(tuple(suffixes)):
            name = path.name[: -len(path.suffix)] if stems and path.suffix else path.name
            files.setdefault(name, []).append(path)
    return files
