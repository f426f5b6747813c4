"""An image encoder of G2D in the place of LViT's contracting path.

Shapes: B images, C channels, H W pixels (padded to multiples of 16).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.base import padded_size, standardize
from medvl.models.encoder_unet import InputNorm
from medvl.models.encoders.base import ImageEncoder
from medvl.models.encoders.registry import Pretrained, build_image_encoder
from medvl.models.encoders.ucnn import ConvNormReLU

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


class PyramidCNN(ImageEncoder):
    """x1 .. x5 as LViT wants them: one convolution at full resolution, then a backbone's maps at strides 2 to 16.

    The map of stride 32 is added, upsampled, to that of stride 16, so that no stage of the backbone is idle.

    Args:
        name: of the image encoder; its strides must be 2, 4, 8, 16, 32.
        in_channels: channels of the image.
        widths: of LViT's five levels.
        pretrained: see `build_image_encoder`.
        input_norm: "image" brings what the backbone sees to mean 0 and deviation 1 per image, as in `EncoderUNet`.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        widths: tuple[int, ...],
        pretrained: Pretrained,
        input_norm: InputNorm = "image",
    ) -> None:
        super().__init__(in_channels=in_channels, channels=widths, strides=(1, *LEVELS))
        self.input_norm = input_norm
        self.inc = ConvNormReLU(in_channels, widths[0])
        self.backbone = build_image_encoder(name, in_channels=in_channels, pretrained=pretrained)
        if self.backbone.strides != (*LEVELS, 32):
            raise InputError.unsupported(
                f"image encoder {name} has maps at strides {', '.join(map(str, self.backbone.strides))}",
                expected="2, 4, 8, 16, 32 for LViT's CNN branch",
            )
        outs = (*widths[1:], widths[-1])
        self.adapt = nn.ModuleList(Adapter(a, b) for a, b in zip(self.backbone.channels, outs, strict=True))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> x1 .. x5 at strides 1, 2, 4, 8, 16.

        Raises:
            InputError: another number of channels, or sides that are no multiples of 16.
        """
        self.check(image)
        height, width = image.shape[2:]
        first = self.inc(image)
        seen = standardize(image) if self.input_norm == "image" else image
        new_height, new_width = padded_size(height, width, 32)
        padded = F.pad(seen, (0, new_width - width, 0, new_height - height), mode="replicate")
        maps = [adapt(x) for adapt, x in zip(self.adapt, self.backbone(padded), strict=True)]
        deep = F.interpolate(maps[-1], scale_factor=2.0, mode="nearest")
        maps = [*maps[:3], maps[3] + deep]
        cut = [x[:, :, : height // s, : width // s] for x, s in zip(maps, LEVELS, strict=True)]
        return (first, *cut)
