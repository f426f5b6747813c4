"""What a sentence says about places: side, height, count, negation; and how it reads after the picture was flipped.

The rules are English and lexical. Side words: left, right (LEFT, left-sided, leftwards, lt, rt). Height words:
upper/lower, superior/inferior, top/bottom, above/below, apex/base, apical/basal. Lobes: RUL, RML, RLL, LUL, LLL. Not
places, and never swapped: "left" as a verb ("if left untreated", "was left in place", "left the hospital"), "right" as
an adverb ("right away", "all right", "right now"), limits ("upper limit of normal"), places in the text ("as above"),
and names of anatomy that hold wherever it stands in the picture ("upper limb", "vena cava", "cardiac apex").
"Bilateral", "both" and "left and right" mean both sides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "bilateral"]

_SIDES = {"left": "right", "lt": "rt"}
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
}
_LEFT_RIGHT = {**_SIDES, **{right: left for left, right in _SIDES.items()}}
_UP_DOWN = {
    **_HEIGHTS,
    **{low: high for high, low in _HEIGHTS.items()},
    "basilar": "apical",  # comes back as basal
    "bibasal": "biapical",  # comes back as bibasilar
}
_SUFFIX = "(?:-?sided|wards?|most)?"


def _pattern(words: Iterable[str], suffix: str = "") -> re.Pattern[str]:
    either = "|".join(sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![A-Za-z])(?<!&(?=lt;))({either})({suffix})(?![A-Za-z])", re.ASCII | re.IGNORECASE)


_SIDE_WORD = _pattern(_LEFT_RIGHT, _SUFFIX)
_HEIGHT_WORD = _pattern(_UP_DOWN)
_LOBE = re.compile(r"(?<![A-Za-z])([RL])([UML])L(?![A-Za-z])")
_LOBE_SIDES = {"R": "right", "L": "left"}
_LOBE_HEIGHTS = {"U": "upper", "M": "middle", "L": "lower"}

# Spellings of the QaTa captions; lower case only, for some are names otherwise.
_MISSPELT = {
    "left": "leff eft",
    "left lung": "leflung",
    "right": "rught ight",
    "upper": "uppper lupper uooer upperl",
    "middle": "midddle midlle mddle midldle midle middlr midde mmiddle middlel iddle",
    "lower": "lowerl ower lowe lowoer loweer lwoer rlower llower",
}
_SPELLINGS = {wrong: word for word, wrongs in _MISSPELT.items() for wrong in wrongs.split()}
_MISSPELT_WORD = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(_SPELLINGS)})(?![A-Za-z])")
_JOINED = re.compile(
    r"(?<![A-Za-z])(upper|middle|lower|left|right|and|mid(?!dle|lungs?\b)|one|two|three|four|five|six)"
    r"(?=(?:upper|middle|lower|left|right|all|lungs?|infected)(?![A-Za-z]))",
    re.IGNORECASE,
)
_LIFT = re.compile(r"\blift(?=\s+lung\b)")
_HIGHER = re.compile(r"\bhigher(?=\s+(?:(?:middle|lower)\s+)*(?:left|right)\s+lung\b)")  # for "upper"

# A side word is none where what stands round it makes it a verb or an adverb. Judged by the words around alone, not by
# which of the two it is, and by none that a flip swaps: else a swap could not be undone.
_ARTICLE_BEFORE = re.compile(
    r"\b(?:the|his|her|their|its|patient's|on|to|from|towards?|than|upper|middle|lower)\s+$", re.IGNORECASE
)
_THERE_BEFORE = re.compile(r"\bthere\s+(?:is|are|was|were|(?:has|have)\s+been)\s+$", re.IGNORECASE)
_VERB_BEFORE = re.compile(
    r"\b(?:has|have|had|having|was|were|is|are|be|been|being|if|when|he|she|they|who|patient|it|then|all|just|own)\s+$",
    re.IGNORECASE,
)
_IS_BEFORE = re.compile(r"\b(?:is|are)\s+$", re.IGNORECASE)
_VERB_AFTER = re.compile(
    r"^\s+(?:un(?!ited|changed)\w+ed|alone|in\s+(?:place|situ)|behind|over|out|open(?!\s+reduction)|against|"
    r"(?:the|an?)(?=\s)|hospital|on\s+\d|at\s+\d|for\s+home)\b",
    re.IGNORECASE,
)
# What may follow a verb or an adverb and cannot begin the name of a part of the body.
_NO_NOUN_AFTER = re.compile(
    r"^\s*(?:$|[.,;:!?)])|^\s+(?:his|her|their|its|this|that|him|them|it|to|with|without|by|for|from|in|on|at|as|but|"
    r"because|due|while|until|since|early|again|here|there|then|only|unchanged|yesterday|today|"
    r"(?:and|or)(?!\s+(?:the\s+)?(?:all|left|right|upper|middle|lower)\b))\b",
    re.IGNORECASE,
)
_ADVERB_AFTER = re.compile(r"^\s+(?:away|now|after|before|next|where|here|there|through|angles?)\b", re.IGNORECASE)
_NOT_SIDE_AFTER = re.compile(
    r"^-(?:hand(?:ed|edness)|pcr)\b|^\s+(?:diagnosis|treatment|dose|answer|choice)\b", re.IGNORECASE
)

# A height word is none in the name of something that keeps it however the picture is turned, and in comparisons.
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
_NEAR = 40  # characters before a word that are looked at

_ZONES = {
    "upper": "upper", "uppermost": "upper", "superior": "upper", "superiorly": "upper", "apical": "upper",
    "apically": "upper", "apex": "upper", "apices": "upper", "biapical": "upper", "top": "upper",
    "middle": "middle", "mid": "middle", "midzone": "middle", "midlung": "middle", "central": "middle",
    "lower": "lower", "lowermost": "lower", "inferior": "lower", "inferiorly": "lower", "basal": "lower",
    "basally": "lower", "base": "lower", "bases": "lower", "bibasal": "lower", "bibasilar": "lower",
    "basilar": "lower", "bottom": "lower",
}  # fmt: skip
_COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
WHOLE = "whole"  # "all left lung": stands where zones stand and means no third in particular
_BOTH = {"both", "bilateral", "bilaterally", "biapical", "bibasal", "bibasilar", "lungs"}
_NEGATIONS = re.compile(
    r"\b(?:no|not|without|absent|free of|clear of|negative for|denies|no evidence of|resolved)\b", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.;!?])\s+|\n+")
_NOT_TERMS = set(
    "lung lungs zone zones third thirds field fields part parts region regions area areas side sides lobe lobes "
    "the a an of in on and or with plus is are was were there this that all entire whole complete two one three "
    "four five six located within at to view frontal lateral oblique limb sided no not without evidence both bilateral "
    "unilateral right left any seen noted infected if when hemithorax hemithoraces which has have".split()
)
_ENGLISH = set(
    "the a an of in on and or with is are was were there this that no not without all both right left upper lower "
    "middle lung lungs zone zones field fields lobe opacity opacities infection infected area areas consolidation "
    "effusion chest pulmonary pleural heart cardiac normal clear bilateral unilateral region regions third thirds "
    "side part entire whole lesion lesions mass nodule one two three nuclei density distributed located frontal "
    "lateral view tumor tumour bone patient evidence pneumonia pneumothorax ground glass acute".split()
)
_OTHER = set(
    "der die das und lunge lungen ohne mit im beidseits nicht keine kein oberlappen unterlappen el la los las "
    "pulmon pulmones sin con del le les poumon poumons sans avec du des et il polmone polmoni senza di pulmao nel "
    "lobo inferiore superiore".split()
)
_OTHER_SIDES = re.compile(
    r"\b(?:links|rechts|link(?:e[rnms]?|er)|rechte[rnms]?|gauches?|droite?s?|izquierd[oa]s?|derech[oa]s?|"
    r"sinistr[oaie]|destr[oaie]|esquerd[oa]s?|direit[oa]s?)\b"
)


_NO_TERMS = _NOT_TERMS | _ZONES.keys() | _COUNTS.keys() | _LEFT_RIGHT.keys() | _UP_DOWN.keys()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a text says: what, on which side, in which thirds, how many, and whether it is denied."""

    term: str | None
    side: Side | None
    zones: frozenset[str]
    count: int | None
    negated: bool


