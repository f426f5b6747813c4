"""Training through the real entry point: the run folder, resuming to the bit, the errors."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import refused
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from PIL import Image as PILImage
from runs import assert_same, interrupt, logged

from medvl.config import TrainConfig, load_config, save_config
from medvl.data.records import load_manifest, write_manifest
from medvl.inference.predictor import Predictor
from medvl.train import loop
from medvl.train import run as run_module
from medvl.train.run import train
from medvl.train.schedule import learning_rate


def copy_set(manifest: Path, target: Path) -> Path:
    """The phantom set with its recipe, to damage."""
    return Path(shutil.copytree(manifest.parent, target / "copy"))


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained to its end without interruption."""
    return train(load_config(tiny_recipe), tmp_path_factory.mktemp("runs") / "whole")


def test_run_folder(finished: Path) -> None:
    for name in ("config.yaml", "plan.json", "metrics.jsonl", "tb", "checkpoints/last/state.pt", "checkpoints/best"):
        assert (finished / name).exists(), name
    for name in ("model.safetensors", "config.yaml", "text", "card.md", "card.json", "format_version"):
        assert (finished / "model" / name).exists(), name
    assert [row["epoch"] for row in logged(finished, "val")] == [1, 2, 3, 4]
    # Fewer steps than the log's interval: their mean loss is there all the same, after the last one.
    (row,) = logged(finished, "train")
    assert (row["step"], row["epoch"]) == (8, 4.0) and 0 < row["loss"] < 10
    assert row["loss"] == pytest.approx((row["dice_loss"] + row["ce_loss"]) / 2, rel=1e-5)  # half of each
    plan = json.loads((finished / "plan.json").read_text())
    assert plan["records"] == {"train": 16, "val": 8} and plan["patients"] == {"train": 8, "val": 4}
    assert plan["steps"] == 8 and plan["gflops_per_step"] > 0 and plan["step_s"] > 0


def test_it_learns(tiny_recipe: Path, tmp_path: Path) -> None:
    run = train(load_config(tiny_recipe, ["train.epochs=30", "train.val_every=30"]), tmp_path / "run")
    assert logged(run)[-1]["dice_per_image"] > 0.6  # a side chosen by coin would give about 0.45


