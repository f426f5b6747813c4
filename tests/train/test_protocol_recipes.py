"""The recipes of published protocols through the command line, from a pre-trained folder; on phantoms drawn here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import refused
from PIL import Image
from safetensors.torch import load_file

from medvl.cli import app
from medvl.config import Config, load_config, make_config
from medvl.data.labels import balanced, label_units, labelled_patients, training_records
from medvl.data.records import load_manifest
from medvl.inference.model_folder import save_model
from medvl.tasks.pretrain.model import build_g2d_model

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = ["model.size=nano", "data.image_size=[32, 32]", "train.accelerator=cpu", "data.num_workers=0"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train, 8 val, 8 test images of 32 px, two of a patient; a third has a disc, one negative has an empty file."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    rows = ["id,image,text,mask,labels,patient,split"]
    for i in range(40):
        disc = (i % 3 == 0) * ((y - 12) ** 2 + (x - 20) ** 2 < 40)
        pixels = rng.normal(90, 12, y.shape) + 90 * disc
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        Image.fromarray((255 * disc).astype(np.uint8)).save(folder / f"{i}_m.png")
        mask = f"{i}_m.png" if disc.any() or i == 1 else "none"
        split = "train" if i < 24 else "val" if i < 32 else "test"
        label = "disc" if disc.any() else ("bar" if i % 2 else "")
        rows.append(f"c{i:02},{i}.png,lung opacity,{mask},{label},p{i // 2},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    config = make_config(
        {
            "task": "pretrain", "data": {"image_size": [32, 32], "in_channels": 1, "laterality": "patient"},
            "text": {"dim": 32}, "model": {"size": "nano"}, "train": {"seed": 5},
        }
    )  # fmt: skip
    module, encoder = build_g2d_model(config, ["lung opacity"] * 3)
    save_model(folder / "g2d", config, (), module, encoder, {"name": "g2d"})
    return folder


def config_of(films: Path, *words: str) -> Config:
    return load_config(RECIPES / "segment_mgca.yaml", [f"data.manifest={films / 'manifest.csv'}", *SMALL, *words])


def run_recipe(films: Path, name: str, out: Path, *words: str, capsys: Any) -> tuple[dict[str, Any], str]:
    """Trains a recipe by the command line; its plan and what it said."""
    given = [f"data.manifest={films / 'manifest.csv'}", f"init=g2d:{films / 'g2d'}", *SMALL, *words]
    app(["train", str(RECIPES / name), *given, "--out", str(out)], standalone_mode=False)
    return json.loads((out / "plan.json").read_text()), capsys.readouterr().err


@pytest.mark.parametrize("parts", ["encoder", "encoder_decoder"])
def test_mgca_segmentation_from_a_pretrained_folder(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: str
) -> None:
    run = tmp_path / "run"
    words = [f"init_parts={parts}", "protocol=mgca_segmentation:siim", "data.label_fraction=0.5", "train.epochs=2"]
    plan, said = run_recipe(films, "segment_mgca.yaml", run, *words, capsys=capsys)
    assert plan["labels"]["balance"] == {"positive_images": 8, "negative_images": 8, "left_out_images": 8}
    assert plan["labels"]["labelled_images"] == 8 and plan["labels"]["label_by"] == "image"
    assert plan["images"] == {"train": 8, "val": 8}  # val is as it is
    assert plan["protocol"]["own"]["train.epochs"] == [2, 50]
    assert "balance siim: 8 images with foreground, 8 without, 8 without left out" in said and "by image)" in said
    assert "protocol mgca_segmentation:siim sets" in said and re.search(r"best val loss \d", said)
    start, weights = load_file(films / "g2d" / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    same = {name for name, value in weights.items() if torch.equal(value, start["unet." + name])}
    assert {name for name in weights if name.startswith("encoder.")} <= same  # frozen, its statistics too
    assert not {name for name in weights if name.startswith("outc.")} & same
    kept = [name for name in weights if name.startswith("decoder.") and "norm" not in name]
    gap = sum((weights[name] - start["unet." + name]).abs().mean().item() for name in kept) / len(kept)
    assert (gap < 0.01) == (parts == "encoder_decoder")  # trained from G2D's decoder, or from another one

    app(["evaluate", str(run), str(films / "manifest.csv"), "--json", "--out", str(tmp_path)], standalone_mode=False)
    summary = json.loads(capsys.readouterr().out)
    assert summary["mgca_batch"] == 8 and summary["metrics"]["dice_mgca"]["num"] == 8
    assert summary["metrics"]["dice_positives"]["num"] == 3
    assert summary["config"]["protocol"] == "mgca_segmentation:siim"


def test_medklip_segmentation_trains_the_encoder_too(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train.epochs=1", "train.batch_size=12"]
    plan, said = run_recipe(films, "segment_medklip.yaml", tmp_path / "run", *words, capsys=capsys)
    assert plan["protocol"]["own"]["train.batch_size"] == [12, 64] and "objective.terms.dice.form batch" in said
    start = load_file(films / "g2d" / "model.safetensors")
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    moved = [name for name in weights if name.startswith("encoder.") and name.endswith("weight")]
    assert any(not torch.equal(weights[name], start["unet." + name]) for name in moved)
    gap = max((weights[name] - start["unet." + name]).abs().max().item() for name in moved)
    assert 0 < gap < 1e-4  # two or three steps at 1e-5


@pytest.mark.parametrize(
    ("recipe", "chosen", "own"),
    [("classify_linear.yaml", "loss", {}), ("classify_finetune.yaml", "macro_auc", {"train.batch_size": [12, 64]})],
)
def test_classification_protocols(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str, chosen: str, own: dict[str, Any]
) -> None:
    words = ["train.epochs=1", *(f"{key}={here}" for key, (here, _) in own.items())]
    plan, said = run_recipe(films, recipe, tmp_path / "run", *words, capsys=capsys)
    assert f"best val {chosen}" in said
    assert own.items() <= plan["protocol"]["own"].items()
    assert "the published number: `macro_auc`" in said


def test_balance_keeps_all_positives_and_as_many_negatives_of_the_seed(films: Path, tmp_path: Path) -> None:
    records = load_manifest(films / "manifest.csv").split("train")
    kept, counts = balanced(records, 0)
    positive = {row.id for i, row in enumerate(records) if i % 3 == 0}
    assert positive <= {row.id for row in kept} and len(kept) == 16
    assert counts == {"positive_images": 8, "negative_images": 8, "left_out_images": 8}
    assert balanced(records[::-1], 0)[0] == kept[::-1]  # by seed and images, not by their order
    draws = {frozenset(row.id for row in balanced(records, seed)[0]) for seed in range(6)}
    assert len(draws) > 1 and any("c01" in draw for draw in draws)  # an empty mask file is a negative
    assert len({row.id for row in training_records(records, config_of(films, "data.balance=siim"))[0]}) == 16
    with refused("empty", naming="data.balance"):
        balanced([row for row in records if row.id in positive], 0)
    with refused("empty"):
        balanced([row for row in records if row.id not in positive], 0)


def test_more_positives_than_negatives_are_all_kept_and_counted(films: Path) -> None:
    records = load_manifest(films / "manifest.csv").split("train")
    few = [row for i, row in enumerate(records) if i % 3 == 0 or i < 4]
    kept, counts = balanced(few, 0)
    assert kept == few and counts == {"positive_images": 8, "negative_images": 2, "left_out_images": 0}


def test_fractions_of_images(films: Path) -> None:
    records = load_manifest(films / "manifest.csv").split("train")
    units = label_units(records, "image")
    assert units == {row.id: row.id for row in records}  # one row an image
    parts = [labelled_patients(records, fraction, 0, "image") for fraction in (0.01, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [1, 6, 12, 24] and parts[0] < parts[1] < parts[2] < parts[3]
    _, hidden, counts = training_records(records, config_of(films, "data.label_fraction=0.25"))
    assert len(hidden) == 18 and counts["labelled_images"] == 6 and 3 <= counts["labelled_patients"] <= 6
    _, _, by_patient = training_records(records, config_of(films, "data.label_fraction=0.25", "data.label_by=patient"))
    assert by_patient["labelled_patients"] == 3 and by_patient["labelled_images"] == 6


def test_texts_that_are_not_read_need_no_laterality(films: Path, tmp_path: Path) -> None:
    text = (films / "manifest.csv").read_text().replace("lung opacity", "left lung").replace(",c", ",")
    (tmp_path / "m.csv").write_text(re.sub(r"(\d+(?:_m)?\.png)", rf"{films}/\1", text))
    words = ["--dry-run", f"data.manifest={tmp_path / 'm.csv'}", *SMALL, "--out", str(tmp_path / "run")]
    assert app(["train", str(RECIPES / "segment_mgca.yaml"), *words], standalone_mode=False) in (0, None)
    read = [*words, "text.encoder=builtin", "text.dim=32", "model.name=lvit", "protocol=null"]
    with refused("missing", naming="data.laterality"):
        app(["train", str(RECIPES / "segment_mgca.yaml"), *read], standalone_mode=False)
