"""LViT's own contracting path as an image encoder.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor

from medvl.models.encoders.base import ImageEncoder
from medvl.models.unet import BASES, CNNEncoder, level_widths


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
