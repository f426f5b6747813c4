"""Image encoders: a pyramid of maps, finest first, by name.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.errors import InputError, nearest
from medvl.models.unet import BASES, CNNEncoder, check_image, level_widths

Pretrained = Literal["none", "imagenet"]


class ImageEncoder(nn.Module):
    """(B, C, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i]), finest first.

    Args:
        in_channels: channels of the image, which the caller has brought to zero mean and unit deviation.
        channels: channels of each map.
        strides: pixels per cell of each map, growing; H and W must be multiples of the last.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    in_channels: int

    def __init__(self, *, in_channels: int, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides = in_channels, channels, strides

    def check(self, image: Tensor) -> None:
        """InputError unless `image` is (B, in_channels, H, W) with sides that are multiples of the last stride."""
        check_image(image, self.in_channels)
        height, width = image.shape[2:]
        stride = self.strides[-1]
        if height % stride or width % stride:
            raise InputError(
                f"an image of {height} x {width} pixels",
                expected=f"sides that are multiples of {stride}",
                remedy=f"pad it to {-(-height // stride) * stride} x {-(-width // stride) * stride}",
            )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> tuple of maps, finest first."""
        raise TypeError(f"{type(self).__name__} has no forward")


class UCNNEncoder(ImageEncoder):
    """LViT's own contracting path (`CNNEncoder`, same tensor names): strides 1, 2, 4, 8, 16."""

    def __init__(self, size: str, *, in_channels: int = 1) -> None:
        widths = level_widths(BASES[size])
        super().__init__(in_channels=in_channels, channels=widths, strides=(1, 2, 4, 8, 16))
        path = CNNEncoder(in_channels, widths)
        self.inc, self.down = path.inc, path.down

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> five maps, (B, channels[i], H / strides[i], W / strides[i]), not negative.

        Raises:
            InputError: another number of channels, or sides that are no multiples of 16.
        """
        self.check(image)
        features: list[Tensor] = [self.inc(image)]
        for stage in self.down:
            features.append(stage(F.max_pool2d(features[-1], 2)))
        return tuple(features)


def _resnet(base: int, *, deep: bool = False) -> Callable[[int, bool], ImageEncoder]:
    def build(in_channels: int, pretrained: bool) -> ImageEncoder:
        from medvl.models.resnet import BasicBlock, Bottleneck, ResNet

        depths = (3, 4, 6, 3) if deep else (2, 2, 2, 2)
        return ResNet(Bottleneck if deep else BasicBlock, depths, base=base, in_channels=in_channels)

    return build


def _efficientnet(in_channels: int, pretrained: bool) -> ImageEncoder:
    from medvl.models.efficientnet import EfficientNetLite0

    return EfficientNetLite0(in_channels=in_channels, pretrained=pretrained)


def _ucnn(size: str) -> Callable[[int, bool], ImageEncoder]:
    return lambda in_channels, pretrained: UCNNEncoder(size, in_channels=in_channels)


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
        raise InputError(f"pretrained weights {pretrained!r}", expected="none | imagenet")
    if in_channels < 1:
        raise InputError(f"an image encoder of {in_channels} channels", expected="at least 1")
    if name.startswith(HF):
        from medvl.models.hf_backbone import HFBackbone

        if pretrained != "none":
            raise InputError(
                f"pretrained={pretrained!r} for {name}", expected="none: the weights are those of the folder or ID"
            )
        return HFBackbone(name.removeprefix(HF), in_channels=in_channels)
    if name not in ENCODERS:
        like = nearest(name, ENCODERS)
        raise InputError(
            f"unknown image encoder {name!r}",
            expected=" | ".join([*ENCODERS, "hf:FOLDER-or-ID"]),
            remedy=f"did you mean {like}?" if like else None,
        )
    if pretrained == "imagenet" and name != "efficientnet_lite0":
        remedy = "pretrained=none, or efficientnet_lite0"
        if name in ("resnet18", "resnet50"):
            remedy = f"start from torchvision's file of {name}, fetched by you: init: weights:FILE"
        raise InputError(f"no ImageNet weights are packaged for {name}", expected="pretrained: none", remedy=remedy)
    return ENCODERS[name](in_channels, pretrained == "imagenet")


def fit_channels(kernel: Tensor, in_channels: int) -> Tensor:
    """A first convolution's kernel (O, C, k, k) -> (O, in_channels, k, k), between grey and colour.

    3 -> 1 is the sum: a grey image fed three times gives the same map. 1 -> 3 is a third each, the inverse of that.

    Raises:
        InputError: any other pair of numbers.
    """
    found = kernel.shape[1]
    if found == in_channels:
        return kernel
    if (found, in_channels) == (3, 1):
        return kernel.sum(dim=1, keepdim=True)
    if (found, in_channels) == (1, 3):
        return (kernel / 3).repeat(1, 3, 1, 1)
    raise InputError(
        f"weights for images of {found} channels, images of {in_channels}", expected="the same number, or 1 and 3"
    )
