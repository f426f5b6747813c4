"""Processes that read images: how many, and what they raise, or their death, as one clear error."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from torch.utils.data import DataLoader, Dataset, _utils

from medvl.core.errors import Fault, InputError
from medvl.data.workers import clear_worker_errors, usable_workers


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader waits that long for its workers to end, in seconds."""
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)


class Calls(Dataset[int]):
    """One item, which is what `call` gives."""

    def __init__(self, call: Callable[[], int]) -> None:
        self.call = call

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return self.call()


def refuse() -> int:
    raise InputError.damaged(
        "damaged (OSError: cut off)", file="a.png", record="c1", expected="a picture", remedy="copy it"
    )


def refuse_two() -> int:
    raise InputError([Fault.damaged("cut off", file="a.png"), Fault.missing_file("gone", file="b.png")])


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def fill_shared_memory() -> int:
    raise RuntimeError("unable to write to file </torch_123_456_0>: No space left on device (28)")


def be_wrong() -> int:
    raise RuntimeError("a defect")


def ask(call: Callable[[], int], num_workers: int = 1) -> InputError:
    with pytest.raises(InputError) as caught, clear_worker_errors():
        list(DataLoader(Calls(call), batch_size=None, num_workers=num_workers))
    return caught.value


@pytest.mark.parametrize("call", [refuse, refuse_two])
def test_an_error_of_a_worker_is_that_of_the_process_itself(call: Callable[[], int]) -> None:
    here, there = ask(call, num_workers=0), ask(call)
    assert str(there) == str(here) and there.kinds[0] == here.kinds[0]


def test_a_dead_worker_and_full_shared_memory() -> None:
    assert "a process that reads images ended" in str(ask(die))
    assert "shared memory" in str(ask(fill_shared_memory)) and "Traceback" not in str(ask(fill_shared_memory))


def test_a_defect_keeps_its_trace() -> None:
    with pytest.raises(RuntimeError, match="be_wrong"), clear_worker_errors():
        list(DataLoader(Calls(be_wrong), batch_size=None, num_workers=1))


@pytest.mark.parametrize(("wanted", "usable"), [(0, 0), (1, 1), (3, 3), (64, 3)])
def test_at_most_one_worker_a_processor(monkeypatch: pytest.MonkeyPatch, wanted: int, usable: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_workers(wanted) == usable
