"""What a benchmark is run on; kept in OUT/given.json, so that cells of other data or weights are no cells of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvl.config.differences import MACHINE_KEYS
from medvl.core.errors import InputError
from medvl.core.files import write_json
from medvl.inference.model_folder import find_model

PRETRAIN_SET = "mimic-cxr"


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line gives: the sets, the rows, and how much of it is run."""

    data: Path
    out: Path
    runs: Mapping[str, Path] = field(default_factory=dict)  # name -> run or model folder of task: pretrain
    imagenet: Path | None = None
    pretrain: Path | None = None  # recipe of tables 5 and 8
    seeds: int = 1
    fractions: Sequence[float] | None = None  # None = those of the table
    split: str = "test"
    overrides: Sequence[str] = ()

    @property
    def changed(self) -> list[str]:
        """The overrides that make it another experiment than the protocol's."""
        return [word for word in self.overrides if word.partition("=")[0] not in MACHINE_KEYS]


def remember(given: Given, table: str, layouts: Sequence[str]) -> None:
    """Write OUT/given.json, or add to it.

    Raises:
        InputError: what lies in OUT was made of other weights, data or settings.
    """
    path = given.out / "given.json"
    told: dict[str, Any] = {"table": table, "split": given.split, "overrides": given.changed}
    told |= {f"--run {name}": _hash(find_model(run) / "model.safetensors") for name, run in given.runs.items()}
    told |= {f"--data {name}": _hash(given.data / name / "manifest.csv") for name in layouts}
    for name, file in (("--imagenet", given.imagenet), ("--pretrain", given.pretrain)):
        if file is not None:
            told[name] = _hash(file)
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    other = [name for name, value in told.items() if name in before and before[name] != value]
    if other:
        raise InputError.exists(
            f"the folder holds cells of another {', another '.join(other)}",
            file=given.out,
            expected="what they were made of, or a folder of their own",
            remedy="another --out",
        )
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(path, {**before, **told})


def _hash(path: Path) -> str:
    """sha256 of a file. InputError when it is not there."""
    if not path.is_file():
        raise InputError.missing_file("no such file", file=path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
