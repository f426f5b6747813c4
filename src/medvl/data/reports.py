"""What a sentence says about places: side, height, count, negation; and how it reads after the picture was flipped.

The rules are English and lexical. Side words: left, right (LEFT, left-sided, leftwards). Height words: upper/lower,
superior/inferior, top/bottom, above/below, apical/basal. Not places, and never swapped: "left" as a verb ("if left
untreated", "was left in", "has left", "left the hospital"), "right" as an adverb ("right away", "all right", "right
now"), and limbs ("upper limb", "lower extremity"), which name anatomy wherever it stands in the picture. "Bilateral",
"both" and "left and right" mean both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "bilateral"]

_SIDES = {"left": "right", "leff": "right"}  # leff: a spelling of the QaTa captions
_HEIGHTS = {
    "upper": "lower",
    "uppermost": "lowermost",
    "superior": "inferior",
    "superiorly": "inferiorly",
    "top": "bottom",
    "above": "below",
    "apical": "basal",
}
_LEFT_RIGHT = {"left": "right", "right": "left", "leff": "right"}
_UP_DOWN = {**_HEIGHTS, **{low: high for high, low in _HEIGHTS.items()}}
_SUFFIX = r"(?i:-?sided|wards?|most)?"


def _pattern(words: Iterable[str], suffix: str = "") -> re.Pattern[str]:
    """The words in lower, Title and UPPER case: spellings that can be swapped and swapped back."""
    forms = [form for word in words for form in (word, word.capitalize(), word.upper())]
    either = "|".join(sorted(forms, key=len, reverse=True))
    return re.compile(rf"(?<![A-Za-z])({either})({suffix})(?![A-Za-z])")


_SIDE_WORD = _pattern(_LEFT_RIGHT, _SUFFIX)
_HEIGHT_WORD = _pattern(_UP_DOWN)

# What follows or precedes a side word that is none.
_VERB_BEFORE = re.compile(
    r"(?:\b(?:has|have|had|having|was|were|is|are|be|been|being|if|when|he|she|they|who|patient|it|then|and\s+then)\s+)$",
    re.IGNORECASE,
)
_VERB_AFTER = re.compile(
    r"^\s+(?:untreated|alone|in\s+(?:place|situ)|behind|over|out|open|unchanged|against|the\s+(?:hospital|ward|clinic|"
    r"country|department|icu)|hospital|on\s+\d|at\s+\d|for\s+(?:home|the\s+(?:ward|hospital)))\b",
    re.IGNORECASE,
)
_NOUN_AFTER = re.compile(
    r"^[\s-]+(?:lungs?|lobes?|side|sided|upper|lower|middle|mid|superior|inferior|hemithorax|base|apex|hilum|hilar|pleural?|"
    r"costophrenic|ventricle|ventricular|atrium|atrial|hemidiaphragm|perihilar|basal|apical|zones?|fields?|chest|arm|leg|hand|foot|knee|hip|and|of)\b",
    re.IGNORECASE,
)
_ADVERB_BEFORE = re.compile(r"\b(?:all|just)\s+$", re.IGNORECASE)
_ADVERB_AFTER = re.compile(r"^\s+(?:away|now|after|before|angles?)\b", re.IGNORECASE)
_LIMB_AFTER = re.compile(r"^[\s-]+(?:limbs?|extremit(?:y|ies)|arms?|legs?)\b", re.IGNORECASE)
_NOT_HEIGHT = re.compile(r"^[\s-]+(?:normal|limits?|average|than)\b|^-grade\b", re.IGNORECASE)
_NOT_HEIGHT_BEFORE = re.compile(r"\b(?:on|as|the|see|described|mentioned|noted|seen)\s+$", re.IGNORECASE)  # "as above"

_ZONES = {
    "upper": "upper", "superior": "upper", "apical": "upper", "apex": "upper", "apices": "upper", "top": "upper",
    "higher": "upper", "uppers": "upper",
    "middle": "middle", "mid": "middle", "mddle": "middle", "midddle": "middle", "central": "middle",
    "lower": "lower", "lowerl": "lower", "inferior": "lower", "basal": "lower", "base": "lower", "bases": "lower",
    "bottom": "lower", "bibasal": "lower", "bibasilar": "lower", "basilar": "lower",
}  # fmt: skip
_COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
WHOLE = "whole"  # "all left lung": stands where zones stand and means no third in particular
_BOTH = {"both", "bilateral", "bilaterally", "bibasal", "bibasilar", "lungs"}
_NEGATIONS = re.compile(
    r"\b(?:no|not|without|absent|free of|clear of|negative for|denies|no evidence of|resolved)\b", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.;!?])\s+|\n+")
_NOT_TERMS = set(
    "lung lungs zone zones third thirds field fields part parts region regions area areas side sides lobe lobes "
    "the a an of in on and or with plus is are was were there this that all entire whole complete two one three "
    "four five six located within at to view frontal lateral oblique limb no not without evidence both bilateral "
    "unilateral right left any seen noted infected oneinfected if when hemithorax hemithoraces which has have".split()
)
_ENGLISH = set(
    "the a an of in on and or with is are was were there this that no not without all both right left upper lower "
    "middle lung lungs zone zones field fields lobe opacity opacities infection infected area areas consolidation "
    "effusion chest pulmonary pleural heart cardiac normal clear bilateral unilateral region regions third thirds "
    "side part entire whole lesion lesions mass nodule one two three nuclei density distributed located frontal "
    "lateral view tumor tumour bone patient evidence pneumonia pneumothorax ground glass acute".split()
)
_OTHER = set(
    "der die das und links rechts lunge lungen ohne mit im beidseits nicht keine kein oberlappen unterlappen "
    "rechte linke el la los las izquierdo derecho pulmon pulmones sin con del izquierda derecha le les gauche "
    "droite poumon poumons sans avec du des et il sinistro destro polmone polmoni senza di esquerdo direito "
    "pulmao nel lobo inferiore superiore".split()
)


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
    for sentence in _SENTENCE.split(text):
        words = [word for word in re.findall(r"[a-z]+|\d+", _mask_non_places(sentence).lower()) if word]
        if not words:
            continue
        negated = bool(_NEGATIONS.search(sentence))
        count = next((_COUNTS[w] for w in words if w in _COUNTS and not _is_fraction(words, w)), None)
        if "oneinfected" in words:
            count = 1
        term = next((w for w in words if not (w in _NOT_TERMS or w in _ZONES or w in _COUNTS or w in _SIDES)), None)
        groups = _places(words)
        if not groups and (term is not None or count is not None):
            groups = [(None, frozenset())]
        result += [Finding(term, side, zones, count, negated) for side, zones in groups]
    return tuple(result)


def mirror_text(text: str, *, left_right: bool = False, up_down: bool = False) -> str:
    """The text of the flipped picture: side words swapped, or height words, or both. Case is kept.

    Twice the same flip gives the text back, except that a misspelt "leff" comes back as "left".
    """
    if left_right:
        text = _swap(text, _SIDE_WORD, _LEFT_RIGHT, _is_side)
    if up_down:
        text = _swap(text, _HEIGHT_WORD, _UP_DOWN, _is_height)
    return text


def names_side(text: str) -> bool:
    """Whether a word of the text names the left or the right side."""
    return any(_is_side(text, match) for match in _SIDE_WORD.finditer(text))


def names_height(text: str) -> bool:
    """Whether a word of the text names a height (upper, lower, ...)."""
    return any(_is_height(text, match) for match in _HEIGHT_WORD.finditer(text))


def is_english(text: str) -> bool:
    """Whether the rules of this module may be applied.

    Latin letters, and no more words that are typical of German, French, Spanish, Italian or Portuguese reports than
    English ones. An empty text is English: there is nothing to get wrong.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return True
    if sum(c.isascii() for c in letters) < 0.9 * len(letters):
        return False
    words = re.findall(r"[a-z]+", text.lower())
    return sum(word in _OTHER for word in words) <= sum(word in _ENGLISH for word in words)


