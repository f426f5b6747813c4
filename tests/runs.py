"""Runs of training in tests: the command line, what it logged, its last state, and interrupting it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from medvl.cli import main
from medvl.config import Config, make_config
from medvl.core import errors
from medvl.inference.model_folder import save_model
from medvl.tasks.pretrain.model import build_g2d_model
from medvl.train import loop
from medvl.train.checkpoint import load_state
from medvl.train.run import train


def medvl(*words: object) -> subprocess.CompletedProcess[str]:
    """`medvl WORDS` as in a process of its own, but without its start: exit code and what it printed."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["medvl", *map(str, words)])
        for name, value in (
            ("_warned", set()),
            ("_known", set()),
            ("_held", {}),
            ("_holder", None),
            ("_printed", None),
        ):
            patch.setattr(errors, name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess([*map(str, words)], int(ended.value.code or 0), out.getvalue(), err.getvalue())


def medvl_process(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medvl", *map(str, words)], capture_output=True, text=True)


def logged(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without their times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "elapsed_s"} for row in rows if kind in (None, row["kind"])]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Those that were saved last, of the model and of its running average."""
    parts = load_state(run / "checkpoints" / "last" / "state.pt")[1]
    return {f"{part}.{k}": v for part in ("module", "average") for k, v in parts.get(part, {}).items()}


def assert_same(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def interrupt(config: Config, run: Path, num_steps: int) -> None:
    """Train, and stop within some steps, as Ctrl-C does."""
    num_calls = 0

    def stopped() -> bool:
        nonlocal num_calls
        num_calls += 1
        return num_calls > 2 * num_steps  # it is asked twice a step

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "stop_after_step", lambda: nullcontext(stopped))
        train(config, run)


def check_resumed(config: Config, folder: Path) -> None:
    """A run that is interrupted within three steps and resumed has the weights and the log of one that is not."""
    train(config, folder / "whole")
    interrupt(config, folder / "parts", 3)
    train(None, folder / "parts", resume=True)
    assert_same(folder / "whole", folder / "parts")


def check_two_processes(recipe: Path, folder: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with one process of 8 and two of 4 images; the weights of both, and the same last validation."""
    for num, size in ((1, 8), (2, 4)):
        sizes = (f"train.devices={num}", f"train.batch_size={size}")
        done = medvl_process("train", recipe, *words, *sizes, "--out", folder / str(num))
        assert done.returncode == 0, done.stderr
    return weights(folder / "1"), weights(folder / "2")


def without_draws(module: torch.nn.Module) -> None:
    """No dropout and no unknown words: two passes over a batch give the same."""
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
        if hasattr(part, "p_unknown"):
            part.p_unknown = 0.0  # type: ignore[assignment]


def save_backbone(folder: Path, kind: str) -> None:
    """A tiny transformers model with random weights, saved as its users have it: not as a backbone."""
    import transformers as hf

    torch.manual_seed(0)
    network, options = {
        "convnext": ("ConvNextForImageClassification", {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 12, 16, 24]}),
        "swin": ("SwinModel", {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2],
                               "window_size": 2}),
        "dinov2": ("Dinov2Model", {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                                   "image_size": 56}),
        "hiera": ("HieraModel", {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 1, 1],
                                 "num_heads": [1, 1, 2, 2]}),
        "vit": ("ViTModel", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}),
    }[kind]  # fmt: skip
    model: Any = getattr(hf, network)
    model(model.config_class(**options)).save_pretrained(folder)


def save_pretrained(folder: Path) -> Path:
    """A model folder of an untrained G2D, whose running statistics are not those of a new network."""
    data = {"image_size": [64, 64], "in_channels": 1, "normalize": "none", "laterality": "patient"}
    config = make_config({"task": "pretrain", "data": data, "text": {"dim": 32}, "model": {"size": "nano"}})
    module, encoder = build_g2d_model(config, ["the left lung"] * 3)
    with torch.no_grad():
        for part in module.network.unet.encoder.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
    save_model(folder, config, (), module, encoder, {"name": "g2d"})
    return folder
