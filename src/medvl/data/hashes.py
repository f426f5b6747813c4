"""SHA-256 of image and mask files, each read once, and which images a model was trained on by their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medvl.core.errors import InputError
from medvl.core.files import read_json, write_json, write_text
from medvl.data.packed import file_stat, in_pack, open_file

if TYPE_CHECKING:
    from medvl.data.record import Record

MARGIN_NS = 2_000_000_000  # a file that changed so shortly before it was hashed may have changed again unseen
CHUNK = 1 << 20  # bytes read at once
NUM_THREADS = 4  # hashing waits for the disk


class HashStore:
    """Hashes of files, kept in a file of their own between two runs.

    An entry holds for a file of the same size and times (of its content and of its inode, which no program can set).
    Anything else is hashed anew, so that the store saves time and decides nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        """`path`: where it is kept (JSON lines); None = in memory only. A damaged line is passed over."""
        self.path = path
        self.num_hashed = 0
        self._entries: dict[str, list[object]] = {}  # absolute path -> size, mtime, ctime (ns), sha256
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    name, *entry = json.loads(line)
                except (ValueError, TypeError):
                    continue
                if isinstance(name, str) and len(entry) == 4:
                    self._entries[name] = entry

    def hashes(self, paths: Iterable[Path]) -> dict[Path, str | None]:
        """-> path: sha256 in hex, or None where there is no such file. Writes what is new to the store's file."""
        distinct = list(dict.fromkeys(paths))
        before = self.num_hashed
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            digests = dict(zip(distinct, threads.map(self._hash, distinct), strict=True))
        if self.path is not None and self.num_hashed > before:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, "".join(json.dumps([name, *row]) + "\n" for name, row in self._entries.items()))
        return digests

    def _hash(self, path: Path) -> str | None:
        name = os.path.abspath(path)
        try:
            now, seen = time.time_ns(), file_stat(path)
            key = [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]
            known = self._entries.get(name)
            if known is not None and known[:3] == key:
                return str(known[3])
            sha256 = file_hash(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        self.num_hashed += 1
        if max(seen.st_mtime_ns, seen.st_ctime_ns) < now - MARGIN_NS:
            self._entries[name] = [*key, sha256]
        return sha256


def image_hashes(records: Iterable[Record], store: HashStore | None = None) -> dict[Path, str]:
    """The content of each distinct image of `records`: path -> SHA-256 of the file's bytes in hex.

    Args:
        records: of a manifest (`manifest.records`, `manifest.split("val")`).
        store: does not read unchanged files again (a run keeps its own: `train.run.HASHES`); None reads every file.

    An image that is missing has no entry.
    """
    hashes = (store or HashStore()).hashes(record.image for record in records)
    return {path: digest for path, digest in hashes.items() if digest is not None}


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes in hex. Of a file in a pack, InputError where they are not those that were packed."""
    with open_file(path, check=False) as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    sha256, packed = digest.hexdigest(), in_pack(path)
    if packed is not None and packed[1] and sha256 != packed[0].members[packed[1]].sha256:
        raise packed[0].damaged(packed[0].members[packed[1]])
    return sha256


FILE = "trained_on.json"
FORMAT = "medvl-trained-on/1"
DIGITS = 16  # of a hash: 64 bits distinguish the images of any set


@dataclass(frozen=True, slots=True)
class Stage:
    """One training: its task, the file name of its manifest, the images of its train split (shortened hashes)."""

    task: str
    manifest: str
    images: frozenset[str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of `num_images` distinct images each stage was trained on; `by_stage` leaves out stages without any."""

    num_images: int
    by_stage: tuple[tuple[Stage, int], ...]
    num_seen: int  # by any stage

    def line(self, what: str) -> str | None:
        """A sentence for the terminal and the report; None where no image was trained on."""
        if not self.num_seen:
            return None
        parts = [f"{number} in {stage.task} ({stage.manifest})" for stage, number in self.by_stage]
        return f"{self.num_seen} of the {self.num_images} {what} images were trained on: {', '.join(parts)}"

    def as_dict(self) -> dict[str, object]:
        """For summary.json and plan.json."""
        stages = [{"task": s.task, "manifest": s.manifest, "images": number} for s, number in self.by_stage]
        return {"images": self.num_images, "trained_on": self.num_seen, "stages": stages}


def stage_of(task: str, manifest: str | Path, hashes: Iterable[str]) -> Stage:
    """The stage of a run that trains on images of these hashes."""
    return Stage(task, Path(manifest).name, frozenset(digest[:DIGITS] for digest in hashes))


def count_seen(stages: Sequence[Stage], hashes: Iterable[str]) -> Overlap:
    """How many of some images (by hash; equal ones count once) the stages were trained on."""
    images = {digest[:DIGITS] for digest in hashes}
    counts = [(stage, len(images & stage.images)) for stage in stages]
    seen = images & frozenset().union(*(stage.images for stage in stages))
    return Overlap(len(images), tuple((stage, number) for stage, number in counts if number), len(seen))


def write_stages(folder: Path, stages: Sequence[Stage]) -> None:
    """Write FOLDER/trained_on.json."""
    rows = [{"task": s.task, "manifest": s.manifest, "images": sorted(s.images)} for s in stages]
    write_json(folder / FILE, {"format": FORMAT, "stages": rows})


def read_stages(folder: Path) -> tuple[Stage, ...] | None:
    """The stages of a model folder; None where it does not say (a model of an older version).

    Raises:
        InputError: a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    stored = read_json(path)
    try:
        rows = stored["stages"]
        return tuple(Stage(str(row["task"]), str(row["manifest"]), frozenset(map(str, row["images"]))) for row in rows)
    except (TypeError, KeyError) as error:
        raise InputError.damaged(f"damaged ({error})", file=path, expected="the images of each stage") from None
