"""medvl data check: what is missing, where it is obtained, on which terms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from medvl.cli.data import check
from medvl.core.errors import InputError
from medvl.data.importers.layouts import Layout, Part, all_layouts, check_layout


def run(*words: str) -> Result:
    app = typer.Typer()
    app.command("check")(check)
    return CliRunner().invoke(app, list(words))


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_without_arguments_one_line_a_layout() -> None:
    done = run()
    lines = done.stdout.splitlines()
    assert done.exit_code == 0 and len(lines) == len(all_layouts())
    assert all(line.split()[0] == name for line, name in zip(lines, all_layouts(), strict=True))
    assert set(json.loads(run("--json").stdout)["layouts"]) == set(all_layouts())


def test_what_a_layout_consists_of() -> None:
    done = run("nih")
    assert done.exit_code == 0
    assert "images: 112,120 files (*.png)" in done.stdout and "boxes: at least one, optional" in done.stdout
    assert "obtained: nihcc.app.box.com/v/ChestXray-NIHCC" in done.stdout and "terms: free use;" in done.stdout
    assert "real files met: both tables, whole; the official lists and the images never" in done.stdout
    assert json.loads(run("yolo", "--json").stdout)["met"] == "none, layout from description"


def test_a_complete_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path, "data.yaml", "train/labels/a.txt", "train/images/a.png")
    done = run("yolo", str(folder))
    assert done.exit_code == 0 and f"{folder}: complete" in done.stdout and "1 found, ok" in done.stdout
    small = Layout("small", "two files", (Part("both", ("*.x",), 2),), "here", "none", "none")
    monkeypatch.setitem(all_layouts(), "small", small)
    assert run("small", str(files(tmp_path, "a.x", "deep/er/b.x"))).exit_code == 0
    (tmp_path / "a.x").unlink()
    done = run("small", str(tmp_path))
    assert done.exit_code == 1 and "both: 2 files (*.x): 1 found, 1 MISSING" in done.stdout


def test_what_is_missing(tmp_path: Path) -> None:
    folder = files(tmp_path, "Data_Entry_2017.csv", "images_001/images/1.png", "images_002/images/2.png")
    done = run("nih", str(folder), "--json")
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    found = {part["what"]: (part["found"], part["missing"]) for part in facts["parts"]}
    assert found == {
        "labels": (1, 0), "official list: train and validation": (0, 1), "official list: test": (0, 1),
        "images": (2, 112118), "boxes": (0, 1),
    }  # fmt: skip
    assert facts["complete"] is False and "NIH Clinical Center" in facts["terms"]
    text = run("nih", str(folder)).stdout
    assert "2 found, 112,118 MISSING" in text and "something is missing" in text
    assert "boxes: at least one, optional (BBox_List_2017.csv or */BBox_List_2017.csv): 0 found, absent" in text


def test_links_and_hidden_files(tmp_path: Path) -> None:
    files(tmp_path / "real", "images/a.png", "labels/a.txt")
    folder = files(tmp_path / "set", "data.yaml", ".hidden/images/x.png", "images/.y.png")
    (folder / "train").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(folder)
    counts = {part.part.what: part.num_present for part in check_layout("yolo", folder).parts}
    assert counts == {"classes and parts": 1, "labels": 1, "images": 1}


def test_bad_words(tmp_path: Path) -> None:
    for words, expected in ((["nhi"], "did you mean nih"), (["nih", str(tmp_path / "gone")], "no such folder")):
        done = run(*words)
        assert isinstance(done.exception, InputError) and expected in str(done.exception)