def negate_text(text: str) -> str:
    """The same findings denied: "No evidence of ..."; a text that begins with a denial has it taken away."""
    stripped = text.strip()
    if not stripped:
        return text
    denied = re.match(r"(?:no evidence of|there is no|no|without)\s+", stripped, re.IGNORECASE)
    if denied:
        rest = stripped[denied.end() :]
        return rest[:1].upper() + rest[1:]
    head = stripped if stripped[:2].isupper() else stripped[:1].lower() + stripped[1:]
    return f"No evidence of {head}"


def _swap(text: str, pattern: re.Pattern[str], table: dict[str, str], is_place: object) -> str:
    check = _is_side if is_place is _is_side else _is_height

    def swapped(match: re.Match[str]) -> str:
        if not check(text, match):
            return match[0]
        return _like(match[1], table[match[1].lower()]) + match[0][len(match[1]) :]

    return pattern.sub(swapped, text)


def _is_side(text: str, match: re.Match[str]) -> bool:
    before, after = text[: match.start()], text[match.end() :]
    # Judged by the words around alone, not by which of the two it is: else a swap could not be undone.
    if _VERB_AFTER.match(after) or _ADVERB_AFTER.match(after):
        return False
    return not (_VERB_BEFORE.search(before) or _ADVERB_BEFORE.search(before)) or bool(_NOUN_AFTER.match(after))


