"""A progress bar with the time left, on stderr, for work that takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from medvl.core.errors import print_warnings

T = TypeVar("T")

SHOW_AFTER_S = 2.0
QUIET_EVERY_S = 30.0  # without a terminal a line is printed that often


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Yield `items`; a bar appears after two seconds on a terminal, a line every half minute elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task(label, total=total)
    start = last = time.monotonic()
    shown = False
    try:
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            bar.update(task, completed=done)
            if console.is_terminal and not shown and now - start > SHOW_AFTER_S:
                bar.start()
                shown = True
            if not console.is_terminal and now - last > QUIET_EVERY_S:
                left = (now - start) / done * (total - done)
                console.print(f"{label} {done}/{total}, time left {left / 60:.1f} min", highlight=False)
                last = now
    finally:
        if shown:
            bar.stop()
        print_warnings()  # of all items, one line of each kind
