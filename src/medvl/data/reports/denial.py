"""What denies a finding, and which words only look so.

A denial before its finding ("no", "without", "free of") reaches forward, one behind it ("is not seen", "has resolved",
"ruled out") back over its subject. A change that is denied ("no change in the effusion") denies no finding, and what
cannot be excluded is not denied.
"""

from __future__ import annotations

import re
from typing import Literal

_SEEN = (
    "seen|identified|noted|present|evident|appreciated|visuali[sz]ed|visible|demonstrated|detected|observed|found|"
    "apparent|suspected|recogni[sz]ed|discerned|discernible|shown|depicted|detectable|documented|encountered"
)
_DEGREE = (
    "(?:significant|interval|appreciable|substantial|definite|obvious|apparent|further|acute|major|real|new|relevant|"
    "important|measurable|marked|discernible|evidence of|sign of|signs of|other|radiographic|notable|much|gross|"
    "overall|clear|convincing|suggestion of|visible|frank|dramatic|short|term|there is|there was|there has been|any) "
)
_CHANGE = (
    "(?:changes?|increase|decrease|improvement|worsening|progression|regression|reduction|difference|growth|"
    "alteration|"
    "shift in|deterioration|(?:increase|decrease|change|difference) in (?:the )?(?:size|extent|appearance|volume|"
    "amount|degree|position|number|severity)|enlarging|resolution|resolving|clearing)"
)
# These deny no finding; each is taken out before denials are looked for.
_NO_DENIAL = re.compile(
    rf"\b(?:(?:no|not|without|never) (?:an? |any |the )?(?:{_DEGREE})*(?:{_CHANGE})"
    rf"(?= (?:in|of|to|from|since|with|for|as|compared|is|was|has)\b| (?:{_SEEN})\b|$)|"
    rf"(?:no|not) (?:\w+ly )?(?:larger|bigger|smaller|worse|better|different|greater|more than|less than|as large)\b|"
    r"(?:not|never|cannot|can not|could not) (?:\w+ ){0,3}?(?:excluded?|ruled out|rule out|exclude)\b|"
    r"(?:difficult|hard|impossible) to (?:exclude|rule out)\b|"
    r"(?:not|never) (?:\w+ly |yet |been |all ){0,3}(?:changed|resolved|cleared|increased|decreased|improved|worsened|"
    r"progressed|disappeared|removed|different|altered|grown|healed|united)\b|"
    r"not only\b|no doubt\b|no question\b|not unexpected\w*\b|not uncommon\w*\b|not to mention\b|"
    r"(?:not|never) (?:previously|formerly|earlier)(?: (?:been )?\w+)?\b|"
    rf"not (?:{_SEEN}) (?:on|in|at|with) (?:the |that |a |an |his |her )?(?:\w+ ){{0,2}}?(?:prior|previous|"
    rf"earlier|last|"
    r"comparison|preceding|old|lateral|ap|pa|outside)\b|"
    rf"not (?:{_SEEN}) (?:previously|before|earlier|formerly|priorly)\b|"
    r"no (?:\w+ ){0,3}?(?:prior|priors|previous|comparison|comparisons|earlier|old) (?:\w+ ){0,2}?(?:study|"
    r"studies|image|"
    r"images|film|films|exam|exams|examination|examinations|radiograph|radiographs|ct|cxr|available)\b|"
    r"(?:nearly|almost|partially|partly|largely|mostly|incompletely|somewhat|near completely|not yet|not fully|"
    r"incomplete|partial|near complete|almost complete|nearly complete) (?:\w+ )?(?:resolved|resolution|cleared|"
    r"clearing|"
    r"disappeared|removed|removal)(?: of)?\b|no further (?:evaluation|imaging|workup|work up|follow up|action)\b)"
)
_BEFORE = re.compile(
    r"\b(?:no longer|no|without|not|never|neither|nor|nil|none|nothing|zero|denies|denied|negative|free (?:of|from)|"
    r"clear (?:of|from)|"
    r"(?:in the )?absence of|absent|lack(?:s|ing)?(?: of)?|fails? to|failed to|"
    r"(?:interval |complete |full |spontaneous )*(?:resolution|clearing|clearance|disappearance|removal) of|resolved|"
    r"rather than|instead of|(?:low|little|no) suspicion (?:for|of)|unlikely to (?:be|represent)|argues? against|"
    r"excludes|rules out)\b"
)
# The subject of these stands before them.
_BEHIND = re.compile(
    rf"(?:\b(?:not|never|no longer|cannot be|cannot|can not be|could not be) (?:(?:been|be|being|any|a|well|"
    rf"longer|\w+ly) )*"
    rf"(?:{_SEEN})\b|"
    r"\b(?:(?:has|have|had|is|are|was|were) (?:\w+ly |now |since |all |been |both ){0,3})?(?:resolved|cleared|"
    r"disappeared|"
    r"ruled out|excluded|absent|gone|removed|extubated|unlikely)\b|"
    r"\b(?:not|never) (?:recurred|reappeared|reaccumulated|developed|returned)\b|"
    rf"\b(?:none|nil|no|negative|absent)(?: (?:{_SEEN}))?$)"
)
_ABSENT = re.compile(r"(?:absent|resolved|negative|cleared|none|nil|no)(?: .*)?")
_PLURAL = re.compile(r"\b(?:are|were|have|be)\b")
VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|shows?|showed|demonstrates?|demonstrated|remains?|remained|appears?|appeared|"
    r"persists?|persisted|reveals?|revealed|measures?|there|contains?|obscures?|suggests?|represents?|reflects?|"
    r"projects?|"
    r"overlies|overlie|extends?|terminates?|lies|continues?)\b"
)
_SEEN_VERB = re.compile(rf"\b(?:is|are|was|were|has been|have been|be)? ?(?:\w+ly )?(?:{_SEEN})\b")

Denial = tuple[Literal["before", "behind"], int, bool]  # which, at which word, whether its verb is in the plural


def denial(text: str, first_term: int | None) -> Denial | None:
    """The denial in the words of one part of a clause.

    Args:
        text: the words in lower case, one space between two.
        first_term: the number of the first word that names a finding; None = the part names none.
    """
    changed = _NO_DENIAL.sub(lambda match: " ".join("~" for _ in match[0].split()), text)
    behind = _BEHIND.search(changed)
    if behind is not None:
        word = changed.count(" ", 0, behind.start())
        if first_term is None or first_term < word or not _ABSENT.match(behind[0]):
            if first_term is None or first_term < word:
                return "behind", word, _PLURAL.search(changed, 0, behind.end()) is not None
    before = _BEFORE.search(changed)
    if before is not None:
        return "before", changed.count(" ", 0, before.start()), False
    return None


def denies_no_finding(text: str) -> bool:
    """Whether it holds what looks like a denial and is none: "no change in", "cannot be excluded"."""
    return _NO_DENIAL.search(text) is not None


def affirms(text: str) -> bool:
    """Whether a part has a verb of its own that says more than that something was seen."""
    return VERB.search(_SEEN_VERB.sub(" ", text)) is not None
