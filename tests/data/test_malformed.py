"""Every damaged or hostile file of the shared folder: one clear error, within seconds and little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medvl.config import load_config
from medvl.core.errors import InputError
from medvl.data.records import read_manifest

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
