"""Errors of the processes that read images for training, as one clear message."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from medvl.core.errors import FaultKind, InputError

_SHARED_MEMORY = re.compile(r"shared memory|unable to \w+ (?:to )?file </torch_", re.IGNORECASE)
_DEAD = re.compile(r"DataLoader worker \(pid.*?\) (?:exited|is killed)[^.]*", re.DOTALL)
_OF_A_WORKER = re.compile(r"^Caught \w+ in DataLoader worker process", re.MULTILINE)
_OWN_ERROR = re.compile(rf"^{re.escape(InputError.__module__)}\.\w+: ", re.MULTILINE)  # a message begins here
_MESSAGE = re.compile(r"(.*)\nkind: (\w+)[^\n]*", re.DOTALL)


def usable_workers(wanted: int) -> int:
    """`data.num_workers`, at most one for each usable processor: more only slow each other down."""
    return min(wanted, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@contextmanager
def clear_worker_errors() -> Iterator[None]:
    """Turn what a loader's worker raises, or its death, into an InputError without the trace of that process."""
    try:
        yield
    except RuntimeError as error:  # what torch makes of an error that needs more than one text
        text = str(error)
        starts = [match.end() for match in _OWN_ERROR.finditer(text)]
        if starts and _OF_A_WORKER.search(text) and (message := _MESSAGE.fullmatch(text[starts[-1] :].strip())):
            raise InputError(message[1], kind=FaultKind(message[2])) from None
        if _SHARED_MEMORY.search(text):
            raise InputError.no_resource(
                "no room in shared memory (/dev/shm) for the processes that read images",
                remedy="data.num_workers: 0, or more shared memory (docker run --shm-size=8g)",
            ) from None
        if dead := _DEAD.search(text):
            raise InputError.no_resource(
                f"a process that reads images ended ({' '.join(dead[0].split())})",
                remedy="often memory ran out: fewer data.num_workers, a smaller data.cache_mb; then --resume",
            ) from None
        raise
