"""The token half of LViT: patch embedding, transformer block, token convolution, and the two kinds of stage.

Shapes: B rows, C channels = embedding width, H W pixels of a level, h w token grid, P = h*w tokens.
Every level has the same grid, because the patch halves from level to level with the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

Grid = tuple[int, int]


def num_heads(width: int) -> int:
    """Eight heads, as released; fewer where a head would have less than the eight channels of LViT-T's first level."""
    return max(1, min(8, width // 8))


def resize_grid(table: Tensor, grid: Grid) -> Tensor:
    """Bicubic interpolation of a map (1, C, h, w) to another grid; the same grid comes back untouched."""
    if (table.shape[2], table.shape[3]) == grid:
        return table
    return F.interpolate(table, size=grid, mode="bicubic", align_corners=False)  # (1, C, *grid)


class PatchEmbedding(nn.Module):
    """Map -> tokens with learned positions, interpolated where the grid is not that of training."""

    def __init__(self, width: int, patch: int, grid: Grid, dropout: float) -> None:
        super().__init__()
        self.grid = grid
        self.projection = nn.Conv2d(width, width, kernel_size=patch, stride=patch)
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid[0] * grid[1], width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, P, C)."""
        x = self.projection(x)  # (B, C, h, w)
        grid = (x.shape[2], x.shape[3])
        positions: Tensor = self.position_embeddings
        if grid != self.grid:
            table = positions.transpose(1, 2).reshape(1, -1, *self.grid)  # (1, C, h0, w0)
            positions = resize_grid(table, grid).flatten(2).transpose(1, 2)  # (1, P, C)
        tokens: Tensor = self.dropout(x.flatten(2).transpose(1, 2) + positions)  # (B, P, C)
        return tokens


class SelfAttention(nn.Module):
    """Multi-head self-attention with a fused qkv projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = num_heads(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, C) -> (B, P, C)."""
        b, p, _ = x.shape
        qkv = self.qkv(x).view(b, p, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (3, B, heads, P, C / heads)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # (B, heads, P, C / heads)
        mixed: Tensor = self.proj(out.transpose(1, 2).flatten(2))  # (B, P, C)
        return mixed


class MLP(nn.Module):
    """Linear, GELU, Linear; with `tail="released"` the released program's second GELU follows."""

    def __init__(self, width: int, dropout: float, tail: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.tail = tail
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, C) -> (B, P, C)."""
        x = self.fc2(self.dropout(F.gelu(self.fc1(x))))
        if self.tail == "released":
            x = F.gelu(x)
        out: Tensor = self.dropout(x)
        return out


class TransformerBlock(nn.Module):
    """Pre-norm block: x + Attention(LN(x)), then x + MLP(LN(x)). No norm follows it, as released."""

    def __init__(self, width: int, dropout: float, mlp_tail: str) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = SelfAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, dropout, mlp_tail)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, C) -> (B, P, C)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class ConvNormReLU1d(nn.Module):
    """Conv1d (kernel 3) + BatchNorm + ReLU along the last axis (CTBN of the paper)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, P) -> (B, C', P), not negative."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class DownStage(nn.Module):
    """One level of the downward path: embedding, blocks, and the level above appended along the channels.

    `embed` is called apart, because text is merged between it and the blocks. The first level has no level above.
    """

    def __init__(
        self, width: int, patch: int, grid: Grid, *, depth: int, dropout: float, mlp_tail: str, first: bool
    ) -> None:
        super().__init__()
        self.embed = PatchEmbedding(width, patch, grid, dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(width, dropout, mlp_tail) for _ in range(depth)))
        self.mix = None if first else ConvNormReLU1d(width, width // 2)

    def forward(self, tokens: Tensor, above: Tensor | None = None, image_index: Tensor | None = None) -> Tensor:
        """(B, P, C) and the level above (N, P, C/2) -> (N, P, C); the first level gives its blocks' output.

        Args:
            image_index: (N,), where `tokens` stand once per image and `above` once per row.
        """
        out: Tensor = self.blocks(tokens)
        if self.mix is None or above is None:
            return out
        out = self.mix(out.transpose(1, 2)).transpose(1, 2)  # (B, P, C/2)
        if image_index is not None:
            out = out.index_select(0, image_index)  # (N, P, C/2)
        return torch.cat([out, above], dim=2)  # (N, P, C)


class UpStage(nn.Module):
    """One level of the upward path: blocks, plus the deeper level brought to this width. The deepest has none below."""

    def __init__(self, width: int, *, depth: int, dropout: float, mlp_tail: str, deepest: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(TransformerBlock(width, dropout, mlp_tail) for _ in range(depth)))
        self.mix = None if deepest else ConvNormReLU1d(2 * width, width)

    def forward(self, tokens: Tensor, below: Tensor | None = None) -> Tensor:
        """(N, P, C) and the deeper level (N, P, 2C) -> (N, P, C)."""
        out: Tensor = self.blocks(tokens)
        if self.mix is None or below is None:
            return out
        out = out + self.mix(below.transpose(1, 2)).transpose(1, 2)  # (N, P, C)
        return out


class UpsampledBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm of a map that is repeated `repeats` times afterwards, as if it stood after the repetition.

    Mean and biased variance do not change by repeating; only the n / (n - 1) of the running variance does, and is
    corrected here, so that normalising the small map is exact in training too.
    """

    def __init__(self, num_features: int, repeats: int) -> None:
        super().__init__(num_features)
        self.repeats = repeats

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        if not self.training:
            return super().forward(input)
        assert self.running_var is not None and self.num_batches_tracked is not None and self.momentum is not None
        kept = (1 - self.momentum) * self.running_var
        variance = self.running_var.clone()  # autograd keeps what batch_norm updates; it must not change again
        out = F.batch_norm(
            input, self.running_mean, variance, self.weight, self.bias, True, self.momentum, self.eps
        )  # (B, C, h, w)
        n = input.numel() // input.shape[1]
        full = n * self.repeats
        self.running_var.copy_(kept + (variance - kept) * (full / (full - 1)) * ((n - 1) / n))
        self.num_batches_tracked.add_(1)
        return out


class Reconstruct(nn.Module):
    """Tokens -> the map that is added to the CNN's map of the level.

    Released: nearest upsampling by the patch, then Conv1x1 + BatchNorm + ReLU. These commute with the repetition of
    pixels, so they run on the grid, and `forward` returns the map before upsampling.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=1)
        self.norm = UpsampledBatchNorm2d(width, patch * patch)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(N, P, C) -> (N, C, h, w), not negative."""
        x = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)  # (N, C, h, w)
        return F.relu(self.norm(self.conv(x)), inplace=True)
