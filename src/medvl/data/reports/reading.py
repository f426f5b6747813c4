"""Findings read off a text, and the same findings denied."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from medvl.data.reports.clauses import FAR, Part, is_aside, parts_of
from medvl.data.reports.heights import height_marks
from medvl.data.reports.languages import is_english
from medvl.data.reports.marks import Side, spell
from medvl.data.reports.places import count_of, is_place, is_side, places_of
from medvl.data.reports.sentences import sentences
from medvl.data.reports.sides import side_marks
from medvl.data.reports.terms import NO_SIDE

Group = tuple[Side | None, frozenset[str]]
_BREAK = re.compile(r"(?<=[.;!?])\s+|\n+")
_SHORT_MARK = re.compile(r"(?:[lr]|lt|rt|[lr]\..*)", re.IGNORECASE)
_HARD = {"but", "except", ";", "after"}  # what stands before belongs to nothing behind
# All that may stand in a part that speaks of the finding before: "but small on the right", "none on the left".
_ELLIPTIC = set(
    "the a an in on at of to and or is are was seen present noted side sides lung lungs zone zones lobe lobes "
    "has have field fields third thirds base bases apex hemithorax one ones small smaller large larger mild moderate "
    "tiny trace minimal minor not no none nor neither absent only also but still now there with for any longer "
    "further identified evident visible appreciated demonstrated found persists persist increased decreased "
    "improved worsened it that this those multiple several few resolved cleared unchanged stable persistent "
    "worse greater more less bilateral both either upper lower middle mid apical basal basilar within".split()
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a text says: what, on which side, in which thirds, how many, and whether it is denied.

    `term` is the head word of the finding as written, in small letters ("effusion", "nodules", "airspace disease");
    None where a text names a place alone ("left upper zone") or says that it is normal ("the left lung is clear":
    denied).
    """

    term: str | None
    side: Side | None
    zones: frozenset[str]
    count: int | None
    negated: bool


@dataclass
class _Item:
    """What is said of one finding, or of one place: a part of a sentence and the parts that add places to it."""

    terms: list[str]
    words: list[str]
    negated: bool
    part: Part
    groups: list[Group]
    before: bool  # its first place stands before its finding: "right effusion"
    behind: bool  # its last place stands behind it: "effusion on the right"
    subject: bool = False  # its place stands before its verb: "the right lung shows ..."
    linked: bool = False  # it takes all places of the finding before: "opacity in the left base, likely atelectasis"


@lru_cache(maxsize=1 << 14)
def findings(text: str) -> tuple[Finding, ...]:
    """Read findings off a text: each finding of a list is one of its own, and one more for each further side.

    A denial has a scope: see `clauses`. "No effusion, pneumothorax, or consolidation" denies three findings, "right
    effusion without pneumothorax" one of two; "no change in the effusion" denies none. The rules are English: of a text
    in another language (`is_english`) nothing is read.
    """
    if not is_english(text):
        return ()
    return tuple(one for sentence in _sentences(_readable(spell(text))) for one in _read(parts_of(sentence)))


def _read(parts: Sequence[Part]) -> list[Finding]:
    items = _items(parts)
    _share_places(items)
    result = []
    for item in items:
        count = count_of(item.words)
        terms: list[str | None] = [*item.terms] or [None]
        for term in terms:
            groups = item.groups or ([(None, frozenset())] if term is not None else [])
            result += [Finding(term, side, zones, count, item.negated) for side, zones in groups]
    return result


def _items(parts: Sequence[Part]) -> list[_Item]:
    items: list[_Item] = []
    pending: list[str] = []  # words without a finding that belong to the next one
    label: list[str] = []  # "Right lung: opacity, effusion"
    for i, part in enumerate(parts):
        following = parts[i + 1] if i + 1 < len(parts) else None
        if pending and part.word == "but" and part.terms and part.has_place and all(map(_is_elliptic, pending)):
            # "no right but several left nodules"
            names = [term.name for term in part.terms]
            items.append(_Item(names, list(pending), parts[i - 1].negated, part, places_of(pending), True, False))
            pending.clear()
        if part.joint in _HARD and part.word != "which":
            _flush(items, pending, parts[i - 1] if i else part)
            label = label if part.joint not in (";",) else []
        if part.terms:
            words = [*pending, *_joint_words(part, pending), *part.words]
            if label and not any(map(is_side, words)):
                words = [*label, *words]
            names = [term.name for term in part.terms]
            items.append(_item(names[: part.denied_terms], words, part, len(words) - len(part.words)))
            if names[part.denied_terms :]:  # "no cavitation in the mass"
                items.append(replace(items[-1], terms=names[part.denied_terms :], negated=False))
            pending.clear()
        elif part.is_normal:
            words = [*pending, *part.words]
            pending.clear()
            items.append(_Item([], [w for w in words if w != "normal"], True, part, places_of(words), False, False))
        elif following is not None and following.joint == ":" and following.terms:
            label = part.words if {"left", "right"} & set(part.words) else []
        elif not items or (pending and part.joint in ("and", "or", ",") and part.has_place and not part.cue):
            pending += [*_joint_words(part, pending), *part.words]
        elif not part.has_place:
            if part.joint not in _HARD and not part.cue:
                items[-1].words += part.words
        else:
            _add_places(items, pending, part, parts[i + 1 : i + 1 + FAR])
    last = parts[-1] if parts else None
    if last is not None:
        _flush(items, pending, last)
    return items


