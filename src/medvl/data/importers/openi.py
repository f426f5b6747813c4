"""Open-i: the Indiana University chest X-ray collection (NLMCXR_reports.tgz, NLMCXR_png.tgz of openi.nlm.nih.gov).

Layout as the archives unpack (Demner-Fushman et al., JAMIA 2016, describe the collection). The reports were met whole
(3,955, which name 7,470 images), the images never:

    ecgen-radiology/1.xml            or NLMCXR_reports/ecgen-radiology/1.xml
    NLMCXR_png/CXR1_1_IM-0001-3001.png

One XML is one report: uId/@id (CXR1), AbstractText by Label (COMPARISON, INDICATION, FINDINGS, IMPRESSION), MeSH/major,
parentImage/@id (the names of its images), licenseURL. XXXX stands where text was de-identified. The XML does not say
which image is frontal, and there is no official split and no patient number: one report is taken as one patient.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path

from medvl.core.errors import Fault, InputError
from medvl.data.importers.cases import Case, Draft, ImportResult, count_removed, section_columns
from medvl.data.importers.set_files import matching
from medvl.data.reports.cleaning import CleanReport, report_text
from medvl.data.reports.sections import Sections

_TEXTS = ("text", "text_findings", "text_impression")
COLUMNS = ("id", "image", *_TEXTS, "labels", "patient", "study", "view", "split", "licence")
NOT_INDEXED = "No Indexing"  # what MeSH/major says where nobody assigned terms


def import_openi(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest of Open-i: one row per image, with the report it belongs to.

    Columns: text (impression + " " + findings; see `report_sections.report_text`; never cut), text_findings,
    text_impression, labels (MeSH majors), patient and study (the report's id), view and split (empty), licence.
    `medvl data split --by patient` makes the split.

    `counts` of the result: reports (all), left_out_no_image, left_out_empty, left_out_too_short (fewer than 3 words),
    images; and, over the reports that are kept: marks (XXXX), list_numbers and headers (taken out), no_indexing
    (reports whose only label says that nobody assigned any: their labels are empty).

    Faults are raised together and nothing is written then: no reports, an XML that cannot be read or is another
    document, an id or an image that stands twice, a missing or unreadable image.
    """
    draft = Draft("openi", Path(folder))
    folder, counts = draft.folder, draft.counts
    places = (folder / "ecgen-radiology", folder / "NLMCXR_reports" / "ecgen-radiology")
    texts = next((path for path in places if path.is_dir()), None)
    pictures = folder / "NLMCXR_png"
    faults = draft.faults
    if texts is None:
        faults.append(Fault.missing_file("missing folder", places[0], expected="the XML files of NLMCXR_reports.tgz"))
    if not pictures.is_dir():
        faults.append(Fault.missing_file("missing folder", pictures, expected="the images of NLMCXR_png.tgz"))
    if faults or texts is None:
        raise InputError(faults)
    reports = _reports(texts, faults)
    if not reports and not faults:
        raise InputError.missing_file("no *.xml", file=texts, expected="the XML files of NLMCXR_reports.tgz")
    counts["reports"] = len(reports)
    for report in reports:
        text = report.text
        if not report.images or text.empty or text.too_short:
            counts[f"left_out_{'no_image' if not report.images else 'empty' if text.empty else 'too_short'}"] += 1
            continue
        count_removed(text, counts)
        labels = tuple(label for label in report.labels if label != NOT_INDEXED)
        counts["no_indexing"] += NOT_INDEXED in report.labels and not labels
        for name in report.images:
            case = Case(name, pictures / f"{name}.png", "", text=text.text, extra=section_columns(text))
            case.patient = case.study = report.id
            case.labels, case.licence = labels or None, report.licence
            draft.cases.append(case)
    if not draft.cases and not faults:
        why = ", ".join(f"{name} {number}" for name, number in counts.items())
        raise InputError.empty(f"no report with text and image ({why})", file=texts)
    counts["images"] = len(draft.cases)
    draft.warnings += [
        f"{folder}: the reports do not say which image is frontal: column view is empty, laterals are among the images",
        f"{folder}: there is no official split and no patient number: column split is empty, each report is its own "
        "patient; medvl data split --by patient makes a split",
    ]
    return draft.write(out, splits=(), columns=COLUMNS, read_headers=True)


@dataclass(frozen=True, slots=True)
class _Report:
    id: str
    text: CleanReport
    labels: tuple[str, ...]
    images: tuple[str, ...]
    licence: str


def _reports(folder: Path, faults: list[Fault]) -> list[_Report]:
    """The reports in the order of their numbers."""
    reports: list[_Report] = []
    ids: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for path in sorted(matching(folder, "*.xml"), key=lambda path: (len(path.stem), path.stem)):
        try:
            report = _report(path)
        except InputError as error:
            faults += error.faults
            continue
        if report.id in ids:
            faults.append(Fault.duplicate(f"{report.id} again, first in {ids[report.id].name}", path))
        for name in report.images:
            if name in names:
                faults.append(Fault.duplicate(f"image {name} again, first in {names[name].name}", path))
        report = replace(report, images=tuple(name for name in report.images if name not in names))
        names |= dict.fromkeys(report.images, path)
        ids.setdefault(report.id, path)
        reports.append(report)
    return reports


def _report(path: Path) -> _Report:
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, OSError) as error:
        raise InputError.damaged(f"cannot be read as XML ({error})", file=path) from None
    identity = root.find(".//uId")
    name = "" if identity is None else identity.get("id", "").strip()
    if not name:
        raise InputError.malformed("not a report of Open-i: no uId", file=path, expected='<uId id="CXR1"/>')
    texts = {"FINDINGS": "", "IMPRESSION": ""}
    for element in root.iter("AbstractText"):
        label, text = element.get("Label", "").strip().upper(), "".join(element.itertext()).strip()
        if label in texts and text:
            texts[label] = text
    sections = Sections(impression=texts["IMPRESSION"], findings=texts["FINDINGS"])
    labels = dict.fromkeys(" ".join("".join(e.itertext()).split()) for e in root.iterfind(".//MeSH/major"))
    labels.pop("", None)
    if torn := [label for label in labels if "|" in label]:
        raise InputError.malformed(
            f"a label with |: {torn[0]}", file=path, expected="labels without |, which separates them"
        )
    images = dict.fromkeys(element.get("id", "").strip() for element in root.iter("parentImage"))
    if unsafe := [image for image in images if not re.fullmatch(r"[\w-]+", image)]:
        raise InputError.malformed(f"parentImage id {unsafe[0]!r}", file=path, expected="a name as CXR1_1_IM-0001-3001")
    url = next(root.iter("licenseURL"), None)
    licence = "" if url is None else "".join(url.itertext()).strip()
    return _Report(name, report_text(sections), tuple(labels), tuple(images), licence)
