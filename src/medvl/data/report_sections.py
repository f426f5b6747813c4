"""A radiology report as it was typed -> sections -> one clean text -> sentences.

Facts: the program of MIMIC-CXR's authors (headers are upper-case line starts that end in a colon; the LAST section of a
name counts; without impression and findings the last paragraph stands in) and MGCA's preparation, which G2D takes over
(impression first, then findings; reports of fewer than 3 words are none). The rules and the table of names below are
medvl's own. The authors' program also patches some forty reports by their number; that list is not used here.

`medvl.data.reports` reads findings off a text; this module says which text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from medvl.data.sentences import sentences

MIN_WORDS = 3  # MGCA drops reports below
NAMES = ("impression", "findings", "comparison", "indication", "technique", "examination")

# A header: capitals at the start of a line, up to a colon; or a known name as "Findings:"; or alone on its line.
_KNOWN = r"IMPRESSIONS?|CONCLUSIONS?|FINDINGS?|COMPARISONS?|INDICATIONS?|TECHNIQUES?|EXAMINATION|HISTORY"
_CAPITALISED = r"Impressions?|Conclusions?|Findings?|Comparisons?|Indications?|Techniques?|Examination|History"
_TITLES = r"FINAL REPORT|FINAL ADDENDUM|ADDENDUM|WET READ|PRELIMINARY REPORT"
_AND_ANOTHER = rf"(?:[ \t]*(?:/|&|and|AND)[ \t]*(?:{_KNOWN}|{_CAPITALISED}|{_KNOWN.lower()}))?"
_HEADER = re.compile(
    rf"^[ \t]*(?:(?P<known>(?:{_KNOWN}|{_CAPITALISED}){_AND_ANOTHER})[ \t]*:|"
    rf"(?P<name>[A-Z][A-Z0-9 ()/,&.'-]{{1,78}})[ \t]*:(?=\s|$)|"
    rf"(?P<alone>{_KNOWN}|{_TITLES})[ \t]*[.:;-]?[ \t]*$)",
    re.MULTILINE,
)
# Inside a text that was cut out already: known names only, for "PLEASE NOTE:" is content.
_INLINE_HEADER = re.compile(rf"(?<![A-Za-z])(?:{_KNOWN}|IM\w?P?RES{{1,3}}IONS?|{_CAPITALISED})\s*:")

# In a report that writes them all small: at its start, after a line break or the end of a sentence.
_SMALL_HEADER = re.compile(rf"(?:^|(?<=[\n.!?;]))[ \t]*(?:{_KNOWN.lower()})[ \t]*:")
# In a report on one line, whose line breaks were lost: with what belongs before the known name.
_JOINED_HEADER = re.compile(
    rf"(?<![A-Za-z/])(?:(?:CLINICAL|FINAL|PROVISIONAL|REASON FOR(?: THE)?)[ \t]+)?"
    rf"(?:(?:{_KNOWN})[ \t]*(?:/|&|AND)[ \t]*)*(?:{_KNOWN}|{_CAPITALISED})[ \t]*:"
)

_EXACT = {
    **dict.fromkeys(("conclusion", "conclusions", "opinion", "summary"), "impression"),
    **dict.fromkeys(("report", "chest", "finding"), "findings"),
    **dict.fromkeys(("exam", "study", "type of exam", "exam type", "type of study"), "examination"),
    **dict.fromkeys(("comparisons", "prior", "priors", "prior study", "prior studies", "correlation"), "comparison"),
    **dict.fromkeys(("procedure", "views", "number of views"), "technique"),
}
# The first word of this order that stands in a header names the section: FINDINGS AND IMPRESSION is the impression.
_BY_WORD = {
    **dict.fromkeys(("impression", "impressions"), "impression"),
    **dict.fromkeys(("findings", "finding"), "findings"),
    **dict.fromkeys(("comparison", "comparisons"), "comparison"),
    **dict.fromkeys(("indication", "indications", "history", "reason"), "indication"),
    **dict.fromkeys(("technique", "techniques"), "technique"),
    **dict.fromkeys(("examination", "exam"), "examination"),
}
# "PA AND LATERAL VIEWS OF THE CHEST:" stands where other reports have FINDINGS.
_VIEW_WORDS = set(
    "pa ap lateral frontal portable upright supine erect semi semierect semiupright single one two three four view "
    "views chest radiograph radiographs radiography film films x-ray xray x ray bedside and of the a in with "
    "decubitus oblique lordotic inspiratory expiratory".split()
)
_A_VIEW = {
    "chest",
    "view",
    "views",
    "radiograph",
    "radiographs",
    "film",
    "films",
    "x-ray",
    "xray",
    "lateral",
    "frontal",
}
# Headings within the findings; they do not end the section.
_PARTS = set(
    "heart lungs lung mediastinum cardiomediastinum hila hilum pleura diaphragm bones skeleton vasculature airways "
    "abdomen lines tubes devices hardware tissues cardiac pulmonary pleural osseous structures spaces space support "
    "soft upper lower silhouette cardiomediastinal parenchyma catheters other right left and of the".split()
)
_AFTERWORDS = {"notification", "recommendation", "recommendations", "recommendation(s)", "addendum", "final addendum"}
_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True, slots=True)
class Sections:
    """The sections of one report, as typed (line breaks and marks are still in them); "" = there is none.

    `other` holds sections of further names (wet read, notification, ...), `headers` the names in the order of the text,
    `num_replaced` how many sections with text gave way to a later one of the same name.
    """

    impression: str = ""
    findings: str = ""
    last_paragraph: str = ""  # only where there is neither impression nor findings
    comparison: str = ""
    indication: str = ""
    technique: str = ""
    examination: str = ""
    other: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    num_replaced: int = 0


@dataclass(frozen=True, slots=True)
class CleanReport:
    """The text to train on, and what was done to get it. All numbers are those of the sections that were used."""

    text: str  # impression + " " + findings, or the last paragraph
    impression: str
    findings: str
    used: tuple[str, ...]  # sections that hold text, in the order of `text`
    num_words: int  # of `text`
    num_words_cut: int
    num_marks: int  # ___ or XXXX, taken out
    num_list_numbers: int  # taken out
    num_headers: int  # taken out of the sections' text
    min_words: int = MIN_WORDS

    @property
    def empty(self) -> bool:
        """No word at all."""
        return self.num_words == 0

    @property
    def too_short(self) -> bool:
        """Fewer words than `min_words`, but not empty."""
        return 0 < self.num_words < self.min_words

    @property
    def cut(self) -> bool:
        """Whether `max_words` took something off the end."""
        return self.num_words_cut > 0


def parse_sections(text: str) -> Sections:
    """Cut a report at its headers.

    1. A header is a line start in capitals up to a colon and white space ("FINDINGS: ", "PA AND LATERAL CHEST: "), a
       known name as "Findings:", or a known name or title ("FINAL REPORT") alone on its line.
    2. Names: a word that means a section, or is like it ("IMPRESSSION", "FINDNGS"), decides; impression goes before
       findings in a combined header; views of the chest mean findings; headings of organs ("LUNGS:") and others of
       fewer than four letters stay inside their section; every other header begins a section of `other` under its own
       name in lower case.
    3. Empty sections are left out, and of each name the last section counts.
    4. Where line breaks were lost (a report on one line) a known name with its colon begins a section anywhere, and a
       report without any such name in capitals or capitalised may have them small ("findings: "), at its start, at that
       of a line or after a sentence.
    5. With neither impression nor findings, the last paragraph is what stands after the first blank line of the last
       section (notifications, recommendations and addenda aside); the whole text where there is no header at all and
       only one paragraph.
    """
    found: list[tuple[str, str]] = []
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not _INLINE_HEADER.search(text):
        text = _SMALL_HEADER.sub(lambda match: match[0].upper(), text)
    if "\n" not in text.strip():
        text = _JOINED_HEADER.sub(lambda match: f"\n{match[0]}", text)
    name, start = "preamble", 0
    headers: list[str] = []
    for match in _HEADER.finditer(text):
        title = match["known"] or match["name"] or match["alone"]
        after = section_name(title)
        unnamed = match["name"] and after not in NAMES
        if after is None or (unnamed and sum(c.isalpha() for c in title) < 4):
            continue  # "LUNGS:", "T8:", "CT:"
        found.append((name, text[start : match.start()].strip()))
        name, start = after, match.end()
        headers.append(after)
    found.append((name, text[start:].strip()))
    found = [(name, body) for name, body in found if body]
    last = dict(found)
    ours = {name: last.get(name, "") for name in NAMES}
    paragraph = ""
    if not (ours["impression"] or ours["findings"]):
        bodies = [(name, body) for name, body in found if name not in _AFTERWORDS]
        if bodies:
            first, *rest = _BLANK_LINE.split(bodies[-1][1])
            headless = bodies[-1][0] in ("preamble", "final report") and len(bodies) == 1
            paragraph = "\n\n".join(rest) if rest else first if headless else ""
    return Sections(
        **ours,
        last_paragraph=paragraph,
        other={name: body for name, body in last.items() if name not in NAMES},
        headers=tuple(headers),
        num_replaced=len(found) - len(last),
    )


def section_name(header: str) -> str | None:
    """The name that a header stands for, None for the heading of an organ, which is part of its section's text."""
    plain = " ".join(header.lower().split())
    words = re.findall(r"[a-z][a-z-]*", plain)
    key = " ".join(words)
    if key in _EXACT:
        return _EXACT[key]
    if words and set(words) <= _PARTS:
        return None
    close = {
        known
        for word in words
        if len(word) > 5
        for known in difflib.get_close_matches(word, NAMES, 1, 0.8)
        if word[0] == known[0] or len(word) < len(known)
    }  # not COMPRESSION
    close |= {_BY_WORD[word] for word in words if word in _BY_WORD}
    for name in NAMES:
        if name in close:
            return name
    if set(words) <= _VIEW_WORDS and set(words) & _A_VIEW:
        return "findings"
    return plain