def findings(text: str) -> tuple[Finding, ...]:
    """Read findings off a text: one per side and clause.

    In "right upper and left lower zones" each side takes the zones named with it: those between it and the next side
    word, or, where zones come first ("upper zone of the right lung"), those before it.
    """
    result: list[Finding] = []
    for sentence in _SENTENCE.split(_spell(text)):
        words = _words(sentence)
        negated = bool(_NEGATIONS.search(sentence))
        count = next((_COUNTS[w] for w in words if w in _COUNTS and not _is_fraction(words, w)), None)
        term = next((w for w in words if not (w.isdigit() or w in _NO_TERMS)), None)
        groups = _places(words)
        if not groups and (term is not None or count is not None):
            groups = [(None, frozenset())]
        result += [Finding(term, side, zones, count, negated) for side, zones in groups]
    return tuple(result)


def mirror_text(text: str, *, left_right: bool = False, up_down: bool = False) -> str:
    """The text of the flipped picture: side words swapped, or height words, or both. Case is kept.

    Twice the same flip gives the text back, except that misspelt places come back spelt right ("leff" as "left"), and,
    after up-down flips, "basilar" as "basal" and "bibasal" as "bibasilar".
    """
    if left_right or up_down:
        text = _spell(text)
    if left_right:
        text = _swap(text, _SIDE_WORD, _LEFT_RIGHT, _is_side)
        text = _LOBE.sub(lambda match: f"{'L' if match[1] == 'R' else 'R'}{match[2]}L", text)
    if up_down:
        text = _swap(text, _HEIGHT_WORD, _UP_DOWN, _is_height)
        text = _LOBE.sub(lambda match: f"{match[1]}{ {'U': 'L', 'L': 'U', 'M': 'M'}[match[2]] }L", text)
    return text


