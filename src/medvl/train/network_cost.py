"""What a network costs for each image, counted on the meta device, where nothing is computed and nothing is stored."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from medvl.core.errors import InputError
from medvl.core.learner import Learner
from medvl.data.dataset import Batch

Call = tuple[tuple[Any, ...], dict[str, Any]]  # positional and named arguments of a network


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """Of each image of a batch, forward and backward."""

    flops: float
    saved_bytes: float  # kept for the gradients


class _Called(Exception):  # noqa: N818  (no error)
    """Carries the arguments that a task calls its network with."""


class _Recorder(nn.Module):
    def forward(self, *args: Any, **options: Any) -> None:
        raise _Called(args, options)


def call_of(twin: Learner, batch: Batch) -> Call | None:
    """The arguments that the task's step calls its network with; None where it calls none."""
    try:
        twin.training_step(batch, _Recorder())
    except _Called as called:
        args, options = called.args
        return args, options
    return None


def count_cost(module: nn.Module, call: Call, num_images: int) -> NetworkCost | None:
    """Forward and backward pass on the meta device; None where the network asks for values, which are not there."""
    to_meta: dict[int, Any] = {id(x): torch.empty_like(x, device="meta") for x in module.buffers()}
    for p in module.parameters():
        to_meta[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    storages = {p.untyped_storage()._cdata: 0 for p in to_meta.values()}
    saved: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in storages:
            storages[storage._cdata] = storage.nbytes()
            saved.append(x)  # as long as it lives, no other storage has its address
        return x

    try:
        twin = deepcopy(module, to_meta)
        args, options = tree_map(lambda x: x.detach().to("meta") if isinstance(x, Tensor) else x, call)
        with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda x: x):
            sum_of(twin(*args, **options)).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except (InputError, RuntimeError, TypeError, ValueError):
        return None
    return NetworkCost(counter.get_total_flops() / num_images, sum(storages.values()) / num_images)


def sum_of(output: Any) -> Tensor:
    """The sum of all that carries a gradient."""
    parts = [x.float().sum() for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
    return torch.stack(parts).sum()


def image_of(call: Call) -> Tensor:
    """Its images (B, C, H, W)."""
    image: Tensor = next(x for x in tree_leaves(call) if isinstance(x, Tensor) and x.ndim == 4)
    return image