def report_text(sections: Sections, *, max_words: int | None = None, min_words: int = MIN_WORDS) -> CleanReport:
    """Impression + " " + findings, or the last paragraph where both are empty, cleaned.

    In this order: known headers inside the text are taken out; so are list numbers ("1." or "2)" at the start, after
    the end of a sentence, or at the start of a line when they count on; an item without a full stop before the next
    number gets one) and bullets ("- ", "* " or "\u2022" at the start of a line, likewise); de-identification marks
    (`___`, and XXXX of Open-i) go with the hyphens and slashes that hang on them, and rules of 10 underscores and more
    as lay-out; white space is collapsed, brackets that became empty, doubled stops and spaces before punctuation are
    removed. Case is kept.

    Args:
        max_words: keep the first whole sentences that have no more words together (of a longer first sentence its
            first words); what is cut is counted. None cuts nothing.
        min_words: fewer are flagged as too short; the text is given all the same.
    """
    names = ("impression", "findings") if sections.impression or sections.findings else ("last_paragraph",)
    parts = {name: _clean(getattr(sections, name)) for name in names}
    used = tuple(name for name, part in parts.items() if part.text)
    text = " ".join(parts[name].text for name in used)
    kept = text if max_words is None else _first_sentences(text, max_words)
    return CleanReport(
        text=kept,
        impression=parts["impression"].text if "impression" in parts else "",
        findings=parts["findings"].text if "findings" in parts else "",
        used=used,
        num_words=num_words(kept),
        num_words_cut=num_words(text) - num_words(kept),
        num_marks=sum(part.num_marks for part in parts.values()),
        num_list_numbers=sum(part.num_list_numbers for part in parts.values()),
        num_headers=sum(part.num_headers for part in parts.values()),
        min_words=min_words,
    )


