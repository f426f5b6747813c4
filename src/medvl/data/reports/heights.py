"""Which words of a text name a height: upper, lower and their like.

Height words: upper/lower, superior/inferior, top/bottom, above/below, apex/base, apical/basal, and the middle letter of
RUL, LLZ, RUQ. Not heights, and never swapped: limits ("upper limit of normal"), places in the text ("as above"), and
names of anatomy that hold wherever it stands in the image ("upper limb", "vena cava", "cardiac apex").
"""

from __future__ import annotations

import re
from functools import lru_cache

from medvl.data.reports.marks import Mark, around, like

_HEIGHTS = {
    "upper": "lower",
    "uppermost": "lowermost",
    "superior": "inferior",
    "superiorly": "inferiorly",
    "top": "bottom",
    "above": "below",
    "apex": "base",
    "apices": "bases",
    "apical": "basal",
    "apically": "basally",
    "biapical": "bibasilar",
    "suprahilar": "infrahilar",
    "upward": "downward",
    "upwards": "downwards",
    "cephalad": "caudad",
    "uz": "lz",
}
UP_DOWN = {
    **_HEIGHTS,
    **{low: high for high, low in _HEIGHTS.items()},
    "basilar": "apical",  # comes back as basal
    "bibasal": "biapical",  # comes back as bibasilar
}
_MARK = re.compile(
    r"(?<![A-Za-z])(?:(?P<part>[RL](?:[UL]|\.\s?[UL]\.\s?)[LZQ])|(?P<lingula>lingul(?:a|ae|ar))|"
    rf"(?P<word>{'|'.join(sorted(UP_DOWN, key=len, reverse=True))}))(?![A-Za-z])",
    re.ASCII | re.IGNORECASE,
)
_LIMB_AFTER = re.compile(
    r"^(?:\s*(?:,|/|and|or)\s*(?:the\s+)?(?:upper|lower))?[\s-]+(?:(?:left|right)\s+)?"
    r"(?:limbs?|extremit(?:y|ies)|arms?|legs?|respiratory|airways?|gi|vena\s+cava)\b",
    re.IGNORECASE,
)
_NOT_HEIGHT = re.compile(
    r"^[\s-]+(?:normal|limits?|average|than|lung\s+volumes?|lordotic|curvature|attenuation|dose|grade|risk)\b",
    re.IGNORECASE,
)
_NOT_HEIGHT_BEFORE = re.compile(r"\b(?:on|as|the|see)\s+$", re.IGNORECASE)  # "as above"
_SAID_BEFORE = re.compile(r"\b(?:described|discussed|detailed|mentioned|noted|seen)\s+$", re.IGNORECASE)
_SAID_AFTER = re.compile(
    r"^[\s-]+(?:findings?|described|mentioned|noted|listed|results?|baseline|\d+(?:\.\d+)?(?!\d|st|nd|rd|th))",
    re.IGNORECASE,
)
_PLACE_AFTER = re.compile(r"^\s+(?:the|an?|this|left|right)\b", re.IGNORECASE)  # "seen above the diaphragm"
_POLE_BEFORE = re.compile(r"\b(?:skull|cardiac|heart|ventricular|acid)[\s-]+$", re.IGNORECASE)
_POLE_AFTER = re.compile(
    r"^\s+of\s+(?:the\s+|a\s+)?(?:\w+\s+)?(?:skull|heart|neck|tongue|thumb|glenoid|metacarpals?|metatarsals?|"
    r"phalan(?:x|ges)|curvature)\b",
    re.IGNORECASE,
)
_POLES = ("apex", "apices", "base", "bases")


@lru_cache(maxsize=1 << 14)
def height_marks(text: str) -> tuple[Mark, ...]:
    """The marks of heights in `text` (as `spell` gives it), in its order; what looks like one and is none reads ""."""
    marks = []
    for match in _MARK.finditer(text):
        part, word = match["part"], match["word"]
        if match["lingula"]:  # the lower end of an upper lobe
            marks.append(Mark(*match.span(), (), None, match[0]))
        elif part:
            if part.isupper() or part.islower() or part in ("Rul", "Rll", "Lul", "Lll"):
                middle = re.sub("[UuLl]", _other_height, part[1:-1])
                marks.append(Mark(*match.span(), (), part[0] + middle + part[-1], part))
        elif word.lower() not in ("uz", "lz") or word.isupper():
            if _is_height(text, match):
                marks.append(Mark(*match.span(), (), like(word, UP_DOWN[word.lower()]), word))
            else:
                marks.append(Mark(*match.span(), (), word, ""))
    return tuple(marks)


def _other_height(match: re.Match[str]) -> str:
    return like(match[0], "l" if match[0] in "uU" else "u")


def _is_height(text: str, match: re.Match[str]) -> bool:
    before, after = around(text, *match.span())
    word = match[0].lower()
    if _LIMB_AFTER.match(after) or _NOT_HEIGHT.match(after):
        return False
    if word in _POLES:
        return not (_POLE_BEFORE.search(before) or _POLE_AFTER.match(after))
    if word in ("above", "below"):
        if _NOT_HEIGHT_BEFORE.search(before) or _SAID_AFTER.match(after):
            return False
        return not _SAID_BEFORE.search(before) or bool(_PLACE_AFTER.match(after))
    return True
