"""The command line as a user meets it."""

from __future__ import annotations

import subprocess
import sys

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


def test_unknown_verb_is_exit_code_2() -> None:
    assert run("segmentate").returncode == 2


def test_every_verb_has_help() -> None:
    for verb in VERBS:
        assert run(verb, "--help").returncode == 0, verb