def names_side(text: str) -> bool:
    """Whether a word of the text names the left or the right side."""
    text = _spell(text)
    return bool(_LOBE.search(text)) or any(_is_side(text, match) for match in _SIDE_WORD.finditer(text))


def names_height(text: str) -> bool:
    """Whether a word of the text names a height (upper, lower, ...)."""
    text = _spell(text)
    lobes = (match[2] for match in _LOBE.finditer(text))
    return any(lobe != "M" for lobe in lobes) or any(_is_height(text, match) for match in _HEIGHT_WORD.finditer(text))


def is_english(text: str) -> bool:
    """Whether the rules of this module may be applied.

    Latin letters, no side word of German, French, Spanish, Italian or Portuguese, and more words that are typical of
    English reports than of those. An empty text is English: there is nothing to get wrong.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return True
    if sum(c.isascii() for c in letters) < 0.9 * len(letters):
        return False
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()  # accents taken off
    if _OTHER_SIDES.search(plain):
        return False
    words = re.findall(r"[a-z]+", plain)
    num_other = sum(word in _OTHER for word in words)
    return num_other == 0 or num_other < sum(word in _ENGLISH for word in words)


def negate_text(text: str) -> str:
    """The same findings denied, sentence by sentence: "No evidence of ..."; one that begins with a denial loses it."""
    stripped = text.strip()
    if not stripped:
        return text
    parts = re.split(rf"({_SENTENCE.pattern})", stripped)  # sentences and the white space between them
    return "".join(_negate(part) if re.search(r"[^\W\d_]", part) else part for part in parts)


def _negate(sentence: str) -> str:
    denied = re.match(r"(?:no evidence of|there is no|no|without)\s+", sentence, re.IGNORECASE)
    if denied:
        rest = sentence[denied.end() :]
        return rest[:1].upper() + rest[1:]
    head = sentence if re.match(r"[A-Z][A-Z\d]", sentence) else sentence[:1].lower() + sentence[1:]
    return f"No evidence of {head}"


def _spell(text: str) -> str:
    """The misspelt places of the QaTa captions put right, words that were run together parted."""
    text = _JOINED.sub(r"\1 ", text)
    text = _MISSPELT_WORD.sub(lambda match: _SPELLINGS[match[0]], text)
    return _HIGHER.sub("upper", _LIFT.sub("left", text))


def _swap(
    text: str, pattern: re.Pattern[str], table: dict[str, str], is_place: Callable[[str, re.Match[str]], bool]
) -> str:
    def swapped(match: re.Match[str]) -> str:
        if not is_place(text, match):
            return match[0]
        return _like(match[1], table[match[1].lower()]) + match[2]

    return pattern.sub(swapped, text)


def _is_side(text: str, match: re.Match[str]) -> bool:
    before, after = _around(text, match)
    if match[2]:
        return True  # left-sided, leftward
    if match[1] in ("LT", "RT") or _NOT_SIDE_AFTER.match(after):
        return False  # RT: radiotherapy
    if _ARTICLE_BEFORE.search(before):
        return True
    if _VERB_AFTER.match(after) or _ADVERB_AFTER.match(after):
        return False
    if _THERE_BEFORE.search(before) or not _VERB_BEFORE.search(before):
        return True
    if _IS_BEFORE.search(before) and re.match(r"\s*[.,;]", after):
        return True  # "the aortic arch is left."
    return not _NO_NOUN_AFTER.match(after)


def _is_height(text: str, match: re.Match[str]) -> bool:
    before, after = _around(text, match)
    word = match[1].lower()
    if _LIMB_AFTER.match(after) or _NOT_HEIGHT.match(after):
        return False
    if word in _POLES:
        return not (_POLE_BEFORE.search(before) or _POLE_AFTER.match(after))
    if word in ("above", "below"):
        if _NOT_HEIGHT_BEFORE.search(before) or _SAID_AFTER.match(after):
            return False
        return not _SAID_BEFORE.search(before) or bool(_PLACE_AFTER.match(after))
    return True


def _around(text: str, match: re.Match[str]) -> tuple[str, str]:
    """What stands before and after the match in its line."""
    before = text[max(0, match.start() - _NEAR) : match.start()]
    return before.rpartition("\n")[2], text[match.end() :].partition("\n")[0]


def _like(model: str, word: str) -> str:
    """`word` in the case of `model`."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def _words(sentence: str) -> list[str]:
    """The words in lower case: sides as left and right, lobes in full, without what looks like a place and is none."""
    edits: list[tuple[int, int, str]] = []  # from, to, what is read instead; all judged in the sentence as it is
    for match in _SIDE_WORD.finditer(sentence):
        side = {"lt": "left", "rt": "right"}.get(match[1].lower(), match[1])
        edits.append((*match.span(), side if _is_side(sentence, match) else ""))
    for match in _HEIGHT_WORD.finditer(sentence):
        edits.append((*match.span(), match[0] if _is_height(sentence, match) else ""))
    for match in _LOBE.finditer(sentence):
        edits.append((*match.span(), f"{_LOBE_SIDES[match[1]]} {_LOBE_HEIGHTS[match[2]]} lobe"))
    for start, end, word in sorted(edits, reverse=True):
        sentence = f"{sentence[:start]} {word} {sentence[end:]}"
    return re.findall(r"[a-z]+|\d+", sentence.lower())


