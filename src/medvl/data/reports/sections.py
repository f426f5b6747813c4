"""A radiology report as it was typed -> its sections; `cleaning` makes one text of them.

Facts: the program of MIMIC-CXR's authors (headers are upper-case line starts that end in a colon; the LAST section of a
name counts; without impression and findings the last paragraph stands in). The rules and the tables of names are
medvl's own: `markup` (HTML and escapes), `signatures`, `headings`. The authors' program also patches some forty reports
by their number; that list is not used here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medvl.data.reports.headings import (
    ADDENDUM,
    NAMES,
    PROVISIONAL,
    TITLE,
    Heading,
    examination_of,
    fold,
    headings,
    inline_headings,
    known_name,
)
from medvl.data.reports.markup import without_markup
from medvl.data.reports.sentences import num_words
from medvl.data.reports.signatures import without_signatures

_LONG_NAME = 12  # words; more do not name an examination
_AFTERWORDS = {"notification", "recommendation", "recommendations", "recommendation(s)"}
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
    addendum: str = ""  # all of them
    other: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    examinations: tuple[str, ...] = ()  # the names of several examinations in one report, () where it is one
    whole: str = ""  # the report without markup and signatures
    num_replaced: int = 0
    num_signatures: int = 0  # lines and sentences taken out
    num_markup: int = 0  # tags, entities and escapes resolved


def parse_sections(text: str) -> Sections:
    """Cut a report at its headings, after markup was resolved and signatures were taken out.

    1. Headings are those of `report_headings.headings`. A known name with its colon that follows the end of a sentence
       begins a line; where line breaks were lost (a report on one line) it does so anywhere; in a report without any
       such name in capitals or capitalised they may be small ("findings: ").
    2. Names: a word that means a section, or is like it ("IMPRESSSION", "FINDNGS"), decides; impression goes before
       findings in a combined header; views of the chest mean findings; headings of organs ("LUNGS:") and others of
       fewer than four letters stay inside their section; every other header begins a section of `other` under its own
       name in lower case. Interpretation, assessment and diagnosis are the impression where nothing else is.
    3. Empty sections ("Findings: None.") are left out. Of one title the last section counts, and a provisional one
       gives way; sections of several titles ("FINDINGS", "OTHER FINDINGS") stand together, and so do those of several
       examinations. Addenda are kept, with the sections in them.
    4. With neither impression nor findings, the last paragraph is what stands after the first blank line of the last
       section (notifications, recommendations and addenda aside); the whole text where there is no header at all and
       only one paragraph.
    """
    text, num_markup = without_markup(text)
    text = _broken(text)
    text, num_signatures = without_signatures(text)
    marks = headings(text)
    reader = _Reader()
    reader.take(Heading("", "preamble", 0, 0), text[: marks[0].start if marks else None].strip())
    ends = [mark.start for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=False):
        reader.take(mark, text[mark.end : end].strip())
    return reader.sections(text, [mark.name for mark in marks], num_signatures, num_markup)


_INLINE_ADDENDUM = re.compile(
    r"(?<=[.!?;:)])[ \t]+(?=(?:final[ \t]+)?(?:addendum|nachtrag|adenda|adendo|additif)\b[^.\n:]{0,60}:)", re.IGNORECASE
)


_BEFORE_HEADING = re.compile(r"(?:(?<=[.!?;:] )|(?<=\n)|\A)(?:\d{1,2}[.)]|[-*#]{1,4})[ \t]*$")  # "2. Impression:"


def _broken(text: str) -> str:
    """With a line break before each heading that stands within a line."""
    text = _INLINE_ADDENDUM.sub("\n", text)
    lost = not any(heading.start and heading.name in NAMES for heading in headings(text))  # its line breaks, perhaps
    spans = list(inline_headings(text, anywhere=lost)) or list(inline_headings(text, small=True))
    names = [known_name(text[start:end].rstrip(" \t:-\u2013\u2014")) or "impression" for start, end in spans]
    if not {"impression", "findings"}.intersection(names):
        return text  # a case that is told, with "Clinical details: ..." in it
    for (start, _), name in reversed(list(zip(spans, names, strict=True))):
        if (mark := _BEFORE_HEADING.search(text[:start])) is not None:
            start = mark.start()
        within = text[:start].strip() and text[:start].rstrip(" \t*#_[<")[-1:] != "\n"
        if within and (lost or name != "examination"):
            text = f"{text[:start]}\n{text[start:]}"
    return text


EMPTY = re.compile(
    r"[\s(\[]*(?:none(?: (?:available|given|provided|recorded))?|nil|n/?a|unavailable|"
    r"not (?:applicable|available|given|provided|recorded)|idem|-+|ninguno|ninguna|nenhum|nenhuma|keine?|aucune?|"
    r"(?:please )?see (?:the )?(?:above|below|impression|findings?|report|body of (?:the )?report)|"
    r"as (?:described )?(?:above|below|described))[\s.)\]]*",
    re.IGNORECASE,
)


@dataclass
class _Reader:
    """Collects the sections of a report in its order."""

    parts: list[tuple[Heading, str]] = field(default_factory=list)  # findings and impression, of the examination
    done: list[tuple[str, str]] = field(default_factory=list)  # (impression, findings) of the examinations before
    names: list[str] = field(default_factory=list)  # of the examinations
    bodies: list[tuple[str, str]] = field(default_factory=list)  # every section with text: (name, text)
    rest: dict[str, str] = field(default_factory=dict)  # all but findings, impression and addenda
    titles: dict[str, str] = field(default_factory=dict)  # the last one of each of them
    addenda: list[str] = field(default_factory=list)
    in_addendum: bool = False
    empty: Heading | None = None  # a heading of findings or impression, directly before, without text
    num_replaced: int = 0

    def take(self, heading: Heading, body: str) -> None:
        """Add the section of a heading."""
        name = heading.name
        if name == TITLE:
            self.in_addendum = False
        if self.empty is not None and name == "examination" and num_words(body) > _LONG_NAME:
            heading, name = self.empty, self.empty.name  # "FINDINGS: Exam: chest. The lungs are clear."
        if name == ADDENDUM:
            self.in_addendum = bool(self.parts)
        elif examination_of(heading.title) and (not body or not self.parts or self._has("findings")):
            self._next_examination(" ".join(heading.title.split()))
        elif name == "examination" and body:
            self._next_examination(" ".join(body.split("\n")[0].split()))
        self.empty = heading if name in ("findings", "impression") and not body else None
        if name in ("findings", "impression") and EMPTY.fullmatch(body):
            body = ""
        if not body:
            return
        self.bodies.append((name, body))
        if name == ADDENDUM or (self.in_addendum and name in ("findings", "impression")):
            self.addenda.append(body)
        elif name in ("findings", "impression"):
            self.parts.append((heading, body))
        else:
            title = fold(heading.title)
            again = self.titles.get(name) == title and name != "examination"
            self.num_replaced += again
            self.rest[name] = body if again or name == "examination" else _together([self.rest.get(name, ""), body])
            self.titles[name] = title

    def _has(self, name: str) -> bool:
        return any(part.name == name for part, _ in self.parts)

    def _next_examination(self, name: str) -> None:
        if self.in_addendum:
            return
        if self.parts:
            self.done.append(self._examination())
            self.parts = []
            self.names.append(name)
        else:
            self.names[-1:] = [name]  # the last of several headings names it

    def _examination(self) -> tuple[str, str]:
        """-> impression and findings of one examination."""
        firm = any(part.name == "impression" and not part.weak for part, _ in self.parts)
        first, body = self.parts[0] if self.parts else (Heading("", "", 0, 0), "")
        if firm and first.weak and "diagn" in fold(first.title) and self._has("findings"):
            self.rest.setdefault("indication", body)  # what was known before
            del self.parts[0]
        texts: dict[str, dict[str, str]] = {"impression": {}, "findings": {}}
        for part, body in self.parts:
            title = fold(part.title)
            is_interpretation = part.weak and firm and "diagn" not in title
            section = texts["findings" if is_interpretation else part.name]
            self.num_replaced += title in section
            section.pop(title, None)
            section[title] = body
        for section in texts.values():
            provisional = [title for title in section if any(word in title for word in PROVISIONAL)]
            if len(provisional) < len(section):
                self.num_replaced += len(provisional)
                for title in provisional:
                    del section[title]
        return _together(list(texts["impression"].values())), _together(list(texts["findings"].values()))

    def sections(self, text: str, headers: Sequence[str], num_signatures: int, num_markup: int) -> Sections:
        """What was taken."""
        examinations = [*self.done, self._examination()]
        impression, findings = (_together([pair[i] for pair in examinations]) for i in (0, 1))
        paragraph = ""
        if not (impression or findings):
            bodies = [(name, body) for name, body in self.bodies if name not in _AFTERWORDS and name != ADDENDUM]
            if bodies:
                first, *rest = _BLANK_LINE.split(bodies[-1][1])
                headless = bodies[-1][0] in ("preamble", TITLE) and len(bodies) == 1
                paragraph = "\n\n".join(rest) if rest else first if headless else ""
        return Sections(
            impression=impression,
            findings=findings,
            last_paragraph=paragraph,
            comparison=self.rest.get("comparison", ""),
            indication=self.rest.get("indication", ""),
            technique=self.rest.get("technique", ""),
            examination=self.rest.get("examination", ""),
            addendum=_together(self.addenda),
            other={name: body for name, body in self.rest.items() if name not in NAMES},
            headers=tuple(headers),
            examinations=tuple(self.names) if self.done and any(examinations[-1]) else (),
            whole=text.strip(),
            num_replaced=self.num_replaced,
            num_signatures=num_signatures,
            num_markup=num_markup,
        )


def _together(texts: Sequence[str]) -> str:
    """Texts as one, each once, closed by a full stop where it ends without a mark."""
    texts = [text for text in dict.fromkeys(texts) if text]
    closed = [text if text.rstrip()[-1:] in (*".:;!?",) else f"{text}." for text in texts[:-1]]
    return "\n\n".join([*closed, *texts[-1:]])
