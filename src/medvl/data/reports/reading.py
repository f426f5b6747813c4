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
from dataclasses import dataclass

from medvl.data.reports.heights import UP_DOWN, height_marks
from medvl.data.reports.marks import Side
from medvl.data.reports.sides import side_marks
from medvl.data.reports.spelling import spell

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
_NO_TERMS = _NOT_TERMS | _ZONES.keys() | _COUNTS.keys() | set("left right lt rt levo dextro".split()) | UP_DOWN.keys()


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
    for sentence in _SENTENCE.split(spell(text)):
        words = _words(sentence)
        negated = bool(_NEGATIONS.search(sentence))
        count = next((_COUNTS[w] for w in words if w in _COUNTS and not _is_fraction(words, w)), None)
        term = next((w for w in words if not (w.isdigit() or w in _NO_TERMS)), None)
        groups = _places(words)
        if not groups and (term is not None or count is not None):
            groups = [(None, frozenset())]
        result += [Finding(term, side, zones, count, negated) for side, zones in groups]
    return tuple(result)


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


def _words(sentence: str) -> list[str]:
    """The words in lower case: sides as left and right, lobes in full, without what looks like a place and is none."""
    edits = [(m.start, m.end, m.reads) for m in side_marks(sentence) if m.sides or m.mirrored is not None]
    taken = [(start, end) for start, end, _ in edits]
    for m in height_marks(sentence):
        if all(m.end <= start or m.start >= end for start, end in taken):
            edits.append((m.start, m.end, m.reads))
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