def _is_fraction(words: list[str], word: str) -> bool:
    """ "two thirds", "one zone": not a number of findings."""
    after = words[words.index(word) + 1 :][:1]
    return bool(after) and after[0] in ("third", "thirds", "zone", "zones", "lungs", "sides")


def _places(words: list[str]) -> list[tuple[Side | None, frozenset[str]]]:
    """(side, zones) in the order of the text."""
    marks: list[tuple[str, str]] = []  # ("side", left) | ("zone", upper) | ("join", ",")
    for i, word in enumerate(words):
        if word in ("left", "right"):
            marks.append(("side", word))
        elif word in _BOTH and not (word == "lungs" and any(kind == "side" for kind, _ in marks)):
            marks.append(("side", "bilateral"))
        elif word in ("all", "entire", "whole", "complete"):
            marks.append(("zone", WHOLE))
        if word in _ZONES:
            marks.append(("zone", _ZONES[word]))
            if _ZONES[word] != "middle" and words[i + 1 : i + 3] == ["two", "thirds"]:
                marks.append(("zone", "middle"))
    named = {value for kind, value in marks if kind == "side"}
    if marks and marks[0] == ("side", "bilateral") and {"left", "right"} & named:
        marks.pop(0)  # "Bilateral infection, ... left lung and ... right lung": what follows says where
    sides = [i for i, (kind, _) in enumerate(marks) if kind == "side"]
    if not sides:
        zones = _zones(marks)
        return [(None, zones)] if zones else []
    # Zones stand before their side ("upper zone of the right lung") or behind it ("right upper zone").
    leading = marks[0][0] == "zone"
    found: list[tuple[str, set[str]]] = []
    for n, i in enumerate(sides):
        if leading:
            before = marks[sides[n - 1] + 1 if n else 0 : i]
            behind = marks[i + 1 :] if n == len(sides) - 1 else []  # zones after the last side belong to it
            found.append((marks[i][1], {value for kind, value in [*before, *behind] if kind == "zone"}))
        else:
            end = sides[n + 1] if n + 1 < len(sides) else len(marks)
            found.append((marks[i][1], {value for kind, value in marks[i + 1 : end] if kind == "zone"}))
    shared = found[0][1] | found[-1][1]
    if len(found) == 2 and named >= {"left", "right"} and not (found[0][1] and found[1][1]) and _adjacent(words):
        return [("bilateral", frozenset(shared - {WHOLE}))]  # "right and left upper zones": the zones are of both
    merged: dict[str, set[str]] = {}
    for side, zones_here in found:
        merged.setdefault(side, set()).update(zones_here)
    return [(side, frozenset(zones - {WHOLE})) for side, zones in merged.items()]  # type: ignore[misc]  # keys are sides


def _zones(marks: list[tuple[str, str]]) -> frozenset[str]:
    return frozenset(value for kind, value in marks if kind == "zone") - {WHOLE}


def _adjacent(words: list[str]) -> bool:
    """ "right and left", "left and right"."""
    text = " ".join(words)
    return bool(re.search(r"\b(?:right and(?: the)? left|left and(?: the)? right)\b", text))
