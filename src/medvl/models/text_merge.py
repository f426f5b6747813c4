"""How LViT's patch tokens receive the text: the released token slots, or masked cross-attention for any text and grid.

Shapes: N rows, L tokens, D text width, C channels of a level, h w token grid, P = h*w patch tokens.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.vit import ConvNormReLU1d, Grid, resize_grid

NUM_POOLED = 4  # attention-pooled text vectors of the summary
SUMMARY_DIM = 128
NUM_BASIS = 4  # cosines along each axis of the grid
MIN_ATTENTION_WIDTH = 64  # narrow levels attend in a wider space than their own


def tokens_in_front(text_features: Tensor, text_mask: Tensor) -> Tensor:
    """(N, L, D), (N, L) -> (N, L, D): the real tokens first, in their order, then zeros, wherever padding stood."""
    keep = text_mask.to(torch.bool)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)  # (N, L)
    kept = text_features * keep.to(text_features.dtype)[:, :, None]
    return kept.gather(1, order[:, :, None].expand_as(kept))


class SlotMerge(nn.Module):
    """The released merge: a linear cascade along the token slots, then slots -> patches with weights per patch.

    Position-dependent by construction, and therefore bound to one grid and at most `num_slots` tokens. The real tokens
    take the first slots; the others are zeros.
    """

    def __init__(self, text_dim: int, widths: tuple[int, ...], num_slots: int, grid: Grid) -> None:
        super().__init__()
        self.num_slots = num_slots
        dims = (text_dim, *reversed(widths))  # no activation in between, as released
        self.cascade = nn.Sequential(*(nn.Conv1d(a, b, kernel_size=3, padding=1) for a, b in pairwise(dims)))
        self.expand = ConvNormReLU1d(num_slots, grid[0] * grid[1])  # along the feature axis

    def forward(self, text_features: Tensor, text_mask: Tensor | None) -> Tensor:
        """(N, L, D), (N, L) -> what is added to the first level's tokens, (N, P, C). InputError for L > num_slots."""
        length = text_features.shape[1]
        if length > self.num_slots:
            raise InputError.out_of_range(
                f"a text of {length} tokens for {self.num_slots} token slots",
                expected=f"at most {self.num_slots} tokens",
                remedy=f"set text.max_tokens to {self.num_slots}, or use text_merge: attention",
            )
        if text_mask is not None:
            text_features = tokens_in_front(text_features, text_mask)  # (N, L, D)
        x = F.pad(text_features, (0, 0, 0, self.num_slots - length)).transpose(1, 2)  # (N, D, slots)
        x = self.cascade(x).transpose(1, 2)  # (N, slots, C)
        added: Tensor = self.expand(x)  # (N, P, C)
        return added


class TextSummary(nn.Module):
    """Attention-pooled vectors of the real tokens, mixed into one vector a row: (N, L, D) -> (N, SUMMARY_DIM)."""

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.score = nn.Linear(text_dim, NUM_POOLED, bias=False)
        self.mix = nn.Sequential(nn.Linear(NUM_POOLED * text_dim, SUMMARY_DIM), nn.GELU())

    def forward(self, text_features: Tensor, keep: Tensor) -> Tensor:
        """(N, L, D), (N, L) bool -> (N, SUMMARY_DIM)."""
        x = self.norm(text_features)
        score = self.score(x).masked_fill(~keep[:, :, None], -1e4)  # (N, L, pooled); finite: a row may have no token
        weight = score.softmax(dim=1) * keep[:, :, None]
        pooled = torch.einsum("nlq,nld->nqd", weight, x).flatten(1)  # (N, pooled * D)
        summary: Tensor = self.mix(pooled)
        return summary


