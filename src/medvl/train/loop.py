"""The training loop. It knows a task (`training_step`, `validation_step`, `metric`) and nothing of what the task is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from medvl.config import TrainConfig
from medvl.core.errors import InputError
from medvl.core.learner import Learner
from medvl.data.dataset import Batch, Sample
from medvl.data.sampler import BatchSampler
from medvl.models.ema import update_average
from medvl.train.checkpoint import Progress, load_state, restore_rng, save_state
from medvl.train.finite import FiniteWatch
from medvl.train.monitor import Monitor
from medvl.train.schedule import learning_rate
from medvl.train.stopping import Stopped, stop_after_step

LOG_EVERY = 20  # steps; a loss is read back from the device only then, and after the last step


def fit(
    fabric: Fabric,
    learner: Learner,
    train_loader: DataLoader[Sample],
    val_loader: DataLoader[Sample],
    config: TrainConfig,
    monitor: Monitor,
    *,
    save_best: Callable[[nn.Module, Progress], None],
    resume: bool,
) -> Progress:
    """Train to the planned end. State goes to `monitor.state_path` every `save_every_s` and every epoch.

    Raises:
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP, at the end of the step under way and with the state saved.
        DivergedError: a loss or the weights are not finite. Nothing that is broken is saved.
    """
    optimizer = make_optimizer(config, learner.module)
    average: nn.Module | None = deepcopy(learner.module).requires_grad_(False) if config.ema_decay else None
    sampler = train_loader.batch_sampler
    assert isinstance(sampler, BatchSampler)
    num_steps = config.num_steps(len(sampler))
    progress, rng = Progress(), None
    sums: dict[str, tuple[torch.Tensor, int]] = {}  # of the loss's parts since the last log: sum, number of steps
    if resume:
        progress, parts, rng = load_state(monitor.state_path)
        _fill(learner.module, parts["module"], monitor.state_path)
        optimizer.load_state_dict(parts["optimizer"])
        if average is not None:
            _fill(average, parts["average"], monitor.state_path)
        if scaler := parts.get("precision"):  # of 16-mixed; others have none
            fabric.strategy.precision.load_state_dict(scaler)
        sums |= {name: (total.to(fabric.device), num) for name, (total, num) in parts["sums"].items()}
    module, optimizer = fabric.setup(learner.module, optimizer)
    learner.begin(parts["task"] if resume else None, progress.num_saves)  # on the device that setup moved to
    average = None if average is None else fabric.to_device(average)
    judged: nn.Module = learner.module if average is None else average
    watch = FiniteWatch(fabric, learner.module, average)

    def save() -> None:
        progress.loss_sum = float(loss_sum)
        parts = {
            "module": learner.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "task": learner.state_dict(),
        }
        parts |= {} if average is None else {"average": average.state_dict()}
        parts |= {"sums": dict(sums), "precision": fabric.strategy.precision.state_dict()}
        progress.elapsed_s = monitor.elapsed_s()
        progress.num_saves += 1
        if fabric.is_global_zero:
            save_state(monitor.state_path, progress, parts)
            learner.saved(progress.num_saves)

    loss_sum, saved = torch.tensor(progress.loss_sum, device=fabric.device), time.monotonic()
    with monitor.progress_bar(num_steps, progress), stop_after_step() as stopped:
        # A run may have been saved after the last step of an epoch: what follows that step is then still to do.
        while (progress.step < num_steps or progress.batch) and not out_of_patience(config, progress):
            module.train()
            sampler.epoch, sampler.start = progress.epoch, progress.batch
            batches: Iterator[Batch] = iter(train_loader if progress.step < num_steps else ())
            if rng is not None:
                restore_rng(rng)
                rng = None
            for batch in batches:
                lr = learning_rate(config, progress.step, num_steps, len(sampler))
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.zero_grad()
                learner.progress, learner.step = progress.step / num_steps, progress.step
                losses = learner.backward(batch.to(fabric.device), module, fabric.backward)
                norm = None
                if config.clip_norm is not None:
                    norm = fabric.clip_gradients(module, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
                optimizer.step()
                learner.after_step(progress.step)
                if average is not None:
                    update_average(average, learner.module, config.ema_decay, progress.step)
                loss_sum += losses["loss"]
                for part in sorted(losses.keys() - {"loss"}):  # the decoder's are not there in its warm-up
                    before, num = sums.get(part, (0.0, 0))
                    sums[part] = (before + losses[part].float(), num + 1)
                progress.loss_num += 1
                progress.step += 1
                progress.batch += 1
                watch.add(progress.step, losses["loss"], norm, batch.ids)
                if progress.step % LOG_EVERY == 0 or progress.step >= num_steps:
                    watch.check(all_ranks=True)
                    total, *totals = torch.stack([loss_sum, *(total for total, _ in sums.values())]).tolist()
                    means = {part: value / sums[part][1] for part, value in zip(sums, totals, strict=True)}
                    monitor.train(progress, total / progress.loss_num, means, lr, len(sampler))
                    loss_sum.zero_()
                    sums.clear()
                    progress.loss_num = 0
                monitor.advance(progress)
                if stopped() or time.monotonic() - saved > config.save_every_s:
                    watch.check()
                    save()
                    saved = time.monotonic()
                if number := stopped():
                    raise Stopped(number)
                if progress.step >= num_steps:
                    break
            watch.check(all_ranks=True)
            if progress.num_saves == 0:
                save()  # a best model never stands without a state that its run goes on from
            progress.epoch, progress.batch = progress.epoch + 1, 0
            monitor.log_task(progress, learner.after_epoch())
            if progress.epoch % config.val_every == 0 or progress.step >= num_steps:
                values = validate(fabric, learner, judged, val_loader)
                progress.last_val = values
                name = chosen_by(config, learner)
                value = None if name is None else values[name]
                better = is_better(value, progress, lower=name == "loss") and progress.epoch >= config.first_best_epoch
                if better or (progress.best_epoch < 0 and progress.step >= num_steps):
                    progress.best, progress.best_epoch = -1.0 if value is None else value, progress.epoch
                    save_best(judged, progress)
                monitor.validation(progress, values, better)
                monitor.panels(progress, learner.validation_panels())
            save()
            saved = time.monotonic()
            if out_of_patience(config, progress):
                monitor.say(f"no better {chosen_by(config, learner)} for {config.patience} epochs: stopping")
        if progress.best_epoch < 0:  # no validation was a number
            progress.best, progress.best_epoch = math.nan, progress.epoch
            save_best(judged, progress)
    return progress


def _fill(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        what = f"the saved state does not fit the run's configuration ({first})"
        raise InputError.mismatch(what, file=path, expected="config.yaml and state of the same run") from None


def check_patience(config: TrainConfig, learner: Learner) -> None:
    """InputError where `train.patience` has nothing to go by."""
    if config.patience is not None and chosen_by(config, learner) is None:
        raise InputError.conflict(
            f"train.patience: {config.patience}, but the last epoch is taken whatever validation says",
            expected="train.patience: null, or a validation value to choose by",
            remedy="pretrain.select: mean_recall",
        )


def out_of_patience(config: TrainConfig, progress: Progress) -> bool:
    """Whether a validation found `train.patience` epochs passed since the best one.

    They are counted from where a best one may be. An epoch without validation does not count.
    """
    if config.patience is None or progress.epoch == 0 or progress.epoch % config.val_every:
        return False
    return progress.epoch - max(progress.best_epoch, config.first_best_epoch - 1) >= config.patience


def chosen_by(config: TrainConfig, learner: Learner) -> str | None:
    """The validation value that the best checkpoint and early stopping go by (`train.choose_by`); None: the last."""
    return "loss" if config.choose_by == "loss" else learner.metric


def is_better(value: float | None, progress: Progress, *, lower: bool) -> bool:
    """Whether a validation beats the best one so far: higher, or `lower`; NaN never does, and None always."""
    if value is None:
        return True
    if progress.best_epoch < 0:
        return not math.isnan(value)
    return value < progress.best if lower else value > progress.best


def make_optimizer(config: TrainConfig, module: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW; decay acts on weights of two or more dimensions, never on gains, biases or positions."""
    learning = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    decay = [p for n, p in learning if p.ndim >= 2 and "position" not in n]
    kept = {id(p) for p in decay}
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": [p for _, p in learning if id(p) not in kept], "weight_decay": 0.0},
    ]
    cls = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return cls(groups, lr=config.lr, betas=config.betas)


@torch.no_grad()
def validate(fabric: Fabric, learner: Learner, module: nn.Module, loader: DataLoader[Sample]) -> dict[str, float]:
    """What the task says of the validation split, its sums taken over all ranks."""
    was_training = module.training
    module.eval()
    sums: dict[str, torch.Tensor] = {}
    batches: Iterator[Batch] = iter(loader)
    for batch in batches:
        for name, value in learner.validation_step(batch.to(fabric.device), module).items():
            sums[name] = sums.get(name, 0) + value
    totals: dict[str, Any] = {name: fabric.all_reduce(value, reduce_op="sum") for name, value in sums.items()}
    module.train(was_training)
    return learner.validation_values(totals)
