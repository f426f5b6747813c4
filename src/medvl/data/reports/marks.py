"""Where a text names a place: the marks of sides and heights that every other rule is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "bilateral"]
NEAR = 60  # characters before and after a word that decide what it means


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of a text that names a side or a height, or that looks so and may name none.

    `mirrored` replaces it in the text of the flipped image; None: no words are certain to be true there.
    `sides` are the sides that it names; `reads` is what a reader hears, in plain words ("RUL": "right upper lobe").
    """

    start: int
    end: int
    sides: tuple[Literal["left", "right"], ...]
    mirrored: str | None
    reads: str


def around(text: str, start: int, end: int) -> tuple[str, str]:
    """What stands before `start` and after `end` in the same line, at most NEAR characters each."""
    before = text[max(0, start - NEAR) : start]
    return before.rpartition("\n")[2], text[end : end + NEAR].partition("\n")[0]


def like(model: str, word: str) -> str:
    """`word` in the case of `model`."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
