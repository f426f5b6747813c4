"""Every file of docs/examples is run: what it adds trains, answers or imports."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conformance import check_model
from imported import loaded, picture
from PIL import Image
from runs import logged

import medvl.data.importers
from medvl.cli import app
from medvl.config import load_config
from medvl.core.errors import FaultKind, InputError
from medvl.data.importers.layouts import all_layouts
from medvl.inference.model_folder import load_model
from medvl.inference.predictor import Predictor
from medvl.losses.segmentation import segmentation_loss, weighted_terms
from medvl.models.classifier import ImageClassifier
from medvl.models.encoder_unet import EncoderUNet
from medvl.models.registry import build_model
from medvl.train.run import train

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Example = Callable[[str], ModuleType]
ONE_STEP = ["train.max_steps=1", "train.epochs=1"]


def test_examples_are_short() -> None:
    names = {path.stem for path in EXAMPLES.iterdir() if path.is_file()}
    lengths = {name: sum(len(path.read_text().splitlines()) for path in EXAMPLES.glob(f"{name}.*")) for name in names}
    assert lengths and max(lengths.values()) < 60, lengths


def test_loss(example: Example, tiny_recipe: Path, tmp_path: Path) -> None:
    example("loss")
    terms = "objective.terms=[{name: focal_tversky, alpha: 0.9, weight: 2}]"
    config = load_config(tiny_recipe, [*ONE_STEP, terms])
    (row,) = logged(train(config, tmp_path / "run"), "train")
    assert row["loss"] == pytest.approx(2 * row["focal_tversky_loss"], rel=1e-6)
    logits = torch.full((1, 1, 1, 4), 0.0)
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4)
    value = segmentation_loss(logits, target, terms=weighted_terms(config.objective))[
        "loss"
    ]  # 1 hit, 1 missed, 1 false
    assert value.item() == pytest.approx(2 * (1 - 1 / (1 + 0.9 + 0.3)) ** 0.75, rel=1e-4)


def test_encoder(example: Example, tiny_recipe: Path, tmp_path: Path) -> None:
    example("encoder")
    image = torch.randn(2, 1, 20, 24)
    classifier = ImageClassifier("tiny", in_channels=1, num_classes=3)
    segmenter = EncoderUNet("tiny", in_channels=1, num_classes=3)
    assert classifier(image).shape == (2, 3) and segmenter(image).shape == (2, 3, 20, 24)
    words = ["model={name: encoder_unet, encoder: tiny}", "text.encoder=none", "data.constant_text=lungs"]
    run = train(load_config(tiny_recipe, [*ONE_STEP, *words]), tmp_path / "run")
    assert load_model(run)[0].network.encoder.channels == (16, 32, 64)


def test_network(example: Example, tiny_recipe: Path, tmp_path: Path) -> None:
    example("network")
    check_model(partial(build_model, "film"), tmp_path)
    train(load_config(tiny_recipe, [*ONE_STEP, "model={name: film}"]), tmp_path / "run")


def test_text_encoder(example: Example, tiny_recipe: Path, tmp_path: Path) -> None:
    kind = example("text_encoder").HashedEncoder
    run = train(load_config(tiny_recipe, [*ONE_STEP, "text={encoder: hashed, dim: 16}"]), tmp_path / "run")
    predictor = Predictor.load(run).set_image(np.random.default_rng(0).random((40, 40)))
    assert type(predictor.encoder) is kind and predictor.encoder.dim == 16
    left, right = (predictor.segment(f"the {side} lung").probs for side in ("left", "right"))
    assert np.abs(left - right).max() > 0


def test_task(example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fifth task trains, predicts and is evaluated by the verbs of every task."""
    example("task")
    rng = np.random.default_rng(0)
    rows, boxes = ["id,image,patient,split,boxes"], ["id,cls,x0,y0,x1,y1"]
    for i in range(12):
        pixels = np.zeros((32, 32), np.uint8)
        corners = [(3 + 10 * k, 4, 9 + 10 * k, 28) for k in range(i % 3)]
        for x0, y0, x1, y1 in corners:
            pixels[y0:y1, x0:x1] = 200
            boxes.append(f"c{i},rod,{x0},{y0},{x1},{y1}")
        Image.fromarray(pixels + rng.integers(0, 20, pixels.shape, np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"c{i},{i}.png,p{i},{'train' if i < 9 else 'val'},{'' if corners else 'none'}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "boxes.csv").write_text("\n".join(boxes) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "task: count\ndata: {manifest: manifest.csv, image_size: [32, 32], in_channels: 1}\n"
        "model: {encoder: ucnn_nano}\n"
        "train: {epochs: 5, batch_size: 9, lr: 0.01, warmup_steps: 1, accelerator: cpu}\n"
    )

    def medvl(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        app([*map(str, words)], standalone_mode=False)
        return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]

    run, out = tmp_path / "run", tmp_path / "evaluation"
    app(["train", str(recipe), "--out", str(run)], standalone_mode=False)
    losses = [row["loss"] for row in logged(run, "val")]
    assert losses[-1] < losses[0]
    summary = medvl("evaluate", run, "--out", out, "--json")
    with (out / "cases.csv").open(encoding="utf-8") as file:
        cases = list(csv.DictReader(file))
    assert [case["true"] for case in cases] == ["0", "1", "2"]
    errors = [abs(float(case["predicted"]) - float(case["true"])) for case in cases]
    assert summary["metrics"]["error"]["mean"] == pytest.approx(np.mean(errors), abs=1e-6)
    assert summary["evaluation"] == summary["task"] == "count" and summary["num_cases"] == 3
    answer = medvl("predict", run, *(tmp_path / f"{i}.png" for i in (9, 10, 11)), "--out", out, "--json")
    predicted = [row["count"] for row in answer["predictions"]]
    assert predicted == pytest.approx([float(case["predicted"]) for case in cases], abs=1e-5)
    with pytest.raises(InputError) as refused:
        medvl("predict", run, tmp_path / "9.png", "--out", out, "--text", "rod")
    assert refused.value.kinds == (FaultKind.CONFLICT,)


def test_importer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for path in EXAMPLES.glob("two_folders.*"):
        shutil.copy(path, package)
    monkeypatch.setattr(medvl.data.importers, "__path__", [*medvl.data.importers.__path__, str(package)])
    all_layouts.cache_clear()
    try:
        for name in ("normal/a_1", "normal/a_2", "abnormal/b_1"):
            picture(tmp_path / "set" / f"{name}.png")
        out = tmp_path / "manifest.csv"
        words = ["data", "import", "two-folders", str(tmp_path / "set"), "--out", str(out), "--json"]
        app(words, standalone_mode=False)
        assert json.loads(capsys.readouterr().out)["labels"] == ["abnormal"]
        assert {name: record.patient for name, record in loaded(out).items()} == {"a_1": "a", "a_2": "a", "b_1": "b"}
        rows = csv.DictReader(out.open(encoding="utf-8"))
        assert {row["id"]: row["labels"] for row in rows} == {"a_1": "none", "a_2": "none", "b_1": "abnormal"}
    finally:
        all_layouts.cache_clear()
