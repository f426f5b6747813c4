"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from medvl.errors import InputError


def keep_other_results(out: Path | None, **same: str) -> None:
    """InputError where `out` holds results of something else: they would be written over.

    Args:
        same: keys of summary.json and what they will be, e.g. format, model_hash, split.
    """
    path = out / "summary.json" if out is not None else None
    if path is None or not path.is_file():
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        others = [key for key, value in same.items() if held.get(key) != value]
    except (ValueError, AttributeError):
        held, others = {}, list(same)
    if others:
        known = [f"{key} {held[key]}" for key in ("model", "split", "manifest", "target", "format") if key in held]
        raise InputError(
            f"holds other results ({', '.join(known) or 'not readable'}; {', '.join(others)} would differ)",
            file=out, expected="a new folder, or one of the same results", remedy="--out DIR",
        )  # fmt: skip


NEW_OUT = "a file that holds nothing of the source"


def refuse_source(source: str | Path, out: str | Path) -> None:
    """InputError where `out` is the file `source`, by whatever name: writing would destroy what it is made of."""
    source, out = Path(source), Path(out)
    if source.resolve() == out.resolve() or (source.exists() and out.exists() and source.samefile(out)):
        raise InputError("--out is the source itself", file=out, expected=NEW_OUT, remedy="another --out")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
