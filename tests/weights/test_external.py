"""Encoders out of other programs' checkpoints: each layout on a synthetic state dict, what is refused, what is said."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import refused
from torch import Tensor

from medvl.core.errors import FaultKind
from medvl.models.encoders.registry import build_image_encoder
from medvl.models.encoders.resnet import BasicBlock, Bottleneck, ResNet
from medvl.models.g2d import G2D
from medvl.models.lvit import LViT
from medvl.weights.external import convert_encoder, encoder_weights, load_encoder, read_tensors, write_tensors
from medvl.weights.transfer import load_foreign

Weights = dict[str, Tensor]
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


@pytest.fixture(scope="module")
def trunk() -> Weights:
    """A small ResNet for colour images, with statistics that are not those of a fresh one."""
    torch.manual_seed(3)
    network = build_image_encoder("resnet18_nano", in_channels=3)
    with torch.no_grad():
        network(torch.randn(2, 3, 64, 64))
    return network.state_dict()


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def sequence(prefix: str, weights: Weights) -> Weights:
    """As `nn.Sequential(*list(resnet.children()))` names them."""
    parts = [(name.partition("."), value) for name, value in weights.items()]
    return {f"{prefix}{CHILDREN[head]}.{rest}": value for (head, _, rest), value in parts}


def other() -> Weights:
    return {"weight": torch.zeros(2, 2)}


def beside(*prefixes: str) -> Weights:
    """Tensors of other parts."""
    return {f"{prefix}weight": torch.zeros(2, 2) for prefix in prefixes}


SMP = "segmentation_models_pytorch"


LAYOUTS: dict[str, tuple[str, Callable[[Weights], dict[str, Any]]]] = {
    "torchvision": ("torchvision", lambda w: w | beside("fc.")),
    "ddp": ("torchvision", lambda w: {"epoch": 3, "state_dict": under("module.", w)}),
    "compiled": ("torchvision", lambda w: {"model": under("_orig_mod.", w)}),
    "smp": (SMP, lambda w: under("encoder.", w) | beside("decoder.blocks.0.conv1.0.")),
    "smp in lightning": (SMP, lambda w: {"state_dict": under("model.encoder.", w) | beside("model.decoder.x.")}),
    "encoder alone": ("encoder.*", lambda w: under("encoder.", w)),
    "g2d": ("G2D", lambda w: {"epoch": 2, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1.0}]},
                              "model_state_dict": under("img_model.encoder.", w) | beside("lm_model.pooler.")}),
    "mgca": ("MGCA", lambda w: {"state_dict": under("img_encoder_q.model.", w) | beside(
        "img_encoder_q.global_embed.head.0.", "text_encoder_q.model.encoder.layer.0.x.")}),
    "gloria": ("GLoRIA", lambda w: {
        "state_dict": under("gloria.img_encoder.model.", w) | beside("gloria.img_encoder.global_embedder.")}),
    "gloria, stripped": ("GLoRIA", lambda w: under("img_encoder.model.", w)),
    "medklip": ("MedKLIP", lambda w: {"model": sequence("module.res_features.", w) | beside("module.res_l1.")}),
    "sequence": ("torchvision's children in sequence", lambda w: sequence("", w)),
    "medvl pre-training": ("medvl", lambda w: under("network.unet.encoder.", w) | beside("network.outc.")),
    "medvl segmentation": ("medvl", lambda w: under("encoder.", w) | beside("outc.")),
    "unknown": ("unknown prefix 'backbone.visual.'", lambda w: under("backbone.visual.", w) | beside("head.")),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, trunk: Weights, tmp_path: Path) -> None:
    """Recognised, every tensor finds its place, and the encoder computes what the other program's did."""
    layout, wrap = LAYOUTS[name]
    checkpoint = wrap(trunk)
    found, weights = encoder_weights(checkpoint)
    assert found == layout
    assert {k: v for k, v in weights.items() if not k.startswith("fc.")}.keys() == trunk.keys()
    assert all(weights[key] is value for key, value in trunk.items())
    torch.save(checkpoint, tmp_path / "w.pth")
    encoder = build_image_encoder("resnet18_nano", in_channels=3)
    report = load_encoder(encoder, tmp_path / "w.pth")
    assert report.layout == layout and report.matched == tuple(trunk)
    assert report.missing == report.reshaped == ()
    assert report.unexpected == (("fc.weight",) if name == "torchvision" else ())
    assert all(torch.equal(value, trunk[key]) for key, value in encoder.state_dict().items())


