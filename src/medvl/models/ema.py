"""An exponential average of a module's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """average = d * average + (1 - d) * weights with d growing to `decay`, so that the start is forgotten.

    Buffers (the running statistics of the norms) are copied.
    """
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in module.parameters()], 1 - d)
    for buffer, new in zip(average.buffers(), module.buffers(), strict=True):
        buffer.copy_(new)
