"""Which words of a text name the left or the right side.

Side words: left, right (LEFT, left-sided, leftwards), lt, rt (in capitals too), L and R ("(L)", "L > R", "L-sided",
"R base"), lobes, zones, quadrants and limbs in short (RUL, LLZ, RUQ, LLE), levo- and dextro- of curves and positions,
and what stands on one side only: the middle lobe (right), the lingula (left).

No sides: "left" as a verb ("if left untreated", "left the hospital"), "right" as an adverb ("right away", "all right"),
the chambers and arteries of the heart ("right atrium", "left heart failure"; but "right heart border" is one), RT for
radiotherapy, litres ("2 L"), vertebrae ("L1", "L spine"), "R/O".

Judged by the words around alone, never by which of the two sides it is, nor by words that a flip swaps: else a swap
could not be undone. Some marks are sides that no words are certain to mirror (there is no left middle lobe), or may be
sides and may be none ("RT" where nothing tells); `mirrored` is None then.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from medvl.data.reports.marks import NEAR, Mark, around, like
from medvl.data.reports.terms import FINDING_WORDS, has_finding_ending

One = Literal["left", "right"]
Verdict = Literal["side", "none", "unsure"]

_OTHER = {"left": "right", "right": "left", "lt": "rt", "rt": "lt", "l": "r", "r": "l", "levo": "dextro"}
_OTHER |= {other: word for word, other in _OTHER.items()}
_NAMES: dict[str, One] = {"l": "left", "lt": "left", "left": "left", "levo": "left"}
_NAMES |= {_OTHER[word]: "right" for word in ("l", "lt", "left", "levo")}

_EITHER = r"(?:left|right|lt|rt|l|r)"
_THAN = (
    r"\s*(?:>+|<+|=|&gt;|&lt;|/|&|\+)\s*|\s+(?:and|or|vs\.?|versus|than|to|"
    r"(?:is\s+|are\s+)?(?:\w+ly\s+)?(?:greater|more|larger|bigger|worse|less|smaller|denser)(?:\s+\w+)?\s+than)\s+(?:the\s+)?"
)
_SHORT_PLACES = {
    "U": "upper", "M": "middle", "L": "lower",
}  # fmt: skip
_SHORT_PARTS = {"L": "lobe", "Z": "zone", "Q": "quadrant", "E": "limb"}
_MARK = re.compile(
    rf"""(?<![A-Za-z])(?:
      (?P<word>(?<!&(?=[lr]t;))(?:left|right|lt|rt))(?P<suffix>(?:-?\s?sided|wards?|most)?)
    | (?P<part>[RL][UML][LZ]|[RL]\.\s?[UML]\.\s?[LZ]|[RL][UL][QE]|[RL]IJ|
        [RL]SC(?=\s+(?:line|cath|cvc|cvl|port|picc|central)))
    | (?P<pair>(?<![/\d.'])(?<!\d\s)(?P<one>[LR])(?:{_THAN})(?P<other>[LR])(?![A-Za-z/\d]))
    | (?P<letter>(?<![/'\w])(?<![A-Za-z]\.)[LR])(?P<sided>-?\s?sided)?(?![A-Za-z]|/|'|-?\d)
    | (?P<handed>levo|dextro)(?P<of>[\s-]?(?:kypho|roto)?(?:scolio|convex|concav|curv|cardia|posit|rotat|version)[a-z]*)
    | (?P<middle>middle(?:\s*(?:,|/|&|and|or)\s*(?:upper|lower))*[\s-]+lobes?)
    | (?P<lingula>lingul(?:a|ae|ar))
    )(?![A-Za-z])""",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_SIDE_BEFORE = re.compile(
    rf"(?<![A-Za-z]){_EITHER}(?:-?\s?sided)?[\s.]+(?:(?:upper|lower)[\s,]+(?:and\s+|or\s+)?)*$", re.I
)

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
    r"^\s+(?:un(?!ited|changed)\w+ed|unread|alone|in\s+(?:place|situ)|behind|over|out|open(?!\s+reduction)|against|"
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
    r"^-(?:hand(?:ed|edness)|pcr|angled?)\b|^\s+(?:diagnosis|treatment|dose|answer|choice)\b", re.IGNORECASE
)

# The heart turns in the chest: its right side is not the patient's. Its border is.
_AND_SIDE = rf"(?:\s*(?:,|/|&|-|and|or|to)\s*(?:the\s+)?{_EITHER}(?:-?\s?sided)?(?![A-Za-z]))?"
_HEART_AFTER = re.compile(
    rf"^{_AND_SIDE}[\s-]+(?:(?:cardiac\s+|heart\s+)?(?:atri|ventric|auric|chamber)|bundle[\s-]+branch|axis\s+deviation|"
    r"(?:main\s+)?coronary|anterior\s+descending|circumflex|(?:heart|cardiac)\s+(?:fail|cath|strain|disease|enlarg|"
    r"hypertrop|overload|pressure|study|decompens|valve|size|function|insuffic|dysfunc|dilat))",
    re.IGNORECASE,
)
_BARE_HEART_AFTER = re.compile(
    rf"^{_AND_SIDE}[\s-]+heart(?!\s+(?:border|margin|contour|edge|silhouette|shadow|side))\b", re.IGNORECASE
)

# RT (and, for symmetry, LT): radiotherapy after these or before those, a side before a part of the body or a finding.
_THERAPY_BEFORE = re.compile(
    r"\b(?:post|after|chemo|chemotherapy|adjuvant|neoadjuvant|palliative|prior|previous|received|receiving|completed|"
    r"undergo|undergoing|underwent|undergone|history\s+of|hx\s+of|h/o|s/p|treated\s+with|treatment\s+with|definitive|"
    r"radio-?therapy|radiation(?:\s+(?:therapy|treatment))?|irradiation|concurrent|stereotactic|external[\s-]beam|whole[\s-]brain|surgery\s+and|during|dose\s+of|gy)"
    r"\s*[-+/&(]?\s*(?:and\s+|with\s+|thoracic\s+)?$",
    re.IGNORECASE,
)
_THERAPY_AFTER = re.compile(
    r"^[\s-]+(?:related\s+|induced\s+)?(?:changes?|treatments?|therapy|field|fields|port|planning|dose|fractions?|"
    r"induced|related|in\s+\d|for|to\s+the|completed|given|finished|was|with\s+curative|\d+)\b|^-?(?:pcr|qpcr)\b",
    re.IGNORECASE,
)
_UNSURE_THERAPY_AFTER = re.compile(r"^[\s-]+(?:fibrosis|pneumonitis|scarring|effects?)\b", re.IGNORECASE)
_PLACE_BEFORE = re.compile(r"\b(?:on|to|from|towards?|in|at|than|of|over)\s+the\s+$|\b(?:on|than)\s+$", re.IGNORECASE)
_ENDS_AFTER = re.compile(
    rf"^\.?\s*(?:$|[,;:)\]]|\.(?!\w))|^\s+(?:side|than|and\s+{_EITHER}\b|or\s+{_EITHER}\b|(?:is|are|was)\b)", re.I
)
_IN_BRACKETS_BEFORE = re.compile(r"[(\[]\s*(?:on\s+|on\s+the\s+)?$")
_IN_BRACKETS_AFTER = re.compile(r"^\.?\s*[)\]]|^\s+(?:side\s*)?[)\]]")
_NUMBER_BEFORE = re.compile(r"[\d/]\s*$|\b(?:one|two|three|four|half\s+a|a|per)\s+$", re.IGNORECASE)
_NO_LETTER_AFTER = re.compile(
    rf"^{_AND_SIDE}[\s-]*(?:spines?\b|spinal\b|vertebra|disc\b|disk\b|sacral\b|/)|^\s+(?:of\s+)?(?:oxygen|o2|nc\b|nasal|fluid\b|of\b|per\b|min)",
    re.IGNORECASE,
)
_NAME_AFTER = re.compile(r"^\.?\s+[A-Z][a-z]")  # "R. Smith"
_LIST_LETTER_AFTER = re.compile(r"^\)")

# Words between a side in one letter and what it belongs to.
_MODIFIERS = set(
    "lat small large moderate tiny trace minimal mild severe marked slight subtle new old stable unchanged chronic "
    "acute to sized sided upper middle mid lower apical basal basilar lateral medial anterior posterior "
    "superior inferior patchy focal dense linear healed healing displaced nondisplaced calcified loculated "
    "layering partial complete simple complex increasing decreasing persistent residual subsegmental segmental "
    "lobar internal external distal proximal posterolateral anterolateral ground glass hazy ill defined nodular "
    "subpleural retrocardiac known probable possible chest central lung total reverse dual single double lead "
    "ventral and tension hydro".split()
)
_BODY = set(
    "lung lungs lobe lobes lobar base bases basal basilar apex apices apical zone zones field fields hemithorax "
    "hemithoraces thorax chest pleura pleural hilum hilar hila perihilar suprahilar infrahilar parahilar "
    "retrocardiac paratracheal paraspinal paravertebral diaphragm hemidiaphragm hemidiaphragms costophrenic cp "
    "cardiophrenic heart cardiac mediastinum mediastinal rib ribs clavicle clavicular acromioclavicular "
    "glenohumeral scapula scapular shoulder humerus humeral arm forearm axilla axillary breast neck jugular ij "
    "subclavian sc scv scl picc ppm port portacath brachiocephalic innominate carotid main mainstem bronchus bronchial "
    "pulmonary airspace interstitial side hand wrist finger thumb elbow radius ulna knee hip pelvis leg ankle "
    "foot toe femur femoral tibia tibial fibula iliac kidney renal adrenal ovary thyroid abdomen abdominal "
    "flank groin back trunk upper lower mid midlung midzone midlungs uz mz lz ul ml ll fissure minor major "
    "horizontal oblique costal costochondral temporal frontal parietal occipital orbit eye ear maxillary sinus "
    "mastoid cerebral hemisphere brain artery vein venous arterial tube tubes catheter line icd aicd pacer "
    "pacemaker generator device lobectomy pneumonectomy thoracotomy mastectomy thoracentesis lumpectomy "
    "arthroplasty prosthesis implant vats decortication wedge pigtail drain stent sided cvc chemoport mediport "
    "lateral quadrant internal decubitus decub".split()
)
_WORD = re.compile(r"[A-Za-z]+")


@lru_cache(maxsize=1 << 14)
def side_marks(text: str) -> tuple[Mark, ...]:
    """The marks of sides in `text` (as `spell` gives it), in its order; what looks like a side and is none reads "".

    Those without `sides` and with `mirrored` None may be sides: nothing in the text tells.
    """
    judged = [mark for match in _MARK.finditer(text) if (mark := _mark(text, match)) is not None]
    # Where RT stands beside LT, or R beside L, both are sides.
    short = {text[mark.start : mark.end] for verdict, mark in judged if verdict != "none"} & {"L", "R", "LT", "RT"}
    pairs = {word for word in short if _swap(word) in short}
    return tuple(
        mark if verdict == "side" or _upgraded(text, verdict, mark, pairs) else _no_side(text, verdict, mark)
        for verdict, mark in judged
    )


def _upgraded(text: str, verdict: Verdict, mark: Mark, pairs: set[str]) -> bool:
    after = text[mark.end : mark.end + NEAR]
    if verdict != "unsure" or text[mark.start : mark.end] not in pairs or _BARE_HEART_AFTER.match(after):
        return False
    return _NAME_AFTER.match(after) is None


def _no_side(text: str, verdict: Verdict, mark: Mark) -> Mark:
    return Mark(mark.start, mark.end, (), None if verdict == "unsure" else text[mark.start : mark.end], "")


def _mark(text: str, match: re.Match[str]) -> tuple[Verdict, Mark] | None:
    """How it is judged, and the mark that it is as a side."""
    start, end = match.span()
    if match["middle"] or match["lingula"]:
        name: One = "right" if match["middle"] else "left"
        if _SIDE_BEFORE.search(around(text, start, end)[0]):
            return "side", Mark(start, end, (name,), None, match[0])  # "right middle lobe": read with the word before
        return "side", Mark(start, end, (name,), None, f"{name} {match[0]}")
    if match["part"]:
        part = _part(match)
        return None if part is None else ("side", part)
    if match["pair"]:
        other = f"{_swap(match['one'])}{text[match.end('one') : match.start('other')]}{_swap(match['other'])}"
        names = _NAMES[match["one"].lower()], _NAMES[match["other"].lower()]
        verdict: Verdict = "side" if names[0] != names[1] else "unsure"
        return verdict, Mark(start, end, names, other, f"{names[0]} and {names[1]}")
    if match["handed"]:
        name = _NAMES[match["handed"].lower()]
        return "side", Mark(start, end, (name,), _swap(match["handed"]) + match["of"], f"{name} {match[0]}")
    word = match["word"] or match["letter"]
    name = _NAMES[word.lower()]
    verdict = _verdict_of_word(text, match) if match["word"] else _verdict_of_letter(text, match)
    suffix = match["suffix"] or match["sided"] or ""
    return verdict, Mark(start, end, (name,), _swap(word) + suffix, name)


def _part(match: re.Match[str]) -> Mark | None:
    """RUL, R.U.L., LLZ, RUQ, LLE, RIJ, RSC; all capitals or all small, or Rul."""
    short = match["part"]
    name, capitals = _NAMES[short[0].lower()], re.sub(r"[.\s]", "", short.upper())
    begins_sentence = short[0].isupper() and short[1:].islower() and capitals[-1] == "L"  # Luz and Rue are names
    if not (short.isupper() or short.islower() or begins_sentence):
        return None
    mirrored: str | None = _swap(short[0]) + short[1:]
    if capitals.endswith("IJ"):
        reads = f"{name} jugular"
    elif capitals.endswith("SC"):
        reads = f"{name} subclavian"
    elif capitals.endswith("E"):
        reads = f"{name} limb"
    else:
        reads = f"{name} {_SHORT_PLACES[capitals[1]]} {_SHORT_PARTS[capitals[2]]}"
        if capitals[1:] == "ML":
            mirrored = None  # there is no left middle lobe
    return Mark(*match.span(), (name,), mirrored, reads)


def _verdict_of_word(text: str, match: re.Match[str]) -> Verdict:
    before, after = around(text, *match.span())
    if _HEART_AFTER.match(after):
        return "none"
    if _BARE_HEART_AFTER.match(after):
        return "unsure"
    if match["suffix"]:
        return "side"  # left-sided, leftward
    if _NOT_SIDE_AFTER.match(after):
        return "none"
    if match["word"].lower() in ("lt", "rt"):
        verdict = _verdict_of_therapy(text, match["word"], before, after)
        if verdict is not None:
            return verdict
    if _ARTICLE_BEFORE.search(before):
        return "side"
    if _VERB_AFTER.match(after) or _ADVERB_AFTER.match(after):
        return "none"
    if _THERE_BEFORE.search(before) or not _VERB_BEFORE.search(before):
        return "side"
    if _IS_BEFORE.search(before) and re.match(r"\s*[.,;]", after):
        return "side"  # "the aortic arch is left."
    return "none" if _NO_NOUN_AFTER.match(after) else "side"


def _verdict_of_therapy(text: str, word: str, before: str, after: str) -> Verdict | None:
    """RT: radiotherapy, or a side, or None: as other side words are."""
    capitals = not _SMALL.search(text)  # a text all in capitals writes its sides so
    if _THERAPY_AFTER.match(after):
        return "none"
    body = _belongs_to_body(after)
    if _THERAPY_BEFORE.search(before):
        return ("side" if capitals else "unsure") if body else "none"
    if _UNSURE_THERAPY_AFTER.match(after):
        return "unsure"
    if body or (_IN_BRACKETS_BEFORE.search(before) and _IN_BRACKETS_AFTER.match(after)):
        return "side"
    if _PLACE_BEFORE.search(before) and (capitals or re.search(r"\bthe\s+$|\bthan\s+$", before, re.IGNORECASE)):
        return "side"
    return "unsure" if word.isupper() and not capitals else None


_SMALL = re.compile(r"[a-z]")


def _verdict_of_letter(text: str, match: re.Match[str]) -> Verdict:
    letter, (before, after) = match["letter"], around(text, *match.span())
    if _HEART_AFTER.match(after):
        return "none"
    if _BARE_HEART_AFTER.match(after):
        return "unsure"
    if match["sided"]:
        return "side"
    if _NUMBER_BEFORE.search(before) or _NO_LETTER_AFTER.match(after):
        return "none"
    if _IN_BRACKETS_BEFORE.search(before) and _IN_BRACKETS_AFTER.match(after):
        return "side"
    if _LIST_LETTER_AFTER.match(after):
        return "unsure"
    if _belongs_to_body(after):
        return "side"
    if _PLACE_BEFORE.search(before) and _ENDS_AFTER.match(after):
        return "side"
    return "unsure" if letter.isupper() else "none"


_ORDINALS = re.compile(r"^\.?(?:\s+(?:-|to|and|through)?\s*\d{1,2}(?:st|nd|rd|th)(?:-\d{1,2}(?:st|nd|rd|th))?)+(?=\s)")


def _belongs_to_body(after: str) -> bool:
    """Whether the next words are a part of the body, a device or a finding, modifiers before it passed over."""
    after = _ORDINALS.sub(" ", after)
    if not re.match(r"^(?:\.?[\s-]+|\.)[A-Za-z]", after):
        return False
    for word in _WORD.findall(re.split(r"[.,;:()\[\]]", after.lstrip("."), maxsplit=1)[0].lower())[:7]:
        if word in _BODY or word in FINDING_WORDS or has_finding_ending(word):
            return True
        if word not in _MODIFIERS:
            return False
    return False


def _swap(word: str) -> str:
    return like(word, _OTHER[word.lower()])
