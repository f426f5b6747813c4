"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from medvl.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """The rate of `step` (from 0) of `num_steps`: linear warm-up, then the schedule.

    `warm_restarts` steps once per epoch, as the released LViT does: cosine from lr to lr_min over `restart_epochs`
    epochs, then again; with `restart_steps` it steps every step, as the released G2D does.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "warm_restarts" and config.restart_steps is not None:
        progress = step % config.restart_steps / config.restart_steps
    elif config.schedule == "warm_restarts":
        progress = (step // steps_per_epoch % config.restart_epochs) / config.restart_epochs
    else:
        progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.lr_min + (config.lr - config.lr_min) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
