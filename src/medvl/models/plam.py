"""PLAM, the pixel-level attention module of LViT's skip connections.

Shapes: N rows, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

PlamMode = Literal["both", "avg", "max", "none"]


class PLAM(nn.Module):
    """One weight per pixel, from the mean and the maximum over CHANNELS of two ReLU(Conv1x1) maps.

    a = mean_c ReLU(W_a x), m = max_c ReLU(W_m x), weight = MLP([a, m, a + m]), output = weight * x. The weight is not
    bounded and may be negative, as released. "avg" and "max" keep one of the two maps (the MLP then has one input).
    """

    def __init__(self, width: int, mode: Literal["both", "avg", "max"] = "both") -> None:
        super().__init__()
        self.mode = mode
        if mode != "max":
            self.conv_avg = nn.Conv2d(width, width, kernel_size=1, bias=False)
        if mode != "avg":
            self.conv_max = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bottleneck = nn.Sequential(nn.Linear(3 if mode == "both" else 1, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        parts = []
        if self.mode != "max":
            parts.append(F.relu(self.conv_avg(x)).mean(dim=1))  # (N, H, W)
        if self.mode != "avg":
            parts.append(F.relu(self.conv_max(x).amax(dim=1)))  # (N, H, W); ReLU and max commute
        if self.mode == "both":
            parts.append(parts[0] + parts[1])
        weight = self.bottleneck(torch.stack(parts, dim=3)).permute(0, 3, 1, 2)  # (N, 1, H, W)
        weighted: Tensor = x * weight
        return weighted
