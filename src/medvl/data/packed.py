"""Files of a data set, wherever they lie: in a folder, or in a pack (`packing.py` writes one).

A pack is one tar file. Its first member, `pack.json`, says where its last one lies: `index.json`, with the name, place,
size and SHA-256 of every file. The files between them hold the bytes of the originals; the tables are among them.

A file in a pack has a path like any other, through the pack: `set.tar/images/a.png`, relative to the folder of the
table that was packed. Every reader of this package opens its files here, so that it reads both. The pack is opened anew
for each file, so that processes and threads share no position in it; a path that leaves the pack finds nothing.

Pillow, OpenCV, NumPy, pydicom, nibabel and the readers of tables take the open file. SimpleITK (NRRD, MetaImage) and
nibabel with a header apart from its voxels (.hdr and .img) take names alone: for them a copy of that one file stands in
a temporary folder while it is read.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from medvl.assets import SHIPPED, shipped_table
from medvl.core.errors import InputError
from medvl.core.limits import byte_limit

SUFFIX = ".tar"
HEAD, INDEX = "pack.json", "index.json"  # the first and the last member
FORMAT = "medvl pack 1"
BLOCK = 512  # bytes: the tar header of a member, and the content of `HEAD`
CHECKED_AT_ONCE = 1 << 26  # bytes: a larger file is compared with its SHA-256 only where the whole of it is read
GZIP = b"\x1f\x8b"
_REMEDY = "medvl data pack MANIFEST --out FILE.tar"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a pack."""

    name: str  # relative to the folder of the table, with /
    member: str  # its name in the tar
    offset: int  # of its first byte in the tar
    size: int  # bytes
    sha256: str  # hex


@dataclass(frozen=True)
class Pack:
    """The index of a pack. `tables` names its manifests, the one that the pack stands for first."""

    path: Path
    tables: tuple[str, ...]
    members: Mapping[str, Member]

    @cached_property
    def folders(self) -> Mapping[str, frozenset[str]]:
        """Folder ("" is the whole pack) -> names of what is in it."""
        folders: dict[str, set[str]] = {"": set()}
        for name in self.members:
            parts = name.split("/")
            for i, part in enumerate(parts):
                folders.setdefault("/".join(parts[:i]), set()).add(part)
        return {name: frozenset(names) for name, names in folders.items()}

    def open(self, name: str, *, check: bool = True) -> BinaryIO:
        """One file. With `check` one of up to `CHECKED_AT_ONCE` bytes is compared with its SHA-256.

        Raises:
            FileNotFoundError: no such file in it.
            InputError: other bytes than were packed.
        """
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(2, "no such file in the pack", str(self.path / name))
        file = self.path.open("rb")
        if not check or member.size > CHECKED_AT_ONCE:
            return io.BufferedReader(_Part(file, member.offset, member.size, str(self.path / name)))
        with file:
            file.seek(member.offset)
            content = file.read(member.size)
        if hashlib.sha256(content).hexdigest() != member.sha256:
            raise self.damaged(member)
        return io.BytesIO(content)

    def damaged(self, member: Member) -> InputError:
        """What is raised for a file whose bytes are not those that were packed."""
        return InputError.damaged(
            f"a damaged pack: {member.name} ({member.member}) does not hold the bytes that were packed",
            file=self.path,
            expected=f"{member.size} bytes from byte {member.offset} with the SHA-256 {member.sha256[:16]}...",
            remedy="copy the pack again, or pack it again",
        )


class _Part(io.RawIOBase):
    """Some bytes of an open file as a file of their own."""

    def __init__(self, file: BinaryIO, start: int, size: int, name: str) -> None:
        super().__init__()
        self._file, self._start, self._size, self._position = file, start, size, 0
        self.name = name  # pydicom asks for it

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._position)
        content = self._file.read(max(0, min(memoryview(buffer).nbytes, self._size - self._position)))
        memoryview(buffer)[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


_packs: dict[str, tuple[tuple[int, ...], Pack]] = {}  # path -> size, time and number of the file, and its index


def read_pack(path: str | Path) -> Pack:
    """The index of a pack; read again only where the file has changed.

    Raises:
        InputError: no such file, no pack, cut off or damaged.
    """
    try:
        return _read_pack(str(path), os.stat(path))
    except OSError as error:
        raise InputError.unreadable(f"cannot be read ({error.strerror})", file=str(path), expected="a pack") from None


def _read_pack(path: str, seen: os.stat_result) -> Pack:
    key = (seen.st_size, seen.st_mtime_ns, seen.st_ino)
    known = _packs.get(path)
    if known is None or known[0] != key:
        with open(path, "rb") as file:
            known = _packs[path] = key, _index(Path(path), file, seen.st_size)
    return known[1]


def _index(path: Path, file: BinaryIO, size: int) -> Pack:
    head = file.read(2 * BLOCK)
    try:
        if head[: len(HEAD) + 1] != HEAD.encode() + b"\0":
            raise ValueError
        place = json.loads(head[BLOCK:])
        if place["format"] != FORMAT:
            raise InputError.unsupported(
                f"a pack of the form {place['format']!r}", file=path, expected=FORMAT, remedy=_REMEDY
            )
        index = Member(INDEX, INDEX, place["offset"], place["size"], place["sha256"])
        if index.offset + index.size > size:
            what = f"a pack that is cut off: {INDEX} ends at byte {index.offset + index.size}, the file at {size}"
            raise InputError.damaged(what, file=path, expected="a whole pack", remedy="copy it again")
        file.seek(index.offset)
        content = file.read(index.size)
        if hashlib.sha256(content).hexdigest() != index.sha256:
            raise Pack(path, (), {}).damaged(index)
        rows = json.loads(content)
        pack = Pack(path, tuple(rows["tables"]), {row["name"]: Member(**row) for row in rows["files"]})
        if not pack.tables or not set(pack.tables) <= set(pack.members):
            raise ValueError
        for member in pack.members.values():
            if not is_plain(member.name) or not 0 <= member.offset <= member.offset + member.size <= index.offset:
                what = f"a pack with {member.name!r} at bytes {member.offset} to {member.offset + member.size}"
                raise InputError.malformed(what, file=path, expected="files in it, under names that stay in it")
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, IndexError):
        raise InputError.damaged(
            "no pack", file=path, expected="a tar that medvl data pack wrote", remedy=_REMEDY
        ) from None
    return pack


