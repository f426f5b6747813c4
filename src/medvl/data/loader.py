"""Batches for training and validation."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from medvl.config import Config
from medvl.data.dataset import Sample, collate
from medvl.data.sampler import BatchSampler
from medvl.data.workers import usable_workers


def make_loader(
    dataset: Dataset[Sample], sampler: BatchSampler, config: Config, fabric: Fabric, *, in_memory: bool = False
) -> DataLoader[Sample]:
    """The batches of a dataset; workers decode images unless the dataset holds its samples in memory."""
    num_workers = 0 if in_memory else usable_workers(config.data.num_workers)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,  # they keep what they decoded; an item names its epoch itself
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(config.train.seed),  # the loader draws from its own, not the global one
    )
