"""A training step never waits for the device: nothing is read back, and what is sent goes by way of `to_device`.

On the meta device there is nothing to read: an `.item()`, a branch on a value or an index of chosen places would raise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.pin_memory import pin_memory

import medvl.core.device
from medvl.config import Config, make_config
from medvl.core.device import to_device
from medvl.core.learner import Learner
from medvl.data.dataset import Batch
from medvl.data.geometry import fit
from medvl.data.text_input import TextInput
from medvl.tasks.pretrain.learner import PretrainLearner
from medvl.tasks.pretrain.model import build_g2d_model
from medvl.tasks.segment.learner import SegmentLearner
from medvl.tasks.segment.model import build_segmenter

META = torch.device("meta")
TEXTS = ("Left upper opacity.", "No effusion. Right lower opacity.", "Opacity.", "No opacity.")


class Sent(TorchDispatchMode):
    """Tensors that are copied from the host to the device by anything but `to_device`."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[str] = []
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        copied = isinstance(out, Tensor) and out.device == META and func is torch.ops.aten._to_copy.default
        if copied and args[0].device.type == "cpu":
            frame, names = sys._getframe(1), []
            while frame is not None and "test_no_waiting" not in frame.f_code.co_filename:
                names.append(frame.f_code.co_filename)
                frame = frame.f_back
            self.num += 1
            if medvl.core.device.__file__ not in names:
                self.others.append(next(name for name in names if "medvl" in Path(name).parts))
        return out


def batch(num_classes: int) -> Batch:
    num, generator = len(TEXTS), torch.Generator().manual_seed(0)
    target = (torch.rand(num, num_classes, 64, 64, generator=generator) > 0.5).float()
    return Batch(
        image=torch.rand(num, 1, 64, 64, generator=generator), image_index=torch.arange(num), texts=TEXTS,
        source_texts=TEXTS, affines=(fit((64, 64), (64, 64), "stretch"),) * num, target=target,
        annotated=torch.ones(num, num_classes, dtype=torch.bool), ids=tuple("abcd"), patients=tuple("pqrs"),
        body=torch.ones(num, 64, 64, dtype=torch.bool), boxes=torch.zeros(num, 1, 5),
    )  # fmt: skip


def stepped(task: Learner, data: Batch) -> Sent:
    data, make = data.to(META), torch.tensor
    sent = Sent()

    def made(*args: Any, **options: Any) -> Tensor:
        """`torch.tensor(..., device=...)` copies too, where no mode sees it."""
        out = make(*args, **options)
        sent.others += ["torch.tensor"] * (out.device == META)
        return out

    with patch.object(torch, "tensor", made), sent:
        losses = task.backward(data, None, lambda loss: loss.backward())
    assert losses["loss"].device == META
    assert any(p.grad is not None for p in task.module.parameters())
    return sent


def config_of(**sections: Any) -> Config:
    data = {"image_size": [64, 64], "in_channels": 1, "laterality": "patient"}
    return make_config({"data": data, "text": {"dim": 32}, **sections})


@pytest.mark.parametrize(
    "pretrain",
    [
        {}, {"decoder": "none"}, {"decoder": "reconstruction"}, {"shuffle_masks": True},
        {"mask": {"threshold": "mean"}}, {"mask": {"threshold": "gmm", "aggregate": False, "domain": "image"}},
        {"accumulate": 2, "accumulate_mode": "micro"}, {"accumulate": 2, "accumulate_mode": "cached"},
    ],
    ids=str,
)  # fmt: skip
def test_a_step_of_g2d(pretrain: dict[str, Any]) -> None:
    config = config_of(
        task="pretrain",
        model={"size": "nano", "options": {"projection_dim": 32}},
        pretrain={"warmup_steps": 0, **pretrain},
    )
    module, encoder = build_g2d_model(config, TEXTS)
    task = PretrainLearner(config, module.train().to(META), TextInput(encoder, None, True))
    sent = stepped(task, batch(0))
    assert not sent.others
    assert sent.num >= 3  # tokens, their mask, the keys of texts and patients


@pytest.mark.parametrize("mode", ["binary", "multiclass"])
@pytest.mark.parametrize("merge", ["attention", "slots"])
def test_a_step_of_lvit(mode: str, merge: str) -> None:
    config = config_of(
        model={"name": "lvit", "size": "nano", "options": {"text_merge": merge}},
        objective={"mode": mode},
    )
    module, encoder = build_segmenter(config, 2 if mode == "multiclass" else 1, TEXTS)
    task = SegmentLearner(config, module.train().to(META), TextInput(encoder, None, True))
    sent = stepped(task, batch(2 if mode == "multiclass" else 1))
    assert not sent.others and sent.num >= 2


def test_a_batch_is_pinned_by_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's loader pins the tensors of a class of one's own only through its `pin_memory`."""
    pinned: list[int] = []

    def pin(x: Tensor) -> Tensor:
        pinned.append(x.data_ptr())
        return x.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    given = batch(2)
    tensors = {name: x for name in Batch.__slots__ if isinstance(x := getattr(given, name), Tensor)}
    found = pin_memory(given)
    assert isinstance(found, Batch) and sorted(pinned) == sorted(x.data_ptr() for x in tensors.values())
    for name, x in tensors.items():
        assert torch.equal(getattr(found, name), x) and getattr(found, name) is not x
    assert found.texts == given.texts and found.affines == given.affines


def test_a_copy_to_a_gpu_is_of_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: calls.append("pinned") or x)
    monkeypatch.setattr(Tensor, "to", lambda x, device, non_blocking=False: calls.append((device, non_blocking)) or x)
    x = torch.ones(2)
    to_device(x, "cpu")
    to_device(x, "cuda")
    assert calls == [(torch.device("cpu"), False), "pinned", (torch.device("cuda"), True)]
