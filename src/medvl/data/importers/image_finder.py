"""Images of a set by the names that annotation programs write: with folders, backslashes, drives, URLs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from medvl.data.importers.set_files import belongs, index_files

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".dcm")


class ImageFinder:
    """Looks for images below a folder. `several`: names that stand in several folders, none of which is meant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.several: list[str] = []
        self._files: dict[str, list[Path]] | None = None

    def find(self, name: str, places: Sequence[Path] = ()) -> Path | None:
        """The image of a name: in one of `places`, else the one file below the folder that ends like the name.

        A folder of another machine ("C:\\\\set\\\\a.png", "/data/upload/1/a.png", a URL) is passed over.
        """
        relative = plain_name(name)
        if not relative.name:
            return None
        for place in places:
            path = place / relative
            if _is_file(path) and (not path.is_relative_to(self.folder) or belongs(path, self.folder)):
                return path
        return self._by_tail(relative, name)

    def _by_tail(self, relative: PurePosixPath, name: str) -> Path | None:
        if self._files is None:
            self._files = {}
            for paths in index_files(self.folder, ("",)).values():
                for path in paths:
                    self._files.setdefault(path.name.lower(), []).append(path)
        lengths = {path: _shared(path, relative) for path in self._files.get(relative.name.lower(), [])}
        best = [path for path, length in lengths.items() if length == max(lengths.values())]
        if len(best) > 1:  # x.png and x.PNG: the one that is written so
            best = [path for path in best if path.name == relative.name] or best
        if len(best) > 1:
            self.several.append(name)
        return best[0] if len(best) == 1 else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def plain_name(name: str) -> PurePosixPath:
    """A path as any program wrote it, relative, with "/" between its parts."""
    text = name.strip().replace("\\", "/")
    if "?d=" in text:  # a file that Label Studio serves from a local folder
        text = text.split("?d=", 1)[1]
    if re.match(r"[A-Za-z][\w+.-]+://", text):
        text = text.split("://", 1)[1].split("?", 1)[0]
    if "%" in text:
        text = unquote(text)
    text = re.sub(r"^[A-Za-z]:", "", text)
    return PurePosixPath(*(part for part in text.split("/") if part not in ("", ".", "..")))


def _shared(path: Path, relative: PurePosixPath) -> int:
    """How many parts at their ends a file and a name have in common, without case."""
    num = 0
    for one, other in zip(reversed(path.parts), reversed(relative.parts), strict=False):
        if one.lower() != other.lower():
            break
        num += 1
    return num
