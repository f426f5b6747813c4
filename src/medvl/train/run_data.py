"""What a run was trained on, by content, so that it cannot be continued on something else unseen."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medvl.config import Config
from medvl.core.errors import InputError, warn
from medvl.core.files import read_json, write_json
from medvl.data.hashes import HashStore, file_hash
from medvl.data.packed import is_file, table_of
from medvl.data.record import Manifest

DATA, HASHES = "data.json", "hashes.jsonl"  # in the run folder
FORMAT = "medvl-data/1"
_MOST_NAMED = 3
_REMEDY = "bring the data back as they were, train anew into another folder, or go on with --accept-changed-data"


def describe_data(manifest: Manifest, config: Config, run: Path) -> dict[str, Any]:
    """Hashes of rows, splits, images, masks and further tables of a run. `run` keeps those of files (`HASHES`)."""
    files = manifest.file_hashes(HashStore(run / HASHES))
    also = None if config.data.also_labelled is None else table_of(config.data.also_labelled)
    return {
        "format": FORMAT,
        "manifest_hash": manifest.content_hash(files),
        "rows_hash": manifest.rows_hash(),
        "split_hash": manifest.split_hash(),
        "order_hash": hashlib.sha256(json.dumps([row.id for row in manifest.records]).encode()).hexdigest(),
        "also_labelled": file_hash(also) if also is not None and is_file(also) else None,
        "files": files,
        "changes": [],
    }


def check_data(manifest: Manifest, config: Config, run: Path, *, accept: bool) -> None:
    """Compare the data with those that the run was started on; `accept` goes on, and data.json then says so.

    Raises:
        InputError: they differ, or the run's own are not known.
    """
    path = run / DATA
    now = describe_data(manifest, config, run)
    try:
        before = read_json(path)
    except InputError:  # missing or damaged
        before = None
    what = _differences(before, now) if isinstance(before, dict) else ["what it was started on is not known"]
    if not what:
        return
    if not accept:
        raise InputError.mismatch(
            f"the run was started on other data: {'; '.join(what)}", file=manifest.path,
            expected=f"those of {path}", remedy=_REMEDY,
        )  # fmt: skip
    warn(f"{run} goes on with other data than it was started on: {'; '.join(what)}")
    earlier = before.get("changes", []) if isinstance(before, dict) else []
    write_json(path, now | {"changes": [*earlier, *what]})


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    differences = []
    if before.get("split_hash") != now["split_hash"]:
        differences.append("rows, patients or splits of the manifest differ")
    elif before.get("rows_hash") != now["rows_hash"]:
        differences.append("texts, masks or other cells of the manifest differ")
    elif before.get("order_hash") != now["order_hash"]:  # batches are drawn by the place in the table
        differences.append("the rows of the manifest stand in another order")
    if before.get("also_labelled") != now["also_labelled"]:
        differences.append("data.also_labelled differs")
    old, new = before.get("files", {}), now["files"]
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if names:
        more = ", ..." if len(names) > _MOST_NAMED else ""
        differences.append(f"{len(names)} images or masks differ ({', '.join(names[:_MOST_NAMED])}{more})")
    return differences
