"""Files and folders that are written whole or not at all, and the lock of a folder."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medvl.core.files import (
    alone,
    append_line,
    remove_temporaries,
    restore_folder,
    whole_file,
    whole_folder,
    write_bytes,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "one ä")
    with pytest.raises(RuntimeError, match="stop"), whole_file(path) as temporary:
        temporary.write_text("two")
        raise RuntimeError("stop")
    assert path.read_bytes() == "one ä".encode() and names(tmp_path) == ["a.txt"]
    write_bytes(path, b"three")
    append_line(path, " four")
    assert path.read_bytes() == b"three four\n" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", ["python", "safetensors", "torch"])
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """Files may have 4 KB: the operating system refuses the write as a full disk does."""
    (tmp_path / "a").write_text("old")
    big = torch.zeros(100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError) as caught, whole_file(tmp_path / "a", flush=True) as temporary:
            if kind == "python":
                temporary.write_bytes(bytes(100_000))
            elif kind == "safetensors":
                save_file({"a": big}, str(temporary))
            else:
                with temporary.open("wb") as file:
                    torch.save(big, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_a_folder_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for content in ("one", "two"):
        with whole_folder(folder) as temporary:
            (temporary / content).write_text(content)
            save_file({"a": torch.zeros(1)}, str(temporary / "w"))
    assert names(tmp_path) == ["model", "model/two", "model/w"]
    with pytest.raises(RuntimeError, match="stop"), whole_folder(folder) as temporary:
        (temporary / "three").write_text("three")
        raise RuntimeError("stop")
    assert names(tmp_path) == ["model", "model/two", "model/w"]


@pytest.mark.parametrize("at", [1, 2])
def test_a_process_killed_between_two_renames_leaves_one_state(tmp_path: Path, at: int) -> None:
    program = (
        "import os, sys; from pathlib import Path; from medvl.core import files\n"
        "replace, count = os.replace, [0]\n"
        "def killed(*names):\n"
        "    count[0] += 1\n"
        f"    if count[0] == {at}: os.kill(os.getpid(), 9)\n"
        "    replace(*names)\n"
        "files.os.replace = killed\n"
        "with files.whole_folder(Path(sys.argv[1])) as temporary: (temporary / 'new').write_text('')\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "model")])
    assert done.returncode == -signal.SIGKILL and len(names(tmp_path)) == 4  # what it was writing is still there
    restore_folder(tmp_path / "model")
    remove_temporaries(tmp_path)
    assert names(tmp_path) == ["model", "model/old"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    program = "import sys; from pathlib import Path; from medvl.core.files import alone\n"
    program += "with alone(Path(sys.argv[1])) as mine: print(mine)"
    command = [sys.executable, "-c", program, str(lock)]
    with alone(lock) as mine:
        assert mine and subprocess.run(command, capture_output=True, text=True).stdout.strip() == "False"
        child = os.fork()
        if child == 0:  # a process that it started, as the loader's workers are
            time.sleep(60)
            os._exit(0)
    try:
        assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "True"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
