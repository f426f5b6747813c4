"""An encoder is one class and one line of the registry: every network with an encoder then takes it by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medvl.config import make_config
from medvl.models.base import SegmentationNetwork
from medvl.models.classifier import ImageClassifier
from medvl.models.encoder_unet import EncoderUNet
from medvl.models.encoders.base import ImageEncoder
from medvl.models.encoders.registry import ENCODERS
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
