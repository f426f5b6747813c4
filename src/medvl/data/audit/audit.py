"""The audit of a manifest: faults, leaks between splits, texts, masks, classes, licences. It changes nothing."""

from __future__ import annotations

import json
import re
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from medvl.core.csv_cells import is_formula
from medvl.core.errors import InputError
from medvl.data.audit.images import (
    MaskSummary,
    dark_images,
    mask_counts,
    mask_line,
    mask_remarks,
    mask_summaries,
    orientation_remarks,
)
from medvl.data.audit.reports import ReportAudit, audit_reports
from medvl.data.columns import guess_table
from medvl.data.hashes import image_hashes
from medvl.data.images import SliceChoice
from medvl.data.mask_colours import LabelValue
from medvl.data.mask_meaning import MaskRule
from medvl.data.record import Manifest, MaskRef, Record
from medvl.data.records import read_manifest
from medvl.data.reports import names_side
from medvl.data.reports.marks import spell
from medvl.data.reports.sides import side_marks

Severity = Literal["error", "warning", "info"]
SLOTS = 10  # tokens that LViT's released text merge reads (its read_text cuts the rest off)
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """One thing the audit found. `leak` and `fault` findings are errors; the others are for the reader to judge."""

    kind: str
    severity: Severity
    ids: tuple[str, ...]  # record ids
    message: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What audit.json holds: findings, counts, leak."""

    manifest: Path
    findings: tuple[AuditFinding, ...]
    counts: Mapping[str, Any]
    leak: bool

    @property
    def num_faults(self) -> int:
        """How many faults the manifest has; a manifest with faults cannot be loaded."""
        return sum(finding.kind == "fault" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """2 with faults, 1 with a leak, else 0."""
        return 2 if self.num_faults else int(self.leak)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        findings = [asdict(finding) for finding in self.findings]
        return {"manifest": str(self.manifest), "findings": findings, "counts": dict(self.counts), "leak": self.leak}

    def as_json(self) -> str:
        """audit.json"""
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False)


def audit_manifest(
    path: str | Path,
    *,
    text_column: str = "text",
    classes: Sequence[str] | Mapping[str, Sequence[LabelValue]] | None = None,
    empty_means_absent: Sequence[str] = (),
    max_tokens: int | None = None,
    slices: SliceChoice = None,
    window: tuple[float, float] | None = None,
    mask_rule: MaskRule = "area",
    columns: Mapping[str, str] | None = None,
) -> Audit:
    """Audit a manifest; its faults are collected, not raised. Every image and mask is decoded, and it is said
    what was decided about the masks.

    A leak is a patient, or the same image content, in more than one split. Texts are measured in words and punctuation
    marks; an encoder's own word pieces are a little more.

    Texts that look like radiology reports are also counted by the rules of `report_audit`.

    Args:
        max_tokens: also count the texts longer than this.
        slices, window, mask_rule: how volumes and masks are read, as in training: `data.slice_index` (or "all"),
            `data.window`, `data.mask_rule`.
        columns: names of the table's columns, as `data.columns`; None = guessed by the usual names, with a note.
    """
    guess = None
    if columns is None:
        guess = guess_table(path, text_column)
        columns = guess.columns
    manifest, faults = read_manifest(
        path,
        text_column=text_column,
        classes=classes,
        empty_means_absent=empty_means_absent,
        check_files="full",
        slices=slices,
        window=window,
        columns=columns,
    )
    records = manifest.records
    findings = [AuditFinding("fault", "error", (fault.record,) if fault.record else (), str(fault)) for fault in faults]
    findings += [AuditFinding("manifest", "warning", (), message) for message in manifest.warnings]
    findings += [AuditFinding("columns", "info", (), line) for line in (guess.lines() if guess else ())]
    leaks = _patient_leaks(records)
    try:
        leaks += _content_leaks(records)
    except InputError as error:  # a file of a damaged pack
        findings.append(AuditFinding("fault", "error", (), f"{error}; contents of images were not compared"))
    findings += leaks
    findings += _text_findings(records, max_tokens)
    reports = audit_reports(records)
    findings += _report_findings(reports)
    summaries = mask_summaries(records, slices, mask_rule)
    empty = {reference for reference, summary in summaries.items() if not summary.share}
    findings += _mask_findings(records, manifest.classes, empty)
    findings += _image_findings(manifest, summaries)
    findings += _column_findings(records)
    counts = {
        "records": len(records),
        "faults": len(faults),
        "images": len({record.image for record in records}),
        "patients": len({record.patient for record in records}),
        "texts": _text_counts(records, max_tokens),
        "reports": reports.as_dict(),
        "masks": {name: mask_counts(records, name, summaries) for name in manifest.classes},
        "splits": {name: _split_counts(rows, manifest.classes, empty) for name, rows in _by_split(records).items()},
        "split_hash": manifest.split_hash(),
        "columns": dict(manifest.columns),
    }
    return Audit(manifest.path, tuple(findings), counts, leak=any(finding.severity == "error" for finding in leaks))


def _image_findings(manifest: Manifest, summaries: Mapping[MaskRef, MaskSummary]) -> list[AuditFinding]:
    """What is odd about the pixels of masks and images, and how images are turned."""
    findings = []
    for name in manifest.classes:
        findings += [AuditFinding(*remark) for remark in mask_remarks(manifest.records, name, summaries)]
    dark = dark_images(manifest.records)
    if dark.ids:
        findings.append(AuditFinding("dark_images", "warning", dark.ids, dark.message))
    return findings + [AuditFinding(*remark) for remark in orientation_remarks(manifest.records)]


def audit_text(audit: Audit, *, num_faults: int = 20) -> str:
    """The audit for a terminal: counts, then findings, the worst first."""
    counts = audit.counts
    lines = [
        f"{audit.manifest}: {counts['records']} records, {counts['images']} images, {counts['patients']} patients, "
        f"{counts['faults']} faults",
        "",
        f"{'split':<10}{'records':>9}{'images':>8}{'patients':>10}{'texts':>7}{'words':>12}  masks",
    ]
    for name, split in counts["splits"].items():
        words = split["texts"]["words"]
        span = f"{words['min']}-{words['median']:g}-{words['max']}" if words else "-"
        masks = "; ".join(
            f"{kind}: {', '.join(f'{number} {what}' for what, number in states.items() if number)}"
            for kind, states in split["classes"].items()
        )
        lines.append(
            f"{name:<10}{split['records']:>9}{split['images']:>8}{split['patients']:>10}"
            f"{split['texts']['distinct']:>7}{span:>12}  {masks}"
        )
    lines += [mask_line(name, masks) for name, masks in counts["masks"].items() if masks["masks"]]
    for key in ("labels", "boxes", "licences"):
        for name, split in counts["splits"].items():
            if split[key]:
                parts = [f"{value} {number}" for value, number in list(split[key].items())[:8]]
                more = f", and {len(split[key]) - 8} more" if len(split[key]) > 8 else ""
                lines.append(f"{key} of {name}: {', '.join(parts)}{more}")
    for name, cut in counts["texts"]["truncation"].items():
        if cut["max_tokens"] is None:
            lines.append(f"texts at {name}: any length, none is cut")
        else:
            lines.append(
                f"texts at {name} ({cut['max_tokens']} tokens): {cut['truncated']} of {counts['texts']['num']} cut; "
                f"{cut['side_word_cut']} lose a side word, {cut['no_side_word_left']} of them the only one"
            )
    if counts["reports"]["look_like_reports"]:
        parts = [f"{name.replace('_', ' ')} {counts['reports'][name]}" for name in ("num", *ReportAudit.kinds())]
        lines.append(f"reports: {', '.join(parts)}")
    lines.append("")
    order = {"error": 0, "warning": 1, "info": 2}
    shown = sorted(audit.findings, key=lambda finding: order[finding.severity])
    faults = [finding for finding in shown if finding.kind == "fault"]
    hidden = {id(finding) for finding in faults[num_faults:]}
    lines += [f"{f.severity}: {f.kind}: {f.message}" for f in shown if id(f) not in hidden]
    if hidden:
        lines.append(f"error: and {len(hidden)} faults more; --json or --out lists them all")
    lines.append("LEAK between splits" if audit.leak else "no leak between splits")
    return "\n".join(lines)


def _by_split(records: Iterable[Record]) -> dict[str, list[Record]]:
    by_split: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_split[record.split or "(none)"].append(record)
    order = ["train", "val", "test", "holdout"]
    return {name: by_split[name] for name in sorted(by_split, key=lambda name: [*order, name].index(name))}


def _ids(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(record.id for record in records)


def _across(records: Sequence[Record], key: Callable[[Record], str]) -> dict[tuple[str, str], dict[str, list[Record]]]:
    """Pairs of splits -> {key: the records of both} for keys that stand in both."""
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.split is not None:
            groups[key(record)][record.split].append(record)
    pairs: dict[tuple[str, str], dict[str, list[Record]]] = defaultdict(dict)
    for name, splits in groups.items():
        for one, other in combinations([split for split in ("train", "val", "test", "holdout") if split in splits], 2):
            pairs[one, other][name] = splits[one] + splits[other]
    return pairs


def _patient_leaks(records: Sequence[Record]) -> list[AuditFinding]:
    return [
        AuditFinding(
            "patient_leak",
            "error",
            _ids(record for rows in groups.values() for record in rows),
            f"{len(groups)} patients stand in {one} and in {other}, e.g. {_some(groups)}",
        )
        for (one, other), groups in _across(records, lambda record: record.patient).items()
    ]


def _content_leaks(records: Sequence[Record]) -> list[AuditFinding]:
    """The same file content in two splits, or (no leak, but worth knowing) under two names in one."""
    digests = image_hashes(records)
    present = [record for record in records if record.image in digests]
    findings = []
    for (one, other), groups in _across(present, lambda record: digests[record.image]).items():
        rows = [record for group in groups.values() for record in group]
        some = _some(record.image.name for record in rows)
        message = f"{len(groups)} images stand in {one} and in {other} with the same content, e.g. {some}"
        findings.append(AuditFinding("image_leak", "error", _ids(rows), message))
    names: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for record in present:
        names[record.split or "", digests[record.image]].add(record.image)
    twice = {path for paths in names.values() if len(paths) > 1 for path in paths}
    if twice:
        rows = [record for record in present if record.image in twice]
        message = f"{len(twice)} images of one split share their content, e.g. {_some(path.name for path in twice)}"
        findings.append(AuditFinding("duplicate_image", "warning", _ids(rows), message))
    return findings


def _text_findings(records: Sequence[Record], max_tokens: int | None) -> list[AuditFinding]:
    findings = []
    without = [record for record in records if not record.text]
    if without:
        severity: Severity = "info" if len(without) == len(records) else "warning"
        findings.append(AuditFinding("empty_text", severity, _ids(without), f"{len(without)} records have no text"))
    sides = [record for record in records if names_side(record.text)]
    if sides:
        message = f"{len(sides)} records name a side in their text: declare data.laterality (patient, viewer, image)"
        findings.append(AuditFinding("names_side", "info", (), message))
    for name, cap in _caps(max_tokens).items():
        lost = [record for record in records if cap is not None and _side_cut(record.text, cap)]
        if lost:
            message = f"{len(lost)} texts lose a side word at the {cap} tokens of {name}"
            findings.append(AuditFinding("side_word_cut", "warning", _ids(lost), message))
    trained = {record.text for record in records if record.split == "train" and record.text}
    for split in ("val", "test", "holdout"):
        rows = [record for record in records if record.split == split and record.text]
        known = sum(record.text in trained for record in rows)
        if rows and trained:
            message = f"{known} of {len(rows)} texts of {split} stand word by word in train"
            findings.append(AuditFinding("text_in_train", "info", (), message))
    return findings


def _report_findings(reports: ReportAudit) -> list[AuditFinding]:
    """Only what was found, and only where the texts look like reports."""
    if not reports.look_like_reports:
        return []
    return [
        AuditFinding(f"report_{issue.kind}", "warning" if issue.is_fault else "info", issue.ids, issue.message)
        for issue in reports.issues
        if issue.num
    ]


def _text_counts(records: Sequence[Record], max_tokens: int | None) -> dict[str, Any]:
    texts = [record.text for record in records if record.text]
    truncation = {}
    for name, cap in _caps(max_tokens).items():
        cut = [text for text in texts if cap is not None and len(_TOKEN.findall(text)) > cap]
        lost = [text for text in cut if cap is not None and _side_cut(text, cap)]
        none_left = [text for text in lost if cap is not None and min(_side_tokens(text)) >= cap]
        truncation[name] = {
            "max_tokens": cap,
            "truncated": len(cut),
            "side_word_cut": len(lost),
            "no_side_word_left": len(none_left),
        }
    return {"num": len(texts), "distinct": len(set(texts)), "truncation": truncation}


def _caps(max_tokens: int | None) -> dict[str, int | None]:
    caps: dict[str, int | None] = {"builtin": None, "slots": SLOTS}
    return caps if max_tokens is None else {**caps, "max_tokens": max_tokens}


def _side_tokens(text: str) -> list[int]:
    """Which tokens of the text name a side: their numbers, from 0."""
    text = spell(text)
    ends = [match.end() for match in _TOKEN.finditer(text)]
    return [bisect_right(ends, mark.start) for mark in side_marks(text) if mark.sides]


def _side_cut(text: str, cap: int) -> bool:
    return any(token >= cap for token in _side_tokens(text))


def _state(mask: MaskRef | None, empty: Collection[MaskRef]) -> str:
    if mask is None:
        return "not annotated"
    if mask.path is None:
        return "absent"
    return "empty" if mask in empty else "annotated"


def _mask_findings(records: Sequence[Record], classes: Sequence[str], empty: Collection[MaskRef]) -> list[AuditFinding]:
    findings = []
    if not classes:
        findings.append(AuditFinding("no_masks", "info", (), "there is no mask column"))
    for name in classes:
        blank = [record for record in records if _state(record.masks[name], empty) == "empty"]
        if blank:
            message = f"{len(blank)} masks of {name} hold no pixel; write {'none'!r} where it was looked for and absent"
            findings.append(AuditFinding("empty_mask", "warning", _ids(blank), message))
        for split, rows in _by_split(records).items():
            if all(record.masks[name] is None for record in rows):
                message = f"no record of {split} has a mask of {name}"
                findings.append(AuditFinding("no_mask_in_split", "warning", (), message))
    return findings


def _column_findings(records: Sequence[Record]) -> list[AuditFinding]:
    findings = []
    loose = [record for record in records if record.split is None]
    if loose:
        message = f"{len(loose)} records belong to no split; medvl data split makes one"
        findings.append(AuditFinding("no_split", "warning", _ids(loose), message))
    unknown = [record for record in records if not record.licence]
    if unknown:
        findings.append(AuditFinding("no_licence", "info", _ids(unknown), f"{len(unknown)} records name no licence"))
    runnable = [record for record in records if any(map(is_formula, _cells(record)))]
    if runnable:
        message = f"{len(runnable)} records have a cell that a spreadsheet would run as a formula (= + - @)"
        message += "; --excel-safe of the verbs that write CSV marks such cells"
        findings.append(AuditFinding("formula_cell", "warning", _ids(runnable), message))
    return findings


def _cells(record: Record) -> list[str]:
    """The cells of a record that hold words of people."""
    words = [record.id, record.text, record.patient, record.study, record.view, record.licence, *record.labels]
    return [word for word in (*words, *record.extra.values()) if word]


def _split_counts(records: Sequence[Record], classes: Sequence[str], empty: Collection[MaskRef]) -> dict[str, Any]:
    words = [len(record.text.split()) for record in records if record.text]
    return {
        "records": len(records),
        "images": len({record.image for record in records}),
        "patients": len({record.patient for record in records}),
        "classes": {name: dict(Counter(_state(record.masks[name], empty) for record in records)) for name in classes},
        "labels": _cell_counts([(record.labels, record.labels_absent) for record in records]),
        "boxes": _cell_counts([([box.label for box in record.boxes], record.boxes_absent) for record in records]),
        "licences": dict(Counter(record.licence or "(none)" for record in records).most_common()),
        "texts": {
            "empty": len(records) - len(words),
            "distinct": len({record.text for record in records if record.text}),
            "words": {"min": min(words), "median": statistics.median(words), "max": max(words)} if words else None,
        },
    }


def _cell_counts(cells: Sequence[tuple[Sequence[str], bool]]) -> dict[str, int]:
    """How often each name stands in cells of labels or boxes, how often `none`, how many are empty; {} without a word.

    Args:
        cells: (names, whether the word `none` stands there) of each record.
    """
    counts = Counter(name for names, _ in cells for name in names)
    num_absent = sum(absent for _, absent in cells)
    if not counts and not num_absent:
        return {}
    num_empty = sum(not names and not absent for names, absent in cells)
    others = {"(none: looked for and absent)": num_absent, "(empty: not annotated)": num_empty}
    return {**{name: number for name, number in others.items() if number}, **dict(counts.most_common())}


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))[:3])