@pytest.mark.parametrize(
    ("choose_by", "losses", "patience", "best", "num_epochs"),
    [
        ("metric", [1.0, 0.5, 0.6, 0.5, 0.1], "2", 4, 5),
        ("loss", [1.0, 0.5, 0.6, 0.5, 0.1], "2", 2, 4),  # an equal loss is no better one
        ("loss", [float("nan"), 0.7, 0.8, 0.6, 0.9], "null", 4, 5),
        ("loss", [float("nan")] * 5, "2", 2, 2),  # never a number: the last one is the model
        ("loss", [float("nan")] * 5, "null", 5, 5),
        ("loss from epoch 3 on", [0.1, 0.2, 0.5, 0.6, 0.7], "2", 3, 5),  # patience is counted from there
    ],
)
def test_the_checkpoint_and_the_stop_go_by_the_metric_or_by_the_loss(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    choose_by: str,
    losses: list[float],
    patience: str,
    best: int,
    num_epochs: int,
) -> None:
    told = [{"dice_per_image": d, "loss": loss} for d, loss in zip((0.2, 0.1, 0.3, 0.9, 0.0), losses, strict=True)]
    scripted = iter(told)
    monkeypatch.setattr(loop, "validate", lambda *args: next(scripted))
    words = [f"train.choose_by={choose_by.split()[0]}", f"train.patience={patience}", "train.ema_decay=0"]
    words += ["train.epochs=5", f"train.first_best_epoch={3 if 'epoch 3' in choose_by else 1}"]
    run = train(load_config(tiny_recipe, words), tmp_path / "run")
    assert len(logged(run, "val")) == num_epochs
    assert json.loads((run / "model" / "card.json").read_text())["epoch"] == best
    said = capsys.readouterr()
    assert ("no val loss was a number" in said.out + said.err) == all(map(math.isnan, losses))
    before = (run / "metrics.jsonl").read_text()
    train(None, run, resume=True)  # what has stopped is not trained on
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("dice", "patience", "num_epochs"),
    [((0.5, 0.4, 0.6), 3, 6), ((0.5, 0.4, 0.3), 1, 4), ((0.5, 0.6, 0.3), 4, 6), ((0.3, 0.4, 0.5), 1, 6)],
)
def test_patience_is_asked_after_a_validation_only(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dice: tuple[float, ...],
    patience: int,
    num_epochs: int,
) -> None:
    """Counted in epochs, of which only every second one is validated."""
    scripted = iter(dice)
    monkeypatch.setattr(loop, "validate", lambda *args: {"dice_per_image": next(scripted), "loss": 1.0})
    words = ["train.epochs=6", "train.val_every=2", f"train.patience={patience}", "train.steps_per_epoch=1"]
    run = train(load_config(tiny_recipe, words), tmp_path / "run")
    state = torch.load(run / "checkpoints" / "last" / "state.pt", weights_only=True)
    assert state["progress"]["epoch"] == num_epochs
    card = json.loads((run / "model" / "card.json").read_text())
    assert card["epoch"] == 2 * (1 + dice.index(max(dice[: num_epochs // 2])))


def test_patience_without_a_value_to_go_by_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    words = ["task=pretrain", "model.options={projection_dim: 32}", "data.phrases_per_image=1", "data.p_empty_text=0"]
    words += ["data.image_size=[64,64]", "train.ema_decay=0", "train.epochs=1", "pretrain.same_is_no_negative=false"]
    with refused("conflict", naming="mean_recall"):
        train(load_config(tiny_recipe, [*words, "train.patience=1"]), tmp_path / "last")
    assert not (tmp_path / "last" / "checkpoints").exists()
    train(load_config(tiny_recipe, [*words, "train.patience=1", "pretrain.select=mean_recall"]), tmp_path / "chosen")


def test_the_optimizer_has_the_betas_of_the_recipe() -> None:
    found = loop.make_optimizer(TrainConfig(betas=(0.8, 0.95)), torch.nn.Linear(2, 2))
    assert all(group["betas"] == (0.8, 0.95) for group in found.param_groups)


class Scaled(MixedPrecision):
    """The gradient scaler of 16-mixed, on a CPU and without half precision."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3))

    def forward_context(self) -> nullcontext[None]:
        return nullcontext()

    def convert_input(self, data: object) -> object:
        return data


def test_the_gradient_scaler_is_resumed(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_fabric", lambda config: Fabric(accelerator="cpu", plugins=Scaled()))
    interrupt(load_config(tiny_recipe), tmp_path / "run", 4)
    state = tmp_path / "run" / "checkpoints" / "last" / "state.pt"
    kept = torch.load(state, weights_only=True)
    assert kept["progress"]["step"] == 5
    assert (kept["parts"]["precision"]["scale"], kept["parts"]["precision"]["_growth_tracker"]) == (8.0, 2)
    train(None, shutil.copytree(tmp_path / "run", tmp_path / "new"), resume=True)
    ended = torch.load(tmp_path / "new" / "checkpoints" / "last" / "state.pt", weights_only=True)
    assert (ended["parts"]["precision"]["scale"], ended["parts"]["precision"]["_growth_tracker"]) == (16.0, 2)


def test_kill_9_resumes_to_the_same_bits(finished: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "medvl", "train", str(tiny_recipe), "train.save_every_s=0", "--out", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = run / "checkpoints" / "last" / "state.pt"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()  # after the first of eight steps, or a few more
    process.wait()
    assert 0 < torch.load(state, weights_only=True)["progress"]["step"]
    train(None, run, resume=True)
    assert_same(finished, run)


def test_a_resumed_run_keeps_the_validation_it_had(finished: Path, tmp_path: Path) -> None:
    """Stopped after a validation: its values stay in TensorBoard as they do in metrics.jsonl."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    shutil.copytree(finished, run)

    def steps() -> list[int]:
        events = EventAccumulator(str(run / "tb")).Reload()
        return [event.step for event in events.Scalars("val/loss")]

    before = steps()
    train(None, run, resume=True)
    assert before and steps() == before == [row["step"] for row in logged(run, "val")]


def test_dry_run_prints_the_plan_and_writes_nothing(
    tiny_recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(load_config(tiny_recipe), tmp_path / "run", dry_run=True)
    text = capfd.readouterr().err
    for word in ("train  16 records, 8 images, 8 patients", "parameters", "GFLOPs", "memory"):
        assert word in text
    assert not (tmp_path / "run").exists()


def test_folders_that_a_run_does_not_begin_or_go_on_in(finished: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", load_config(tiny_recipe)
    with refused("exists", file=finished):
        train(config, finished)
    with refused("conflict", file=finished / "config.yaml"):
        train(load_config(tiny_recipe, ["train.lr=1"]), finished, resume=True)
    with refused("missing_file"):
        train(None, run, resume=True)
    run.mkdir()
    save_config(config, run / "config.yaml")  # where kill -9 before the first step leaves it
    with refused("missing_file", naming="no step is saved in it"):
        train(None, run, resume=True)
    (run / "config.yaml").rename(run / "notes.yaml")  # somebody's folder: its deletion is not advised
    with refused("missing_file", naming="train anew"):
        train(None, run, resume=True)
    with refused("exists", naming="it holds no run"):
        train(config, run)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["data.manifest=noval.csv"], "unknown"), (["data.views=[PA]"], "empty"),
        (["data.laterality=null"], "missing"), (["data.manifest=notext.csv"], "empty"),
        (["data.manifest=notext.csv", "text.encoder=minilm"], "empty"),
        (["model.name=text_unet", "text.encoder=none"], "missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_run_folder_is_made(
    tiny_recipe: Path, tiny_manifest: Path, tmp_path: Path, words: list[str], kind: str
) -> None:
    folder = tiny_manifest.parent
    (folder / "noval.csv").write_text(tiny_manifest.read_text().replace(",val,", ",test,"))
    with tiny_manifest.open(newline="") as file:
        write_manifest(folder / "notext.csv", [{**row, "text": ""} for row in csv.DictReader(file)])
    with refused(kind):
        train(load_config(tiny_recipe, [word.replace("t=no", f"t={folder}/no") for word in words]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_image_stops_before_anything_is_written(tiny_recipe: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    folder = copy_set(tiny_manifest, tmp_path)
    for name in ("i3.png", "m5.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with refused("damaged", naming="i3.png") as caught:
        train(load_config(folder / "recipe.yaml"), tmp_path / "run")
    assert "m5.png" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_negative_value_in_a_mask_names_the_file(tiny_recipe: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    folder = copy_set(tiny_manifest, tmp_path)
    labels = np.asarray(PILImage.open(folder / "m5.png"), dtype=np.float32).copy()
    labels[7, 7] = -1
    PILImage.fromarray(labels).save(folder / "m5.tif")
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text().replace("m5.png", "m5.tif"))
    with refused("out_of_range", naming="m5.tif"):
        train(load_config(folder / "recipe.yaml"), tmp_path / "run")


def test_text_network_without_encoder_is_lvit_tw(tiny_recipe: Path, tmp_path: Path) -> None:
    run = train(load_config(tiny_recipe, ["text.encoder=none", "train.max_steps=1"]), tmp_path / "run")
    assert not (run / "model" / "text").exists()


@pytest.mark.parametrize("name", ["unet", "dynunet", "attention_unet", "text_unet"])
def test_every_network_trains_saves_and_loads(tiny_recipe: Path, tmp_path: Path, name: str) -> None:
    options = [f"model.name={name}", "train.max_steps=2", "data.classes={right: [1], left: [2]}"]
    run = train(load_config(tiny_recipe, options), tmp_path / "run")
    assert (run / "model" / "text").exists() == (name == "text_unet")
    image = load_manifest(load_config(tiny_recipe).data.manifest).records[0].image
    answer = Predictor.load(run).set_image(image).segment("the right lung")
    assert answer.probs.shape == (2, 48, 40) and np.isfinite(answer.probs).all()


def test_schedule() -> None:
    config = TrainConfig(lr=1.0, lr_min=0.1, warmup_steps=10)
    rates = [learning_rate(config, step, 110, 5) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and max(rates) == 1.0
    assert rates[60] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1, abs=1e-3)
    restarts = TrainConfig(lr=1.0, lr_min=0.1, warmup_steps=0, schedule="warm_restarts", restart_epochs=10)
    by_epoch = [learning_rate(restarts, 5 * epoch, 1000, 5) for epoch in range(21)]
    assert by_epoch[0] == by_epoch[10] == by_epoch[20] == 1.0
    assert by_epoch[5] == pytest.approx(0.55)
    assert learning_rate(restarts, 4, 1000, 5) == 1.0  # the released program steps once per epoch
    by_step = replace(restarts, restart_steps=200)  # of the released G2D
    rates = [learning_rate(by_step, step, 1000, 5) for step in range(401)]
    assert rates[0] == rates[200] == rates[400] == 1.0 and rates[100] == pytest.approx(0.55)
    assert rates[:200] == sorted(set(rates[:200]), reverse=True) and rates[199] == pytest.approx(0.1, abs=1e-3)
