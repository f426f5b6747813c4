"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from medvl.errors import InputError


def keep_other_results(out: Path | None, kind: str, **same: str) -> None:
    """InputError where `out` holds results of another kind, or of something else: they would be written over.

    Args:
        kind: the `format` of summary.json that will be written.
        same: keys of summary.json and what they will be.
    """
    path = out / "summary.json" if out is not None else None
    if path is None or not path.is_file():
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        there = {key: held.get(key) for key in ("format", *same)}
    except (ValueError, AttributeError):
        there = {"format": "not readable"}
    others = [f"{key} {there.get(key)}" for key, value in (("format", kind), *same.items()) if there.get(key) != value]
    if others:
        raise InputError(
            f"holds other results ({', '.join(others)})", file=out,
            expected="a new folder, or one of the same results", remedy="--out DIR",
        )  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
