"""The command line as a user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from medvl.cli import app
from medvl.cli.options import OLD_SPELLINGS, OLD_VERBS
from medvl.config import recipe_names
from medvl.core.errors import InputError

GROUP: Any = typer.main.get_command(app)


def verbs(group: Any = GROUP, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every verb as it is typed, the groups among them, in the order of `--help`."""
    found = {}
    for name in group.list_commands(None):
        verb = group.commands[name]
        found[(*words, name)] = verb
        found |= verbs(verb, (*words, name)) if hasattr(verb, "commands") else {}
    return found


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medvl", *words], capture_output=True, text=True)


def test_help_lists_the_verbs_without_heavy_imports() -> None:
    program = (
        "import sys, medvl.cli; sys.argv=['medvl', '--help']\ntry: medvl.cli.main()\nexcept SystemExit: pass\n"
        "import json\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    heavy = {"torch", "monai", "transformers", "pandas", "matplotlib", "cv2", "scipy", "numpy", "pydantic"}
    assert not heavy & set(json.loads(done.stderr))
    names = [name for name in GROUP.list_commands(None) if not GROUP.commands[name].hidden]
    assert names[:3] == ["demo", "predict", "data"] and names[-1] == "x"
    positions = [done.stdout.index(f"\n  {name} ") for name in names]
    assert positions == sorted(positions)
    assert not any(f"\n  {name} " in done.stdout for name in {*OLD_SPELLINGS, *OLD_VERBS} - {*names})


def test_every_verb_has_help_in_whole_sentences() -> None:
    for words, verb in {(): GROUP, **verbs()}.items():
        done = CliRunner().invoke(app, [*words, "--help"], terminal_width=80)
        assert done.exit_code == 0, words
        for member in getattr(verb, "commands", {}).values():
            sentence = re.split(r"\.(?=\s|$)", member.help)[0]
            assert member.hidden or " ".join(sentence.split()) + "." in " ".join(done.output.split()), member.name
        assert max(map(len, done.stdout.splitlines())) <= 80, words
        assert verb.help.split("\n\n")[0].rstrip().endswith("."), words


@pytest.mark.parametrize("old", OLD_SPELLINGS)
def test_an_old_spelling_leads_to_the_new_one(old: str) -> None:
    new = OLD_SPELLINGS[old]
    assert tuple(new.split()) in verbs()
    now, then = (CliRunner().invoke(app, [*words.split(), "--help"]) for words in (new, old))
    assert now.exit_code == then.exit_code == 0 and not now.stderr
    assert f"medvl {new}" in then.stderr and then.stderr.count("\n") == 1
    assert then.stdout.partition("\n")[2] == now.stdout.partition("\n")[2]


@pytest.mark.parametrize("old", OLD_VERBS)
def test_an_old_verb_names_what_serves_every_task(old: str) -> None:
    done = CliRunner().invoke(app, [old, "--help"])
    assert done.exit_code == 0 and f"medvl {OLD_VERBS[old]}" in done.stderr and done.stderr.count("\n") == 1


def test_every_verb_that_writes_csv_marks_formulas() -> None:
    options = {words: {name for option in verb.params for name in option.opts} for words, verb in verbs().items()}
    without = {" ".join(words) for words, names in options.items() if "--out" in names and "--excel-safe" not in names}
    assert without == {
        "demo", "train", "convert", "data audit", "data pack", "data unpack", "data tokenizer", "x pretrain-text",
    }  # fmt: skip


def test_bad_input_is_one_line_and_exit_code_2() -> None:
    done = run("train", "nowhere.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere.yaml: no such recipe")
    assert "Traceback" not in done.stderr


def test_train_without_a_recipe_says_what_to_do() -> None:
    for words in (["train"], ["train", "--out", "nowhere"], ["train", "train.lr=1"]):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, InputError) and done.exception.exit_code == 2
        message = str(done.exception)
        assert "medvl fit TABLE" in message and all(name in message for name in recipe_names())
    assert {"lvit_semi", "g2d", "detect"} <= set(recipe_names()) and "sweep_lvit" not in recipe_names()


@pytest.mark.parametrize(
    "words", [("data", "phantom", "--num", "4"), ("data", "split", "in.csv"), ("data", "audit", "in.csv")]
)
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
