"""Losses and weights that are no numbers any more stop a run, with the batch that did it.

Nothing is read back from the device within a step: losses wait there until the log is written or a state is saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medvl.core.errors import DivergedError

MOST_IDS = 12  # named in the message


class FiniteWatch:
    """Holds the losses of the steps since the last check, and whose they are."""

    def __init__(self, fabric: Fabric, module: nn.Module, average: nn.Module | None) -> None:
        self._fabric, self._modules = fabric, [module] if average is None else [module, average]
        self._is_scaled = getattr(fabric.strategy.precision, "scaler", None) is not None
        self._steps: list[tuple[int, Tensor, Tensor | None, Sequence[str]]] = []

    def add(self, step: int, loss: Tensor, norm: Tensor | None, ids: Sequence[str]) -> None:
        """The loss and the gradients' norm of a step (scalars, on the device) and the ids of its batch."""
        # A scaler passes over steps whose gradients overflow: they are no fault.
        self._steps.append((step, loss, None if self._is_scaled else norm, ids))

    def check(self, *, all_ranks: bool = False) -> None:
        """Read the losses and the weights back.

        Args:
            all_ranks: this is a moment that all ranks reach; they stop together.

        Raises:
            DivergedError: one of them is not finite.
        """
        pairs = [(loss.float(), (loss if norm is None else norm).float()) for _, loss, norm, _ in self._steps]
        numbers = torch.stack([torch.stack(pair) for pair in pairs]).tolist() if pairs else []
        broken = [name for module in self._modules for name in not_finite(module)]
        wrong = not all(math.isfinite(loss) for loss, _ in numbers) or bool(broken)
        if all_ranks and self._fabric.world_size > 1:
            flag = torch.tensor(float(wrong), device=self._fabric.device)
            total = self._fabric.all_reduce(flag, reduce_op="sum")
            assert isinstance(total, Tensor)
            wrong = bool(total > 0)
        if wrong:
            raise DivergedError.not_finite(self._what(numbers, broken), expected="finite numbers", remedy=_REMEDY)
        self._steps.clear()

    def _what(self, numbers: Sequence[Sequence[float]], broken: Sequence[str]) -> str:
        for (step, _, _, ids), (loss, norm) in zip(self._steps, numbers, strict=True):
            if not math.isfinite(loss):
                return f"the loss of step {step} is {loss}; its batch: {_named(ids)}"
            if not math.isfinite(norm):
                return f"the gradients of step {step} are not finite; its batch: {_named(ids)}"
        if not broken:
            return "a loss or the weights of another rank are not finite"
        what = f"{len(broken)} tensors of the weights are not finite, e.g. {broken[0]}"
        if not self._steps:
            return what
        first, last = self._steps[0][0], self._steps[-1][0]
        ids = list(dict.fromkeys(ident for _, _, _, batch in self._steps for ident in batch))
        return f"{what}, since one of the steps {first} to {last}; their batches: {_named(ids)}"


_REMEDY = (
    "look at those images, masks and texts (medvl data audit); else a lower train.lr, train.clip_norm: 1, or "
    "train.precision: 32-true; the last state and the best model so far are as they were"
)


def not_finite(module: nn.Module) -> list[str]:
    """Names of the tensors of a module that hold a value that is not finite; one look at the device."""
    tensors = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    if not tensors:
        return []
    flags = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
    return [name for name, finite in zip(tensors, flags, strict=True) if not finite]


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
    return ", ".join(ids[:MOST_IDS]) + more
