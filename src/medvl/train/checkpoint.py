"""The state of an interrupted run: written atomically, restored to the bit."""

from __future__ import annotations

import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvl.errors import InputError

NOTHING_SAVED = "delete the run folder (no step is saved in it) and train anew with the recipe, or choose another --out"


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done
    batch: int = 0  # batches done in the current epoch
    loss_sum: float = 0.0  # over the current logging window
    loss_num: int = 0
    best: float = -1.0
    best_epoch: int = -1
    elapsed_s: float = 0.0
    last_val: dict[str, float] | None = None


def save_state(path: Path, progress: Progress, parts: dict[str, dict[str, Any]]) -> None:
    """Write progress, state dicts and every random generator to `path`: all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "format": "medvl-state/1",
        "progress": asdict(progress),
        "parts": parts,
        "rng": {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": np.random.get_state(),  # the legacy generator, for libraries that draw from it
            "python": random.getstate(),
        },
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_state(path: Path) -> tuple[Progress, dict[str, dict[str, Any]], dict[str, Any]]:
    """-> progress, state dicts, random states (give them to `restore_rng` when everything else is built)."""
    if not path.is_file():
        expected = "a run folder that has trained at least one step"
        raise InputError("nothing to resume", file=path, expected=expected, remedy=NOTHING_SAVED)
    try:
        # The file holds NumPy and Python generator states, which weights_only refuses; it is the user's own run.
        state = torch.load(path, map_location="cpu", weights_only=False)
        return Progress(**state["progress"]), state["parts"], state["rng"]
    except (RuntimeError, EOFError, KeyError, TypeError) as error:
        raise InputError(f"the saved state cannot be read ({error})", file=path) from None


def restore_rng(rng: dict[str, Any]) -> None:
    """Put every random generator back to where it stood."""
    torch.set_rng_state(rng["torch"])
    if rng["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(rng["cuda"])
    np.random.set_state(rng["numpy"])
    random.setstate(rng["python"])