def test_grey_and_colour(trunk: Weights, tmp_path: Path) -> None:
    write_tensors(tmp_path / "colour.safetensors", trunk)
    grey, colour = (build_image_encoder("resnet18_nano", in_channels=number).eval() for number in (1, 3))
    report = load_encoder(grey, tmp_path / "colour.safetensors")
    assert report.reshaped == ("conv1.weight",) and "conv1.weight" in report.matched
    load_encoder(colour, tmp_path / "colour.safetensors")
    image = torch.randn(1, 1, 64, 32)
    with torch.no_grad():
        expected = colour(image.expand(-1, 3, -1, -1))
        for a, b in zip(grey(image), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        write_tensors(tmp_path / "grey.pth", grey.state_dict())
        assert load_encoder(colour, tmp_path / "grey.pth").reshaped == ("conv1.weight",)
        for a, b in zip(colour(image.expand(-1, 3, -1, -1)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_medklip_has_no_last_layer(trunk: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its released model cuts the ResNet before layer4: said, and what is lacking keeps its values."""
    short = {key: value for key, value in trunk.items() if not key.startswith("layer4.")}
    torch.save({"model": sequence("module.res_features.", short)}, tmp_path / "medklip.pth")
    encoder = build_image_encoder("resnet18_nano", in_channels=3)
    before = encoder.state_dict()["layer4.1.conv2.weight"].clone()
    report = load_encoder(encoder, tmp_path / "medklip.pth")
    expected = {k for k in trunk if k.startswith("layer4.") and not k.endswith("num_batches_tracked")}
    assert set(report.missing) == expected and report.matched == tuple(short)
    assert torch.equal(encoder.state_dict()["layer4.1.conv2.weight"], before)
    assert f"lacks {len(expected)} tensors" in capsys.readouterr().err
    network, tensors, report = convert_encoder(tmp_path / "medklip.pth")
    assert network.startswith("resnet18") and set(tensors) == set(short) and set(report.missing) == expected


def test_old_file_without_counters(trunk: Weights, tmp_path: Path) -> None:
    torch.save({k: v for k, v in trunk.items() if "num_batches" not in k}, tmp_path / "old.pth")
    assert load_encoder(build_image_encoder("resnet18_nano", in_channels=3), tmp_path / "old.pth").missing == ()


def test_pretrained_encoder_from_model_folder(tmp_path: Path) -> None:
    """A MODEL and a RUN folder of pre-training; ResNet, EfficientNet and LViT's path."""
    for size, kernel in (("resnet18_nano", "conv1"), ("efficientnet_lite0", "_conv_stem"), ("ucnn_nano", "inc.conv")):
        torch.manual_seed(1)
        model = G2D(size, in_channels=1, text_dim=8, projection_dim=8, image_size=64)
        folder = tmp_path / size / "model"
        folder.mkdir(parents=True)
        write_tensors(folder / "model.safetensors", model.state_dict())
        (folder / "format_version").write_text("medvl-model/1\n")
        for place in (folder, folder.parent):
            encoder = build_image_encoder(size)
            report = load_encoder(encoder, place)
            assert (report.layout, report.missing, report.unexpected) == ("medvl", (), ())
            expected = model.state_dict()[f"unet.encoder.{kernel}.weight"]
            assert torch.equal(encoder.state_dict()[f"{kernel}.weight"], expected)


def test_transformers_backbone_from_model_folder(tmp_path: Path) -> None:
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8])
    ConvNextModel(config).save_pretrained(tmp_path / "hf")
    trained = build_image_encoder(f"hf:{tmp_path / 'hf'}")
    for p in trained.parameters():
        torch.nn.init.normal_(p)
    write_tensors(tmp_path / "model.safetensors", under("unet.encoder.", trained.state_dict()))
    encoder = build_image_encoder(f"hf:{tmp_path / 'hf'}")
    report = load_encoder(encoder, tmp_path / "model.safetensors")
    assert report.layout == "medvl" and report.missing == report.unexpected == ()
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), trained.parameters(), strict=True))


def test_contracting_path_out_of_lvit(tmp_path: Path) -> None:
    lvit = LViT("nano", in_channels=1, text_dim=8, image_size=32)
    write_tensors(tmp_path / "lvit.safetensors", lvit.state_dict())
    encoder = build_image_encoder("ucnn_nano")
    report = load_encoder(encoder, tmp_path / "lvit.safetensors")
    assert report.layout == "medvl" and report.missing == ()
    assert torch.equal(encoder.state_dict()["down.3.1.conv.weight"], lvit.encoder.state_dict()["down.3.1.conv.weight"])


