"""The audit of radiology reports: what cleaning left in them, and what training will not see.

A report is a distinct (patient, study, text): the images of one study share it and count once. The rules are those of
`report_sections`, so a manifest that `medvl data import` wrote has no headers, marks and list numbers left. They are
always counted; they are shown where the texts look like reports, by the rule of `looks_like_reports`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from medvl.data.record import Record
from medvl.data.reports.cleaning import MIN_WORDS, count_headers, count_list_numbers, count_marks
from medvl.data.reports.sentences import num_words

MGCA_WORDS = 112  # MGCA cuts a report behind them; nothing here does
_MENDED = "; medvl data import reports takes them out"
_SENTENCE_END = re.compile(r"(?<!\d)[.!?](?=\s+\S)")
_CLOSED = re.compile(r"[.!?:][\"')\]]*$")


@dataclass(frozen=True, slots=True)
class ReportIssue:
    """Reports that one rule of the audit found."""

    kind: str
    num: int  # reports
    is_fault: bool  # of a text to train on; else it is for the reader to judge
    ids: tuple[str, ...]  # of their records
    message: str


@dataclass(frozen=True, slots=True)
class ReportAudit:
    """All rules, in a fixed order, and whether the texts look like reports at all."""

    num: int  # reports, empty ones included
    look_like_reports: bool
    issues: tuple[ReportIssue, ...]

    @staticmethod
    def kinds() -> tuple[str, ...]:
        """The names of the rules."""
        return ("over_112_words", "open_end", "empty", "too_short", "headers", "marks", "list_numbers", "duplicates")

    def as_dict(self) -> dict[str, Any]:
        """Counts for audit.json: num, look_like_reports, and each rule with its number of reports."""
        counts: dict[str, Any] = {"num": self.num, "look_like_reports": self.look_like_reports}
        return counts | {issue.kind: issue.num for issue in self.issues}


def audit_reports(records: Sequence[Record]) -> ReportAudit:
    """Count the reports of `records` that each rule finds.

    over_112_words: MGCA would cut it. open_end: no full stop at the end, so cut before, or typed so. empty: no word.
    too_short: fewer than 3 words. headers: "FINDINGS:" and the like. marks: `___`, XXXX. list_numbers: "1. " before a
    sentence. duplicates: another study has the same text (case and white space aside).
    """
    reports: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        key = record.patient, record.study or record.patient, record.text
        reports.setdefault(key, []).append(record.id)
    studies: dict[str, set[tuple[str, str]]] = {}
    for patient, study, text in reports:
        studies.setdefault(_plain(text), set()).add((patient, study))
    lengths = {text: num_words(text) for _, _, text in reports}
    num = len(reports)

    def issue(kind: str, is_fault: bool, rule: Callable[[str], bool], what: str) -> ReportIssue:
        verdicts = {text: rule(text) for text in lengths}
        affected = [ids for (_, _, text), ids in reports.items() if verdicts[text]]
        ids = tuple(name for names in affected for name in names)
        return ReportIssue(kind, len(affected), is_fault, ids, f"{len(affected)} of {num} reports {what}")

    issues = (
        issue(
            "over_112_words",
            False,
            lambda text: lengths[text] > MGCA_WORDS,
            f"have more than {MGCA_WORDS} words: MGCA would cut them there; here only text.max_tokens cuts",
        ),
        issue(
            "open_end",
            False,
            lambda text: lengths[text] > 0 and not _CLOSED.search(text.rstrip()),
            "end without a full stop: typed so, or cut before",
        ),
        issue("empty", True, lambda text: lengths[text] == 0, "are empty"),
        issue(
            "too_short",
            True,
            lambda text: 0 < lengths[text] < MIN_WORDS,
            f"have fewer than {MIN_WORDS} words and say next to nothing",
        ),
        issue("headers", True, lambda text: count_headers(text) > 0, f"hold section headers, e.g. FINDINGS:{_MENDED}"),
        issue("marks", True, lambda text: count_marks(text) > 0, f"hold de-identification marks (___, XXXX){_MENDED}"),
        issue("list_numbers", True, lambda text: count_list_numbers(text) > 0, f"hold list numbers, e.g. 1.{_MENDED}"),
        issue(
            "duplicates",
            False,
            lambda text: lengths[text] > 0 and len(studies[_plain(text)]) > 1,
            "have the same text as another study: as contrastive pairs they contradict each other",
        ),
    )
    return ReportAudit(num, looks_like_reports(lengths), issues)


def looks_like_reports(texts: Iterable[str]) -> bool:
    """Whether at least half of the distinct texts that are not empty have two sentences or hold a header."""
    distinct = [text for text in dict.fromkeys(texts) if text]
    like = sum(_SENTENCE_END.search(text) is not None or count_headers(text) > 0 for text in distinct)
    return bool(distinct) and 2 * like >= len(distinct)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
