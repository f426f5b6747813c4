"""Manifests and their files -> one file (`medvl data pack`), and back into a folder (`medvl data unpack`).

The form is described in `packed.py`. Members of the tar are called `<key>.<column>.<ext>`, as webdataset reads them;
`key` is the id of the first row that names the file. Every file is kept byte by byte and stands once, however many rows
name it.

A table is kept byte by byte too where its cells name files below its folder. Then the manifest has the same content
hash as in the folder. Else the cells that lead elsewhere are written anew (`outside/1/a.png`), and the hash is that of
the folder which `unpack` makes. The split hash is the same in any case. Two packs of the same files are the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from medvl.core.errors import InputError
from medvl.core.files import whole_file, whole_folder
from medvl.core.progress import track
from medvl.data.cells import is_missing
from medvl.data.columns import image_stem
from medvl.data.hashes import CHUNK
from medvl.data.manifest_paths import PathFinder, path_columns
from medvl.data.packed import (
    BLOCK,
    FORMAT,
    HEAD,
    INDEX,
    SUFFIX,
    Member,
    Pack,
    in_pack,
    is_file,
    is_plain,
    open_file,
    read_pack,
    table_of,
)
from medvl.data.record import ABSENT, Manifest
from medvl.data.records import load_manifest, read_manifest
from medvl.data.tables import read_table, write_table
from medvl.data.volumes import companions

_UNSAFE = re.compile(r"[./\\:\s]+")  # in a key, which ends at a dot
_UNSAFE_NAME = re.compile(r"[\\:]")
_EXTENSION = re.compile(r"(\.nii\.gz|\.[A-Za-z0-9]+)$")


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed."""

    path: Path
    num_files: int  # tables are not counted
    num_bytes: int  # of the pack
    num_renamed: int  # files that lie outside the folder of the manifest
    content_hash: str  # of the first manifest, as it is read from the pack
    split_hash: str


def pack_manifests(
    manifests: Sequence[str | Path],
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    show_progress: bool = False,
) -> Packed:
    """Write manifests and all files that they name as one file.

    Args:
        manifests: tables in one folder; the pack stands for the first, `PACK/NAME` is another. A manifest in a pack, or
            one whose paths lead into a pack, is packed like any other.
        out: the pack, a new file whose name ends in .tar.
        columns: names of the tables' columns (`columns.py`); they are kept, and given again when the pack is read.

    Raises:
        InputError: a manifest with faults, or in another folder than the first; `out` exists; a file changes meanwhile.
    """
    out = Path(out)
    if out.suffix != SUFFIX:
        raise InputError.unsupported(f"a pack called {out.name}", file=out, expected=f"a name that ends in {SUFFIX}")
    if out.exists():
        raise InputError.exists("exists already", file=out, expected="a new file", remedy="another --out")
    tables = [table_of(path) for path in manifests]
    for path in tables:
        if path.parent != tables[0].parent:
            raise InputError.mismatch(
                "in another folder than the first manifest", file=path, expected=str(tables[0].parent)
            )
    sources = [load_manifest(path, columns=columns, make_ids=True) for path in tables]
    contents = _Contents(tables[0].parent, columns or {})
    for path in tables:
        contents.add_table(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out, SUFFIX, flush=True) as temporary:
        _write(temporary, contents, show_progress)
        for source, name in zip(sources, contents.tables, strict=True):
            _check(source, temporary / name, contents.keeps_tables)
    pack = read_pack(out)
    first = read_manifest(out / pack.tables[0], check_files=False, columns=columns, make_ids=True)[0]
    return Packed(
        out,
        len(contents.files),
        out.stat().st_size,
        contents.num_renamed,
        first.content_hash(_hashes(first, pack)),
        first.split_hash(),
    )


