"""Where a report's text ends its sentences."""

from __future__ import annotations

import re

# A point after these is not the end of a sentence.
_TITLE_WORDS = {"dr", "dra", "drs", "mr", "mrs", "ms", "prof", "st"}
_NEVER = _TITLE_WORDS | set("vs e.g eg i.e ie approx cf fig figs viz incl resp".split())
# After these it is one when a capital (or the number of a list) follows.
_MAYBE = set(
    "cm mm ml kg mg hr hrs min mins sec wk wks yr yrs mo mos a.m p.m am pm etc al pt pts jr sr lat ant post inf sup "
    "med bilat dept tel ext prev temp wt ht m.d md r.n".split()
)
_STARTERS = set(
    "the there this these those that no a an in on at it its if is are as for from with without both bilateral left "
    "right heart lungs lung cardiac cardiomediastinal mediastinal pulmonary pleural stable unchanged mild moderate "
    "severe normal new small large findings recommend please otherwise however again also interval one two".split()
)
_END = re.compile(
    r"(?P<stop>[.!?\u2026]+[\"')\]\u201d]*)(?=\s|$)|(?<=[a-z)\]])(?P<glued>\.)(?=[A-Z][a-z])|"
    r"(?P<gap>\n[ \t]*\n)|(?P<item>\n)(?=[ \t]*\(?\d{1,2}[.)]\s)"
)
_WORD_BEFORE = re.compile(r"[A-Za-z0-9.]*$")
_LIST_START = re.compile(r"\(?\d{1,2}[.)]\s")


def sentences(text: str) -> list[str]:
    """The sentences of a text, without outer white space; together they hold every other character of it.

    A point, mark or ellipsis before white space ends a sentence; so do a blank line, the line break before a list
    number and a forgotten space ("apex.There is"). Punctuation alone belongs to the sentence before it. No end: after a
    list number ("1. No effusion." is one sentence), titles, "vs.", "e.g.", "i.e.", "approx.", "No." before a digit,
    initials of names; within a decimal; and, before a small letter or a digit, after units, hours and directions
    ("2 cm. in size", "at 5 a.m. today") and after an ellipsis.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        if (match["stop"] or match["glued"]) and not _ends(text, start, match):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    kept: list[tuple[int, int]] = []
    for span in spans:  # a lone "." goes with the sentence before it
        if not kept or any(c.isalnum() for c in text[slice(*span)]):
            kept.append(span)
        else:
            kept[-1] = (kept[-1][0], span[1])
    return [sentence for span in kept if (sentence := text[slice(*span)].strip())]


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    after = text[match.end() : match.end() + 40].lstrip()
    marks = match[0]
    if not after or "!" in marks or "?" in marks:
        return True
    if re.fullmatch(r"\(?\d{1,2}", text[start : match.start()].strip()):
        return False  # the number of a list, or "1" of "1.)"
    capital = after[0].isupper() or after[0] in "_(["
    if marks.startswith(("..", "\u2026")):
        return capital or bool(_LIST_START.match(after))
    word = _WORD_BEFORE.search(text[max(start, match.start() - 15) : match.start()])
    before = word[0] if word else ""
    low = before.lower()
    if low in _NEVER:
        return False
    if low in ("no", "nos"):
        return not (after[0].isdigit() or after[0] == "#")
    if low in _MAYBE:
        return capital or bool(_LIST_START.match(after))
    if re.fullmatch(r"(?:[A-Z]\.)*[A-Z]", before):  # initials, or "vitamin D. The"
        following = re.match(r"[A-Za-z]+", after)
        return bool(_LIST_START.match(after)) or (following is not None and following[0].lower() in _STARTERS)
    return len(before) > 2 or not after[0].islower() or not before.isalpha()


def num_words(text: str) -> int:
    """Pieces between white space that hold a letter or a digit."""
    return sum(any(c.isalnum() for c in piece) for piece in text.split())
