"""The sections of a report -> one clean text, with counts of all that was taken out.

Facts: MGCA's preparation, which G2D takes over (impression first, then findings; reports of fewer than 3 words are
none).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from medvl.data.reports.headings import ADDENDUM, inline_headings
from medvl.data.reports.markup import without_markup
from medvl.data.reports.sections import EMPTY, Sections
from medvl.data.reports.sentences import num_words, sentences
from medvl.data.reports.signatures import without_signatures

MIN_WORDS = 3  # MGCA drops reports below


@dataclass(frozen=True, slots=True)
class CleanReport:
    """The text to train on, and what was done to get it. All numbers are those of the sections that were used."""

    text: str  # impression + " " + findings + " " + addendum; the last paragraph where the first two are empty
    impression: str
    findings: str
    used: tuple[str, ...]  # sections that hold text, in the order of `text`
    num_words: int  # of `text`
    num_words_cut: int
    num_marks: int  # ___ or XXXX, taken out
    num_list_numbers: int  # taken out
    num_headers: int  # taken out of the sections' text
    num_signatures: int = 0  # lines and sentences of signatures, dates and attestations, taken out
    num_markup: int = 0  # tags, entities and escapes, resolved
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


def report_text(sections: Sections, *, max_words: int | None = None, min_words: int = MIN_WORDS) -> CleanReport:
    """Impression + " " + findings, or the last paragraph where both are empty, then addenda; cleaned.

    In this order: markup is resolved and signatures go (of sections that were not parsed); known headers inside the
    text are taken out; so are list numbers ("1." or "2)" at the start, after the end of a sentence, or at the start of
    a line when they count on; an item without a full stop before the next number gets one) and bullets ("- ", "* " or
    "\u2022" at the start of a line, likewise); de-identification marks (`___`, and XXXX of Open-i) go with the hyphens
    and slashes that hang on them, and rules of 10 underscores and more as lay-out; white space is collapsed, brackets
    that became empty, doubled stops and spaces before punctuation are removed. Case is kept.

    Args:
        max_words: keep the first whole sentences that have no more words together (of a longer first sentence its
            first words); what is cut is counted. None cuts nothing.
        min_words: fewer are flagged as too short; the text is given all the same.
    """
    main = ("impression", "findings") if sections.impression or sections.findings else ("last_paragraph",)
    names = (*main, ADDENDUM)
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
        num_signatures=sections.num_signatures + sum(part.num_signatures for part in parts.values()),
        num_markup=sections.num_markup + sum(part.num_markup for part in parts.values()),
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
    return len(list(inline_headings(text))) or len(list(inline_headings(text, small=True)))


def count_list_numbers(text: str) -> int:
    """List numbers, by the rule of `report_text`."""
    return _drop_list_numbers(text)[1]


@dataclass(frozen=True, slots=True)
class _Cleaned:
    text: str
    num_marks: int
    num_list_numbers: int
    num_headers: int
    num_signatures: int
    num_markup: int


def _clean(text: str) -> _Cleaned:
    text, num_markup = without_markup(text)
    text, num_signatures = without_signatures(text)
    if EMPTY.fullmatch(text):
        text = ""
    text, num_headers = _RULE.sub(" ", text), 0
    while spans := list(inline_headings(text)):
        num_headers += len(spans)
        for start, end in reversed(spans):
            text = f"{text[:start]}\n{text[end:]}"
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
    return _Cleaned(
        text if num_words(text) else "", num_marks, num_list_numbers, num_headers, num_signatures, num_markup
    )


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
