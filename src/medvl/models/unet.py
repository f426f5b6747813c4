"""The plain U-Net, and one whose deepest pixels attend to the words: the plainest way to give a CNN the text.

Shapes: B images, N rows (one text each; N >= B where texts share an image), C channels, H W pixels, K classes,
L text tokens, D text width, h w grid of a level, P = h*w its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.base import (
    ImageFeatures,
    SegmentationNetwork,
    check_choice,
    check_positive,
    expand_rows,
    text_keep_mask,
)
from medvl.models.encoders.ucnn import BASES, STRIDE, UCNNEncoder, double_conv, level_widths
from medvl.models.text_merge import MIN_ATTENTION_WIDTH

NUM_HEADS = 8
NUM_WAVES = 8  # frequencies along each axis, from half a wave to 16 half waves over the image


class _UShaped(SegmentationNetwork):
    """The layers that both networks have; the encoder is made first, so that the first weights are drawn in order."""

    def __init__(self, size: str, *, in_channels: int, num_classes: int, image_size: int | tuple[int, int]) -> None:
        super().__init__(in_channels=in_channels, image_size=image_size, stride=STRIDE)
        check_choice(type(self).__name__, "size", size, self.SIZES)
        check_positive(type(self).__name__, num_classes=num_classes)
        self.widths = level_widths(self.SIZES[size])
        self.encoder = UCNNEncoder(self.SIZES[size], in_channels=in_channels)

    def build_expanding_path(self, num_classes: int) -> None:
        """Transposed convolutions, the skips behind them, and the last convolution."""
        widths = self.widths
        skips, outs = widths[3::-1], (widths[2], widths[1], widths[0], widths[0])  # from the deepest level up
        belows = (widths[4], *outs[:3])
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, below, kernel_size=2, stride=2) for below in belows)
        self.merge = nn.ModuleList(
            double_conv(below + skip, out) for below, skip, out in zip(belows, skips, outs, strict=True)
        )
        self.outc = nn.Conv2d(outs[-1], num_classes, kernel_size=1)

    def expand(self, maps: Sequence[Tensor]) -> Tensor:
        """The five maps, finest first -> logits (N, K, H', W')."""
        *skips, x = maps
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))  # (N, out, H_k, W_k)
        logits: Tensor = self.outc(x)
        return logits


class UNet(_UShaped):
    """The plain U-Net that LViT's paper compares with: no text, transposed convolutions upwards.

    14.75 M parameters at size T.

    Args:
        size: "nano" (base width 8), "mini" (16) or "T" (64).
        in_channels: channels of the image.
        num_classes: K.
        image_size: (H, W) or side of the training images; any size can be fed, it is padded and cropped back.

    Raises:
        InputError: unknown size, no class.
    """

    ABOUT = "U-Net as LViT's paper compares with, by us"
    SOURCE = "Ronneberger et al., arXiv 1505.04597"
    SIZES: ClassVar[dict[str, int]] = BASES

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
    ) -> None:
        super().__init__(size, in_channels=in_channels, num_classes=num_classes, image_size=image_size)
        self.build_expanding_path(num_classes)

    def decode_rows(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> Tensor:
        """The five maps of the contracting path -> logits (B, K, H', W')."""
        return self.expand(image_features)


class PixelTextAttention(nn.Module):
    """x + Attention(LN(x) W_q + p(place), LN(text) W_kv) W_o: the pixels of one level attend to the tokens.

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
        answer = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)  # (N, heads, P, d)
        answer = self.proj(answer.transpose(1, 2).flatten(2)).transpose(1, 2)  # (N, C, P)
        result: Tensor = x + answer.reshape(x.shape)  # (N, C, h, w)
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


class TextUNet(_UShaped):
    """`UNet` with cross-attention from the pixels of its deepest levels to the text tokens. Ours, not published.

    The layers of `UNet`, under the same names, and on each of the `text_levels` deepest maps of the contracting path a
    `PixelTextAttention`; the expanding path then works with what the pixels received. The contracting path does not
    see the text and is computed once per image. Any image size and any number of tokens; a row without a real token is
    told nothing.

    Args:
        size: "nano" (base width 8), "mini" (24: as many parameters as LViT mini) or "T" (64).
        in_channels, num_classes, image_size: as in `UNet`.
        text_dim: D, width of the text features.
        text_levels: how many of the five levels attend to the text, from the deepest up; 1 to 5. Three, of strides 16,
            8 and 4, cost little; the upper ones are large.

    Raises:
        InputError: unknown size, text_levels out of range, no class.
    """

    ABOUT = "`unet` whose deepest pixels attend to the words, by us"
    SOURCE = "none: ours"
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
        if not 1 <= text_levels <= 5:
            raise InputError.out_of_range(
                f"text_unet with text_levels {text_levels}",
                expected="1 to 5",
                remedy="model: {name: unet} is the network without text",
            )
        check_positive("text_unet", text_dim=text_dim)
        super().__init__(size, in_channels=in_channels, num_classes=num_classes, image_size=image_size)
        self.text_dim, self.text_levels = text_dim, text_levels
        self.attend = nn.ModuleList(PixelTextAttention(width, text_dim) for width in self.widths[5 - text_levels :])
        self.build_expanding_path(num_classes)

    def decode_rows(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> Tensor:
        """The five maps of the contracting path and one text per row -> logits (N, K, H', W')."""
        assert text_features is not None
        keep = text_keep_mask(text_features, text_mask)
        maps = [expand_rows(x, image_index) for x in image_features]  # (N, C_k, h, w)
        for i, attend in enumerate(self.attend, start=5 - self.text_levels):
            maps[i] = attend(maps[i], text_features, keep)  # (N, C_i, h, w)
        return self.expand(maps)


def _split(x: Tensor) -> Tensor:
    """(N, L, inner) -> (N, heads, L, d)."""
    return x.view(x.shape[0], x.shape[1], NUM_HEADS, -1).transpose(1, 2)
