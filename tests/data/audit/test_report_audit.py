"""What the audit says about reports, and where it says nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvl.data.audit.audit import audit_manifest, audit_text
from medvl.data.audit.reports import MGCA_WORDS, ReportAudit, audit_reports, looks_like_reports
from medvl.data.record import Record
from medvl.data.records import write_manifest

CLEAN = "No acute process. The lungs are clear."


def records(*texts: str, studies: list[str] | None = None) -> list[Record]:
    found = []
    for i, text in enumerate(texts):
        study = studies[i] if studies else f"s{i}"
        parts = (f"r{i}", Path("x.png"), text, {}, (), (), f"p-{study}", study, None, "train", None, {}, i + 2)
        found.append(Record(*parts))  # type: ignore[arg-type]  # the dictionary is empty
    return found


def found_by(audit: ReportAudit) -> dict[str, tuple[str, ...]]:
    return {issue.kind: issue.ids for issue in audit.issues if issue.num}


def test_clean_reports() -> None:
    audit = audit_reports(records(CLEAN, "Heart is normal. No effusion seen."))
    assert audit.look_like_reports and audit.num == 2 and found_by(audit) == {}
    assert tuple(issue.kind for issue in audit.issues) == ReportAudit.kinds()
    assert audit.as_dict() == {
        "num": 2,
        "look_like_reports": True,
        **dict.fromkeys(ReportAudit.kinds(), 0),
    }


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The lungs are clear and the", "open_end"), ("", "empty"), ("___ .", "marks"),
        ("Normal chest.", "too_short"), ("FINDINGS: The lungs are clear.", "headers"),
        ("The lungs. Impression: they are clear.", "headers"), ("Compared to ___, no change.", "marks"),
        ("Normal chest x-XXXX today.", "marks"), ("1. No acute process.", "list_numbers"),
        ("No acute process. 2. No effusion.", "list_numbers"),
        (" ".join(["word"] * MGCA_WORDS) + " more.", "over_112_words"),
        ("no ACUTE  process.\nThe lungs are clear.", "duplicates"),
    ],
)  # fmt: skip
def test_each_rule(text: str, kind: str) -> None:
    found = found_by(audit_reports(records(CLEAN, text)))
    assert found[kind] == (("r0", "r1") if kind == "duplicates" else ("r1",))
    also = {"___ .": {"empty"}}.get(text, set())
    assert set(found) == {kind} | also


def test_limits() -> None:
    assert not found_by(audit_reports(records(" ".join(["word"] * (MGCA_WORDS - 1)) + " more.")))
    assert "MGCA would cut" in audit_reports(records(CLEAN)).issues[0].message
    assert not found_by(audit_reports(records("Clear right lung."))) and not found_by(audit_reports([]))


def test_images_of_a_study_are_one_report() -> None:
    listed = "1. Normal chest today."
    audit = audit_reports(records(CLEAN, CLEAN, listed, listed, studies=["a", "a", "b", "c"]))
    assert audit.num == 3
    found = {issue.kind: issue for issue in audit.issues}
    assert found["duplicates"].num == 2 and found["duplicates"].ids == ("r2", "r3")
    assert found["list_numbers"].num == 2 and "2 of 3 reports" in found["list_numbers"].message


def test_captions_are_no_reports() -> None:
    assert not looks_like_reports([]) and not looks_like_reports(["", ""])
    assert not looks_like_reports(["Bilateral infection, two areas.", "The right lung", "2.5 cm nodule."])
    assert looks_like_reports([CLEAN, "IMPRESSION: clear", "", "the left lung"])


def test_in_the_audit(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    rows = [
        {"id": f"r{i}", "image": "x.png", "text": text, "patient": f"p{i}", "split": "train"}
        for i, text in enumerate((CLEAN, "FINDINGS: Clear. 1. No effusion ___", CLEAN))
    ]
    path = tmp_path / "m.csv"
    write_manifest(path, rows)
    audit = audit_manifest(path)
    found = {finding.kind: finding for finding in audit.findings if finding.kind.startswith("report_")}
    assert {kind: (finding.severity, finding.ids) for kind, finding in found.items()} == {
        "report_headers": ("warning", ("r1",)),
        "report_marks": ("warning", ("r1",)),
        "report_list_numbers": ("warning", ("r1",)),
        "report_open_end": ("info", ("r1",)),
        "report_duplicates": ("info", ("r0", "r2")),
    }
    assert audit.counts["reports"]["headers"] == 1 and audit.exit_code == 0
    text = audit_text(audit)
    expected = "reports: num 3, over 112 words 0, open end 1, empty 0, too short 0, headers 1, marks 1, list numbers 1"
    assert expected in text
    assert "warning: report_marks: 1 of 3 reports hold de-identification marks (___, XXXX); medvl data import" in text
    short = audit_manifest(path, max_tokens=6)  # tokens are no words: the rules of reports stay
    assert short.counts["reports"] == audit.counts["reports"]
    assert "texts at max_tokens (6 tokens): 3 of 3 cut" in audit_text(short)
    for row in rows:
        row["text"] = "upper zone, 1. XXXX"
    write_manifest(path, rows)
    audit = audit_manifest(path)
    assert audit.counts["reports"]["marks"] == 3 and "reports:" not in audit_text(audit)  # counted, not shown
    assert not any(finding.kind.startswith("report_") for finding in audit.findings)


@pytest.mark.shared
def test_all_open_i_reports(shared_data: Path) -> None:
    with (shared_data / "openi-reports" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    audit = audit_reports(records(*(row["text"] for row in rows)))
    counts = audit.as_dict()
    assert counts == {
        "num": 3561, "look_like_reports": True, "over_112_words": 30, "open_end": 230, "empty": 24, "too_short": 0,
        "headers": 2, "marks": sum("XXXX" in row["text"] for row in rows), "list_numbers": 723, "duplicates": 822,
    }  # fmt: skip
