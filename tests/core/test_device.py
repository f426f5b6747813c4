from __future__ import annotations

from pathlib import Path

import pytest
import torch
from faults import refused

from medvl.config import load_config
from medvl.core.device import usable_device
from medvl.train.run import train


def test_a_device_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [str(usable_device(name)) for name in ("cpu", "cuda", "cuda:0")] == ["cpu", "cuda", "cuda:0"]
    for name in ("cuda:1", "gpu0", "xpu"):
        with refused("no_resource", naming=str(name)):
            usable_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with refused("no_resource", naming="cuda"):
        usable_device("cuda")


def test_training_on_a_device_that_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "lvit_regions.yaml"
    with refused("no_resource", naming="train.accelerator"):
        train(load_config(recipe, ["train.accelerator=cuda"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
