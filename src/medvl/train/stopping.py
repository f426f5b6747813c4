"""Signals that end a run: Ctrl-C (SIGINT), SIGTERM of a scheduler, SIGHUP of a terminal that closes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal ended the work in order. `exit_code` is that of a shell: 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise `Stopped` as Ctrl-C raises KeyboardInterrupt, so that what is open is closed."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(handler, _SIGNALS[1:]):
        yield


@contextmanager
def stop_after_step() -> Iterator[Callable[[], int]]:
    """Signals set a flag that is read between steps, so that a step is done wholly or not at all.

    The function that it gives says which signal came, 0 = none. A second Ctrl-C does not wait for the step's end.
    """
    caught: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in caught:
            raise Stopped(number)
        caught.append(number)

    with _handled(handler, _SIGNALS):
        yield lambda: caught[0] if caught else 0


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], numbers: list[int]) -> Iterator[None]:
    previous: dict[int, Any] = {}
    try:
        for number in numbers:
            if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue  # as nohup wants it
            previous[number] = signal.signal(number, handler)
    except ValueError:  # not the main thread: the caller's handlers stay
        pass
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
