"""A sentence in parts: what stands between commas, conjunctions and brackets, and what each part denies.

A denial runs through a list ("no effusion, pneumothorax, or consolidation" denies all three). It ends at "but",
"except", "which"; at a comma or "and" after which a new side or third, a verb or an affirmed finding begins; and at the
end of the sentence. "Without" begins one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from medvl.data.reports.denial import VERB, affirms, denial, denies_no_finding
from medvl.data.reports.places import is_place
from medvl.data.reports.terms import Term, find_terms

_DEFINITE = re.compile(
    r"(?:[a-z]+ly )?(?:in|within|of|at|near|around|along|inside|from) (?:the|this|that|these|those)\b"
)
_TOKEN = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[,;:()\[\]/]|(?<=\s)(?:--?|\u2013|\u2014)(?=\s)|\u2013|\u2014|[&+]")
# What joins two parts, by the first words of the second.
_JOINTS = {
    "link": (
        "consistent with, compatible with, in keeping with, suggestive of, suggesting, to suggest, suspicious for, "
        "concerning for, worrisome for, representing, may represent, might represent, could represent, likely "
        "represents, likely representing, probably representing, representative of, due to, secondary to, related to, "
        "indicating, indicative of, reflecting, may reflect, likely reflecting, in favor of, most likely, probably, "
        "likely, presumably, attributable to, caused by, from, as well as by, causing, resulting in, obscuring, "
        "possibly"
    ),
    "except": (
        "except, excepting, apart from, aside from, other than, with the exception of, with exception of, save for, "
        "besides, barring"
    ),
    "but": (
        "but, however, although, though, yet, whereas, while, nevertheless, nonetheless, which, where, whose, who, "
        "otherwise, still, there is, there are, there was, there has been, there remains, there remain, now with, "
        "only"
    ),
    "after": (
        "after, following, since, despite, given, status post, s p, post, in the setting of, in setting of, compared, "
        "in comparison, relative to, because of, in a patient with, in patient with, in this patient"
    ),
    "without": "without, rather than, instead of, as opposed to",
    "or": "or, nor, and or, versus, vs",
    "and": "and, plus, as well as, together with, along with, with, also",
}
_FIRST_WORDS: dict[str, list[tuple[list[str], str]]] = {}
for _kind, _phrases in _JOINTS.items():
    for _phrase in _phrases.split(", "):
        _FIRST_WORDS.setdefault(_phrase.split()[0], []).append((_phrase.split(), _kind))
for _rules in _FIRST_WORDS.values():
    _rules.sort(key=lambda rule: -len(rule[0]))
_KEPT = {"link", "or"}  # a denial goes on
_ENDED = {"but", "after", ";", ":", "-"}
_CUTTING = {"no", "not", "negative"}
_BEGINS = {"nor", "without"}  # words that deny what follows

FAR = 40  # parts of a list that are looked ahead: a long text costs no more for each of its words
NORMAL = set("clear normal unremarkable intact sharp preserved midline symmetric symmetrical patent".split())
# Words with which a finding that is there is described; a denied one is rarely "mild" or "stable".
_SIZES = set("small tiny large patchy linear hazy nodular".split())
_AFFIRMING = set(
    "mild minimal trace slight subtle moderate severe marked stable unchanged persistent persisting improved "
    "improving worsened worsening increasing increased decreasing decreased known old chronic healed healing "
    "residual a an some several scattered mildly moderately slightly minimally severely status possible "
    "probable questionable streaky interval again redemonstrated calcified tortuous bibasilar bibasal biapical "
    "bilateral this these multiple numerous new diffuse extensive".split()
)
# These begin a part only behind a finding, or what is normal: "clear lungs there is an effusion".
_AFTER_FINDINGS = set("there only also still since given otherwise yet now".split())
_FUNCTION = set("the in on at within of over along to for also there".split())


@dataclass
class Part:
    """Words between two joints; `joint` is what joins it to the part before ("" = the first)."""

    joint: str
    word: str = ""  # the joint as written
    words: list[str] = field(default_factory=list)
    comma: bool = False  # a comma stands before the joint: ", or"
    negated: bool = False
    behind: bool = False  # it is denied behind its subject: "is not seen"
    cue: bool = False  # it holds a denial
    subject_end: int = 0  # the words before its verb or its denial

    @cached_property
    def text(self) -> str:
        return " ".join(self.words)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        return find_terms(self.words)

    @cached_property
    def denied_terms(self) -> int:
        """How many of the terms a denial in the part can deny: not those behind "in the", which are there."""
        for i, (term, following) in enumerate(pairwise(self.terms)):
            if self.cue and _DEFINITE.match(" ".join(self.words[term.end : following.start])):
                return i + 1
        return len(self.terms)

    @cached_property
    def has_place(self) -> bool:
        return any(is_place(word) for word in self.words)

    @cached_property
    def is_normal(self) -> bool:
        """It says that something is as it should be, and names no finding."""
        return not self.terms and (
            any(word in NORMAL for word in self.words) or "well aerated" in self.text or "well expanded" in self.text
        )

    @cached_property
    def has_verb(self) -> bool:
        return VERB.search(self.text) is not None

    @cached_property
    def affirms(self) -> bool:
        return affirms(self.text)

    @property
    def first(self) -> str:
        """The first word that is no article or preposition."""
        return next((word for word in self.words if word not in _FUNCTION), "")


def parts_of(sentence: str) -> list[Part]:
    """The parts of a sentence (small letters), with what each denies."""
    parts = _cut(_TOKEN.findall(sentence))
    negated = False
    for i, part in enumerate(parts):
        negated = _goes_on(parts, i, negated)
        unchanged = denies_no_finding(part.text)
        if unchanged:
            negated = False
        cue = denial(part.text, part.terms[0].start if part.terms else None)
        part.cue = cue is not None
        verb = VERB.search(part.text)
        part.subject_end = part.text.count(" ", 0, verb.start()) if verb else cue[1] if cue else 0
        if i and parts[i - 1].behind and cue is None and _adds_place(part):
            part.negated = part.behind = True  # "is not seen on the left or right"
            continue
        if cue is not None and cue[0] == "behind":
            part.behind = True
            part.negated = True
            _reach_back(parts, i, plural=cue[2])
            negated = False
            continue
        if cue is not None:
            negated = True
        part.negated = negated
    return parts


def _adds_place(part: Part) -> bool:
    joined = part.joint in ("or", "and", ",") and part.has_place
    affirmed = part.first in _AFFIRMING | _SIZES or part.first in ("present", "seen", "noted", "visible", "evident")
    return joined and not (part.terms or part.has_verb or part.is_normal or affirmed)


def _cut(tokens: Sequence[str]) -> list[Part]:
    parts = [Part("")]
    i = 0
    while i < len(tokens):
        token = tokens[i]
        length, joint = _joint(tokens, i)
        if joint.isalpha() and not _may_join(tokens, i, parts[-1]):
            length, joint = 1, ""
        if joint:
            comma = not parts[-1].words and parts[-1].joint == "," and joint not in _ENDED
            if not parts[-1].words and (comma or joint in _ENDED or parts[-1].joint in ("", "(", ")")):
                parts.pop()  # ", or": one joint
            parts.append(Part(joint, " ".join(tokens[i : i + length]), comma=comma))
            if parts[-1].word in _BEGINS:
                parts[-1].words.append(parts[-1].word)
        else:
            parts[-1].words += tokens[i : i + 1]
            if token in _CUTTING and _cuts_off(parts[-1].words[-FAR:-1], tokens[i : i + 9]):
                parts[-1].words.pop()
                parts.append(Part(",", "", [token]))
        i += length
    return [part for part in parts if part.words]


def _joint(tokens: Sequence[str], i: int) -> tuple[int, str]:
    token = tokens[i]
    if not token[0].isalnum():
        kinds = {
            ";": ";",
            ":": ":",
            ",": ",",
            "/": "or",
            "&": "and",
            "+": "and",
            "(": "(",
            "[": "(",
            ")": ")",
            "]": ")",
        }
        return 1, kinds.get(token, "-")
    for words, joint in _FIRST_WORDS.get(token, ()):
        if list(tokens[i : i + len(words)]) == words:
            return len(words), joint
    return 1, ""


def _may_join(tokens: Sequence[str], i: int, part: Part) -> bool:
    """Whether a word that only sometimes begins a part does so here, behind `part`."""
    word = tokens[i]
    if word in _AFTER_FINDINGS:
        return _says_something(part.words[-FAR:])
    if word == "post":
        return bool(part.words) and i + 1 < len(tokens)
    return (word, part.words[-1:]) not in (("with", ["up"]), ("from", ["free"]), ("from", ["clear"]))


def _says_something(words: Sequence[str]) -> bool:
    return any(word in NORMAL for word in words) or bool(find_terms(words))


def _cuts_off(words: Sequence[str], rest: Sequence[str]) -> bool:
    """Whether a denial begins a part of its own: "right effusion no pneumothorax"; but "effusion not seen"."""
    if len(rest) < 2 or not _says_something(words):
        return False
    text = " ".join(rest)
    cue = denial(text, None)
    return cue is not None and cue[:2] == ("before", 0) and not denies_no_finding(text)


def _goes_on(parts: Sequence[Part], i: int, negated: bool) -> bool:
    """Whether the denial before part i is still in force in it."""
    part = parts[i]
    before = parts[i - 1] if i else None
    if part.joint == "except":
        if before is None or before.negated or before.is_normal:
            return False
        return not part.terms  # "opacities everywhere except the left apex"
    if part.joint in _ENDED:
        return False
    if part.joint == "without" or part.word == "nor":
        return True
    if not negated or part.joint in _KEPT or before is None:
        return negated
    first = next(
        (k for k in range(i - 1, max(-1, i - 1 - FAR), -1) if parts[k].cue or parts[k].joint in _ENDED), max(0, i - FAR)
    )
    if not any(other.terms for other in parts[first:i]):
        if before.has_place and part.has_place and part.first in _SIZES | _AFFIRMING and not part.terms:
            return False  # "effusion: none on the right, small on the left"
        return True  # the denial has met no finding yet: "no right, left or basal opacity"
    if is_aside(before) and not part.terms:
        return False
    if part.joint in (",", "and", ")") and _begins_anew(parts, i):
        return False
    return True


def _begins_anew(parts: Sequence[Part], i: int) -> bool:
    """Whether a new side, third, verb or affirmed finding begins with part i, which a comma or "and" joins."""
    part, later = parts[i], []
    for other in parts[i + 1 : i + 1 + FAR]:
        if other.joint in _ENDED or other.joint in ("except", "without"):
            break
        later.append(other)
    ends_with_or = next((other for other in later if other.joint == "or"), None)
    upto = [part, *later[: later.index(ends_with_or) + 1]] if ends_with_or else [part]
    if part.joint == "," and ends_with_or is not None and not any(other.affirms for other in upto):
        if ends_with_or.comma or part.first in _SIZES:
            return False  # a list goes on to ", or": "no left effusion, right effusion, or pneumothorax"
    if part.affirms or part.first == "there":
        return True
    if part.is_normal:
        return True
    if not part.terms:
        # its verb or its finding may come later: "the heart, though ..., is enlarged"
        return part.first in _AFFIRMING | _SIZES and part.has_place
    if part.first in _AFFIRMING or part.first in _SIZES:
        return True
    if part.joint == "," and ends_with_or is None and parts[i - 1].cue and part.has_verb and part.has_place:
        return True  # "no fracture, pneumothorax is seen on the left"
    if is_place(part.first) or all(term.is_predicate for term in part.terms):
        return True
    closed = part.comma and parts[i - 1].joint == "or"  # "without effusion or mass, and nodules in the left lung"
    return (closed or (part.joint == "," and ends_with_or is None)) and _has_place_behind(part)


def is_aside(part: Part) -> bool:
    """ ", not a mass," """
    return part.joint == "," and part.words[0] == "not"


def _has_place_behind(part: Part) -> bool:
    """ "opacity in the right lower zone"."""
    words = part.words[part.terms[-1].end :]
    return bool(words) and words[0] in ("in", "at", "on", "within", "along", "over") and any(map(is_place, words))


def _reach_back(parts: Sequence[Part], i: int, *, plural: bool) -> None:
    """Deny what stands before part i and is the subject of its denial: "effusion or pneumothorax is not seen"."""
    if not parts[i].terms and parts[i].joint in (":", "-", "(") and i:
        parts[i - 1].negated = True  # "Effusion: none"
        return
    listed = plural or not parts[i].terms
    for k in range(i, 0, -1):
        part, before = parts[k], parts[k - 1]
        listed = listed or part.joint in ("or", "and")
        joined = (part.joint in ("or", "and") and part.word != "with") or (part.joint in (",", ")", "(") and listed)
        if part.has_place and not part.terms and before.has_place:
            return  # "on the right, absent on the left"
        if not joined or before.cue or before.has_verb or before.first in _AFFIRMING - {"a", "an", "new"}:
            return
        before.negated = True
