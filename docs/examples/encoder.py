"""An image encoder: three blocks of strided convolutions, at strides 2, 4 and 8.

Import this file, and `model.encoder: tiny` is its name in a recipe, for every network that has an image encoder.
Inside medvl it is a file in src/medvl/models/encoders/ and a line in its registry.py.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from medvl.models.encoders.base import ImageEncoder
from medvl.models.encoders.registry import ENCODERS

WIDTHS = (16, 32, 64)


class TinyEncoder(ImageEncoder):
    """(B, C, H, W) -> maps of 16, 32 and 64 channels."""

    def __init__(self, *, in_channels: int = 1) -> None:
        super().__init__(in_channels=in_channels, channels=WIDTHS, strides=(2, 4, 8))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise((in_channels, *WIDTHS))
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps (B, 16, H/2, W/2), (B, 32, H/4, W/4), (B, 64, H/8, W/8)."""
        self.check(image)
        maps = [image]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return tuple(maps[1:])


ENCODERS["tiny"] = TinyEncoder
