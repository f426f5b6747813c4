"""Tables and recipes with damaged bytes: an InputError or a table, never another exception (more in make soak)."""

from __future__ import annotations

import io
import random
import time
import zipfile
from pathlib import Path

import pytest

from medvl.config import load_config
from medvl.core.errors import InputError
from medvl.data.records import read_manifest
from medvl.data.tables import write_table

RECIPE = b"task: segment\ndata: {manifest: m.csv, image_size: [32, 32]}\ntrain: {epochs: 1, lr: 1e-3}\n"
PIECES = [
    b'"', b"'", b",", b"\n", b"\r", b"\x00", b"\xff", b"\xef\xbb\xbf", b"{", b"[", b"nan", b"1e999", b"&a ", b"*a",
    b"!!", b": ", b"<", b"</row>", b"9" * 400, b"\\ud800", b"|", b";", b"\t", b"=1+1", b"\\", b"\xc3", b"<<: ",
]  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place, kind = rng.randrange(len(data) + 1), rng.randrange(5)
        if kind == 0:
            data[place:place] = rng.choice(PIECES)
        elif kind == 1:
            del data[place : place + rng.choice([1, 3, 20])]
        elif kind == 2:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 3:
            data = data[:place] or bytearray(b" ")
        else:
            data[place:place] = data[place : place + rng.choice([5, 40])]
    return bytes(data)


def damaged_book(content: bytes, rng: random.Random) -> bytes:
    """One part of an XLSX file damaged, in an archive that is whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {item.filename: archive.read(item) for item in archive.infolist()}
    name = rng.choice(sorted(parts))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, damaged(data, rng) if part == name else data)
    return buffer.getvalue()


def damage_and_read(folder: Path, seed: int, num: int) -> None:
    rng = random.Random(seed)
    row = {"image": "a.png", "text": 'left "lung"\nand right', "mask_values": "7", "boxes": "l 0 0 4 4", "patient": "p"}
    contents = {".yaml": RECIPE}
    for suffix in (".csv", ".jsonl", ".xlsx", ".parquet"):
        write_table(folder / f"good{suffix}", [{"id": f"r{i}", **row} for i in range(4)])
        contents[suffix] = (folder / f"good{suffix}").read_bytes()
    for number in range(num):
        suffix = rng.choice(sorted(contents))
        book = suffix == ".xlsx" and number % 5
        content = damaged_book(contents[suffix], rng) if book else damaged(contents[suffix], rng)
        path = folder / f"damaged{suffix}"
        path.write_bytes(content)
        start = time.process_time()
        try:
            if suffix == ".yaml":
                load_config(path)
            else:
                _, faults = read_manifest(path, check_files=False)
                "".join(map(str, faults)).encode()
        except InputError as error:
            str(error).encode()
        assert time.process_time() - start < 5, content


def test_damaged_bytes(tmp_path: Path) -> None:
    damage_and_read(tmp_path, seed=1, num=150)


@pytest.mark.soak
def test_many_damaged_bytes(tmp_path: Path) -> None:
    damage_and_read(tmp_path, seed=2, num=10_000)
