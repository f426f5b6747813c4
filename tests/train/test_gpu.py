"""On a GPU: each task computes the CPU's losses and gradients, no step makes the host wait. Skipped without one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medvl.config import Config, load_config
from medvl.core.learner import Learner
from medvl.phantom.dataset import make_phantoms
from medvl.tasks.pretrain.learner import PretrainLearner
from medvl.train.loop import make_optimizer
from medvl.train.run import open_manifest, prepare, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHORT = ["train.max_steps=4", "train.val_every=1", "train.batch_size=4", "train.warmup_steps=1", "data.num_workers=0"]
TASKS: dict[str, tuple[str, list[str]]] = {
    "segment": ("lvit_semi", ["semi.epi=none", "semi.lv_bank=none"]),
    "EPI and LV": ("lvit_semi", ["data.label_fraction=0.1"]),
    "teacher of weights": ("lvit_semi", ["semi.epi=weights", "data.label_fraction=0.1"]),
    "pretrain": ("g2d_phantom", ["data.manifest=PHANTOMS", "pretrain.warmup_steps=1"]),
    "pretrain, cached": ("g2d_phantom", ["data.manifest=PHANTOMS", "pretrain.warmup_steps=1", "pretrain.accumulate=2"]),
    "segment by encoder": ("segment_phantom", ["data.manifest=PHANTOMS", "data.label_fraction=1.0"]),
    "detect": (
        "detect",
        ["data.manifest=PHANTOMS", "data.image_size=[96,96]", "model.encoder=resnet18_nano"],
    ),
    "classify": ("classify_finetune", ["data.manifest=PHANTOMS", "data.image_size=[96,96]", "model.size=nano"]),
}


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dropout and no word made unknown: their random numbers are each device's own."""
    layer = nn.TransformerEncoderLayer.__init__

    def init(self: Any, *args: Any, **named: Any) -> None:
        layer(self, *args, **{**named, "dropout": 0.0})

    monkeypatch.setattr(nn.TransformerEncoderLayer, "__init__", init)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    monkeypatch.setattr(torch, "rand", torch.ones)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "set", num=60, size=96)


def config_of(name: str, device: str, phantoms: Path) -> Config:
    recipe, overrides = TASKS[name]
    given = [one.replace("PHANTOMS", str(phantoms)) for one in overrides]
    return load_config(RECIPES / f"{recipe}.yaml", [*given, *SHORT, f"train.accelerator={device}"])


def first_step(name: str, device: str, phantoms: Path, out: Path) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a training's first batch."""
    config = config_of(name, device, phantoms)
    fabric = Fabric(accelerator=device, devices=1)
    ready = prepare(config, open_manifest(config), fabric, out)
    out.mkdir()
    task = ready.learner
    module, _ = fabric.setup(task.module, make_optimizer(config.train, task.module))
    task.begin(None, 0)
    task.step = 10  # past the warm-ups
    module.train()
    losses = task.backward(next(iter(ready.loaders["train"])).to(fabric.device), module, fabric.backward)
    grads = {n: p.grad.cpu() for n, p in task.module.named_parameters() if p.grad is not None}
    return {key: float(value) for key, value in losses.items()}, grads


@pytest.mark.usefixtures("nothing_drawn")
@pytest.mark.parametrize("name", TASKS)
def test_a_gpu_computes_what_the_cpu_does(
    name: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    (cpu, own), (gpu, other) = (first_step(name, one, phantoms, tmp_path / one) for one in ("cpu", "cuda"))
    assert cpu.keys() == gpu.keys() and own.keys() == other.keys()
    for key, value in cpu.items():
        assert gpu[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    norm = sum(float(g.square().sum()) for g in own.values())
    apart = sum(float((own[n] - other[n]).square().sum()) for n in own)
    assert (apart / norm) ** 0.5 < 1e-2


@pytest.mark.parametrize("name", TASKS)
def test_no_step_makes_the_host_wait(
    name: str, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_steps = 0

    def watched(of: type[Learner]) -> Callable[..., Any]:
        backward = of.backward

        def run(self: Learner, *args: Any) -> Any:
            nonlocal num_steps
            num_steps += 1
            torch.cuda.set_sync_debug_mode("error")
            try:
                return backward(self, *args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    for of in (Learner, PretrainLearner):  # PretrainLearner's own calls Learner's: the innermost ends the watch
        monkeypatch.setattr(of, "backward", watched(of))
    train(config_of(name, "cuda", phantoms), tmp_path / "run")
    assert num_steps >= 4