def _is_height(text: str, match: re.Match[str]) -> bool:
    before, after = text[: match.start()], text[match.end() :]
    if _LIMB_AFTER.match(after) or _NOT_HEIGHT.match(after):
        return False
    return not (match[1].lower() in ("above", "below") and _NOT_HEIGHT_BEFORE.search(before))


def _like(model: str, word: str) -> str:
    """`word` in the case of `model`."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def _mask_non_places(sentence: str) -> str:
    """The sentence without the words that look like places and are none."""
    for pattern, check in ((_SIDE_WORD, _is_side), (_HEIGHT_WORD, _is_height)):
        source = sentence
        sentence = pattern.sub(lambda m, s=source, c=check: m[0] if c(s, m) else " ", source)  # type: ignore[misc]  # bound
    return sentence


def _is_fraction(words: list[str], word: str) -> bool:
    """ "two thirds", "one zone": not a number of findings."""
    after = words[words.index(word) + 1 :][:1]
    return bool(after) and after[0] in ("third", "thirds", "zone", "zones", "lungs", "sides")


def _places(words: list[str]) -> list[tuple[Side | None, frozenset[str]]]:
    """(side, zones) in the order of the text."""
    marks: list[tuple[str, str]] = []  # ("side", left) | ("zone", upper) | ("join", ",")
    for i, word in enumerate(words):
        if word in ("left", "right", "leff"):
            marks.append(("side", "left" if word == "leff" else word))
        elif word in _BOTH and not (word == "lungs" and any(kind == "side" for kind, _ in marks)):
            marks.append(("side", "bilateral"))
        elif word in ("all", "entire", "whole", "complete"):
            marks.append(("zone", WHOLE))
        if word in _ZONES:
            marks.append(("zone", _ZONES[word]))
            if word in ("upper", "lower", "superior", "inferior") and words[i + 1 : i + 3] == ["two", "thirds"]:
                marks.append(("zone", "middle"))
    named = {value for kind, value in marks if kind == "side"}
    if marks and marks[0] == ("side", "bilateral") and {"left", "right"} <= named:
        marks.pop(0)  # "Bilateral infection, ... left lung and ... right lung": only says that both follow
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

