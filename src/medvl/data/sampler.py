"""Which images make which batch. An item is (epoch, index): what is drawn of an image is a pure function of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from medvl.core.errors import InputError

REPEATED = -1  # in place of the epoch: a validation item that stands there only so that all ranks have as many


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of one epoch. The loop sets `epoch`, and `start` to skip what an interrupted epoch has already done."""

    epoch = start = 0

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} has no length")


class EpochSampler(BatchSampler):
    """Every item once an epoch: a permutation that is a pure function of (seed, epoch), sharded over ranks.

    Ranks are padded to the same length with items that another rank has too. Without `shuffle` (validation) these have
    the epoch `REPEATED`, so that they count for nothing.
    """

    def __init__(
        self, num_items: int, batch_size: int, *, seed: int, shuffle: bool, rank: int = 0, world_size: int = 1
    ) -> None:
        self.num_items, self.batch_size, self.seed, self.shuffle = num_items, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        mine = -(-self.num_items // self.world_size)  # ranks are padded to the same length
        return -(-mine // self.batch_size)  # the last batch may be smaller; nothing is dropped

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.num_items)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_items)
        places = range(self.rank, -(-self.num_items // self.world_size) * self.world_size, self.world_size)
        items = [
            (REPEATED if place >= self.num_items and not self.shuffle else self.epoch, int(order[place % len(order)]))
            for place in places
        ]
        for number in range(self.start, len(self)):
            yield items[number * self.batch_size : (number + 1) * self.batch_size]


class LengthSampler(BatchSampler):
    """Every item once an epoch, batches of items of similar length: less padding, in random order.

    Items are shuffled, sorted by length within windows of `WINDOW` batches, cut into batches, and the batches shuffled:
    a pure function of (seed, epoch). With several ranks a whole batch is cut into equal parts, one per rank, so that
    what is compared within a batch does not depend on the number of ranks; the rest that does not fill a batch is left
    out of this epoch (another rest is drawn in the next).
    """

    WINDOW = 16

    def __init__(
        self, lengths: Sequence[int], batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """`batch_size` is that of one rank. `lengths` all equal: no bucketing."""
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.rank, self.world_size = rank, world_size
        if len(self.lengths) < batch_size * world_size:
            raise InputError.empty(
                f"{len(self.lengths)} items do not fill one batch of {batch_size * world_size}",
                remedy="a smaller train.batch_size",
            )

    def __len__(self) -> int:
        return len(self.lengths) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        whole = self.batch_size * self.world_size
        order = rng.permutation(len(self.lengths))[: len(self) * whole]
        window = self.WINDOW * whole
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += list(part.reshape(-1, whole))
        for number in [batches[i] for i in rng.permutation(len(batches))][self.start :]:
            yield [(self.epoch, int(i)) for i in number[self.rank :: self.world_size]]


def mean_negatives(sampler: LengthSampler, keys: NDArray[np.int64]) -> float:
    """How many negatives a pair has in a batch, the mean over the first epoch.

    Args:
        sampler: of one rank, with the whole batch.
        keys: (n, k): items that agree in one of them are no negatives of each other.
    """
    num = sum(
        int((keys[batch][:, None] != keys[batch][None]).all(axis=2).sum())
        for batch in ([index for _, index in items] for items in sampler)
    )
    return num / (len(sampler) * sampler.batch_size)


class MixedSampler(BatchSampler):
    """Batches of a fixed number per epoch, half of each unlabelled where there are unlabelled items.

    Each kind is drawn in permutations, one after the other. An item that comes again within an epoch comes with another
    epoch number, so that it is not augmented the same way twice.
    """

    def __init__(
        self, labelled: Sequence[int], unlabelled: Sequence[int], batch_size: int, *, seed: int, num_batches: int | None
    ) -> None:
        """`num_batches` None: one pass over the kind that needs more batches."""
        if not labelled:
            raise InputError.empty("no labelled image to train on", expected="at least one record with a mask")
        if unlabelled and batch_size < 2:
            raise InputError.out_of_range("train.batch_size: 1", expected="at least 2: half of a batch is unlabelled")
        self._pools = [np.asarray(labelled), np.asarray(unlabelled)]
        self._sizes = [batch_size - batch_size // 2, batch_size // 2] if len(unlabelled) else [batch_size, 0]
        self.seed = seed
        passes = [-(-len(pool) // size) for pool, size in zip(self._pools, self._sizes, strict=True) if size]
        self._num = max(passes) if num_batches is None else num_batches

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        parts = [self._items(kind) for kind in (0, 1)]
        for number in range(self.start, self._num):
            batch: list[tuple[int, int]] = []
            for part, size in zip(parts, self._sizes, strict=True):
                batch += part[number * size : (number + 1) * size]
            yield batch

    def _items(self, kind: int) -> list[tuple[int, int]]:
        pool, needed = self._pools[kind], self._num * self._sizes[kind]
        if needed == 0:
            return []
        num_rounds = -(-needed // len(pool))
        items: list[tuple[int, int]] = []
        for turn in range(num_rounds):
            rng = np.random.default_rng([self.seed, self.epoch, kind, turn])
            order: NDArray[np.int_] = rng.permutation(pool)
            items += [(self.epoch * num_rounds + turn, int(i)) for i in order]
        return items[:needed]
