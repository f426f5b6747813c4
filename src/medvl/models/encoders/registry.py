"""Image encoders: a pyramid of maps, finest first, by name.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from medvl.core.errors import InputError, nearest
from medvl.models.encoders.base import ImageEncoder
from medvl.models.encoders.ucnn import BASES, UCNNEncoder

Pretrained = Literal["none", "imagenet"]


def _resnet(base: int, *, deep: bool = False) -> Callable[[int, bool], ImageEncoder]:
    def build(in_channels: int, pretrained: bool) -> ImageEncoder:
        from medvl.models.encoders.resnet import BasicBlock, Bottleneck, ResNet

        depths = (3, 4, 6, 3) if deep else (2, 2, 2, 2)
        return ResNet(Bottleneck if deep else BasicBlock, depths, base=base, in_channels=in_channels)

    return build


def _efficientnet(in_channels: int, pretrained: bool) -> ImageEncoder:
    from medvl.models.encoders.efficientnet import EfficientNetLite0

    return EfficientNetLite0(in_channels=in_channels, pretrained=pretrained)


def _ucnn(size: str) -> Callable[[int, bool], ImageEncoder]:
    return lambda in_channels, pretrained: UCNNEncoder(BASES[size], in_channels=in_channels)


ENCODERS: dict[str, Callable[[int, bool], ImageEncoder]] = {
    "nano": _resnet(16),
    "mini": _resnet(32),
    "resnet18": _resnet(64),
    "resnet50": _resnet(64, deep=True),
    "efficientnet_lite0": _efficientnet,
    **{f"ucnn_{size}": _ucnn(size) for size in BASES},
}
HF = "hf:"  # and `hf:FOLDER-or-ID`: any transformers backbone


def build_image_encoder(name: str, *, in_channels: int = 1, pretrained: Pretrained = "none") -> ImageEncoder:
    """The encoder `name`: nano and mini are ResNet-18 of base width 16 and 32; `hf:FOLDER-or-ID` any backbone.

    `pretrained="imagenet"` loads weights that come as a package: those of efficientnet_lite0. The three channels of
    its stem are summed for grey images. `hf:` always loads the weights that its folder or ID holds.

    Raises:
        InputError: an unknown name (with the nearest one), or weights that are not packaged or not installed.
    """
    if pretrained not in ("none", "imagenet"):
        raise InputError.unknown(f"pretrained weights {pretrained!r}", expected="none | imagenet")
    if in_channels < 1:
        raise InputError.out_of_range(f"an image encoder of {in_channels} channels", expected="at least 1")
    if name.startswith(HF):
        from medvl.models.encoders.huggingface import HFBackbone

        if pretrained != "none":
            raise InputError.conflict(
                f"pretrained={pretrained!r} for {name}", expected="none: the weights are those of the folder or ID"
            )
        return HFBackbone(name.removeprefix(HF), in_channels=in_channels)
    if name not in ENCODERS:
        like = nearest(name, ENCODERS)
        raise InputError.unknown(
            f"unknown image encoder {name!r}",
            expected=" | ".join([*ENCODERS, "hf:FOLDER-or-ID"]),
            remedy=f"did you mean {like}?" if like else None,
        )
    if pretrained == "imagenet" and name != "efficientnet_lite0":
        remedy = "pretrained=none, or efficientnet_lite0"
        if name in ("resnet18", "resnet50"):
            remedy = f"start from torchvision's file of {name}, fetched by you: init: weights:FILE"
        raise InputError.unsupported(
            f"no ImageNet weights are packaged for {name}", expected="pretrained: none", remedy=remedy
        )
    return ENCODERS[name](in_channels, pretrained == "imagenet")
