"""The state of an interrupted run: written whole, read without running code, restored to the bit."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medvl.core.errors import InputError
from medvl.core.files import whole_file

FORMAT = "medvl-state/2"
NOTHING_SAVED = "no step is saved in it: give the command that started it again, or delete the folder"
_ANEW = "train anew into another folder; RUN/model and RUN/checkpoints/best are not touched by it"


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done, their validation included
    batch: int = 0  # batches done in the current epoch
    loss_sum: float = 0.0  # over the current logging window
    loss_num: int = 0
    best: float = -1.0
    best_epoch: int = -1
    elapsed_s: float = 0.0
    last_val: dict[str, float] | None = None
    num_saves: int = 0  # distinguishes two saves of the same step


def save_state(path: Path, progress: Progress, parts: dict[str, dict[str, Any]]) -> None:
    """Write progress, state dicts and every random generator to `path`: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"format": FORMAT, "progress": asdict(progress), "parts": _on_cpu(parts), "rng": rng_state()}
    state["sha256"] = _digest(state)
    with whole_file(path, flush=True) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def load_state(path: Path) -> tuple[Progress, dict[str, dict[str, Any]], dict[str, Any]]:
    """-> progress, state dicts, random states (give them to `restore_rng` when everything else is built).

    Raises:
        InputError: no such file, damaged (by its checksum), or of an older version. Only tensors and plain values are
            read: a file made by a stranger cannot run code.
    """
    if not path.is_file():
        expected = "a run folder that has trained at least one step"
        raise InputError.missing_file("nothing to resume", file=path, expected=expected, remedy=NOTHING_SAVED)
    expected = "the state as the run saved it"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        what = "the saved state is of an older medvl, or no saved state: it would run code when it is read"
        raise InputError.unsupported(
            what, file=path, expected=f"{FORMAT}, tensors and plain values only", remedy=_ANEW
        ) from None
    except Exception as error:  # a damaged file fails in many ways
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a place outside of the file gives
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError.damaged(
            f"the saved state is damaged ({first})", file=path, expected=expected, remedy=_ANEW
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        stored_format = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise InputError.unsupported(
            f"the saved state is of format {stored_format}", file=path, expected=FORMAT, remedy=_ANEW
        )
    if state.pop("sha256", None) != _digest(state):
        what = "the saved state is damaged (its checksum differs)"
        raise InputError.damaged(what, file=path, expected=expected, remedy=_ANEW)
    return Progress(**state["progress"]), state["parts"], state["rng"]


def rng_state() -> dict[str, Any]:
    """Where every random generator stands, for `restore_rng`."""
    name, keys, *position = np.random.get_state()  # the legacy generator, for libraries that draw from it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *position],
        "python": random.getstate(),
    }


def restore_rng(rng: dict[str, Any]) -> None:
    """Put every random generator back to where it stood."""
    torch.set_rng_state(rng["torch"])
    if rng["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(rng["cuda"])
    name, keys, *position = rng["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *position))
    random.setstate(rng["python"])


def _on_cpu(value: Any) -> Any:
    """The same tree with its tensors on the CPU, and no value that is not plain."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def _digest(state: Mapping[str, Any]) -> str:
    """SHA-256 over every tensor and value of a state, with their places."""
    digest = hashlib.sha256()
    for place, value in _leaves(state, ""):
        if isinstance(value, Tensor):
            digest.update(f"{place} {value.dtype} {tuple(value.shape)}\n".encode())
            if value.numel():
                digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{place} {json.dumps(value)}\n".encode())
    return digest.hexdigest()


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{place}/{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{place}/{number}")
    else:
        yield place, value