def unpack(pack: str | Path, out: str | Path, *, show_progress: bool = False) -> int:
    """Write all files of a pack into a new folder; how many there are.

    Args:
        pack: a file that `pack_manifests` wrote, or `medvl:NAME`.

    Raises:
        InputError: no pack, or a damaged one; `out` holds something.
    """
    packed, out = in_pack(table_of(pack)), Path(out)
    if packed is None:
        read_pack(Path(pack))  # says why not
        raise InputError.unsupported("no pack", file=pack, expected=f"a file that ends in {SUFFIX}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError.exists("holds something already", file=out, expected="a new folder", remedy="another --out")
    members = packed[0].members
    with whole_folder(out) as folder:
        for member in track(members.values(), "unpack", len(members)) if show_progress else members.values():
            target = folder / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with packed[0].open(member.name, check=False) as source, target.open("wb") as file:
                sha256 = _copy(source, file)
            if sha256 != member.sha256:
                raise packed[0].damaged(member)
    return len(members)


class _Contents:
    """What goes into a pack: name in the pack -> name in the tar, and where its bytes come from."""

    def __init__(self, folder: Path, columns: Mapping[str, str]) -> None:
        self.folder = folder
        self.names = {column: name for name, column in columns.items()}  # the table's -> medvl's
        self.tables: dict[str, Path | bytes] = {}
        self.files: dict[str, tuple[str, Path]] = {}
        self.num_renamed = 0
        self.keeps_tables = True
        self._names: dict[Path, str] = {}
        self._members: set[str] = set()

    def add_table(self, path: Path) -> None:
        """A table, the files that its rows name, and the boxes.csv beside it."""
        image = next((column for column, name in self.names.items() if name == "image"), "image")
        table, finder = read_table(path, needed=[image]), PathFinder(path)
        names = {self.names.get(column, column): column for column in table.columns}
        rows, is_changed = [dict(row) for _, row in table.rows], False
        for row in rows:
            for field in path_columns(names):
                column = names[field]
                cell = row[column]
                if not cell or cell.lower() == ABSENT or is_missing(cell) or not is_file(finder.path(cell)):
                    continue  # mask_NAME may also be a remark
                key = row[names["id"]] if "id" in names else image_stem(Path(row[names["image"]]))
                name = self._add(finder.path(cell), key, field)
                if Path(cell).as_posix() != name:
                    row[column], is_changed = name, True
        self.tables[path.name] = path
        if is_changed:
            self.keeps_tables = False
            del self.tables[path.name]
            name = path.name if path.suffix.lower() != ".tsv" else f"{path.stem}.csv"
            with tempfile.TemporaryDirectory() as folder:
                write_table(Path(folder) / name, rows, table.columns)
                self.tables[name] = (Path(folder) / name).read_bytes()
        boxes = path.with_name("boxes.csv")
        if boxes.name not in self.tables and is_file(boxes):
            self.files[boxes.name] = boxes.name, boxes

    def _add(self, path: Path, key: str, field: str) -> str:
        if path in self._names:
            return self._names[path]
        name = Path(os.path.relpath(path, self.folder)).as_posix()
        if not is_plain(name):
            self.num_renamed += 1
            name = f"outside/{self.num_renamed}/{_UNSAFE_NAME.sub('_', path.name)}"
        self._names[path] = name
        key = _UNSAFE.sub("_", key)
        for part, part_name in ((path, name), *((path.with_name(other), None) for other in companions(path))):
            extension = _EXTENSION.search(part.name)
            ending = f".{field if part is path else f'{field}_voxels'}{extension[0] if extension else ''}"
            member = f"{key}{ending}"
            number = 2
            while member in self._members:
                member, number = f"{key}-{number}{ending}", number + 1
            self._members.add(member)
            self.files[part_name or f"{name.rpartition('/')[0]}/{part.name}".lstrip("/")] = member, part
        return name


def _write(path: Path, contents: _Contents, show_progress: bool) -> None:
    sources = [(name, name, source) for name, source in contents.tables.items()]
    sources += [(name, member, source) for name, (member, source) in contents.files.items()]
    members = []
    with path.open("wb") as tar:
        _add_member(tar, HEAD, HEAD, BytesIO(bytes(BLOCK)))
        for name, member, source in track(sources, "pack", len(sources)) if show_progress else sources:
            with BytesIO(source) if isinstance(source, bytes) else open_file(source) as file:
                members.append(_add_member(tar, name, member, file))
        index = {"tables": list(contents.tables), "files": [asdict(member) for member in members]}
        end = _add_member(tar, INDEX, INDEX, BytesIO(json.dumps(index).encode()))
        end_of_tar = tar.tell() + 2 * BLOCK
        tar.write(bytes(2 * BLOCK + -end_of_tar % tarfile.RECORDSIZE))
        head = {"format": FORMAT, "offset": end.offset, "size": end.size, "sha256": end.sha256}
        tar.seek(BLOCK)
        tar.write(json.dumps(head).encode().ljust(BLOCK - 1) + b"\n")


def _add_member(tar: BinaryIO, name: str, member: str, file: BinaryIO) -> Member:
    info = tarfile.TarInfo(member)  # without times and owner, so that equal files make equal packs
    info.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    tar.write(info.tobuf(tarfile.PAX_FORMAT))
    offset = tar.tell()
    sha256 = _copy(file, tar)
    if tar.tell() != offset + info.size:
        what = f"{name} changed while it was packed"
        raise InputError.busy(what, expected="files that nobody writes meanwhile", remedy="pack it again")
    tar.write(bytes(-info.size % BLOCK))
    return Member(name, member, offset, info.size, sha256)


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy all bytes; their SHA-256 in hex."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK):
        target.write(chunk)
        digest.update(chunk)
    return digest.hexdigest()


def _check(source: Manifest, path: Path, is_whole: bool) -> None:
    """InputError where the packed manifest is not the one that was read: something changed meanwhile."""
    manifest, faults = read_manifest(path, check_files=False, columns=source.columns, make_ids=True)
    same = not faults and manifest.split_hash() == source.split_hash()
    if is_whole:  # its files were hashed as they were copied
        same = same and manifest.rows_hash() == source.rows_hash()
    if not same:
        raise InputError.busy(
            "the manifest or its files changed while they were packed",
            file=source.path,
            expected="files that nobody writes meanwhile",
            remedy="pack it again",
        )


def _hashes(manifest: Manifest, pack: Pack) -> dict[str, str | None]:
    """As `Manifest.file_hashes`, from the index."""
    paths = {row.image for row in manifest.records}
    paths |= {mask.path for row in manifest.records for mask in row.masks.values() if mask and mask.path}
    names = sorted(path.relative_to(manifest.path.parent).as_posix() for path in paths)
    return {name: pack.members[name].sha256 if name in pack.members else None for name in names}
