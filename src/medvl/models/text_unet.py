"""A U-Net whose deepest pixels attend to the words: the plainest way to tell a CNN the text, to compare LViT with.

Shapes: B images, N rows (one text each; N >= B where texts share an image), C channels, H W pixels, K classes,
L text tokens, D text width, h w grid of a level, P = h*w its pixels.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.monai import check_size
from medvl.models.text_merge import MIN_ATTENTION_WIDTH, check_text, text_keep_mask
from medvl.models.unet import CNNEncoder, ImageFeatures, double_conv, level_widths

NUM_HEADS = 8
NUM_WAVES = 8  # frequencies along each axis, from half a wave to 16 half waves over the image


class PixelTextAttention(nn.Module):
    """x + Attention(LN(x) W_q + p(place), LN(text) W_kv) W_o: the pixels of one level ask the tokens.

    Pre-norm multi-head cross-attention (Vaswani et al., arXiv 1706.03762). The queries carry the pixel's place as
    sines and cosines of its relative coordinates, mapped linearly: without it "upper" and "left" mean nothing to a
    convolution. A learned null token lets a pixel attend to nothing. W_o starts at zero, so that the network starts as
    a plain U-Net (the zero convolution of Zhang et al., arXiv 2302.05543); a gate per channel does so too, but opens
    one step of the learning rate at a time, which delayed the text by several epochs.
    """

    def __init__(self, width: int, text_dim: int) -> None:
        super().__init__()
        inner = max(width, MIN_ATTENTION_WIDTH)
        self.norm_pixels = nn.LayerNorm(width)
        self.norm_text = nn.LayerNorm(text_dim)
        self.query = nn.Linear(width, inner)
        self.position = nn.Linear(4 * NUM_WAVES, inner, bias=False)
        self.key_value = nn.Linear(text_dim, 2 * inner)
        self.null_key_value = nn.Parameter(0.02 * torch.randn(2, NUM_HEADS, 1, inner // NUM_HEADS))
        self.proj = nn.Linear(inner, width)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, text_features: Tensor, keep: Tensor) -> Tensor:
        """(N, C, h, w), (N, L, D), (N, L) bool -> (N, C, h, w)."""
        n, _, height, width = x.shape
        pixels = self.norm_pixels(x.flatten(2).transpose(1, 2))  # (N, P, C)
        place = self.position(place_waves(height, width, like=x))  # (P, inner)
        query = _split(self.query(pixels) + place)  # (N, heads, P, d)
        key, value = self.key_value(self.norm_text(text_features)).chunk(2, dim=2)  # 2 x (N, L, inner)
        null = self.null_key_value[:, None].expand(-1, n, -1, -1, -1)  # (2, N, heads, 1, d)
        key = torch.cat([null[0], _split(key)], dim=2)  # (N, heads, 1 + L, d)
        value = torch.cat([null[1], _split(value)], dim=2)  # (N, heads, 1 + L, d)
        allowed = F.pad(keep, (1, 0), value=True)[:, None, None]  # (N, 1, 1, 1 + L)
        told = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)  # (N, heads, P, d)
        told = self.proj(told.transpose(1, 2).flatten(2)).transpose(1, 2)  # (N, C, P)
        result: Tensor = x + told.reshape(x.shape)  # (N, C, h, w)
        return result


def place_waves(height: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of the pixels' relative coordinates: (height * width, 4 * NUM_WAVES), row by row.

    Coordinates run from 0 to 1 over the map, so that a place has the same code in images and levels of any size.
    """
    frequency = math.pi * 2 ** torch.linspace(0, 4, NUM_WAVES, dtype=like.dtype, device=like.device)
    axes = []
    for side in (height, width):
        place = (torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side
        phase = place[:, None] * frequency  # (side, waves)
        axes.append(torch.cat([phase.sin(), phase.cos()], dim=1))  # (side, 2 * waves)
    rows = axes[0][:, None].expand(-1, width, -1)  # (h, w, 2 * waves)
    columns = axes[1][None].expand(height, -1, -1)  # (h, w, 2 * waves)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)  # (P, 4 * waves)


class TextUNet(nn.Module):
    """medvl's U-Net with cross-attention from the pixels of its deepest levels to the text tokens, returning logits.

    The layers of `medvl.models.unet.UNet`, under the same names, and on each of the `text_levels` deepest maps of the
    contracting path a `PixelTextAttention`; the expanding path then works with what the pixels were told. The
    contracting path does not see the text and is computed once per image. Ours, not a published network.

    Any image size (padded by edge replication to multiples of 16 and cropped back) and any number of tokens.

    Args:
        size: "nano" (base width 8), "mini" (24: as many parameters as LViT mini) or "T" (64).
        in_channels: channels of the image.
        num_classes: K.
        text_dim: D, width of the text features.
        text_levels: how many of the five levels attend to the text, from the deepest up; 1 to 5. Three, of strides 16,
            8 and 4, cost little; the upper ones are large.
        image_size: (H, W) or side of the training images, kept as an attribute; any size can be fed.

    Raises:
        InputError: unknown size, text_levels out of range, no class.

    Attributes:
        uses_text: True: text features must be given.
    """

    SIZES: ClassVar[dict[str, int]] = {"nano": 8, "mini": 24, "T": 64}
    uses_text = True

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        text_dim: int = 768,
        text_levels: int = 3,
        image_size: int | tuple[int, int] = 224,
    ) -> None:
        super().__init__()
        check_size("text_unet", size, self.SIZES)
        if not 1 <= text_levels <= 5:
            raise InputError(
                f"text_unet with text_levels {text_levels}",
                expected="1 to 5",
                remedy="model: {name: unet} is the network without text",
            )
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes), ("text_dim", text_dim)):
            if value < 1:
                raise InputError(f"text_unet with {name} {value}", expected="at least 1")
        self.image_size, self.text_dim, self.text_levels = image_size, text_dim, text_levels
        widths = level_widths(self.SIZES[size])
        self.encoder = CNNEncoder(in_channels, widths)
        self.attend = nn.ModuleList(PixelTextAttention(width, text_dim) for width in widths[5 - text_levels :])
        skips, outs = widths[3::-1], (widths[2], widths[1], widths[0], widths[0])  # from the deepest level up
        belows = (widths[4], *outs[:3])
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, below, kernel_size=2, stride=2) for below in belows)
        self.merge = nn.ModuleList(
            double_conv(below + skip, out) for below, skip, out in zip(belows, skips, outs, strict=True)
        )
        self.outc = nn.Conv2d(outs[-1], num_classes, kernel_size=1)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) -> the five maps of the contracting path: all that does not depend on the text.

        Raises:
            InputError: wrong number of channels.
        """
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
        """Maps of `encode_image` and one text per row -> logits (N, K, H, W).

        Args:
            image_features: the five maps of B images.
            text_features: (N, L, D).
            text_mask: (N, L) bool, True = real token; None = all are. A row without any is told nothing.
            image_index: (N,) int64, the image of each row; None when row n asks image n.
            size: (H, W) to crop to, the size of the image given to `encode_image`; None = not cropped.

        Raises:
            InputError: text missing or of a wrong shape.
        """
        num_rows = image_features[0].shape[0] if image_index is None else image_index.shape[0]
        text = check_text(text_features, text_mask, num_rows, self.text_dim)
        keep = text_keep_mask(text, text_mask)
        maps = [x if image_index is None else x.index_select(0, image_index) for x in image_features]  # (N, C_k, ...)
        for i, attend in enumerate(self.attend, start=5 - self.text_levels):
            maps[i] = attend(maps[i], text, keep)  # (N, C_i, h, w)
        *skips, x = maps
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))  # (N, out, H_k, W_k)
        logits: Tensor = self.outc(x)
        return logits if size is None else logits[:, :, : size[0], : size[1]]  # (N, K, H, W)

    def forward(
        self,
        image: Tensor,
        text_features: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) and one text per row -> logits (N, K, H, W); see `encode_image` and `decode`."""
        size = (image.shape[2], image.shape[3])
        return self.decode(self.encode_image(image), text_features, text_mask, image_index, size)


def _split(x: Tensor) -> Tensor:
    """(N, L, inner) -> (N, heads, L, d)."""
    return x.view(x.shape[0], x.shape[1], NUM_HEADS, -1).transpose(1, 2)