def is_plain(name: str) -> bool:
    """Whether a name stays in its folder, on every kind of system."""
    parts = name.split("/")
    return not ({"", ".", ".."} & set(parts) or "\\" in name or "\0" in name or ":" in parts[0])


def in_pack(path: str | Path) -> tuple[Pack, str] | None:
    """The pack that a path leads through, and the name in it ("" is the pack); None where there is no such pack.

    InputError where the pack cannot be read.
    """
    text, end = str(path), 0
    while (end := text.find(SUFFIX, end)) >= 0:
        end += len(SUFFIX)
        if text[end : end + 1] in ("", os.sep):
            try:
                seen = os.stat(text[:end])
            except (OSError, ValueError):  # no such file, or a name that no system allows
                continue
            if stat.S_ISREG(seen.st_mode):
                return _read_pack(text[:end], seen), text[end + 1 :].replace(os.sep, "/")
    return None


def table_of(path: str | Path) -> Path:
    """The path of a table: of a pack its first one, of `medvl:NAME` the shipped one, else the path as it is."""
    if str(path).startswith(SHIPPED):
        return shipped_table(path)
    packed = in_pack(path)
    return Path(path) if packed is None or packed[1] else packed[0].path / packed[0].tables[0]


def open_file(path: Path, *, check: bool = True) -> BinaryIO:
    """A file to read bytes of. `check`, and errors, as `Pack.open`; of a folder as `Path.open`."""
    packed = in_pack(path)
    return path.open("rb") if packed is None or not packed[1] else packed[0].open(packed[1], check=check)


def is_file(path: Path) -> bool:
    """Whether there is such a file."""
    packed = in_pack(path)
    return path.is_file() if packed is None or not packed[1] else packed[1] in packed[0].members


def exists(path: Path) -> bool:
    """Whether there is such a file or folder."""
    packed = in_pack(path)
    return path.exists() if packed is None or not packed[1] else is_file(path) or packed[1] in packed[0].folders


def names_in(folder: Path) -> list[str]:
    """Names of what is in a folder, sorted. OSError where it is none."""
    packed = in_pack(folder)
    return sorted(os.listdir(folder) if packed is None else packed[0].folders.get(packed[1], ()))


def file_stat(path: Path) -> os.stat_result:
    """Size and times of a file, or of the pack that holds it. FileNotFoundError where there is no such file."""
    packed = in_pack(path)
    if packed is None:
        return path.stat()
    if not is_file(path):
        raise FileNotFoundError(2, "no such file", str(path))
    return packed[0].path.stat()


def head_of(path: Path, size: int) -> bytes:
    """The first bytes of a file, unpacked where it is gzip by content; fewer where it is shorter or damaged."""
    try:
        with open_file(path, check=False) as file:
            head = file.read(size)
            if head[:2] != GZIP:
                return head
            file.seek(0)
            return zlib.decompressobj(31).decompress(file.read(16 * size), size)
    except (OSError, EOFError, zlib.error):
        return b""


def is_gzip(path: Path) -> bool:
    """Whether the content is gzip, whatever the suffix."""
    try:
        with open_file(path, check=False) as file:
            return file.read(2) == GZIP
    except OSError:
        return False


def open_plain(path: Path) -> BinaryIO:
    """The file, or, of a gzip file, what it unpacks to.

    Raises:
        InputError: it unpacks to more than an image of the largest size can need, or is damaged.
    """
    file = open_file(path)
    is_packed = file.read(2) == GZIP
    file.seek(0)
    if not is_packed:
        return file
    limit = byte_limit()
    try:
        with file, gzip.open(file) as unpacked:
            content = unpacked.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError.damaged(
            f"a damaged gzip file ({type(error).__name__})",
            file=path,
            expected="a whole file",
            remedy="export or copy it again",
        ) from None
    if len(content) > limit:
        raise InputError.too_large(
            f"it unpacks to more than {limit // 10**6} MB", file=path, expected="an image", remedy="unpack it first"
        )
    return io.BytesIO(content)
