"""medvl predict: files at native size, one row each."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from medvl.config import load_config
from medvl.train.run import train


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(load_config(tiny_recipe, ["train.max_steps=2"]), tmp_path_factory.mktemp("predict") / "run")


def medvl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medvl", *map(str, words)], capture_output=True, text=True)


def test_masks_overlays_and_table(run: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    images = [tiny_manifest.parent / f"i{i}.png" for i in (0, 1)]
    out = tmp_path / "out"
    done = medvl("predict", run, *images, "--text", "the left lung", "--text", "right lung", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 4
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["the left lung", "right lung"] * 2
    for row in rows:
        mask = np.asarray(PILImage.open(out / row["mask"]))
        assert mask.shape == (48, 40) and set(np.unique(mask)) <= {0, 255}
        assert int((mask > 0).sum()) == int(row["pred_px"])
        assert (out / row["overlay"]).is_file()


def test_faults_come_together_and_before_any_file(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"not an image")
    done = medvl("predict", run, tmp_path / "bad.png", tmp_path / "missing.png", "--text", "x", "--out", tmp_path / "o")
    assert done.returncode == 2
    assert "bad.png" in done.stderr and "missing.png" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_text_model_needs_text(run: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    done = medvl("predict", run, tiny_manifest.parent / "i0.png", "--out", tmp_path / "o")
    assert done.returncode == 2 and "--text" in done.stderr