class AttentionMerge(nn.Module):
    """Patches attend to tokens, and the text as a whole acts on every place of the grid in its own way.

    1. Cross-attention: queries are the normalised patch tokens plus learned positions (a patch must know where it is
       to know whether "upper" means it); masked tokens do not count; a learned null token lets it attend to nothing.
    2. Text bias (`bias=True`): the summary is mapped to coefficients of learned spatial maps, so that a word can act on
       a place at once, as the slots' weights per patch do, but on any grid. The maps start as low cosines.
    """

    def __init__(self, width: int, text_dim: int, grid: Grid, *, bias: bool) -> None:
        super().__init__()
        inner = max(width, MIN_ATTENTION_WIDTH)
        self.heads = 8
        self.norm_patches = nn.LayerNorm(width)
        self.norm_text = nn.LayerNorm(text_dim)
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(text_dim, 2 * inner)
        self.query_position = nn.Parameter(sincos_positions(inner, grid))  # (1, inner, h, w)
        self.null_key_value = nn.Parameter(0.02 * torch.randn(2, self.heads, 1, inner // self.heads))
        self.proj = nn.Linear(inner, width)
        self.has_bias = bias
        if bias:
            self.coefficients = nn.Linear(SUMMARY_DIM, NUM_BASIS**2 * width)
            self.position_basis = nn.Parameter(cosine_basis(NUM_BASIS, grid))  # (1, r, h, w)
            self.gain = nn.Parameter(torch.full((width,), 0.5))

    def forward(
        self, tokens: Tensor, text_features: Tensor, keep: Tensor, summary: Tensor | None, grid: Grid
    ) -> Tensor:
        """(N, P, C), (N, L, D), (N, L) bool, (N, SUMMARY_DIM) or None -> (N, P, C)."""
        n = tokens.shape[0]
        position = resize_grid(self.query_position, grid).flatten(2).transpose(1, 2)  # (1, P, inner)
        query = self._split(self.query(self.norm_patches(tokens)) + position)  # (N, heads, P, d)
        key, value = self.key_value(self.norm_text(text_features)).chunk(2, dim=2)  # 2 x (N, L, inner)
        null = self.null_key_value[:, None].expand(-1, n, -1, -1, -1)  # (2, N, heads, 1, d)
        key = torch.cat([null[0], self._split(key)], dim=2)  # (N, heads, 1 + L, d)
        value = torch.cat([null[1], self._split(value)], dim=2)  # (N, heads, 1 + L, d)
        allowed = F.pad(keep, (1, 0), value=True)[:, None, None]  # (N, 1, 1, 1 + L)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)  # (N, heads, P, d)
        merged: Tensor = tokens + self.proj(out.transpose(1, 2).flatten(2))  # (N, P, C)
        if self.has_bias:
            assert summary is not None
            basis = resize_grid(self.position_basis, grid).flatten(2)[0]  # (r, P)
            coefficients = self.coefficients(summary).view(n, NUM_BASIS**2, -1)  # (N, r, C)
            merged = merged + self.gain * torch.einsum("nrc,rp->npc", coefficients, basis)
        return merged

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)  # (N, heads, L, d)


def sincos_positions(width: int, grid: Grid) -> Tensor:
    """2-D sine-cosine positions of amplitude 1: (1, width, h, w). `width` is a multiple of four."""
    quarter = width // 4
    frequency = math.pi * torch.logspace(0, math.log10(max(grid)), quarter)  # half a wave to `max(grid)` half waves
    maps = []
    for axis, size in enumerate(grid):
        place = (torch.arange(size) + 0.5) / size
        phase = frequency[:, None] * place[None]  # (quarter, size)
        wave = torch.cat([phase.sin(), phase.cos()])  # (width / 2, size)
        wave = wave[:, :, None] if axis == 0 else wave[:, None, :]
        maps.append(wave.expand(-1, *grid))  # (width / 2, h, w)
    return torch.cat(maps)[None].contiguous()  # (1, width, h, w)


def cosine_basis(order: int, grid: Grid) -> Tensor:
    """Products of the first `order` cosines along each axis: (1, order**2, h, w)."""
    waves = []
    for size in grid:
        place = (torch.arange(size) + 0.5) / size
        waves.append(torch.cos(math.pi * torch.arange(order)[:, None] * place[None]))  # (order, size)
    return torch.einsum("iy,jx->ijyx", waves[0], waves[1]).flatten(0, 1)[None].contiguous()  # (1, order^2, h, w)
