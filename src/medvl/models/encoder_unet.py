"""A U-Net on any image encoder: what G2D pre-trains, and what segmentation starts from.

Shapes: B images, N rows (N >= B where several rows ask the same image), C channels, H W pixels, K classes.
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
from medvl.models.encoders.registry import build_image_encoder
from medvl.models.unet import ImageFeatures, check_image, double_conv

DECODER_CHANNELS = (256, 128, 64, 32, 16)  # at the width of ResNet-18/50
FULL_WIDTH = 64  # channels of the finest map of those
MIN_CELLS = 2  # a side of the deepest map, so that a single image has batch statistics


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


class EncoderUNet(nn.Module):
    """Image encoder, U-Net decoder with skips and one convolution: logits of K classes, no text.

    Args:
        size: the image encoder: "nano" and "mini" (ResNet-18 of base width 16 and 32), "resnet18", "resnet50",
            "efficientnet_lite0", "ucnn_nano", "ucnn_mini", "ucnn_T" (LViT's contracting path) or "hf:FOLDER-or-ID".
        in_channels: channels of the image.
        num_classes: K.
        image_size: (H, W) or side of the training images; any size can be fed, it is padded and cropped back.
        pretrained: "imagenet" loads packaged weights where there are any (efficientnet_lite0).
        input_norm: "image" brings each image to mean 0 and standard deviation 1 first; "none" takes it as it comes.
        decoder: "unet", or "none" for the encoder alone (`decode` is then an error).
    """

    uses_text = False

    def __init__(
        self,
        size: str = "resnet50",
        *,
        in_channels: int = 1,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
        pretrained: Literal["none", "imagenet"] = "none",
        input_norm: Literal["image", "none"] = "image",
        decoder: Literal["unet", "none"] = "unet",
    ) -> None:
        super().__init__()
        for name, value, other in (("input_norm", input_norm, "image"), ("decoder", decoder, "unet")):
            if value not in (other, "none"):
                raise InputError(f"encoder_unet with {name} {value!r}", expected=f"{other} | none")
        self.size, self.in_channels, self.image_size, self.input_norm = size, in_channels, image_size, input_norm
        self.encoder = build_image_encoder(size, in_channels=in_channels, pretrained=pretrained)
        channels, strides = self.encoder.channels, self.encoder.strides
        odd = any(b != 2 * a for a, b in pairwise(strides)) or strides[0] not in (1, 2, 4) or len(strides) < 3
        if odd and decoder == "unet":
            raise InputError(
                f"image encoder {size} has maps at strides {', '.join(map(str, strides))}",
                expected="three or more strides that double, from 1, 2 or 4, for a U-Net decoder",
                remedy="pretrain.decoder: none trains the encoder alone",
            )
        self.decoder: UNetDecoder | LViTDecoder | None = None
        self.outc: nn.Conv2d | None = None
        if decoder == "unet":
            self.decoder = LViTDecoder(channels) if strides[0] == 1 else UNetDecoder(channels, strides[0])
            kernel = 1 if strides[0] == 1 else 3
            self.outc = nn.Conv2d(self.decoder.channels, num_classes, kernel, padding=kernel // 2)

    @property
    def stride(self) -> int:
        """Of the deepest map."""
        return self.encoder.strides[-1]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest (H, W) that all maps divide evenly, with at least two cells a side."""
        s = self.stride
        return max(MIN_CELLS, -(-height // s)) * s, max(MIN_CELLS, -(-width // s)) * s

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) of any size, padded by edge replication -> the encoder's maps, finest first."""
        check_image(image, self.in_channels)
        if self.input_norm == "image":
            image = standardize(image)
        height, width = image.shape[2:]
        new_height, new_width = self.padded_size(height, width)
        if (new_height, new_width) != (height, width):
            image = F.pad(image, (0, new_width - width, 0, new_height - height), mode="replicate")  # (B, C, H', W')
        maps: ImageFeatures = self.encoder(image)
        return maps

    def decode(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Maps of `encode_image` -> logits (N, K, H, W), cropped to `size`; rows of one image are equal."""
        if text_features is not None or text_mask is not None:
            raise InputError("text given to a model that takes none", remedy="pass text_features=None")
        if self.decoder is None or self.outc is None:
            raise InputError("this model has no decoder", remedy="model.options.decoder: unet")
        logits: Tensor = self.outc(self.decoder(image_features))  # (B, K, H', W')
        if size is not None:
            logits = logits[:, :, : size[0], : size[1]]  # (B, K, H, W)
        return logits if image_index is None else logits.index_select(0, image_index)

    def forward(
        self,
        image: Tensor,
        text_features: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) -> logits (N, K, H, W); N = B without `image_index`. Text must be None."""
        size = (image.shape[2], image.shape[3])
        return self.decode(self.encode_image(image), text_features, text_mask, image_index, size)


def standardize(image: Tensor) -> Tensor:
    """(B, C, H, W) -> the same with mean 0 and standard deviation 1 per image; a constant image becomes 0."""
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    std = image.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (image - mean) / std.clamp(min=1e-3)
