from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from faults import refused
from typer.testing import CliRunner

from medvl.cli.evaluate import evaluate, report
from medvl.config import DataConfig
from medvl.core.errors import InputError
from medvl.data.record import Manifest
from medvl.evaluation.model_inputs import Inputs
from medvl.evaluation.prediction_sources import PredictorSource
from medvl.tasks.segment import kinds

from .conftest import FakePredictor, lung

app = typer.Typer()
app.command()(evaluate)
app.command()(report)


def medvl(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def masks(phrases: Manifest, tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for record in phrases.records:
        cv2.imwrite(str(folder / f"{record.id}.png"), lung(record.text).astype(np.uint8) * 255)
    return folder


def test_a_folder_of_masks_as_json(masks: Path, phrases: Manifest, tmp_path: Path) -> None:
    result = medvl("evaluate", masks, phrases.path, "--out", tmp_path / "out", "--group-by", "kind", "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["dice_per_image"]["mean"] == 1.0
    assert set(summary["by_group"]["kind"]) == {"union", "one lung"}
    assert not (masks / "test_log.jsonl").exists()


def test_an_evaluation_of_something_else_is_not_written_over(masks: Path, phrases: Manifest, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    for path in masks.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert medvl("evaluate", masks, phrases.path, "--out", out).exit_code == 0
    before = (out / "summary.json").read_bytes()
    assert medvl("evaluate", masks, phrases.path, "--out", out).exit_code == 0  # the same again
    short = phrases.path.with_name("short.csv")
    short.write_text("".join(phrases.path.read_text().splitlines(keepends=True)[:-1]))
    for key, words in {
        "model": [other, phrases.path],
        "manifest_hash": [masks, short],
        "split": [masks, phrases.path, "--split", "test"],
    }.items():
        with refused("exists", file=out, naming=key):
            raise medvl("evaluate", *words, "--out", out).exception
    assert (out / "summary.json").read_bytes() == before
    old = {"format": "medvl-localisation/1", "split": "val", "num_cases": 1, "model": "run"}
    (out / "summary.json").write_text(json.dumps(old))
    with refused("exists", file=out, naming="localise"):
        raise medvl("evaluate", masks, phrases.path, "--out", out).exception


def test_a_folder_of_masks_as_a_table(masks: Path, phrases: Manifest, tmp_path: Path) -> None:
    result = medvl("evaluate", masks, phrases.path, "data.text_column=kind", "--out", tmp_path / "out", "--no-surface")
    line = next(line for line in result.stdout.splitlines() if "dice_pooled" in line)
    assert line.split() == ["dice_pooled", "1.0000", "[1.0000,", "1.0000]", "12"]
    assert "hd95_px" not in result.stdout
    assert "union" in (tmp_path / "out" / "cases.csv").read_text()


def test_what_a_folder_of_masks_cannot_do(masks: Path, phrases: Manifest, tmp_path: Path) -> None:
    for option in (["--threshold", "0.4"], ["--probe"], ["--update-card"]):
        result = medvl("evaluate", masks, phrases.path, "--out", tmp_path / "out", *option)
        assert isinstance(result.exception, InputError)
    with refused("unsupported"):
        raise medvl("report", masks, phrases.path).exception


@pytest.fixture
def model(phrases: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with a fake in it."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "format_version").write_text("medvl-model/1\n")
    (folder / "card.json").write_text("{}")

    def open_fake(target: str, overrides: object, *, device: str) -> Inputs:
        source = PredictorSource(FakePredictor(), target, {"model_hash": "ab" * 32})  # type: ignore[arg-type]
        return Inputs(source, DataConfig(laterality="patient"), folder, None)

    monkeypatch.setattr(kinds, "open_inputs", open_fake)
    return folder


def test_a_model_with_probe_threshold_and_card(model: Path, phrases: Manifest, tmp_path: Path) -> None:
    words = ["--threshold", "val", "--probe", "--update-card", "--json"]
    summary = json.loads(medvl("evaluate", model, phrases.path, "--out", tmp_path / "out", *words).stdout)
    assert (summary["threshold"], summary["threshold_source"]) == (0.5, "val")
    assert summary["probe"]["side_swap"]["share_changing_side"]["mean"] == 1.0
    assert (tmp_path / "out" / "probe.json").is_file()
    assert json.loads((model / "card.json").read_text())["metrics"]["val"]["dice_per_image"] == 1.0
    assert not (model / "test_log.jsonl").exists()
    table = medvl("evaluate", model, phrases.path, "--out", tmp_path / "out", "--probe").stdout
    assert "side_swapped" in table and "changes side" in table


def test_opening_test_is_logged(model: Path, phrases: Manifest, tmp_path: Path) -> None:
    result = medvl("evaluate", model, phrases.path, "--out", tmp_path / "out", "--split", "test")
    assert result.exit_code == 0
    assert len((model / "test_log.jsonl").read_text().splitlines()) == 1


def test_a_wrong_threshold_is_an_error(model: Path, phrases: Manifest, tmp_path: Path) -> None:
    for value in ("1.5", "half", "nan"):
        with refused("out_of_range"):
            raise medvl("evaluate", model, phrases.path, "--out", tmp_path / "out", "--threshold", value).exception
    assert not (tmp_path / "out").exists()
