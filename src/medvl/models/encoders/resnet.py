"""ResNet (He et al., CVPR 2016) in the key layout of torchvision, as a pyramid of maps.

The field's checkpoints (ImageNet, MGCA, GLoRIA, MedKLIP, G2D) are ResNets with these tensor names.

Shapes: B images, C channels, H W pixels, w base width, e expansion (1 basic block, 4 bottleneck).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.models.encoders.base import ImageEncoder


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: (B, C, H, W) -> (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride), not negative."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut: (B, C, H, W) -> (B, 4 width, H / stride, W / stride).

    The stride stands in the 3x3 convolution ("v1.5"), as in torchvision; in the paper it stands in the first 1x1.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H / stride, W / stride), not negative."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(ImageEncoder):
    """Maps after the stem (stride 2, before its pooling) and after each of the four layers (4, 8, 16, 32).

    Without the classifier: 23,508,032 parameters for ResNet-50, 11,176,512 for ResNet-18, of three channels.

    Args:
        block: BasicBlock or Bottleneck.
        depths: blocks of the four layers.
        base: width w of stem and first layer; 64 as published.
        in_channels: channels of the image.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        base: int = 64,
        in_channels: int = 3,
    ) -> None:
        widths = (base, 2 * base, 4 * base, 8 * base)
        channels = (base, *(block.expansion * width for width in widths))
        super().__init__(in_channels=in_channels, channels=channels, strides=(2, 4, 8, 16, 32))
        self.conv1 = nn.Conv2d(in_channels, base, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        layers = [
            nn.Sequential(
                block(before, width, stride),
                *(block(block.expansion * width, width, 1) for _ in range(depth - 1)),
            )
            for before, width, depth, stride in zip(channels, widths, depths, (1, 2, 2, 2), strict=False)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():  # as torchvision
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> five maps, (B, channels[i], H / strides[i], W / strides[i]).

        Raises:
            InputError: another number of channels, or sides that are no multiples of 32.
        """
        self.check(image)
        stem = F.relu(self.bn1(self.conv1(image)), inplace=True)  # (B, w, H/2, W/2)
        x = self.layer1(F.max_pool2d(stem, kernel_size=3, stride=2, padding=1))  # (B, e w, H/4, W/4)
        features = [stem, x]
        for layer in (self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return tuple(features)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What fits the input of a block to its output; None where it fits already."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )
