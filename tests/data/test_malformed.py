"""Damaged or hostile files: one clear error or a table, within seconds and little memory."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from medvl.config import load_config
from medvl.core.errors import InputError
from medvl.data.records import read_manifest
from medvl.data.tables import write_table

GOOD = ("good.yaml", "rec.yaml", "pre.yaml")
WHOLE = ("dim_A1.xlsx", "dim_narrow.xlsx", "dim_short.xlsx", "formula_text.xlsx")
SECONDS, BYTES = 10, 2 << 30


@pytest.fixture
def malformed(shared_data: Path) -> Path:
    return shared_data.parent / "cases" / "malformed"


def check_refusal(fault: InputError | None) -> None:
    assert fault is not None
    assert len(fault.faults) == 1 and len(str(fault)) < 2000 and str(fault.faults[0].file)
    str(fault).encode()  # it can be printed anywhere


@pytest.mark.shared
def test_recipes(malformed: Path) -> None:
    paths = sorted(malformed.glob("*.yaml"))
    assert paths
    for path in paths:
        start, fault = time.process_time(), None
        try:
            load_config(path)
        except InputError as error:
            fault = error
        assert time.process_time() - start < SECONDS, path.name
        if path.name in GOOD:
            assert fault is None, path.name
        else:
            check_refusal(fault)


@pytest.mark.shared
def test_tables(malformed: Path) -> None:
    for path in sorted([*malformed.glob("*.xlsx"), *malformed.glob("*.jsonl")]):
        start, faults, num = time.process_time(), (), 0
        try:
            manifest, faults = read_manifest(path, check_files=False)
            num = len(manifest.records)
        except InputError as error:
            faults = error.faults
        assert time.process_time() - start < SECONDS, path.name
        if path.name in WHOLE:
            assert (num, faults) == (6, ()), path.name
        else:
            check_refusal(InputError(faults) if faults else None)


@pytest.mark.shared
def test_annotations(malformed: Path, tmp_path: Path) -> None:
    from medvl.data.importers.layouts import get_layout

    folders = sorted((malformed / "imports").iterdir())
    assert folders
    for folder in folders:
        with pytest.raises(InputError) as caught:
            get_layout("coco").run(folder, tmp_path / f"{folder.name}.csv")
        check_refusal(caught.value)
        assert not list(tmp_path.iterdir())


@pytest.mark.soak
@pytest.mark.shared
def test_every_file_by_the_command_line(malformed: Path, tmp_path: Path) -> None:
    """As a user meets them: exit code 2, no trace, 10 s and 2 GB at most; a train --dry-run writes nothing."""
    commands = [["audit", str(path)] for path in sorted([*malformed.glob("*.xlsx"), *malformed.glob("*.jsonl")])]
    commands += [["train", str(path), "--dry-run", "--out", "run"] for path in sorted(malformed.glob("*.yaml"))]
    commands += [["import", "coco", str(path), "--out", "m.csv"] for path in sorted((malformed / "imports").iterdir())]
    for words in commands:
        if Path(words[1]).name in ("good.yaml", "rec.yaml", "pre.yaml"):
            continue
        code = (
            "import json, resource, subprocess, sys\n"
            "done = subprocess.run([sys.executable, '-m', 'medvl', *sys.argv[1:]], capture_output=True, text=True)\n"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(json.dumps([done.returncode, done.stderr, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        returned, errors, seconds, memory = json.loads(done.stdout)
        assert returned == 2 and "Traceback" not in errors, (words, errors[-500:])
        assert seconds < SECONDS and memory < BYTES, (words, seconds, memory)
        assert not list(tmp_path.iterdir()), words


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
