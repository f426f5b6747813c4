"""Image encoders by name: a new one is a file beside this one and a line here.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from medvl.core.errors import InputError, nearest
from medvl.models.encoders.base import ImageEncoder
from medvl.models.encoders.efficientnet import EfficientNetLite0
from medvl.models.encoders.huggingface import HFBackbone
from medvl.models.encoders.resnet import BasicBlock, Bottleneck, ResNet
from medvl.models.encoders.timm import TimmEncoder
from medvl.models.encoders.ucnn import BASES, UCNNEncoder

Pretrained = Literal["none", "imagenet"]

# Name -> what builds it, called with `in_channels`.
ENCODERS: dict[str, Callable[..., ImageEncoder]] = {
    "resnet18_nano": partial(ResNet, BasicBlock, (2, 2, 2, 2), base=16),
    "resnet18_mini": partial(ResNet, BasicBlock, (2, 2, 2, 2), base=32),
    "resnet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "efficientnet_lite0": EfficientNetLite0,
    **{f"ucnn_{size}": partial(UCNNEncoder, base) for size, base in BASES.items()},
}
# Prefix -> an encoder of another library, which is called with what follows the prefix.
ADAPTERS: dict[str, Callable[..., ImageEncoder]] = {"hf:": HFBackbone, "timm:": TimmEncoder}


def build_image_encoder(name: str, *, in_channels: int = 1, pretrained: Pretrained = "none") -> ImageEncoder:
    """The encoder `name` of `ENCODERS`, `hf:FOLDER-or-ID` (any transformers backbone) or `timm:NAME` (any of timm).

    Args:
        in_channels: C.
        pretrained: "imagenet" loads weights that come as a package: those of efficientnet_lite0. `hf:` always loads
            the weights that its folder or ID holds.

    Raises:
        InputError: an unknown name (with the nearest one), or weights that are not packaged or not installed.
    """
    if pretrained not in ("none", "imagenet"):
        raise InputError.unknown(f"pretrained weights {pretrained!r}", expected="none | imagenet")
    if in_channels < 1:
        raise InputError.out_of_range(f"an image encoder of {in_channels} channels", expected="at least 1")
    prefix, colon, source = name.partition(":")
    if prefix + colon in ADAPTERS:
        if pretrained != "none":
            raise InputError.conflict(
                f"pretrained={pretrained!r} for {name}",
                expected="none: the weights are those of the folder or ID, or of init: weights:FILE",
            )
        return ADAPTERS[prefix + colon](source, in_channels=in_channels)
    if name not in ENCODERS:
        like = next((known for known in ENCODERS if known.endswith(f"_{name}")), None) or nearest(name, ENCODERS)
        raise InputError.unknown(
            f"unknown image encoder {name!r}",
            expected=" | ".join([*ENCODERS, *(f"{prefix}NAME" for prefix in ADAPTERS)]),
            remedy=f"did you mean {like}?" if like else None,
        )
    encoder = ENCODERS[name](in_channels=in_channels)
    if pretrained == "imagenet":
        encoder.load_imagenet()
    return encoder
