"""On a GPU: every task trains to the CPU's losses, and no step makes the host wait. Skipped where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medvl.config import load_config
from medvl.data.phantom import make_phantoms
from medvl.tasks.pretrain import PretrainTask
from medvl.tasks.task import Task
from medvl.train.run import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHORT = ["train.max_steps=4", "train.val_every=1", "train.batch_size=4", "train.warmup_steps=1", "data.num_workers=0"]
TASKS: dict[str, tuple[str, list[str]]] = {
    "segment": ("lvit_semi", ["semi.epi=none", "semi.lv_bank=none"]),
    "EPI and LV": ("lvit_semi", []),
    "teacher of weights": ("lvit_semi", ["semi.epi=weights"]),
    "pretrain": ("g2d_phantom", ["data.manifest=PHANTOMS", "pretrain.warmup_steps=1"]),
    "pretrain, cached": ("g2d_phantom", ["data.manifest=PHANTOMS", "pretrain.warmup_steps=1", "pretrain.accumulate=2"]),
    "segment by encoder": ("segment_phantom", ["data.manifest=PHANTOMS", "data.label_fraction=1.0"]),
    "detect": (
        "detect_lungs",
        ["data.manifest=PHANTOMS", "data.views=null", "data.classes=null", "data.image_size=[96,96]"],
    ),
}


@pytest.fixture
def no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its random numbers are each device's own."""
    layer = nn.TransformerEncoderLayer.__init__

    def init(self: Any, *args: Any, **named: Any) -> None:
        layer(self, *args, **{**named, "dropout": 0.0})

    monkeypatch.setattr(nn.TransformerEncoderLayer, "__init__", init)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "set", num=60, size=96)


def validated(name: str, device: str, phantoms: Path, out: Path) -> dict[str, Any]:
    """The validation values at the end of a short training."""
    recipe, overrides = TASKS[name]
    given = [one.replace("PHANTOMS", str(phantoms)) for one in overrides]
    train(load_config(RECIPES / f"{recipe}.yaml", [*given, *SHORT, f"train.accelerator={device}"]), out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "val"][-1]


@pytest.mark.usefixtures("no_dropout")
@pytest.mark.parametrize("name", TASKS)
def test_a_gpu_trains_as_the_cpu_does(name: str, phantoms: Path, tmp_path: Path) -> None:
    cpu = validated(name, "cpu", phantoms, tmp_path / "cpu")
    gpu = validated(name, "cuda", phantoms, tmp_path / "gpu")
    assert cpu.keys() == gpu.keys()
    losses = [key for key in cpu if "loss" in key]
    assert losses
    for key in losses:
        assert gpu[key] == pytest.approx(cpu[key], rel=2e-2), key


@pytest.mark.parametrize("name", TASKS)
def test_no_step_makes_the_host_wait(
    name: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_steps = 0

    def watched(of: type[Task]) -> Callable[..., Any]:
        backward = of.backward

        def run(self: Task, *args: Any) -> Any:
            nonlocal num_steps
            num_steps += 1
            torch.cuda.set_sync_debug_mode("error")
            try:
                return backward(self, *args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    for of in (Task, PretrainTask):  # PretrainTask's own calls Task's: the innermost ends the watch
        monkeypatch.setattr(of, "backward", watched(of))
    validated(name, "cuda", phantoms, tmp_path / "run")
    assert num_steps >= 4
