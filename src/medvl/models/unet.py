"""U-Net, and the CNN encoder that LViT shares with it.

Shapes: B images, N rows (N >= B where several rows ask the same image), C channels, H W pixels, K classes.
Widths of the five levels: base * (1, 2, 4, 8, 8), strides 1, 2, 4, 8, 16.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError, nearest

BASES = {"nano": 8, "mini": 16, "T": 64}
STRIDE = 16  # of the deepest level
MIN_SIDE = 32  # so that the deepest level has four pixels, enough for batch statistics of a single image

ImageFeatures = tuple[Tensor, ...]


def level_widths(base: int) -> tuple[int, int, int, int, int]:
    """Channels of the five levels."""
    return base, 2 * base, 4 * base, 8 * base, 8 * base


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The smallest (H, W) that the five levels divide evenly."""
    return max(MIN_SIDE, -(-height // STRIDE) * STRIDE), max(MIN_SIDE, -(-width // STRIDE) * STRIDE)


def check_image(image: Tensor, in_channels: int) -> None:
    """InputError unless `image` is (B, in_channels, H, W)."""
    if image.ndim != 4 or image.shape[1] != in_channels:
        raise InputError(
            f"an image batch of shape {tuple(image.shape)}",
            expected=f"(B, {in_channels}, H, W)",
            remedy="set in_channels to the images' number of channels, or convert the images",
        )


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


class CNNEncoder(nn.Module):
    """The contracting path: one ConvNormReLU, then four times max-pooling and two ConvNormReLU."""

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.inc = ConvNormReLU(in_channels, widths[0])
        self.down = nn.ModuleList(double_conv(a, b) for a, b in pairwise(widths))

    def forward(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) of any size, padded by edge replication -> x1 .. x5, (B, widths[i], H' / 2**i, W' / 2**i)."""
        check_image(image, self.in_channels)
        height, width = image.shape[2:]
        new_height, new_width = padded_size(height, width)
        if (new_height, new_width) != (height, width):
            image = F.pad(image, (0, new_width - width, 0, new_height - height), mode="replicate")  # (B, C, H', W')
        features: list[Tensor] = [self.inc(image)]
        for stage in self.down:
            features.append(stage(F.max_pool2d(features[-1], 2)))
        return tuple(features)


class UNet(nn.Module):
    """The plain U-Net that LViT's paper compares with: no text, transposed convolutions upwards.

    14.75 M parameters at size T. `uses_text` is False: it shares the call of the text-guided models, but text must
    be None.

    Args:
        size: "nano" (base width 8), "mini" (16) or "T" (64).
        in_channels: channels of the image.
        num_classes: K.
        image_size: (H, W) or side of the training images; any size can be fed, it is padded and cropped back.
    """

    uses_text = False

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
    ) -> None:
        super().__init__()
        if size not in BASES:
            like = nearest(size, BASES)
            raise InputError(
                f"U-Net has no size {size!r}",
                expected=" | ".join(BASES),
                remedy=f"did you mean {like}?" if like else None,
            )
        widths = level_widths(BASES[size])
        self.image_size = image_size
        self.encoder = CNNEncoder(in_channels, widths)
        skips, outs = widths[3::-1], (widths[2], widths[1], widths[0], widths[0])  # from the deepest level up
        belows = (widths[4], *outs[:3])
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, below, kernel_size=2, stride=2) for below in belows)
        self.merge = nn.ModuleList(
            double_conv(below + skip, out) for below, skip, out in zip(belows, skips, outs, strict=True)
        )
        self.outc = nn.Conv2d(outs[-1], num_classes, kernel_size=1)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) -> the five maps of the contracting path."""
        features: ImageFeatures = self.encoder(image)
        return features

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
        *skips, x = image_features
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))  # (B, out, H_k, W_k)
        logits: Tensor = self.outc(x)
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
