"""Clinical variables as tokens beside those of the text.

Shapes: N rows, k columns, L text tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medvl.core.errors import InputError

HIDDEN = 32


class ContextTokens(nn.Module):
    """One token per column: a small network of a standardised number, an embedding of a category, or a learned state
    of the column where the value is missing. Each column's token depends on its own value alone.

    Args:
        num_categories: per column, how many categories it has; None = it holds numbers.
        dim: D.
    """

    def __init__(self, num_categories: Sequence[int | None], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(1, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, dim))
            if number is None
            else nn.Embedding(number, dim)
            for number in num_categories
        )
        self.missing = nn.Parameter(torch.randn(len(num_categories), dim))
        self.norm = nn.LayerNorm(dim)  # text features are of that scale

    def forward(self, values: Tensor) -> Tensor:
        """(N, k) float, NaN = missing -> (N, k, D)."""
        if values.ndim != 2 or values.shape[1] != len(self.layers):
            raise InputError.wrong_shape(
                f"context values of shape {tuple(values.shape)}", expected=f"(N, {len(self.layers)})"
            )
        is_missing = values.isnan()  # (N, k)
        known = values.nan_to_num(0.0)
        tokens = [
            layer(known[:, i].long() if isinstance(layer, nn.Embedding) else known[:, i : i + 1])  # (N, D)
            for i, layer in enumerate(self.layers)
        ]
        features = torch.where(is_missing[:, :, None], self.missing, torch.stack(tokens, dim=1))  # (N, k, D)
        normed: Tensor = self.norm(features)
        return normed

    def before(self, features: Tensor, mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Text features (N, L, D) and mask (N, L) -> (N, k + L, D) and (N, k + L), the context in front.

        In front, because its place must not depend on the longest text of the batch (token slots are places).
        """
        tokens = self(values).to(features.dtype)  # (N, k, D)
        keep = torch.ones(tokens.shape[:2], dtype=mask.dtype, device=mask.device)
        return torch.cat([tokens, features], dim=1), torch.cat([keep, mask], dim=1)