@pytest.mark.parametrize(
    ("encoder", "block", "depths", "base", "like"),
    [
        ("resnet18_nano", BasicBlock, (2, 2, 2, 2), 32, "resnet18_mini"),
        ("resnet18_nano", BasicBlock, (3, 4, 6, 3), 16, None),
        ("resnet18_mini", BasicBlock, (2, 2, 2, 2), 16, "resnet18_nano"),
        ("resnet18_nano", Bottleneck, (3, 4, 6, 3), 64, "resnet50"),
        ("efficientnet_lite0", BasicBlock, (2, 2, 2, 2), 64, "resnet18"),
        ("ucnn_nano", BasicBlock, (2, 2, 2, 2), 64, "resnet18"),
    ],
)
def test_another_network(encoder: str, block: Any, depths: Any, base: int, like: str | None, tmp_path: Path) -> None:
    """Nothing is loaded in part, even where the names agree; it says which encoder the file holds."""
    write_tensors(tmp_path / "w.pth", ResNet(block, depths, base=base).state_dict())
    network = build_image_encoder(encoder, in_channels=3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fault = refused(lambda: load_encoder(network, tmp_path / "w.pth"))
    assert fault.kind == FaultKind.MISMATCH
    assert fault.remedy == (f"model.encoder: {like}, as in the file" if like else None)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_another_network_than_lvits_own_path(tmp_path: Path) -> None:
    write_tensors(tmp_path / "w.pth", build_image_encoder("ucnn_mini").state_dict())
    lvit = LViT("nano", in_channels=1, text_dim=8, image_size=32)
    fault = refused(lambda: load_foreign(lvit, str(tmp_path / "w.pth")))
    assert fault.kind == FaultKind.MISMATCH and "ucnn_mini" in str(fault.remedy)


def test_no_encoder_and_several(trunk: Weights, tmp_path: Path) -> None:
    assert refused(lambda: encoder_weights(other())).kind == FaultKind.MISMATCH
    momentum = {**under("encoder_q.", trunk), **under("encoder_k.", trunk)}
    fault = refused(lambda: encoder_weights(momentum))
    assert fault.kind == FaultKind.AMBIGUOUS and "encoder_q." in fault.what and "encoder_k." in fault.what
    mixed = {**under("img_encoder_q.model.", trunk), **under("img_encoder_k.model.", trunk)}
    assert encoder_weights(mixed)[0] == "MGCA"  # the other prefix is none of the known
    torch.save(other(), tmp_path / "w.pth")
    fault = refused(lambda: load_encoder(build_image_encoder("resnet18_nano"), tmp_path / "w.pth"))
    assert fault.kind == FaultKind.MISMATCH and Path(str(fault.file)).name == "w.pth"


def test_files_it_refuses(tmp_path: Path) -> None:
    """Code in a checkpoint is never run; each refusal names the file."""
    torch.save({"state_dict": other(), "args": argparse.Namespace(lr=1)}, tmp_path / "objects.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "objects.pth").read_bytes()[:300])
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 40)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    kinds = {"objects.pth": "unsupported", "cut.pth": "damaged", "cut.safetensors": "damaged", "list.pth": "malformed"}
    for name, kind in (kinds | {"absent.pth": "missing_file"}).items():
        fault = refused(lambda name=name: read_tensors(tmp_path / name))
        assert (fault.kind, Path(str(fault.file)).name) == (FaultKind(kind), name)
    assert refused(lambda: load_encoder(build_image_encoder("resnet18_nano"), tmp_path)).file == tmp_path


def test_depths_are_read_from_the_blocks(tmp_path: Path) -> None:
    for name, block, depths in (
        ("resnet18", BasicBlock, (2, 2, 2, 2)),
        ("resnet50", Bottleneck, (3, 4, 6, 3)),
        ("ResNet of depths (1, 1, 2, 1)", BasicBlock, (1, 1, 2, 1)),
    ):
        network = ResNet(block, depths, base=64 if "depths" in name else 8)  # type: ignore[arg-type]
        write_tensors(tmp_path / "w.safetensors", network.state_dict())
        found, tensors, report = convert_encoder(tmp_path / "w.safetensors")
        assert found == name if "depths" in name else found.startswith(f"{name} of base width 8 (")
        assert tensors.keys() == network.state_dict().keys() and report.missing == ()
