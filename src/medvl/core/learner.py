"""What the training loop knows of a run: a learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from medvl.data.dataset import Batch
    from medvl.data.text_input import TextInput
    from medvl.tasks.pretrain.panels import Panel


class Learner:
    """One `training_step`, one `validation_step`, and hooks that a learner fills where it needs them.

    The loop sets `progress` (0 to 1) and `step` before each step.
    """

    # Of `validation_values`: the checkpoint with the highest one is the model; with `train.choose_by: loss` that with
    # the lowest `loss`. None: the last one is.
    metric: str | None = None
    progress = 0.0
    step = 0
    module: nn.Module
    text: TextInput
    least_images = 2  # of a step: BatchNorm and alignments compare them
    num_parts = 1  # that a batch is computed in, one after the other

    def training_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """`loss` (scalar, with graph) and its parts (scalars, detached)."""
        raise TypeError(f"{type(self).__name__} has no training step")

    def backward(self, batch: Batch, module: nn.Module | None, backward: Callable[[Tensor], None]) -> dict[str, Tensor]:
        """The training step and its gradients; `loss` and its parts, detached."""
        losses = self.training_step(batch, module)
        backward(losses["loss"])
        return {name: value.detach() for name, value in losses.items()}

    def validation_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """Sums that are added up over the batches and ranks; here the loss of each row and their number."""
        num = torch.tensor(float(len(batch.ids)), dtype=torch.float64, device=batch.image.device)
        return {"loss_sum": self.training_step(batch, module)["loss"].double() * num, "num": num}

    def validation_values(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """What the sums say: `metric` among it; here the mean loss alone."""
        return {"loss": float(totals["loss_sum"] / totals["num"])}

    def validation_panels(self) -> Mapping[str, Panel]:
        """Pictures of the last validation."""
        return {}

    def phases(self, num_steps: int) -> list[tuple[int, int]]:
        """The parts of a run whose steps differ in what is computed: the first step of each, and how many."""
        return [(0, num_steps)]

    def twin(self, module: nn.Module) -> Learner:
        """A learner of this kind round `module`, to time steps with; what it does leaves no trace in this one.

        Here a shallow copy: a learner that gathers values over steps makes its own.
        """
        twin = copy(self)
        twin.module = module
        return twin

    def begin(self, state: dict[str, Any] | None, number: int) -> None:
        """Before the first step; `state` is what `state_dict` gave when an interrupted run was saved.

        Args:
            number: of that save, as `saved` was told it; 0 = a new run.
        """

    def after_step(self, step: int) -> None:
        """After the optimizer's step."""

    def after_epoch(self) -> dict[str, float]:
        """-> values to log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the task itself must keep to be resumed."""
        return {}

    def saved(self, number: int) -> None:
        """The run's state is on disk, its `number`-th; one step may be saved twice, before and after its epoch ends."""
