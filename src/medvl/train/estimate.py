"""How long a run takes and what memory it needs, measured on a few of its images before it starts.

    seconds = once + steps * max(step, loading) + validations * validation + saves * save

A whole batch is not computed. The task's own step is timed on as many images of a batch as `STEP_S` and `STEP_BYTES`
allow, and multiplied by the images, to which its FLOPs are proportional. Where not even the fewest images fit, the
network alone is timed on smaller images and multiplied by FLOPs; how many there are, and how many bytes are kept for
the gradients, is counted on the meta device, where nothing is computed. So a plan takes seconds and little memory
whatever the size of the run.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from medvl.config import TrainConfig
from medvl.core.distributed import stack_over_ranks
from medvl.core.errors import InputError
from medvl.core.learner import Learner
from medvl.data.class_labels import FeatureDataset
from medvl.data.dataset import Batch, Sample, collate
from medvl.models.ema import update_average
from medvl.text.cache import FeatureCache
from medvl.train.checkpoint import Progress, restore_rng, rng_state, save_state
from medvl.train.loop import make_optimizer
from medvl.train.network_cost import Call, call_of, count_cost, image_of, sum_of

STEP_S, STEP_BYTES = 2.5, 2**29  # of one timed step: seconds as predicted from its FLOPs, bytes of activations
READ_S, TEXT_S = 1.0, 1.0  # spent on reading images, and on computing features of texts
BACKWARD, LIBRARIES = 1.5, 2**27  # gradients beside what is kept for them; bytes that a first step brings with it
SMALLEST_SIDE = 128  # pixels; on smaller images the time is that of reading the weights
SAMPLED_PARAMETERS = 2**22  # that the optimizer is timed on
TIMED_STEPS = 3
FEATURES, FEATURES_S = (4, 48), 0.3  # images whose features a frozen encoder computes for the plan, seconds

clock: Callable[[], float] = time.perf_counter  # benchmarks/estimate.py counts CPU seconds instead


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds and sizes of a run. `timed` says what they were measured on."""

    step_s: float  # of the whole batch: network, loss, gradients, optimizer
    load_s: float  # of a batch that has to be waited for, when its images were read before
    once_s: float  # first reading of images, features of texts and images
    validation_s: float
    save_s: float  # of each epoch
    total_s: float
    steps: int
    flops: float  # of a step
    rows: int  # of a step
    process_bytes: float
    device_bytes: float | None
    timed: str


@dataclass(frozen=True, slots=True)
class _Reading:
    """Some samples of a loader's first batch, spread over it."""

    samples: list[Sample]
    batch_size: int  # of the first batch
    cold_s: float  # of an image that is read for the first time
    warm_s: float  # of one that was read before
    features_s: float  # of an image whose features are still to be computed, by a frozen encoder

    def batch(self, num: int) -> Batch:
        """`num` images; some come again where fewer were read."""
        places = np.linspace(0, len(self.samples) - 1, num).round().astype(int)
        return collate([self.samples[i] for i in places])


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of a whole batch without the optimizer's; 0 where the network cannot be counted."""

    seconds: float  # the mean over the run
    flops: float
    saved_bytes: float  # of an image
    num_images: int  # that were timed; 0: only smaller ones
    timed: str


