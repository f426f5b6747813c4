"""An encoder is one class and one line of the registry: every network with an encoder then takes it by its name."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from conformance import refused
from torch import Tensor, nn

from medvl.config import make_config
from medvl.core.errors import FaultKind
from medvl.models.base import SegmentationNetwork
from medvl.models.classifier import ImageClassifier
from medvl.models.encoder_unet import EncoderUNet
from medvl.models.encoders.base import ImageEncoder
from medvl.models.encoders.registry import ENCODERS, build_image_encoder
from medvl.models.g2d import G2D
from medvl.models.lvit import LViT
from medvl.models.registry import configured_options
from medvl.models.yolo import YOLO
from medvl.weights.external import load_encoder, write_tensors
from medvl.weights.transfer import load_foreign, start_from_encoder


class Toy(ImageEncoder):
    """Five strided convolutions."""

    def __init__(self, *, in_channels: int = 1) -> None:
        super().__init__(in_channels=in_channels, channels=(4, 4, 8, 8, 8), strides=(2, 4, 8, 16, 32))
        ins = (in_channels, *self.channels)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(ins, self.channels, strict=False))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        self.check(image)
        maps = []
        for layer in self.layers:
            image = layer(image).relu()
            maps.append(image)
        return tuple(maps)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, "toy", Toy)


NETWORKS = {
    "classify": (ImageClassifier, {}),
    "detect": (YOLO, {"head_channels": 8}),
    "pretrain": (G2D, {"text_dim": 6, "projection_dim": 8, "heads": 2}),
    "encoder_unet": (EncoderUNet, {}),
    "lvit": (LViT, {"text_merge": "none"}),
}


def build(task: str) -> nn.Module:
    """The network of a recipe that names the toy."""
    network, options = NETWORKS[task]
    tree = {"model": {"name": task}} if issubclass(network, SegmentationNetwork) else {"task": task}
    model = tree.setdefault("model", {})
    model |= {"encoder": "toy"} | ({"size": "nano"} if task == "lvit" else {})
    torch.manual_seed(0)
    set_elsewhere = {"in_channels": 1, "image_size": 64, **options}
    return network(**configured_options(network, replace(make_config(tree).model, options={}), set_elsewhere))


@pytest.mark.parametrize("task", NETWORKS)
def test_every_network_takes_it(task: str) -> None:
    network = build(task).train()
    encoder = next(module for module in network.modules() if isinstance(module, Toy))
    image = torch.randn(2, 1, 50, 70)
    if task == "pretrain":
        output, vectors = network(image, torch.randn(2, 3, 6))
        total = output.mask_logits.square().sum() + (output.pooled * vectors).sum()
    else:
        total = network(image).square().sum()
    total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


@pytest.mark.parametrize("task", ["classify", "detect", "encoder_unet", "lvit"])
def test_what_g2d_learned_in_it_goes_into_the_others(task: str, tmp_path: Path) -> None:
    g2d, network = build("pretrain"), build(task)
    torch.nn.init.normal_(g2d.unet.encoder.layers[0].weight)
    start_from_encoder(network, g2d.unet, "encoder", "run")
    expected = g2d.unet.encoder.state_dict()
    taken = next(module for module in network.modules() if isinstance(module, Toy)).state_dict()
    assert all(torch.equal(taken[name], value) for name, value in expected.items())
    write_tensors(tmp_path / "g2d.pth", g2d.state_dict())
    load_foreign(build(task), str(tmp_path / "g2d.pth"))  # by the file of its weights


def test_its_weights_are_found_inside_lvit(tmp_path: Path) -> None:
    lvit = build("lvit")
    write_tensors(tmp_path / "lvit.pth", lvit.state_dict())
    encoder = Toy(in_channels=1)
    assert load_encoder(encoder, tmp_path / "lvit.pth").layout == "medvl"
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), lvit.encoder.backbone.parameters(), strict=True))


# --- timm, which cannot be installed everywhere: its adapter on a stand-in with its interface


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
def test_the_pyramid_of_timm(name: str, calls: list[dict[str, Any]]) -> None:
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


def test_a_model_of_one_size_of_timm(calls: list[dict[str, Any]]) -> None:
    encoder = build_image_encoder("timm:one_size")
    assert len(encoder(torch.randn(1, 1, 64, 64))) == 5
    assert refused(lambda: encoder(torch.randn(1, 1, 64, 96))).kind == FaultKind.WRONG_SHAPE


def test_weights_of_a_file_of_timm(calls: list[dict[str, Any]], tmp_path: Path) -> None:
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
        ("resnety", FaultKind.UNKNOWN), ("no_maps", FaultKind.UNSUPPORTED),
        ("", FaultKind.MALFORMED), ("hf-hub:timm/resnet50", FaultKind.MALFORMED),
    ],
)  # fmt: skip
def test_what_timm_does_not_have(name: str, kind: FaultKind, calls: list[dict[str, Any]]) -> None:
    fault = refused(lambda: build_image_encoder(f"timm:{name}"))
    assert fault.kind == kind and "and more" not in str(fault)


@pytest.mark.parametrize(
    "error",
    [
        *(kind("torchvision\nand more") for kind in (ImportError, RuntimeError, OSError, AttributeError, SyntaxError)),
        Exception(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_failure_of_importing_timm_is_one_message(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fail(name: str, *rest: Any) -> ModuleType:
        if name == "timm":
            raise error
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", fail)
    fault = refused(lambda: build_image_encoder("timm:resnet18"))
    assert fault.kind == FaultKind.MISSING_PACKAGE and fault.remedy == "pip install 'medvl[timm]'"
    assert "and more" not in str(fault) and type(error).__name__ in fault.what