def _item(terms: list[str], words: list[str], part: Part, offset: int) -> _Item:
    first, last = part.terms[0].start + offset, part.terms[-1].end + offset
    before = any(map(is_place, words[:first]))
    subject = any(map(is_place, words[: part.subject_end + offset])) and part.subject_end <= part.terms[0].start
    behind = any(map(is_place, words[last:]))
    return _Item(terms, list(words), part.negated, part, places_of(words), before, behind, subject)


def _joint_words(part: Part, pending: Sequence[str]) -> list[str]:
    return ["and"] if pending and part.joint == "and" else []


def _add_places(items: list[_Item], pending: list[str], part: Part, later: Sequence[Part]) -> None:
    """What a part with a place and without a finding belongs to: the finding before, the one behind, or to none."""
    item, following = items[-1], later[0] if later else None
    if part.negated != item.negated and is_aside(item.part) and len(items) > 1:
        item = items[-2]  # "a nodule, not a mass, in the right lung"
    elliptic = all(map(_is_elliptic, part.words))
    if not part.cue and item.part.terms and all(term.is_predicate for term in item.part.terms):
        elliptic = False  # "the left hemidiaphragm is elevated, the right is unchanged"
    if _leads_to_finding(later):
        elliptic = False  # "left upper and middle opacity"
    if elliptic and item.terms and not item.groups and part.joint in (":", "-"):  # "Effusion: none on the right"
        item.words += part.words
        item.groups, item.negated, item.behind = places_of(part.words), part.negated, True
        return
    if part.joint in _HARD or part.cue or part.negated != item.negated or not item.terms:
        if elliptic and item.terms and (part.joint != ";" or part.cue or part.words[0] in ("that", "those")):
            for other in _listed(items) if item is items[-1] else [item]:
                items.append(
                    _Item(other.terms, list(part.words), part.negated, part, places_of(part.words), False, True)
                )
        else:
            _flush(items, pending, part)
            pending += part.words
        return
    leads_on = following is not None and following.terms and following.joint in ("and", "or", ",")
    leads_on = leads_on and not item.behind and part.joint != "("
    if leads_on or (part.has_verb and not elliptic):
        pending += [*_joint_words(part, pending), *part.words]
        if part.has_verb and not leads_on and not (following is not None and following.is_normal):
            _flush(items, pending, part)
        return
    item.words += [*(["and"] if part.joint == "and" else []), *part.words]
    item.groups, item.behind = places_of(item.words), True


def _leads_to_finding(later: Sequence[Part]) -> bool:
    """Whether places that "and" or "or" joins lead on to a finding."""
    for part in later:
        if part.joint not in ("and", "or") or not is_place(part.first):
            return False
        if part.terms:
            return True
    return False


def _is_elliptic(word: str) -> bool:
    return word in _ELLIPTIC or is_place(word)


def _listed(items: Sequence[_Item]) -> list[_Item]:
    """The last item, and those that "and" or "or" joins to it."""
    first = len(items) - 1
    while first > 0 and items[first].part.joint in ("and", "or") and items[first - 1].terms:
        first -= 1
    return list(items[first:])


def _flush(items: list[_Item], pending: list[str], part: Part) -> None:
    """Places that met no finding are said of nothing in particular."""
    if pending:
        groups = places_of(pending)
        if groups:
            items.append(_Item([], list(pending), part.negated, part, groups, False, False))
        pending.clear()


def _share_places(items: Sequence[_Item]) -> None:
    """Give findings of a list the side that is said once: "right effusion and atelectasis", "X or Y on the left"."""
    for before, item in pairwise(items):
        if item.groups or not item.terms or not before.groups or item.terms[0] in NO_SIDE:
            continue
        joined = item.part.joint
        if before.subject and joined in (",", "and", "or") and item.negated == before.negated and not item.part.cue:
            if not item.part.affirms:
                item.groups, item.before, item.subject = before.groups, True, True
        elif (joined == "link" or item.part.word in ("/", "versus", "vs")) and item.negated == before.negated:
            item.groups, item.before, item.linked = before.groups, before.before, True
        elif joined in ("and", "or") and not item.part.comma and item.part.word != "with":
            if before.linked and item.negated == before.negated and not item.part.cue:
                item.groups, item.before, item.linked = before.groups, before.before, True
            elif before.before and item.negated == before.negated and not item.part.cue and not item.part.affirms:
                item.groups = [(side, frozenset()) for side, _ in before.groups if side is not None]
                item.before = True
    for k in range(len(items) - 1, 0, -1):
        item = items[k]
        if not (item.groups and item.behind and not item.before and item.part.joint in ("and", "or")):
            continue
        if item.part.word == "with":
            continue
        for other in reversed(items[:k]):
            if other.groups or not other.terms or other.negated != item.negated:
                break
            if other.terms[0] not in NO_SIDE:
                other.groups = item.groups
            if (
                other.part.joint not in (",", "and", "or")
                or other.part.word == "with"
                or (other.part.cue and not other.part.negated)
            ):
                break


