"""A U-Net on any image encoder: what G2D pre-trains, and what segmentation starts from.

Shapes: B images, N rows (N >= B where several rows share an image), C channels, H W pixels, K classes.
Two decoders, by the encoder's finest map: stride 2 or 4 (ResNet and its kin) has the layout of the usual U-Net decoder
(reference: G2D, section 1: 256, 128, 64, 32, 16 channels, nearest upsampling, the upsampled map before the skip, no
skip at full resolution); stride 1 (LViT's contracting path) has LViT's, so that LViT can start from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.base import (
    ImageFeatures,
    ImageNetwork,
    SegmentationNetwork,
    check_choice,
    check_positive,
    standardize,
)
from medvl.models.encoders.registry import Pretrained, build_image_encoder
from medvl.models.encoders.ucnn import double_conv

DECODER_CHANNELS = (256, 128, 64, 32, 16)  # at the width of ResNet-18/50
FULL_WIDTH = 64  # channels of the finest map of those

InputNorm = Literal["image", "none"]


class DecoderBlock(nn.Module):
    """Nearest upsampling by 2, the skip behind it, then twice Conv3x3 without bias, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels + skip_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_uniform_(conv.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """(B, C, h, w), (B, S, 2h, 2w) -> (B, C', 2h, 2w)."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(x)), inplace=True)


class UNetDecoder(nn.Module):
    """Maps at strides s, 2s, 4s, ... -> (B, `channels`, H, W). `channels` is that of the last block.

    The blocks that go from stride s to 1 have no skip: one for s = 2, two for s = 4.
    """

    def __init__(self, encoder_channels: Sequence[int], first_stride: int) -> None:
        super().__init__()
        num_bare = first_stride.bit_length() - 1
        num_blocks = len(encoder_channels) - 1 + num_bare
        width = min(max(encoder_channels[0], 16), FULL_WIDTH)
        outs = [max(8, channels * width // FULL_WIDTH) for channels in DECODER_CHANNELS[-num_blocks:]]
        deepest, *skips = reversed(encoder_channels)
        ins = [deepest, *outs[:-1]]
        self.blocks = nn.ModuleList(
            DecoderBlock(a, skip, b) for a, skip, b in zip(ins, [*skips, *[0] * num_bare], outs, strict=True)
        )
        self.channels = outs[-1]

    def forward(self, maps: ImageFeatures) -> Tensor:
        """Maps, finest first -> (B, channels, H, W)."""
        x, *skips = reversed(maps)
        for block, skip in zip_longest(self.blocks, skips):
            x = block(x, skip)
        return x


class LViTDecoder(nn.Module):
    """LViT's expanding path without PLAM and without its ViT: `up.k` has the names and shapes of LViT's `up.k`."""

    def __init__(self, encoder_channels: Sequence[int]) -> None:
        super().__init__()
        widths = tuple(encoder_channels)
        outs = (widths[0], *widths[: len(widths) - 2])
        belows = (*outs[1:], widths[-1])
        self.up = nn.ModuleList(
            double_conv(width + below, out) for width, below, out in zip(widths[:-1], belows, outs, strict=True)
        )
        self.channels = outs[0]

    def forward(self, maps: ImageFeatures) -> Tensor:
        """Maps, finest first -> (B, channels, H, W)."""
        *skips, x = maps
        for up, skip in zip(reversed(list(self.up)), reversed(skips), strict=True):
            x = up(torch.cat([skip, F.interpolate(x, scale_factor=2.0, mode="nearest")], dim=1))
        return x


class EncoderNetwork(ImageNetwork):
    """A network on an image encoder (`encoder`, whose tensor names all of them share), without what follows it.

    Args:
        encoder: name of the image encoder, see `medvl.models.encoders.registry`.
        in_channels: channels of the image.
        image_size: (H, W) or side of the training images; any size can be fed, it is padded and cropped back.
        pretrained: "imagenet" loads packaged weights where there are any (efficientnet_lite0).
        input_norm: "image" brings each image to mean 0 and standard deviation 1 first; "none" takes it as it comes.
    """

    def __init__(
        self,
        encoder: str,
        *,
        in_channels: int,
        image_size: int | tuple[int, int],
        pretrained: Pretrained = "none",
        input_norm: InputNorm = "image",
    ) -> None:
        super().__init__(in_channels=in_channels, image_size=image_size)
        check_choice(type(self).__name__, "input_norm", input_norm, ("image", "none"))
        self.encoder_name, self.input_norm = encoder, input_norm
        self.encoder = build_image_encoder(encoder, in_channels=in_channels, pretrained=pretrained)
        self.stride = self.encoder.strides[-1]

    def normalize(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), by `input_norm`."""
        return standardize(image) if self.input_norm == "image" else image

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H', W') -> the encoder's maps, finest first."""
        maps: ImageFeatures = self.encoder(image)
        return maps


class EncoderUNet(EncoderNetwork, SegmentationNetwork):
    """Image encoder, U-Net decoder with skips and one convolution: logits of K classes, no text.

    Args:
        encoder, in_channels, image_size, pretrained, input_norm: see `EncoderNetwork`.
        num_classes: K.
        decoder: "unet", or "none" for the encoder alone (`decode` is then an error).
    """

    ABOUT = "U-Net on any image encoder, what G2D pre-trains, by us"
    SOURCE = "Liu et al., arXiv 2312.01522"

    def __init__(
        self,
        encoder: str = "resnet50",
        *,
        in_channels: int = 1,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
        pretrained: Pretrained = "none",
        input_norm: InputNorm = "image",
        decoder: Literal["unet", "none"] = "unet",
    ) -> None:
        super().__init__(
            encoder, in_channels=in_channels, image_size=image_size, pretrained=pretrained, input_norm=input_norm
        )
        check_choice("EncoderUNet", "decoder", decoder, ("unet", "none"))
        check_positive("EncoderUNet", num_classes=num_classes)
        self.decoder: UNetDecoder | LViTDecoder | None = None
        self.outc: nn.Conv2d | None = None
        if decoder == "none":
            return
        channels, strides = self.encoder.channels, self.encoder.strides
        if any(b != 2 * a for a, b in pairwise(strides)) or strides[0] not in (1, 2, 4) or len(strides) < 3:
            raise InputError.unsupported(
                f"image encoder {encoder} has maps at strides {', '.join(map(str, strides))}",
                expected="three or more strides that double, from 1, 2 or 4, for a U-Net decoder",
                remedy="pretrain.decoder: none trains the encoder alone",
            )
        self.decoder = LViTDecoder(channels) if strides[0] == 1 else UNetDecoder(channels, strides[0])
        kernel = 1 if strides[0] == 1 else 3
        self.outc = nn.Conv2d(self.decoder.channels, num_classes, kernel, padding=kernel // 2)

    def decode_rows(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> Tensor:
        """The encoder's maps -> logits (B, K, H', W')."""
        if self.decoder is None or self.outc is None:
            raise InputError.unsupported("this model has no decoder", remedy="model.options.decoder: unet")
        logits: Tensor = self.outc(self.decoder(image_features))
        return logits
