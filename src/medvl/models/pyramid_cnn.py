"""An image encoder of G2D in the place of LViT's contracting path.

Shapes: B images, C channels, H W pixels (padded to multiples of 16).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.encoder_unet import standardize
from medvl.models.encoders.registry import build_image_encoder
from medvl.models.unet import ConvNormReLU, ImageFeatures, check_image, padded_size

LEVELS = (2, 4, 8, 16)  # strides of LViT's levels that the pyramid gives; level 1 is a convolution of the image


class Adapter(nn.Module):
    """Conv1x1 + BatchNorm + ReLU, from a pyramid's width to a level's: (B, C, h, w) -> (B, C', h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Not negative."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class PyramidCNN(nn.Module):
    """x1 .. x5 as LViT wants them: one convolution at full resolution, then a backbone's maps at strides 2 to 16.

    `input_norm`: "image" brings what the backbone sees to mean 0 and deviation 1 per image, as in `EncoderUNet`.
    The map of stride 32 is added, upsampled, to that of stride 16, so that no stage of the backbone is idle.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        widths: tuple[int, ...],
        pretrained: Literal["none", "imagenet"],
        input_norm: Literal["image", "none"] = "image",
    ) -> None:
        super().__init__()
        self.in_channels, self.input_norm = in_channels, input_norm
        self.inc = ConvNormReLU(in_channels, widths[0])
        self.backbone = build_image_encoder(name, in_channels=in_channels, pretrained=pretrained)
        if self.backbone.strides != (*LEVELS, 32):
            raise InputError(
                f"image encoder {name} has maps at strides {', '.join(map(str, self.backbone.strides))}",
                expected="2, 4, 8, 16, 32 for LViT's CNN branch",
            )
        outs = (*widths[1:], widths[-1])
        self.adapt = nn.ModuleList(Adapter(a, b) for a, b in zip(self.backbone.channels, outs, strict=True))

    def forward(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) of any size, padded by edge replication -> x1 .. x5 at strides 1, 2, 4, 8, 16."""
        check_image(image, self.in_channels)
        height, width = image.shape[2:]
        new_height, new_width = padded_size(height, width)
        image = F.pad(image, (0, new_width - width, 0, new_height - height), mode="replicate")  # (B, C, H, W)
        first = self.inc(image)
        # Two cells of the deepest map a side, so that a single image has batch statistics.
        more = [max(64, -(-side // 32) * 32) - side for side in (new_height, new_width)]
        seen = standardize(image) if self.input_norm == "image" else image
        padded = F.pad(seen, (0, more[1], 0, more[0]), mode="replicate")
        maps = [adapt(x) for adapt, x in zip(self.adapt, self.backbone(padded), strict=True)]
        deep = F.interpolate(maps[-1], scale_factor=2.0, mode="nearest")
        maps = [*maps[:3], maps[3] + deep]
        cut = [x[:, :, : new_height // s, : new_width // s] for x, s in zip(maps, LEVELS, strict=True)]
        return (first, *cut)