# --- from a text to sentences -----------------------------------------------------------------------------------------

_OPEN_END = re.compile(
    r"(?:,|\b(?:the|a|an|of|in|on|at|to|and|or|no|with|without|is|are|was|were|has|have|for|from|by|than|left|right|"
    r"upper|lower|superior|inferior|middle|mid|small|mild|moderate|large|focal|pleural|pulmonary|cardiac|airspace|acute|basal|"
    r"basilar|apical|interstitial|mediastinal|hilar|bilateral|evidence|either|both))\s*$",
    re.IGNORECASE,
)
_OPEN_START = re.compile(
    r"^\s*(?:and|or|nor|is|are|was|were|in|on|at|of|to|with|without|but|within|which|has|have|seen|lung|lungs|lobe|lobes|"
    r"zone|zones|side|hemithorax)\b",
    re.IGNORECASE,
)


def _sentences(text: str) -> list[str]:
    """The sentences in small letters; a line that was only wrapped goes on."""
    lines: list[str] = []
    for line in text.split("\n"):
        if lines and lines[-1].strip() and line.strip() and (_OPEN_END.search(lines[-1]) or _OPEN_START.match(line)):
            lines[-1] = f"{lines[-1].rstrip()} {line.lstrip()}"
        else:
            lines.append(line)
    return [sentence.lower() for line in lines if line.strip() for sentence in sentences(line)]


def _readable(text: str) -> str:
    """The text with sides as left and right, lobes in full, and without what looks like a place and is none."""
    edits = [(m.start, m.end, m.reads) for m in side_marks(text)]
    taken = {i for start, end, _ in edits for i in range(start, end)}
    edits += [(m.start, m.end, m.reads) for m in height_marks(text) if m.start not in taken]
    pieces, position = [], 0
    for start, end, words in sorted(edits):
        if start < position:
            continue
        if (
            words
            and text[end : end + 1] == "."
            and _SHORT_MARK.fullmatch(text, start, end)
            and _goes_on(text, start, end)
        ):
            end += 1  # "Rt. lung", "R.U.L. opacity"
        pieces += [text[position:start], f" {words} "]
        position = end
    text = "".join([*pieces, text[position:]])
    text = _EITHER_SIDE.sub("both", _BESIDE.sub(r"\1 and ", text))
    return _CONTRACTION.sub(_written_out, _BOTH_SIDES.sub("bilateral", text))


_CONTRACTION = re.compile(r"\b(is|are|was|were|does|do|did|has|have|could|ca)n['\u2019]t\b", re.IGNORECASE)
_BESIDE = re.compile(r"\b(left|right)\s*(?:>+|<+|=|&gt;|&lt;|/|\+)\s*(?=(?:left|right)\b)", re.IGNORECASE)
_EITHER_SIDE = re.compile(
    r"\beither(?=\s+(?:sides?|lungs?|base|apex|zone|hemithorax|hilum|hilar|upper|lower|superior|inferior|mid|middle|"
    r"apical|basal|costophrenic|hemidiaphragm|of\s+the|pleural|lobe))",
    re.IGNORECASE,
)
_BOTH_SIDES = re.compile(r"\bb/l\b|\bbilat\b\.?", re.IGNORECASE)


def _written_out(match: re.Match[str]) -> str:
    return "cannot" if match[1].lower() == "ca" else f"{match[1]} not"


_PLACE_BEFORE = re.compile(r"\b(?:on|the|than|to)\s+$", re.IGNORECASE)


def _goes_on(text: str, start: int, end: int) -> bool:
    """Whether the point behind a short side belongs to it."""
    after = text[end + 1 : end + 3].lstrip()
    return after[:1].islower() or (after[:1].isupper() and not _PLACE_BEFORE.search(text, max(0, start - 8), start))


# --- the denial of a text ---------------------------------------------------------------------------------------------


def negate_text(text: str) -> str:
    """The same findings denied, sentence by sentence: "No evidence of ..."; one that begins with a denial loses it."""
    stripped = text.strip()
    if not stripped:
        return text
    parts = re.split(rf"({_BREAK.pattern})", stripped)  # sentences and the white space between them
    return "".join(_negate(part) if re.search(r"[^\W\d_]", part) else part for part in parts)


def _negate(sentence: str) -> str:
    denied = re.match(r"(?:no evidence of|there is no|no|without)\s+", sentence, re.IGNORECASE)
    if denied:
        rest = sentence[denied.end() :]
        return rest[:1].upper() + rest[1:]
    head = sentence if re.match(r"[A-Z][A-Z\d]", sentence) else sentence[:1].lower() + sentence[1:]
    return f"No evidence of {head}"
