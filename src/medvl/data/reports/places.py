"""Which sides, thirds and numbers the words of one finding name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from medvl.data.reports.marks import Side

_ZONES = {
    "upper": "upper", "uppermost": "upper", "superior": "upper", "superiorly": "upper", "apical": "upper",
    "apically": "upper", "apex": "upper", "apices": "upper", "biapical": "upper", "top": "upper",
    "middle": "middle", "mid": "middle", "midzone": "middle", "midlung": "middle",
    "midlungs": "middle", "midzones": "middle", "central": "middle",
    "lower": "lower", "lowermost": "lower", "inferior": "lower", "inferiorly": "lower", "basal": "lower",
    "basally": "lower", "base": "lower", "bases": "lower", "bibasal": "lower", "bibasilar": "lower",
    "basilar": "lower", "bottom": "lower",
}  # fmt: skip
_COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
WHOLE = "whole"  # "all left lung": stands where zones stand and means no third in particular
_BOTH = {"both", "bilateral", "bilaterally", "bilat", "biapical", "bibasal", "bibasilar", "lungs"}
_CENTRAL_NAMES = {
    "line",
    "lines",
    "venous",
    "catheter",
    "airways",
    "airway",
    "vascular",
    "vessels",
    "depression",
    "pulmonary",
}
_SIDES = ("left", "right")
_JOIN = re.compile(
    r"(?:lung |side )?(?:and(?: the)?|(?:is |are )?(?:\w+ )?(?:greater|more|larger|bigger|worse|less|smaller)"
    r"(?: \w+)? than(?: the)?)"
)
_NOT_A_COUNT_BEFORE = {"small", "large", "smaller", "larger", "a", "an", "the", "this", "that", "other", "tiny"}
# Of both sides, one is only the worse: "bilateral effusions, larger on the left".
_COMPARISONS = set(
    "worse greater more larger bigger denser predominantly predominant predominating mostly mainly especially "
    "particularly most smaller less asymmetric asymmetrically increased increasing improved decreased "
    "greatest worst largest".split()
)


def count_of(words: Sequence[str]) -> int | None:
    """The number of findings: "three nodules"."""
    for i, word in enumerate(words):
        if word in _COUNTS and not _is_fraction(words, i) and not (i and words[i - 1] in _NOT_A_COUNT_BEFORE):
            return _COUNTS[word]
    return None


def places_of(words: Sequence[str]) -> list[tuple[Side | None, frozenset[str]]]:
    """(side, thirds) in the order of the text.

    In "right upper and left lower zones" each side takes the zones named with it: those between it and the next side
    word, or, where zones come first ("upper zone of the right lung"), those before it.
    """
    marks = _marks(_without_comparisons(words))
    named = {value for kind, value in marks if kind == "side"}
    if marks and marks[0] == ("side", "bilateral") and {"left", "right"} & named:
        marks.pop(0)  # "Bilateral infection, ... left lung and ... right lung": what follows says where
    sides = [i for i, (kind, _) in enumerate(marks) if kind == "side"]
    if not sides:
        zones = _zones(marks)
        return [(None, zones)] if zones else []
    leading = marks[0][0] == "zone"
    groups: list[tuple[str, set[str]]] = []
    for n, i in enumerate(sides):
        if leading:
            before = marks[sides[n - 1] + 1 if n else 0 : i]
            behind = marks[i + 1 :] if n == len(sides) - 1 else []  # zones after the last side belong to it
            groups.append((marks[i][1], {value for kind, value in [*before, *behind] if kind == "zone"}))
        else:
            end = sides[n + 1] if n + 1 < len(sides) else len(marks)
            groups.append((marks[i][1], {value for kind, value in marks[i + 1 : end] if kind == "zone"}))
    shared = groups[0][1] | groups[-1][1]
    if len(groups) == 2 and named >= {"left", "right"} and not (groups[0][1] and groups[1][1]) and _adjacent(words):
        return [("bilateral", frozenset(shared - {WHOLE}))]  # "right and left upper zones": the zones are of both
    merged: dict[str, set[str]] = {}
    for side, zones_of_side in groups:
        merged.setdefault(side, set()).update(zones_of_side)
    return [(side, frozenset(zones - {WHOLE})) for side, zones in merged.items()]  # type: ignore[misc]  # keys are sides


def is_side(word: str) -> bool:
    """Whether a word names a side."""
    return word in _SIDES or word in _BOTH


def is_place(word: str) -> bool:
    """Whether a word names a side or a third."""
    return word in _SIDES or (word in _ZONES and word != "central") or word in _BOTH


def _is_fraction(words: Sequence[str], i: int) -> bool:
    """ "two thirds", "one zone": not a number of findings."""
    return i + 1 < len(words) and words[i + 1] in ("third", "thirds", "zone", "zones", "lungs", "sides")


def _marks(words: Sequence[str]) -> list[tuple[str, str]]:
    """("side", left | right | bilateral) and ("zone", upper | middle | lower | whole)."""
    marks: list[tuple[str, str]] = []
    for i, word in enumerate(words):
        if word in _SIDES:
            marks.append(("side", word))
        elif word in _BOTH and not (word == "lungs" and any(kind == "side" for kind, _ in marks)):
            marks.append(("side", "bilateral"))
        elif word in ("all", "entire", "whole", "complete"):
            marks.append(("zone", WHOLE))
        if word in _ZONES and not (word == "central" and words[i + 1 : i + 2] and words[i + 1] in _CENTRAL_NAMES):
            marks.append(("zone", _ZONES[word]))
            if _ZONES[word] != "middle" and list(words[i + 1 : i + 3]) == ["two", "thirds"]:
                marks.append(("zone", "middle"))
    return marks


def _without_comparisons(words: Sequence[str]) -> Sequence[str]:
    """ "Bilateral opacities, worse on the left" without what is only the worse part of them."""
    sides = [i for i, word in enumerate(words) if word in _SIDES]
    both = next((i for i, word in enumerate(words) if word in _BOTH), len(words))
    if not sides or both > sides[0] or {words[i] for i in sides} == set(_SIDES):
        return words
    worse = next((i for i in range(both + 1, sides[0]) if words[i] in _COMPARISONS), None)
    return words if worse is None else words[:worse]


def _zones(marks: Sequence[tuple[str, str]]) -> frozenset[str]:
    return frozenset(value for kind, value in marks if kind == "zone") - {WHOLE}


def _adjacent(words: Sequence[str]) -> bool:
    """ "right and left", "left and the right", "left greater than right"."""
    sides = [i for i, word in enumerate(words) if word in _SIDES]
    return any(
        words[i] != words[j] and _JOIN.fullmatch(" ".join(words[i + 1 : j])) is not None for i, j in pairwise(sides)
    )
