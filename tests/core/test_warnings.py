"""Warnings about files: each kind once, with a count."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from runs import medvl

from medvl.core import errors


def test_held_warnings_are_one_line_of_each_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors, "_holder", None)
    monkeypatch.setattr(errors, "_printed", None)
    errors.hold_warnings()
    for name in ("a", "b", "b", "c", "d"):  # a file that is read twice counts once
        errors.warn("too dark", place=name)
    errors.warn("blank", place="e")
    assert capsys.readouterr().err == ""
    errors.print_warnings()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "too dark" in lines[0] and "4 times" in lines[0] and "e: blank" in lines[1]
    errors.print_warnings()
    assert capsys.readouterr().err == ""


def test_a_library_call_warns_at_once_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(errors, "_holder", None)
    for name in ("a", "b", "c"):
        errors.warn("too dark", place=name)
    assert capsys.readouterr().err == "warning: a: too dark\n"
    errors.print_warnings()
    assert "2 times" in capsys.readouterr().err


def test_workers_print_a_kind_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(errors, "_holder", None)
    monkeypatch.setattr(errors, "_printed", None)
    errors.hold_warnings()
    for _ in range(3):  # one after another, as the workers of three epochs
        child = os.fork()
        if child == 0:
            for name in ("a", "b"):
                errors.warn("too dark", place=name)
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
    assert capfd.readouterr().err == "warning: a: too dark\n"


def test_audit_says_a_kind_once_with_its_count(tmp_path: Path) -> None:
    lines = ["id,image"]
    for i in range(5):
        alpha = np.full((8, 8, 4), 100 + i, np.uint8)
        alpha[0, 0, :] = i
        PILImage.fromarray(alpha).save(tmp_path / f"{i}.png")
        lines.append(f"{i},{i}.png")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    done = medvl("data", "audit", tmp_path / "m.csv")
    about = [line for line in done.stderr.splitlines() if "alpha" in line]
    assert len(about) == 1 and "5 times" in about[0]
