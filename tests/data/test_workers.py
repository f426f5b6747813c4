"""Processes that read images."""

from __future__ import annotations

import os

import pytest

from medvl.data.workers import usable_workers


@pytest.mark.parametrize(("wanted", "usable"), [(0, 0), (1, 1), (3, 3), (64, 3)])
def test_at_most_one_worker_a_processor(monkeypatch: pytest.MonkeyPatch, wanted: int, usable: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_workers(wanted) == usable
