"""MIMIC-CXR-JPG 2.0.0 and 2.1.0 (PhysioNet, doi 10.13026/jsn5-t979), with the reports of MIMIC-CXR.

Layout as its pages on PhysioNet give it; it never met real files:

    mimic-cxr-2.0.0-split.csv(.gz)       dicom_id, study_id, subject_id, split (train, validate, test)
    mimic-cxr-2.0.0-metadata.csv(.gz)    dicom_id, subject_id, study_id, ..., ViewPosition, ...
    files/p10/p10000032/s50414267/<dicom_id>.jpg
    mimic-cxr-reports/files/p10/p10000032/s50414267.txt    (or mimic-cxr-reports.zip, or beside the images)

Frontal views (PA and AP) are what MGCA and G2D train on. They also train on the official validation and test studies;
here the official split stands in the manifest, so that only train is trained on.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvl.core.errors import Fault, FaultKind, InputError, nearest
from medvl.data.importers.cases import Case, Draft, ImportResult, count_removed, section_columns
from medvl.data.importers.set_files import stream_csv
from medvl.data.reports.cleaning import CleanReport, report_text
from medvl.data.reports.sections import parse_sections

COLUMNS = ("id", "image", "text", "text_findings", "text_impression", "patient", "study", "view", "split", "licence")
SPLIT_NAMES = {"train": "train", "validate": "val", "test": "test"}
_NAME = "mimic-cxr-2.0.0-{}.csv"


def import_mimic_cxr(
    folder: str | Path, out: str | Path, *, views: Sequence[str] = ("PA", "AP"), reports: str | Path | None = None
) -> ImportResult:
    """Write the manifest of MIMIC-CXR-JPG: one row per image, with the report of its study.

    Args:
        views: values of ViewPosition that are kept; every other image is left out and counted by its view.
        reports: folder (or zip) of the reports; by default mimic-cxr-reports/, mimic-cxr-reports.zip or files/ in
            `folder`.

    Columns: text (impression + " " + findings, or the last paragraph; see `report_sections.report_text`; never cut),
    text_findings, text_impression, patient, study, view, split (train, val, test as published), licence.

    `counts` of the result, in images: images (all of the tables), left_out_view_* (by ViewPosition; "none" where it is
    empty), left_out_no_report (the study has no report file), left_out_empty (neither section nor last paragraph has a
    word), left_out_too_short (fewer than 3 words); in studies with an image that is kept: studies, last_paragraph (that
    stands in), sections_replaced (a later one of the same name counts), marks, list_numbers and headers (taken out).

    Faults are raised together and nothing is written then: a missing table, column or image, an image that is in one
    table only or twice, an unknown split, a file that cannot be read.
    """
    wanted = tuple(view.upper() for view in views)
    if not wanted:
        raise InputError.missing("no view is wanted", expected="values of ViewPosition, e.g. PA, AP")
    draft = Draft("mimic-cxr", Path(folder))
    folder, counts = draft.folder, draft.counts
    images = _images(folder)
    texts = _Reports(folder, reports)
    counts["images"] = len(images)
    cleaned: dict[str, CleanReport | None] = {}
    used: set[str] = set()
    for image in images:
        if image.view not in wanted:
            counts[f"left_out_view_{image.view.lower() or 'none'}"] += 1
            continue
        if image.study not in cleaned:
            cleaned[image.study] = texts.clean(image.patient, image.study)
        report = cleaned[image.study]
        if report is None or report.empty or report.too_short:
            why = "no_report" if report is None else "empty" if report.empty else "too_short"
            counts[f"left_out_{why}"] += 1
            continue
        if image.study not in used:
            counts["last_paragraph"] += report.used == ("last_paragraph",)
            counts["sections_replaced"] += texts.num_replaced[image.study]
            count_removed(report, counts)
        used.add(image.study)
        path = folder / "files" / image.patient[:3] / image.patient / image.study / f"{image.id}.jpg"
        case = Case(image.id, path, image.split, text=report.text, extra=section_columns(report))
        case.patient, case.study, case.view = image.patient, image.study, image.view
        draft.cases.append(case)
    draft.faults = texts.faults
    if not draft.cases and not draft.faults:
        raise _nothing_left(folder, texts, counts)
    counts["studies"] = len(used)
    known = Counter(image.view or "(none)" for image in images)
    for view in wanted:
        if view not in known:
            listed = ", ".join(f"{name} ({number})" for name, number in known.most_common())
            draft.warnings.append(f"{folder}: no image has the view {view}; there are {listed}")
    if number := counts["left_out_no_report"]:
        draft.warnings.append(f"{folder}: {number} images were left out because their study has no report file")
    return draft.write(out, columns=COLUMNS, read_headers=True)


@dataclass(frozen=True, slots=True)
class _Image:
    id: str
    patient: str  # p10000032
    study: str  # s50414267
    view: str  # ViewPosition in capitals, "" where it is not known
    split: str
    line: int  # of the split table


def _table_path(folder: Path, kind: str) -> Path | None:
    paths = (folder / (_NAME.format(kind) + suffix) for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _images(folder: Path) -> list[_Image]:
    """Every image of the two tables, in the order of the split table."""
    faults = []
    paths = {kind: _table_path(folder, kind) for kind in ("split", "metadata")}
    for kind, path in paths.items():
        if path is None:
            name = _NAME.format(kind)
            faults.append(Fault.missing_file("missing table", folder / name, expected=f"{name} or {name}.gz"))
    if not (folder / "files").is_dir():
        faults.append(
            Fault.missing_file("missing folder", folder / "files", expected="p10/p10000032/s50414267/*.jpg in it")
        )
    if faults:
        raise InputError(faults)
    split_path, metadata_path = paths["split"], paths["metadata"]
    assert split_path is not None and metadata_path is not None  # both absences are faults
    keys = ("dicom_id", "study_id", "subject_id")
    splits = _read(split_path, (*keys, "split"), faults)
    metadata = _read(metadata_path, (*keys, "ViewPosition"), faults)
    if faults:
        raise InputError(faults)
    images = []
    for name, (line, row) in splits.items():
        if row["split"] not in SPLIT_NAMES:
            like = nearest(row["split"], SPLIT_NAMES)
            remedy = f"did you mean {like}?" if like else None
            what = f"unknown split {row['split']}"
            faults.append(Fault.unknown(what, split_path, line, name, ", ".join(SPLIT_NAMES), remedy))
        elif name not in metadata:
            faults.append(
                Fault.mismatch("not in the metadata", split_path, line, name, expected=f"a row in {metadata_path}")
            )
        elif any(metadata[name][1][key] != row[key] for key in keys):
            expected = f"study_id and subject_id as on line {metadata[name][0]} of {metadata_path}"
            faults.append(
                Fault.mismatch("another study or patient than in the metadata", split_path, line, name, expected)
            )
        elif not (row["study_id"].isdigit() and row["subject_id"].isdigit()):
            expected = "e.g. 50414267 and 10000032"
            faults.append(Fault.malformed("study_id or subject_id is no number", split_path, line, name, expected))
        else:
            patient, study = f"p{row['subject_id']}", f"s{row['study_id']}"
            view = metadata[name][1]["ViewPosition"].upper()
            images.append(_Image(name, patient, study, view, SPLIT_NAMES[row["split"]], line))
    for name in metadata:
        if name not in splits:
            line, _ = metadata[name]
            faults.append(Fault.missing("in no split", metadata_path, line, name, expected=f"a row in {split_path}"))
    if faults:
        raise InputError(faults)
    return images


def _read(path: Path, columns: Sequence[str], faults: list[Fault]) -> dict[str, tuple[int, dict[str, str]]]:
    """{dicom_id: (line, {column: cell})} of a table that may be compressed."""
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    try:
        for line, cells in stream_csv(path, columns, faults):
            name = cells["dicom_id"]
            if not name or name in rows:
                what = f"again, first on line {rows[name][0]}" if name else "no dicom_id"
                kind = FaultKind.DUPLICATE if name else FaultKind.MISSING
                faults.append(Fault(what, path, line, name or None, kind=kind))
            else:
                rows[name] = (line, cells)
    except InputError as error:
        faults += error.faults
        return rows
    if not rows:
        faults.append(Fault.empty("no rows", path))
    return rows


@dataclass
class _Reports:
    """The report of a study, from wherever the reports lie."""

    folder: Path
    given: str | Path | None
    faults: list[Fault] = field(default_factory=list)
    num_replaced: dict[str, int] = field(default_factory=dict)  # by study
    roots: tuple[Path, ...] = ()
    zip_path: Path | None = None
    members: Mapping[str, str] = field(default_factory=dict)  # p10/p10000032/s50414267.txt -> name in the zip
    archive: zipfile.ZipFile | None = None

    def __post_init__(self) -> None:
        base = Path(self.given) if self.given is not None else self.folder / "mimic-cxr-reports"
        if self.given is not None and not base.exists():
            raise InputError.missing_file(
                "no such folder of reports", file=base, expected="files/p10/p10000032/s50414267.txt in it"
            )
        packed = base if self.given is not None else self.folder / "mimic-cxr-reports.zip"
        roots = [base / "files", base / "mimic-cxr-reports" / "files", base]
        if self.given is None:
            roots.append(self.folder / "files")
        self.roots = tuple(root for root in roots if root.is_dir())
        if packed.is_file():
            try:
                self.archive = zipfile.ZipFile(packed)
            except (zipfile.BadZipFile, OSError) as error:
                raise InputError.damaged(f"cannot be read as a zip ({error})", file=packed) from None
            self.zip_path = packed
            self.members = {"/".join(name.split("/")[-3:]): name for name in self.archive.namelist()}

    def clean(self, patient: str, study: str) -> CleanReport | None:
        """None: there is no file."""
        report = self._read(f"{patient[:3]}/{patient}/{study}.txt")
        if report is None:
            return None
        sections = parse_sections(report)
        self.num_replaced[study] = sections.num_replaced
        return report_text(sections)

    def _read(self, name: str) -> str | None:
        path = next((root / name for root in self.roots if (root / name).is_file()), None)
        try:
            if path is not None:
                return path.read_text(encoding="utf-8-sig")
            if self.archive is not None and name in self.members:
                path = Path(f"{self.zip_path}/{self.members[name]}")
                return self.archive.read(self.members[name]).decode("utf-8-sig")
        except (UnicodeDecodeError, OSError, zipfile.BadZipFile, zlib.error) as error:
            self.faults.append(Fault.unreadable(f"report cannot be read ({type(error).__name__}: {error})", path))
            return ""
        return None


def _nothing_left(folder: Path, texts: _Reports, counts: Mapping[str, int]) -> InputError:
    why = ", ".join(f"{name} {number}" for name, number in counts.items())
    looked = ", ".join(map(str, (*texts.roots, *filter(None, (texts.zip_path,))))) or "no folder of reports"
    return InputError.empty(
        f"no image is left ({why})",
        file=folder,
        expected=f"images with one of the views, and reports p10/p10000032/s50414267.txt in one of: {looked}",
        remedy="name the folder of the reports and the views",
    )
