"""Where the paper, the released program and medvl differ: the three columns of `fidelity: paper | released | medvl`.

The switches of a method, with reason and evidence, are in config/presets/METHOD.yaml, of which docs/fidelity.md is
made. LViT: the authors' program at a9b0b41, arXiv 2206.14718; G2D: the authors' program at 30364bd, arXiv 2312.01522.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic.dataclasses import dataclass

from medvl.config.ranges import SECTION
from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import read_typed

FOLDER = Path(__file__).with_name("presets")
Preset = Literal["medvl", "paper", "released"]


@dataclass(config=SECTION, frozen=True, slots=True)
class Difference:
    """One difference: the configuration key that switches it and its value in each preset."""

    key: str
    paper: Any
    released: Any
    medvl: Any
    reason: str
    evidence: Literal["read", "second-hand", "guess"] = "read"


@dataclass(config=SECTION, frozen=True, slots=True)
class Unswitched:
    """One difference that no preset sets: all three begin from what the recipe says."""

    what: str
    paper: str
    released: str
    medvl: str


@dataclass(config=SECTION, frozen=True, slots=True)
class Method:
    """What is known of one method."""

    switches: tuple[Difference, ...]
    unswitched: tuple[Unswitched, ...]


@cache
def method_of(name: str) -> Method:
    """The differences of `lvit` or `g2d`. InputError where its file holds anything else."""
    return read_typed(FOLDER / f"{name}.yaml", Method)


def preset_values(preset: str, source: str = "configuration", method: str = "lvit") -> dict[str, Any]:
    """The keys and values that a preset sets where a recipe sets nothing."""
    names = get_args(Preset)
    if preset not in names:
        like = nearest(str(preset), names)
        raise InputError.unknown(
            f"unknown fidelity {preset!r}",
            file=source,
            expected=" | ".join(names),
            remedy=f"did you mean {like}?" if like else None,
        )
    return {row.key: getattr(row, preset) for row in method_of(method).switches}


def markdown(method: str = "lvit") -> str:
    """The tables of a method in docs/fidelity.md."""
    lines = ["| switch | paper | released | medvl | why | evidence |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{row.key}` | {row.paper} | {row.released} | {row.medvl} | {row.reason} | {row.evidence} |"
        for row in method_of(method).switches
    ]
    lines += ["", "No preset sets these:", "", "| what | paper | released | medvl |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.what} | {row.paper} | {row.released} | {row.medvl} |" for row in method_of(method).unswitched]
    return "\n".join(lines) + "\n"
