"""The command line as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

VERBS = tuple(
    "demo import split audit doctor tokenizer pretrain-text train sweep evaluate localise classify ground "
    "report compare predict convert plan suggest phantom".split()
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medvl", *words], capture_output=True, text=True)


def test_help_lists_the_verbs_without_importing_torch() -> None:
    done = run("--help")
    assert done.returncode == 0 and all(verb in done.stdout for verb in VERBS)
    program = "import sys, medvl.cli; sys.argv=['medvl','--help']\ntry: medvl.cli.main()\nexcept SystemExit: pass\n"
    heavy = "print(sorted({'torch','monai','transformers','pandas','matplotlib','cv2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program + heavy], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]")


def test_bad_input_is_one_line_and_exit_code_2() -> None:
    done = run("train", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere.yaml: no such recipe")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("phantom", "--num", "4"), ("split", "in.csv"), ("audit", "in.csv")])
def test_an_out_that_cannot_be_written_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    rows = [f"r{i},i{i}.png,the left lung,none,p{i}" for i in range(20)]
    (tmp_path / "in.csv").write_text("\n".join(["id,image,text,mask,patient", *rows]) + "\n")
    (tmp_path / "file").write_text("")
    for out in ("file/below/out.csv", "/proc/nowhere/out.csv"):
        command = [sys.executable, "-m", "medvl", *words, "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert last.startswith("error: ") and "cannot be written or read (" in last and "remedy: another" in last


def test_an_error_that_names_no_file_keeps_its_trace() -> None:
    program = (
        "import sys, medvl.cli\n"
        "def broken(**words): raise OSError('a defect')\n"
        "medvl.cli.app = broken\n"
        "medvl.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "a defect" in done.stderr


def test_unknown_verb_is_exit_code_2() -> None:
    assert run("segmentate").returncode == 2


def test_every_verb_has_help() -> None:
    for verb in VERBS:
        assert run(verb, "--help").returncode == 0, verb
