"""Validation of segmentation: samples that ranks repeat, and classes of one softmax."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medvl.config import Config, load_config
from medvl.data.dataset import Batch, SegmentDataset, collate
from medvl.data.records import load_manifest
from medvl.data.sampler import REPEATED, EpochSampler
from medvl.models.masks import class_masks
from medvl.tasks.segment.learner import SegmentLearner


class Bright(SegmentLearner):
    """A task whose logits are the image's own, so that nothing is trained."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, None, None)  # type: ignore[arg-type]

    def logits(self, batch: Batch, module: object = None) -> Tensor:
        return 4 * batch.image[batch.image_index]  # (N, 1, H, W)


@pytest.mark.parametrize(("num_images", "world_size"), [(3, 2), (4, 3), (1, 4), (4, 2)])
def test_what_ranks_repeat_is_not_counted(tiny_recipe: Path, num_images: int, world_size: int) -> None:
    """The totals over the ranks are those of one process."""
    config = load_config(tiny_recipe, ["objective.ce_balance=plain"])
    rows = load_manifest(config.data.manifest).split("val")[: 2 * num_images]
    dataset = SegmentDataset(rows, ("mask",), config.data, seed=0, train=False)
    task = Bright(config)

    def totals(world_size: int) -> dict[str, float]:
        sums: dict[str, float] = {}
        for rank in range(world_size):
            for items in EpochSampler(num_images, 1, seed=0, shuffle=False, rank=rank, world_size=world_size):
                values = task.validation_step(collate([dataset[item] for item in items]))
                sums = {name: sums.get(name, 0.0) + float(value) for name, value in values.items()}
        return sums

    one, several = totals(1), totals(world_size)
    assert one["num"] == 2 * num_images and 0 < one["dice_sum"] < one["num"]
    assert several == pytest.approx(one, rel=1e-6)


def test_training_repeats_count_and_nothing_is_lost() -> None:
    for shuffle in (False, True):
        samplers = [EpochSampler(4, 2, seed=0, shuffle=shuffle, rank=rank, world_size=3) for rank in range(3)]
        items = [item for sampler in samplers for batch in sampler for item in batch]
        assert len(items) == 6
        counted = sorted(i for epoch, i in items if epoch != REPEATED)
        assert counted == (sorted(i for _, i in items) if shuffle else [0, 1, 2, 3])
        assert {i for _, i in items} == {0, 1, 2, 3}


def test_the_likeliest_of_exclusive_classes_is_the_mask() -> None:
    # columns: background, a, b: .3 .3 .4 -> b; .34 .33 .33 -> background; .2 .4 .4 -> a, the first; .1 .6 .3 -> a
    probs = np.array([[[0.3, 0.33, 0.4, 0.6]], [[0.4, 0.33, 0.4, 0.3]]], dtype=np.float32)  # (K, 1, 4)
    want = [[[False, False, True, True]], [[True, False, False, False]]]
    for found in (class_masks(probs, "multiclass"), class_masks(torch.from_numpy(probs)[None], "multiclass")[0]):
        assert found.tolist() == want
    assert class_masks(probs, "multiclass", 0.9).tolist() == want  # no threshold decides
    assert class_masks(probs, "multilabel", 0.35).tolist() == (probs > 0.35).tolist()
