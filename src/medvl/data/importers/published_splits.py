"""The split rules of published protocols, without the library that they were written with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np


def shuffle_split(num: int, num_second: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices 0..num-1 in two parts, shuffled, as scikit-learn's `train_test_split` gives them for a `random_state`.

    It documents one permutation of numpy's RandomState(seed): the second part ("test") is its first `num_second`, the
    first part ("train") all that follow. Compared with scikit-learn 1.9 on the sizes used here: equal.
    """
    order = np.random.RandomState(seed).permutation(num)
    return order[num_second:].tolist(), order[:num_second].tolist()


def train_val_test(names: Sequence[str], num_other: int) -> dict[str, str]:
    """Name -> split, as GLoRIA, MGCA and G2D do it: `num_other` of the sorted names are split off and halved.

    Both times with random_state 0; the first half is test, the second, larger by one of an odd number, validation.
    """
    names = sorted(names)
    train, other = shuffle_split(len(names), num_other, 0)
    test, val = shuffle_split(num_other, num_other - num_other // 2, 0)
    split = {names[i]: "train" for i in train}
    return split | {names[other[i]]: "test" for i in test} | {names[other[i]]: "val" for i in val}


def draw_groups(groups: Sequence[str], num: int, seed: int) -> set[int]:
    """Indices of whole groups (patients), `num` of them if the groups can be filled up so, never more.

    Our own rule, for protocols that publish the sizes of a split but not how it was drawn: groups in the order of
    sha256(seed/group); one that would not fit any more is passed over.
    """
    sizes = Counter(groups)
    chosen: set[str] = set()
    left = num
    for group in sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest()):
        if sizes[group] <= left:
            chosen.add(group)
            left -= sizes[group]
    return {index for index, group in enumerate(groups) if group in chosen}
