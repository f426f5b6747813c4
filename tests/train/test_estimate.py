"""The estimate of a run: it counts right, leaves no trace, and stays small whatever the size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from medvl.config import Config, load_config
from medvl.core.task import Prepared
from medvl.train import estimate as estimate_module
from medvl.train.plan import make_plan
from medvl.train.run import _fabric, open_manifest, prepare

TASKS = {
    "segment": [],
    "semi": ["semi.epi=labels", "data.label_fraction=0.5"],
    "pretrain": ["task=pretrain", "model.options.projection_dim=32", "data.phrases_per_image=1", "data.p_empty_text=0"],
}


def planned(config: Config, folder: Path) -> tuple[dict[str, Any], Prepared]:
    fabric = _fabric(config)
    ready = prepare(config, open_manifest(config), fabric, folder)
    return make_plan(config, ready.learner, ready.splits, ready.loaders, fabric, folder), ready


def whole_step(ready: Prepared) -> float:
    """GFLOPs of a real step of the first batch."""
    [batch] = [next(iter(ready.loaders["train"]))]
    ready.learner.module.train()
    with FlopCounterMode(display=False) as counter:
        ready.learner.backward(batch, None, lambda loss: loss.backward())
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("task", TASKS)
def test_an_estimate_leaves_no_trace(tiny_recipe: Path, tmp_path: Path, task: str) -> None:
    config = load_config(tiny_recipe, TASKS[task])
    fabric = _fabric(config)
    ready = prepare(config, open_manifest(config), fabric, tmp_path)
    module = ready.learner.module
    before = {name: x.clone() for name, x in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    draws = torch.get_rng_state(), np.random.get_state()[1]
    make_plan(config, ready.learner, ready.splits, ready.loaders, fabric, tmp_path)
    assert torch.equal(torch.get_rng_state(), draws[0]) and np.array_equal(np.random.get_state()[1], draws[1])
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert [part.training for part in module.modules()] == modes
    assert not [path for path in tmp_path.iterdir() if path.name == "estimate.pt"]


@pytest.mark.parametrize("regime", ["whole batch", "some images", "smaller images"])
def test_flops_are_those_of_the_whole_batch(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regime: str
) -> None:
    words = ["data.image_size=[64, 64]", "data.phrases_per_image=1"]
    if regime != "whole batch":
        monkeypatch.setattr(estimate_module, "_rate", lambda device: 1.0)  # the slowest machine
        monkeypatch.setattr(estimate_module, "SMALLEST_SIDE", 32)
    if regime == "some images":
        monkeypatch.setattr(estimate_module, "_fitting", lambda fits, least, size: 2)
    plan, ready = planned(load_config(tiny_recipe, words), tmp_path)
    expected = {"whole batch": "4 of 4 images", "some images": "2 of 4 images", "smaller images": "pixels"}[regime]
    assert expected in plan["timed"] and plan["rows_per_step"] == 4
    assert plan["gflops_per_step"] == pytest.approx(whole_step(ready), rel=0.02)
    assert plan["expected_s"] > 0 and plan["steps"] == 8


@pytest.mark.soak
def test_a_plan_of_any_size_needs_little_memory(tiny_manifest: Path, tmp_path: Path) -> None:
    program = (
        "import resource, sys; from medvl.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    words = ["recipes/g2d.yaml", "--dry-run", f"data.manifest={tiny_manifest}", "text.encoder=builtin"]
    words += ["text.train_layers=0", "data.image_size=[512, 512]", "train.batch_size=8", "pretrain.bucket_texts=false"]
    words += ["pretrain.same_is_no_negative=false", "train.accelerator=cpu", "--out", str(tmp_path / "run")]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program, "train", *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) < 2 * 2**20  # KiB