def estimate(
    learner: Learner,
    config: TrainConfig,
    train_loader: DataLoader[Sample],
    val_loader: DataLoader[Sample],
    texts: Sequence[str],
    fabric: Fabric,
    folder: Path,
) -> Estimate:
    """Measure a run. Weights, statistics, feature caches and random generators stay as they were.

    Args:
        texts: every text of the run, whose features a frozen encoder computes once.
        folder: where a state is saved to time it, and deleted.
    """
    import torch.utils.tensorboard  # noqa: F401  (takes seconds, which are none of the run's from here on)

    device, base_bytes = fabric.device, float(_peak_bytes())
    steps = config.num_steps(len(train_loader))
    module = learner.module if device.type == "cpu" else deepcopy(learner.module).to(device)
    with _untouched(module):
        twin = learner.twin(module)
        cache = twin.text.cache
        if cache is not None:  # features are computed for the plan alone
            twin.text.cache = FeatureCache(cache.encoder)
        train, val = _read(train_loader), _read(val_loader)
        step = _step(twin, train, learner.phases(steps), fabric)
        step_s = step.seconds + _optimizer_seconds(config, module)
        val_image_s = step.seconds / train.batch_size / 3  # forward alone is a third of forward and backward
        if step.num_images:
            val_image_s = _validation_seconds(twin, val, step.num_images, fabric)
        text_s = 0.0 if cache is None else _text_seconds(twin, train, cache.num_missing(texts), device)
        save_s = _save_seconds(module, config, folder)
    epochs = -(-steps // len(train_loader))
    validations = -(-epochs // config.val_every)
    num_train, num_val = _num_images(train_loader), _num_images(val_loader)
    load_s = _waited(train, train_loader.num_workers, step_s, epochs)
    val_load_s = _waited(val, val_loader.num_workers, val_image_s * val.batch_size, validations)
    validation_s = num_val * (val_image_s + val_load_s / val.batch_size)
    once_s = text_s + train.features_s * num_train + val.features_s * num_val
    if train_loader.num_workers == 0:
        once_s += (train.cold_s - train.warm_s) * min(num_train, steps * train.batch_size)
        once_s += (val.cold_s - val.warm_s) * num_val
    activations = BACKWARD * step.saved_bytes * train.batch_size / learner.num_parts
    parameters = float(sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad))
    needed = activations + parameters * (4 if config.ema_decay else 3)  # gradients, two moments, the average
    on_gpu = device.type == "cuda"
    return Estimate(
        step_s=step_s,
        load_s=load_s,
        once_s=once_s,
        validation_s=validation_s,
        save_s=save_s,
        total_s=once_s + steps * (step_s + load_s) + validations * validation_s + epochs * save_s,
        steps=steps,
        flops=step.flops,
        rows=round(sum(len(s.rows) for s in train.samples) / len(train.samples) * train.batch_size),
        process_bytes=base_bytes + LIBRARIES + (0 if on_gpu else needed),
        device_bytes=needed + parameters if on_gpu else None,
        timed=step.timed,
    )


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Leave buffers, modes, gradients and random generators as they were; the weights nobody changes."""
    rng, modes = rng_state(), [(part, part.training) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        module.zero_grad(set_to_none=True)
        for part, mode in modes:
            part.training = mode
        restore_rng(rng)


def _read(loader: DataLoader[Sample]) -> _Reading:
    """Read images of the first batch, here and not in the loader's workers, for about `READ_S` seconds."""
    dataset: Any = loader.dataset
    sampler: Any = loader.batch_sampler
    items: list[tuple[int, int]] = next(iter(sampler))
    if isinstance(dataset, FeatureDataset) and not dataset.is_computed:
        samples, features_s = _some_features(dataset, [index for _, index in items])
        return _Reading(samples, len(items), 0.0, 0.0, features_s)
    start = clock()
    dataset[items[0]]
    num = max(1, min(len(items) - 1, int(READ_S / max(clock() - start, 1e-6))))
    places = np.unique(np.linspace(len(items) > 1, len(items) - 1, num).round().astype(int))
    start = clock()
    samples = [dataset[items[i]] for i in places]
    middle = clock()
    for i in places:
        dataset[items[i]]
    cold_s, warm_s = (middle - start) / len(places), (clock() - middle) / len(places)
    return _Reading(samples, len(items), max(cold_s, warm_s), warm_s, 0.0)


def _some_features(dataset: FeatureDataset, indices: list[int]) -> tuple[list[Sample], float]:
    """Samples of a few images with their features, and the seconds of an image: of more where they are quick."""
    samples = dataset.some(indices[:2])  # allocates: not timed
    for num in FEATURES:
        num = min(num, len(dataset))
        start = clock()
        dataset.some(range(num))
        seconds = clock() - start
        if seconds > FEATURES_S:
            break
    return samples, seconds / num


def _waited(reading: _Reading, num_workers: int, step_s: float, epochs: int) -> float:
    """Seconds of a batch that are spent waiting for its images, where a step takes `step_s`."""
    if num_workers == 0:
        return reading.warm_s * reading.batch_size
    # Each worker keeps what it decoded, and an image goes to any of them.
    share_cold = min(1.0, num_workers / max(epochs, 1))
    image_s = share_cold * reading.cold_s + (1 - share_cold) * reading.warm_s
    cores = max(1, len(_cores()))
    busy_s = (step_s * min(torch.get_num_threads(), cores) + image_s * reading.batch_size) / cores
    return max(0.0, image_s * reading.batch_size / num_workers - step_s, busy_s - step_s)


def _cores() -> Sequence[int]:
    import os

    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _step(twin: Learner, reading: _Reading, phases: Sequence[tuple[int, int]], fabric: Fabric) -> _Step:
    """Time the task's step, without the optimizer's, in its last phase; the others by their FLOPs."""
    size, least = reading.batch_size, min(reading.batch_size, twin.least_images)
    twin.module.train()
    networks, fewest = [], reading.batch(least).to(fabric.device)
    for first, _ in phases:
        twin.step = first
        call = call_of(twin, fewest)
        networks.append(None if call is None else count_cost(twin.module, call, least))
    network, num, fits = networks[-1], least, float(least)
    if network is not None:
        image_s = 2 * network.flops / _rate(fabric.device)  # a network has more than its convolutions
        room = torch.cuda.mem_get_info(fabric.device)[0] / 2 if fabric.device.type == "cuda" else STEP_BYTES
        fits = min(STEP_S / image_s, room / max(network.saved_bytes, 1))
        num = _fitting(fits, least, size)
    num = int(stack_over_ranks(torch.tensor(num, device=fabric.device)).min())  # ranks take the same steps
    if num == 0:
        assert call is not None and network is not None
        seconds, timed = _network_seconds(twin.module, call, fits / least, network.flops * least, fabric)
        seconds *= size / least
    else:
        timed = f"{num} of {size} images"
        seconds = _batch_seconds(twin, reading.batch(num).to(fabric.device), num == size, fabric) * size / num
    if network is None:
        return _Step(seconds, 0.0, 0.0, num, timed)
    flops = [network.flops if one is None else one.flops for one in networks]
    mean = sum(f * n for f, (_, n) in zip(flops, phases, strict=True)) / sum(n for _, n in phases)
    return _Step(seconds * mean / network.flops, network.flops * size, network.saved_bytes, num, timed)


def _batch_seconds(twin: Learner, batch: Batch, is_whole: bool, fabric: Fabric) -> float:
    def step() -> None:
        twin.module.zero_grad(set_to_none=True)
        with fabric.autocast():
            twin.backward(batch, None, lambda loss: loss.backward())  # type: ignore[no-untyped-call]  # torch's

    step()  # allocates too: not timed
    times = [_timed(step, fabric.device) for _ in range(TIMED_STEPS if is_whole else 1)]
    return sorted(times)[len(times) // 2]


def _fitting(fits: float, least: int, size: int) -> int:
    """How many images of a batch are timed, where `fits` of them fit; 0 where not even the fewest do."""
    return 0 if fits < least / 2 else max(least, min(size, int(fits)))


def _network_seconds(module: nn.Module, call: Call, share: float, flops: float, fabric: Fabric) -> tuple[float, str]:
    """Seconds of the network's call, from one with images of about `share` of the pixels; what was timed."""
    side = max(SMALLEST_SIDE, int(image_of(call).shape[-1] * share**0.5) // 32 * 32)

    def crop(x: Any) -> Any:
        return x[..., :side, :side] if isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] <= 4 else x

    small = tree_map(crop, call)
    cost = count_cost(module, small, 1)
    try:

        def step() -> None:
            module.zero_grad(set_to_none=True)
            with fabric.autocast():
                sum_of(module(*small[0], **small[1])).backward()  # type: ignore[no-untyped-call]

        step()
        if cost is not None:
            return _timed(step, fabric.device) * flops / cost.flops, f"images of {side} x {side} pixels"
    except (InputError, RuntimeError, ValueError):  # not at this size
        pass
    return 2 * flops / _rate(fabric.device), "a convolution"


def _rate(device: torch.device) -> float:
    """FLOP per second of a convolution."""
    x, weight = torch.zeros(4, 64, 56, 56, device=device), torch.zeros(64, 64, 3, 3, device=device)
    seconds = min(_timed(lambda: conv2d(x, weight, padding=1), device) for _ in range(4))
    return 2 * 4 * 56 * 56 * 64 * 64 * 9 / max(seconds, 1e-9)


def _optimizer_seconds(config: TrainConfig, module: nn.Module) -> float:
    """Of the optimizer's step, of clipping and of the average, on some of the parameters."""
    trained = [p for p in module.parameters() if p.requires_grad]
    some, left = [], SAMPLED_PARAMETERS
    for p in trained:
        if left > 0:
            some.append(p.detach() if p.numel() <= left else p.detach().flatten()[:left])
            left -= p.numel()
    parts = nn.ParameterList([nn.Parameter(p.clone()) for p in some])
    average = deepcopy(parts) if config.ema_decay else None
    optimizer = make_optimizer(config, parts)
    for p in parts:
        p.grad = torch.zeros_like(p)

    def step() -> None:
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(parts.parameters(), config.clip_norm)
        optimizer.step()
        if average is not None:
            update_average(average, parts, 0.9, 1)

    step()
    seconds = min(_timed(step, some[0].device) for _ in range(2)) if some else 0.0
    return seconds * sum(p.numel() for p in trained) / max(1, sum(p.numel() for p in some))


def _validation_seconds(twin: Learner, reading: _Reading, num: int, fabric: Fabric) -> float:
    """Of one image, measured on at most `num`."""
    num = min(reading.batch_size, num)
    batch = reading.batch(num).to(fabric.device)
    twin.module.eval()

    def step() -> None:
        with torch.no_grad(), fabric.autocast():
            twin.validation_step(batch)

    return _timed(step, fabric.device) / num


def _text_seconds(twin: Learner, reading: _Reading, num_missing: int, device: torch.device) -> float:
    """Until the features of all texts are kept."""
    rows = list({text: row for s in reading.samples for text, row in zip(s.texts, s.rows, strict=True)}.items())
    if not num_missing or not rows:
        return 0.0
    start, num = clock(), 0
    twin.text.cache = FeatureCache(twin.text.cache.encoder)  # type: ignore[union-attr]
    while num < len(rows) and (num == 0 or clock() - start < TEXT_S):
        some = rows[num : num + max(1, num)]  # twice as many each time
        twin.text([text for text, _ in some], device, [row.context for _, row in some])
        num += len(some)
    return (clock() - start) / num * num_missing


def _save_seconds(module: nn.Module, config: TrainConfig, folder: Path) -> float:
    """Of the state that each epoch saves, and of the best model: on some of the parameters."""
    state, num = {}, 0
    for name, x in module.state_dict().items():
        if num < SAMPLED_PARAMETERS:
            state[name] = x
            num += x.numel()
    path = folder / "estimate.pt"
    seconds = _timed(lambda: save_state(path, Progress(), {"module": state}))
    path.unlink(missing_ok=True)
    copies = 5 if config.ema_decay else 4  # the weights, two moments, their average; and the model
    total: int = copies * sum(x.numel() for x in module.state_dict().values())
    return seconds * max(1.0, total / max(num, 1))


def _num_images(loader: DataLoader[Sample]) -> int:
    sampler: Any = loader.batch_sampler
    return sum(len(items) for items in sampler)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def _timed(work: Callable[[], object], device: torch.device | None = None) -> float:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start
