"""The adapter of timm, which cannot be installed everywhere: on a stand-in with its interface."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conformance import refused
from torch import Tensor, nn

from medvl.core.errors import FaultKind
from medvl.models.encoder_unet import EncoderUNet
from medvl.models.encoders.registry import build_image_encoder
from medvl.models.lvit import LViT
from medvl.weights.external import load_encoder, write_tensors

CHANNELS, STRIDES = (4, 6, 8, 10, 10), (2, 4, 8, 16, 32)


class Features(nn.Module):
    """As timm's FeatureListNet: children of sequences lie flat (`stages_0`), maps come as a list."""

    def __init__(self, in_chans: int, channels: tuple[int, ...], strides: tuple[int, ...], output_fmt: str) -> None:
        super().__init__()
        self.feature_info = SimpleNamespace(channels=lambda: list(channels), reduction=lambda: list(strides))
        self.output_fmt, self.pretrained_cfg = output_fmt, {"input_size": (3, 64, 64), "fixed_input_size": False}
        self.add_module("conv1", nn.Conv2d(in_chans, channels[0], 3, strides[0], 1))
        steps = [b // a for a, b in pairwise(strides)]
        for i, step in enumerate(steps):
            self.add_module(f"stages_{i}", nn.Sequential(nn.Conv2d(channels[i], channels[i + 1], 3, step, 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.children():
            x = layer(x)
            maps.append(x.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else x)
        return maps


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A module `timm`, and what it was asked for."""
    asked: list[dict[str, Any]] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append({"name": name, **options})
        if name == "no_maps":
            raise RuntimeError("features_only not implemented for Vision Transformer models.\nand more")
        if name == "two_of_a_stride":
            return Features(options["in_chans"], (4, 4, 6, 8), (4, 4, 8, 16), "NCHW")
        network = Features(options["in_chans"], CHANNELS, STRIDES, "NHWC" if name == "swin" else "NCHW")
        network.pretrained_cfg["fixed_input_size"] = name == "one_size"
        return network

    timm = ModuleType("timm")
    timm.create_model = create_model  # type: ignore[attr-defined]
    names = ["resnetx", "swin", "no_maps", "two_of_a_stride", "one_size"]
    timm.list_models = lambda: names  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    return asked


@pytest.mark.parametrize("name", ["resnetx", "swin", "resnetx.tag_in1k"])
def test_the_pyramid(name: str, calls: list[dict[str, Any]]) -> None:
    encoder = build_image_encoder(f"timm:{name}", in_channels=1)
    assert calls == [{"name": name, "pretrained": False, "features_only": True, "in_chans": 1}]  # nothing is fetched
    assert (encoder.channels, encoder.strides) == (CHANNELS, STRIDES)
    maps = encoder(torch.randn(2, 1, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def test_the_deepest_map_of_each_stride(calls: list[dict[str, Any]]) -> None:
    encoder = build_image_encoder("timm:two_of_a_stride", in_channels=3)
    assert (encoder.channels, encoder.strides) == ((4, 6, 8), (4, 8, 16))
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder(image)[0], encoder.backbone(image)[1])


def test_networks_take_it(calls: list[dict[str, Any]]) -> None:
    image = torch.randn(1, 3, 50, 40)
    assert EncoderUNet("timm:resnetx", in_channels=3)(image).shape == (1, 1, 50, 40)
    assert LViT("nano", encoder="timm:swin", text_merge="none", image_size=32)(image).shape == (1, 1, 50, 40)


def test_a_model_of_one_size(calls: list[dict[str, Any]]) -> None:
    encoder = build_image_encoder("timm:one_size")
    assert len(encoder(torch.randn(1, 1, 64, 64))) == 5
    assert refused(lambda: encoder(torch.randn(1, 1, 64, 96))).kind == FaultKind.WRONG_SHAPE


def test_weights_of_a_file(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    """By the names of the whole model, for colour, with its classifier."""
    torch.manual_seed(0)
    source = Features(3, CHANNELS, STRIDES, "NCHW").state_dict()
    stored = {name.replace("stages_", "stages."): value for name, value in source.items()}
    write_tensors(tmp_path / "model.safetensors", {**stored, "head.fc.weight": torch.zeros(2, 10)})
    encoder = build_image_encoder("timm:resnetx", in_channels=1)
    report = load_encoder(encoder, tmp_path / "model.safetensors")
    assert len(report.matched) == len(source) and report.missing == () and report.reshaped == ("backbone.conv1.weight",)
    own = encoder.state_dict()
    assert torch.equal(own["backbone.stages_2.0.weight"], source["stages_2.0.weight"])
    torch.testing.assert_close(own["backbone.conv1.weight"], source["conv1.weight"].sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("resnety", FaultKind.UNKNOWN),
        ("no_maps", FaultKind.UNSUPPORTED),
        ("", FaultKind.MALFORMED),
        ("hf-hub:timm/resnet50", FaultKind.MALFORMED),
    ],
)
def test_what_it_refuses(name: str, kind: FaultKind, calls: list[dict[str, Any]]) -> None:
    fault = refused(lambda: build_image_encoder(f"timm:{name}"))
    assert fault.kind == kind and "and more" not in str(fault)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("No module named 'timm'"),
        RuntimeError("operator torchvision::nms does not exist\nand more"),
        OSError("libcudart.so: cannot open shared object file"),
        AttributeError("partially initialized module 'torchvision' has no attribute 'extension'"),
        SyntaxError("invalid syntax"),
        Exception(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_failure_of_the_import_is_one_message(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fail(name: str, *rest: Any) -> ModuleType:
        if name == "timm":
            raise error
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", fail)
    fault = refused(lambda: build_image_encoder("timm:resnet18"))
    assert fault.kind == FaultKind.MISSING_PACKAGE and fault.remedy == "pip install 'medvl[timm]'"
    assert "and more" not in str(fault) and type(error).__name__ in fault.what
