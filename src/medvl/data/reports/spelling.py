"""Places as people type them: the misspelt words of the QaTa captions, words that were run together."""

from __future__ import annotations

import re

from medvl.data.reports.marks import like

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