def _first_sentences(text: str, max_words: int) -> str:
    if max_words < 1:
        raise ValueError(f"max_words is {max_words}, at least 1 is needed")
    if num_words(text) <= max_words:
        return text
    first, *rest = sentences(text)
    if num_words(first) > max_words:
        pieces = first.split()
        ends = [i + 1 for i, piece in enumerate(pieces) if num_words(piece)]
        return " ".join(pieces[: ends[max_words - 1]])
    kept, num = [first], num_words(first)
    for sentence in rest:
        num += num_words(sentence)
        if num > max_words:
            break
        kept.append(sentence)
    return " ".join(kept)


def num_words(text: str) -> int:
    """Pieces between white space that hold a letter or a digit."""
    return sum(any(c.isalnum() for c in piece) for piece in text.split())


_RULE = re.compile(r"_{10,}")
_MARK = re.compile(r"[-/]{0,3}(?:(?<!_)_{2,9}(?!_)|X{4,})(?:(?<=[_X])[-/]{1,3}(?=\w))?")
_LIST_NUMBER = re.compile(
    r"(?P<lead>^\s*|[.;:!?][\"')\]]*\s+|\n[ \t]*)\(?(?P<number>\d{1,2})(?:\.\)|[.)])(?=\s+\S|[A-Z])"
)

