"""The task of G2D in two gloo processes with half the batch each, against one process with all of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from runs import without_draws
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medvl.config import Config, make_config
from medvl.data.dataset import Batch
from medvl.data.records import load_manifest
from medvl.phantom.dataset import make_phantoms
from medvl.tasks.pretrain.learner import PretrainLearner, _split
from medvl.train.run import prepare

Found = dict[str, tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]]
CASES: dict[str, dict[str, Any]] = {
    "pseudo masks": {},
    "masks of each head": {"mask": {"aggregate": False}},
    "reconstruction": {"decoder": "reconstruction"},
    "cached parts": {"accumulate": 2},
}


def config_of(manifest: str, pretrain: dict[str, Any], batch_size: int) -> Config:
    return make_config(
        {
            "task": "pretrain",
            "data": {
                "manifest": manifest, "laterality": "patient", "image_size": [48, 48], "in_channels": 1,
                "augment": {"scheme": "none"},
            },
            "text": {"dim": 16},
            "model": {"size": "nano", "options": {"projection_dim": 16, "pool_stride": 8}},
            "pretrain": {"warmup_steps": 0, **pretrain},
            "train": {"batch_size": batch_size, "accelerator": "cpu"},
        }
    )  # fmt: skip


def ready(config: Config, world_size: int, folder: str) -> tuple[PretrainLearner, Batch]:
    """The task as a run of so many processes has it, without random draws, and a whole batch of 8 pairs."""
    place = SimpleNamespace(world_size=world_size, global_rank=0, device=torch.device("cpu"))
    made = prepare(config, load_manifest(config.data.manifest), cast(Fabric, place), Path(folder))
    task = made.learner
    assert isinstance(task, PretrainLearner)
    without_draws(task.module)
    return task, next(iter(made.loaders["train"]))


def step(task: PretrainLearner, batch: Batch, module: nn.Module | None) -> Any:
    """Losses, gradients and BatchNorm's statistics; parts are normalised by themselves, so then in eval mode."""
    task.module.train(task.config.pretrain.accumulate == 1)
    losses = task.backward(batch, module, lambda loss: loss.backward())
    gradients = {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}
    return losses, gradients, {name: buffer.clone() for name, buffer in task.module.named_buffers()}


def process(rank: int, folder: str, manifest: str) -> None:
    torch.set_num_threads(1)
    found = {}
    batches = {name: ready(config_of(manifest, case, 8), 1, folder)[1] for name, case in CASES.items()}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    for name, case in CASES.items():
        task, _ = ready(config_of(manifest, case, 4), 2, folder)
        half = _split(batches[name], 2)[rank]
        found[name] = step(task, half, DistributedDataParallel(task.module, find_unused_parameters=True))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms") / "set", num=24, size=48)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> list[Found]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(process, args=(str(folder), str(phantoms)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_gradients_of_one(two: list[Found], phantoms: Path, tmp_path: Path, name: str) -> None:
    task, batch = ready(config_of(str(phantoms), CASES[name], 8), 1, str(tmp_path))
    losses, gradients, buffers = step(task, batch, None)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for own_losses, own_gradients, own_buffers in (one[name] for one in two):
        torch.testing.assert_close(own_losses, losses, rtol=1e-5, atol=1e-5)
        assert own_gradients.keys() == gradients.keys()
        for key, gradient in gradients.items():
            assert float((own_gradients[key] - gradient).abs().max()) < 1e-5 * largest, key
        torch.testing.assert_close(own_buffers, buffers, rtol=1e-5, atol=1e-5)
