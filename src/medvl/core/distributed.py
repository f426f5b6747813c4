"""Exact training over several processes: collectives with gradients, and nothing at all on one process.

**The rule.** Every operation here is differentiated as one program that spans all ranks: what flows back to a rank is
the gradient of the SUM over ranks of the ranks' losses. DDP (and Fabric's `ddp`) then averages the gradients of the
parameters over ranks, so what is trained is the MEAN over ranks of the ranks' losses. Hence

- a loss of gathered or summed values is the loss of the whole batch, the same number on every rank, and counts once;
- a mean over a rank's own rows is the mean over the whole batch where every rank has the same number of rows; where
  they differ, divide sums by counts that went through `sum_over_ranks`;
- nothing is ever multiplied or divided by the world size.

Two processes with half a batch each then train to the weights of one process with the whole batch.

**The duty.** Every rank makes the same calls in the same order, backward too: never call under a condition that differs
between ranks, and let the result enter the loss on every rank (weighted by 0 where it does not count). A call that one
rank leaves out blocks the others.

Shapes: W ranks, B_r rows of rank r, B rows of all of them, rank 0's first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from medvl.core.errors import InputError

Named = TypeVar("Named", bound=str | tuple[str, ...])


def world_size() -> int:
    """How many processes train together; 1 where `torch.distributed` is absent or not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_with_grad(x: Tensor, *, equal_rows: bool = False) -> Tensor:
    """The rows of all ranks: (B_r, ...) -> (B, ...), in the order of the ranks.

    The number of rows may differ between ranks (a last batch; none at all too); all else of the shape may not. Backward
    a rank gets, for its own rows, the sum over ranks of what flowed back there. Types without gradient are gathered
    all the same. On one process it returns `x`.

    Args:
        equal_rows: every rank has as many rows as this one (as every training batch of pairs has): their numbers are
            then not exchanged, for which the host would wait for the device.

    Raises:
        InputError: `x` is a scalar, which has no rows.
    """
    if x.ndim == 0:
        raise InputError.wrong_shape(
            "a scalar to gather over ranks", expected="(rows, ...)", remedy="sum_over_ranks, or x[None]"
        )
    if world_size() == 1:
        return x
    counts = [x.shape[0]] * world_size()
    if not equal_rows:
        counts = stack_over_ranks(torch.tensor(x.shape[0], device=x.device)).tolist()  # W
    gathered: Tensor = _Gather.apply(x, counts)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return gathered


def sum_over_ranks(x: Tensor) -> Tensor:
    """The elementwise sum of all ranks' `x`, of one shape, with gradient: backward the ranks' gradients are summed too.

    On one process it returns `x`.
    """
    if world_size() == 1:
        return x
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return total


def stack_over_ranks(x: Tensor) -> Tensor:
    """(...) of one shape on every rank -> (W, ...), without gradient."""
    x = x.detach().contiguous()
    if world_size() == 1:
        return x[None]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.stack(parts)  # (W, ...)


def gather_objects(objects: Sequence[Named]) -> list[Named]:
    """The strings (or tuples of strings) of all ranks in the order of the ranks; each may give another number of them.

    They travel as JSON, so that nothing that another process sends is ever executed.
    """
    if world_size() == 1:
        return list(objects)
    data = bytearray(json.dumps(list(objects)), "ascii")
    counts = stack_over_ranks(torch.tensor(len(data), device=_device())).tolist()  # W
    everything = bytes(gather_with_grad(torch.frombuffer(data, dtype=torch.uint8).to(_device())).tolist())
    result: list[Named] = []
    for count in counts:
        items: list[Any] = json.loads(everything[:count])
        result += [tuple(item) if isinstance(item, list) else item for item in items]  # type: ignore[misc]  # JSON has no tuples
        everything = everything[count:]
    return result


class _Gather(torch.autograd.Function):
    """(B_r, ...) -> (B, ...); backward: the sum over ranks of the gradient of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.num = sum(counts[: rank()]), x.shape[0]
        largest = max(counts)
        padded = x
        if x.shape[0] < largest:  # a collective moves equal shapes
            padded = torch.cat([x, x.new_zeros(largest - x.shape[0], *x.shape[1:])])  # (largest, ...)
        parts = stack_over_ranks(padded)  # (W, largest, ...)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])  # (B, ...)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _sum(grads[0])[ctx.start : ctx.start + ctx.num], None


class _Sum(torch.autograd.Function):
    """The sum over ranks; backward: the sum over ranks of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _sum(grads[0])


def _sum(x: Tensor) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)  # all_reduce writes into it
    dist.all_reduce(total)
    return total


def _device() -> torch.device:
    """Where the collectives of this process group live."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
