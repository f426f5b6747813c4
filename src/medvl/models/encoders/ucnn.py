"""LViT's own contracting path, which U-Net has too, as an image encoder.

Shapes: B images, C channels, H W pixels. Widths of the five levels: base * (1, 2, 4, 8, 8), strides 1, 2, 4, 8, 16.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.models.encoders.base import ImageEncoder

BASES = {"nano": 8, "mini": 16, "T": 64}
STRIDE = 16  # of the deepest level


def level_widths(base: int) -> tuple[int, int, int, int, int]:
    """Channels of the five levels."""
    return base, 2 * base, 4 * base, 8 * base, 8 * base


class ConvNormReLU(nn.Module):
    """Conv3x3 + BatchNorm + ReLU: (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W), not negative."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two ConvNormReLU in a row."""
    return nn.Sequential(ConvNormReLU(in_channels, out_channels), ConvNormReLU(out_channels, out_channels))


class UCNNEncoder(ImageEncoder):
    """One ConvNormReLU, then four times max-pooling and two ConvNormReLU: strides 1, 2, 4, 8, 16."""

    def __init__(self, base: int, *, in_channels: int = 1) -> None:
        widths = level_widths(base)
        super().__init__(in_channels=in_channels, channels=widths, strides=(1, 2, 4, 8, STRIDE))
        self.inc = ConvNormReLU(in_channels, widths[0])
        self.down = nn.ModuleList(double_conv(a, b) for a, b in pairwise(widths))

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
