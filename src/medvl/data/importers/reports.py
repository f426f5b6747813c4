"""Any manifest with a column of reports as they were typed: sections, cleaned text, counts.

The layout is the manifest's own; the rules are those of `report_sections`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medvl.core.errors import InputError, warn
from medvl.core.files import refuse_source
from medvl.data.importers.cases import ImportResult
from medvl.data.records import load_manifest, moved_rows, write_manifest
from medvl.data.reports.cleaning import CleanReport, report_text
from medvl.data.reports.headings import unknown_titles
from medvl.data.reports.sections import parse_sections

MADE = ("text", "text_findings", "text_impression")


def import_reports(
    source: str | Path,
    out: str | Path,
    *,
    text_column: str = "text",
    max_words: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> ImportResult:
    """Write the manifest again with `text` made of its reports: impression + " " + findings, or the last paragraph.

    A report without any header is taken whole. Every row and column stays (an empty or too short report leaves its row
    without text); `text_findings` and `text_impression` are added, and the column of the reports is kept unless it is
    `text` itself.

    Args:
        source: a manifest, or a folder with manifest.csv.
        text_column: the column of the reports.
        max_words: cut behind the last whole sentence within so many words; None cuts nothing.
        columns: of a manifest with other names, as `data.columns`.

    `counts` of the result: rows_without_text; and, over the distinct reports: distinct_reports, with_sections,
    last_paragraph (that stands in), whole (no header), empty (no word), unknown_headings (empty, because no heading of
    theirs is known), too_short (fewer than 3 words), cut and words_cut (`max_words`), sections_replaced (a later one of
    the same name counts), several_examinations (in one report; their texts stand together), addenda (reports with
    one), marks, list_numbers, headers and signatures (taken out), markup (tags, entities and escapes, resolved).

    Raises:
        InputError: faults of the manifest, no such column, a column that would be overwritten, no text in any report.
    """
    source, out = Path(source), Path(out)
    source = source / "manifest.csv" if source.is_dir() else source
    refuse_source(source, out)
    if max_words is not None and max_words < 1:
        raise InputError.out_of_range(f"--max-words is {max_words}", expected="at least 1")
    manifest = load_manifest(source, text_column=text_column, columns=columns)
    header, rows = moved_rows(manifest, out)
    if taken := [name for name in MADE if name in header and name != text_column]:
        raise InputError.exists(
            f"the manifest has a column {taken[0]}, which would be overwritten",
            file=source,
            expected=f"{', '.join(MADE)} free, but for the column of the reports",
            remedy="--text-column text, where that holds the reports; or rename the column",
        )
    num_without = 0
    cleaned: dict[str, CleanReport] = {}
    counts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    examinations: Counter[str] = Counter()
    for report in dict.fromkeys(record.text for record in manifest.records if record.text):
        sections = parse_sections(report)
        kind = "with_sections" if sections.headers else "whole"
        if not sections.headers:
            sections = replace(sections, last_paragraph=sections.whole)
        clean = cleaned[report] = report_text(sections, max_words=max_words)
        counts["last_paragraph" if sections.headers and clean.used[:1] == ("last_paragraph",) else kind] += 1
        names = unknown_titles(sections.whole) if clean.empty else ()
        unknown.update(names)
        examinations.update(sections.examinations)
        counts["empty"] += clean.empty
        counts["unknown_headings"] += bool(names)
        counts["too_short"] += clean.too_short
        counts["cut"] += clean.cut
        counts["words_cut"] += clean.num_words_cut
        counts["sections_replaced"] += sections.num_replaced
        counts["several_examinations"] += bool(sections.examinations)
        counts["addenda"] += bool(sections.addendum)
        counts["marks"] += clean.num_marks
        counts["list_numbers"] += clean.num_list_numbers
        counts["headers"] += clean.num_headers
        counts["signatures"] += clean.num_signatures
        counts["markup"] += clean.num_markup
    warnings = list(manifest.warnings)
    if unknown:
        some = ", ".join(f"{name.upper()} ({number})" for name, number in unknown.most_common(5))
        warnings.append(
            f"{source}: {counts['unknown_headings']} reports yield no text because their headings are not known; the "
            f"most frequent are {some}"
        )
    if examinations:
        some = ", ".join(f"{name} ({number})" for name, number in examinations.most_common(5))
        warnings.append(
            f"{source}: {counts['several_examinations']} reports describe several examinations, whose texts stand "
            f"together, e.g. {some}; check that each belongs to its image"
        )
    if all(clean.empty or clean.too_short for clean in cleaned.values()):
        why = "; ".join(warnings[len(manifest.warnings) :])
        what = f"no report in column {text_column} has a text" + (f" ({why})" if why else "")
        raise InputError.empty(what, file=source, expected="reports with FINDINGS or IMPRESSION, or without headings")
    for row, record in zip(rows, manifest.records, strict=True):
        row |= dict.fromkeys(MADE, "")
        clean_text = cleaned.get(record.text)
        if clean_text is not None and not (clean_text.empty or clean_text.too_short):
            row |= dict(zip(MADE, (clean_text.text, clean_text.findings, clean_text.impression), strict=True))
        else:
            num_without += 1
    write_manifest(out, rows, [*header, *(name for name in MADE if name not in header)])
    splits = Counter(record.split or "(none)" for record in manifest.records)
    if num_without:  # `empty` and `too_short` count distinct reports, and an empty cell is none
        warnings.append(
            f"{out}: {num_without} of {len(rows)} rows have no text: their cell in column {text_column} is empty, or "
            f"its report has no word ({counts['unknown_headings']} of them under unknown headings) or is too short"
        )
    for message in warnings[len(manifest.warnings) :]:
        warn(message)
    numbers = {"rows_without_text": num_without, "distinct_reports": len(cleaned), **counts}
    return ImportResult(out, dict(splits), numbers, tuple(warnings))
