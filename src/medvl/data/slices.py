"""Which slices of a volume, or frames of a file of several, are asked for: `--slice N|all` of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medvl.core.errors import InputError
from medvl.data.images import num_slices

SliceChoice = int | Literal["all"] | None


def parse_slice(word: str | None) -> SliceChoice:
    """The value of `--slice`: a number from 0, or all. InputError for anything else."""
    if word is None or word == "all":
        return None if word is None else "all"
    try:
        number = int(word)
    except ValueError:
        number = -1
    if number < 0:
        raise InputError.malformed(f"--slice {word}", expected="the number of a slice, from 0, or all")
    return number


def slices_of(path: Path, choice: SliceChoice, default: int | None = None) -> tuple[int | None, ...]:
    """Which slices (NIfTI and other volumes, along the axial axis) or frames of a file are asked for.

    Args:
        choice: of `--slice`; None = `default`, the model's own `data.slice_index`, where the file has several.

    Raises:
        InputError: unreadable; several slices and no choice; a slice that the file does not have.
    """
    num = num_slices(path, as_slices=choice is not None)
    if choice == "all":
        return tuple(range(num)) if num > 1 else (None,)
    if choice is None and num == 1:
        return (None,)
    index = default if choice is None else choice
    if index is None:
        raise InputError.ambiguous(
            f"a file of {num} slices or frames",
            file=path,
            expected="the choice of one, or all of them",
            remedy=f"--slice N (0 to {num - 1}), or --slice all",
        )
    if not 0 <= index < num:
        raise InputError.out_of_range(f"slice {index} of {num}", file=path, expected=f"--slice 0 to {num - 1}, or all")
    return (index,) if num > 1 else (None,)
