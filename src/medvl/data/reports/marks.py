"""Marks between words, and spellings of one word."""

from __future__ import annotations

import re
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


# Lower case only, for some are names otherwise.
_MISSPELT = {
    "left": "leff eft",
    "left lung": "leflung",
    "right": "rught ight",
    "upper": "uppper lupper uooer upperl",
    "middle": "midddle midlle mddle midldle midle middlr midde mmiddle middlel iddle",
    "lower": "lowerl ower lowe lowoer loweer lwoer rlower llower",
}
_SIDES = {  # in capitals, too
    **dict.fromkeys("lefft leftt letf lfet".split(), "left"),
    **dict.fromkeys("righ rigth rihgt rigt riht".split(), "right"),
}
_MISSPELT_SIDE = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(_SIDES)})(?![A-Za-z])", re.IGNORECASE)
_SPELLINGS = {wrong: word for word, wrongs in _MISSPELT.items() for wrong in wrongs.split()}
_MISSPELT_WORD = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(_SPELLINGS)})(?![A-Za-z])")
_JOINED = re.compile(
    r"(?<![A-Za-z])(upper|middle|lower|left|right|and|mid(?!dle|lungs?\b)|one|two|three|four|five|six)"
    r"(?=(?:upper|middle|lower|left|right|all|lungs?|infected)(?![A-Za-z]))",
    re.IGNORECASE,
)
_LIFT = re.compile(r"\blift(?=\s+lung\b)")
_HIGHER = re.compile(r"\bhigher(?=\s+(?:(?:middle|lower)\s+)*(?:left|right)\s+lung\b)")  # for "upper"


def spell(text: str) -> str:
    """The text with its misspelt places put right ("leff lung") and joined words parted ("rightlung")."""
    text = _JOINED.sub(r"\1 ", text)
    text = _MISSPELT_SIDE.sub(lambda match: like(match[0], _SIDES[match[0].lower()]), text)
    text = _MISSPELT_WORD.sub(lambda match: _SPELLINGS[match[0]], text)
    return _HIGHER.sub("upper", _LIFT.sub("left", text))