_BULLET = re.compile(r"(?P<lead>\A|\n)[ \t]*(?P<sign>[-*](?=[ \t])|\u2022)[ \t]*(?=\S)")


def count_marks(text: str) -> int:
    """De-identification marks: `___` and XXXX."""
    return len(_MARK.findall(text))


def count_headers(text: str) -> int:
    """Known headers ("FINDINGS:", "Impression:") anywhere in a text, or, if there is none, the small ones."""
    return len(_INLINE_HEADER.findall(text) or _SMALL_HEADER.findall(text))


def count_list_numbers(text: str) -> int:
    """List numbers, by the rule of `report_text`."""
    return _drop_list_numbers(text)[1]


@dataclass(frozen=True, slots=True)
class _Cleaned:
    text: str
    num_marks: int
    num_list_numbers: int
    num_headers: int


def _clean(text: str) -> _Cleaned:
    text, num_headers = _INLINE_HEADER.subn("\n", _RULE.sub(" ", text))
    text, num_list_numbers = _drop_list_numbers(_drop_bullets(text.strip()))
    text, num_marks = _MARK.subn(" ", text)
    text = " ".join(text.split())
    before = None
    while before != text:  # "(___ , ___)" empties from the inside
        before = text
        text = re.sub(r"[(\[<][\s,.;:/-]*[)\]>]", "", text)
        text = re.sub(r"\s+(?=[,;:?!)\]]|\.(?![\d.]))", "", text)
        text = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", text)
        text = re.sub(r"[,;:]+(?=\.(?:\s|$))", "", text)
        text = re.sub(r"(?<!\.)\.\s*\.(?!\.)(?=\s|$)", ".", text)
        text = " ".join(re.sub(r"([(\[])\s+", r"\1", text).split())
    text = re.sub(r"^[\s,.;:!?/-]+(?=\D|$)", "", text)
    return _Cleaned(text if num_words(text) else "", num_marks, num_list_numbers, num_headers)


def _drop_bullets(text: str) -> str:
    """Without bullets; an item that no mark closes gets a full stop before the next one."""

    def dropped(match: re.Match[str]) -> str:
        before, after = text[: match.start()].rstrip(), text[match.end()]
        if match["sign"] == "-" and before[-1:].isdigit() and after.isdigit():
            return match[0]  # "10 - 12 mm" that was wrapped to a new line
        return match["lead"] if before[-1:] in ("", *".;:!?") else "." + match["lead"]

    return _BULLET.sub(dropped, text)


def _drop_list_numbers(text: str) -> tuple[str, int]:
    parts: list[str] = []
    start = last = count = 0
    for match in _LIST_NUMBER.finditer(text):
        number, lead, before = int(match["number"]), match["lead"], text[: match.start()].rstrip()
        open_item = lead.startswith("\n") and before != "" and before[-1] not in ".;:!?"
        if open_item and number not in (1, last + 1):
            continue  # a number that was wrapped to a new line
        if lead.startswith(".") and re.search(r"(?<![A-Za-z])(?:nos?|approx|vs|figs?)$", before, re.IGNORECASE):
            continue  # "No. 5. ..."
        parts += [text[start : match.start()], f". {lead}" if open_item else lead]
        start, last, count = match.end(), number, count + 1
    return "".join(parts) + text[start:], count
