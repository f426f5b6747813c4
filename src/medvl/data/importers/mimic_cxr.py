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

import csv
import gzip
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from medvl.core.errors import Fault, FaultKind, InputError, nearest, warn
from medvl.data.file_checks import file_faults
from medvl.data.importers.cases import ImportResult
from medvl.data.record import Record
from medvl.data.records import write_manifest
from medvl.data.reports.sections import CleanReport, parse_sections, report_text

COLUMNS = ("id", "image", "text", "text_findings", "text_impression", "patient", "study", "view", "split", "licence")
LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"
SPLITS = {"train": "train", "validate": "val", "test": "test"}
_NAME = "mimic-cxr-2.0.0-{}.csv"
_LISTED = 20  # missing files that are listed one by one


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
    folder, out = Path(folder), Path(out)
    wanted = tuple(view.upper() for view in views)
    if not wanted:
        raise InputError.missing("no view is wanted", expected="values of ViewPosition, e.g. PA, AP")
    found = _images(folder)
    texts = _Reports(folder, reports)
    counts: Counter[str] = Counter(images=len(found))
    kept: list[Record] = []
    cleaned: dict[str, CleanReport | None] = {}
    used: set[str] = set()
    for image in found:
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
        used.add(image.study)
        extra = {"text_findings": report.findings, "text_impression": report.impression}
        path = folder / "files" / image.patient[:3] / image.patient / image.study / f"{image.id}.jpg"
        record = Record(
            id=image.id,
            image=path,
            text=report.text,
            masks={},
            boxes=(),
            labels=(),
            patient=image.patient,
            study=image.study,
            view=image.view,
            split=image.split,
            licence=LICENCE,
            extra=extra,
            line=image.line,
        )
        kept.append(record)
    if faults := [*texts.faults, *image_faults(_table_path(folder, "split") or folder, kept)]:
        raise InputError(faults)
    if not kept:
        raise _nothing_left(folder, texts, counts)
    for name in used:
        report = cleaned[name]
        assert report is not None  # only studies with a report are used
        counts["last_paragraph"] += report.used == ("last_paragraph",)
        counts["marks"] += report.num_marks
        counts["list_numbers"] += report.num_list_numbers
        counts["headers"] += report.num_headers
        counts["sections_replaced"] += texts.num_replaced[name]
    counts["studies"] = len(used)
    warnings = []
    there = Counter(image.view or "(none)" for image in found)
    for view in wanted:
        if view not in there:
            views_there = ", ".join(f"{name} ({number})" for name, number in there.most_common())
            warnings.append(f"{folder}: no image has the view {view}; there are {views_there}")
    if counts["left_out_no_report"]:
        number = counts["left_out_no_report"]
        warnings.append(f"{folder}: {number} images were left out because their study has no report file")
    for message in warnings:
        warn(message)
    write_manifest(out, [_row(record, out.parent) for record in kept], COLUMNS)
    splits = {name: sum(record.split == name for record in kept) for name in SPLITS.values()}
    return ImportResult(out, splits, dict(counts), tuple(warnings))


def image_faults(table: Path, records: Sequence[Record]) -> list[Fault]:
    """The images of `records` that are missing (20 by name, the others counted) or cannot be read.

    `table` is what the records were read off; the faults stand there.
    """
    missing = {record.image: record for record in records if not record.image.is_file()}
    listed = list(missing.values())[:_LISTED]
    faults = [
        Fault.missing_file(f"image {record.image} is missing", table, record.line, record.id) for record in listed
    ]
    if len(missing) > len(listed):
        remedy = "complete the images, or keep only the rows (or reports) whose images you have"
        faults.append(Fault.missing_file(f"{len(missing) - len(listed)} more images are missing", table, remedy=remedy))
    return faults + file_faults(table, [record for record in records if record.image not in missing])


def _row(record: Record, base: Path) -> dict[str, str]:
    image = Path(os.path.relpath(record.image, base)).as_posix()
    values = (record.id, image, record.text, record.extra["text_findings"], record.extra["text_impression"])
    columns = (record.patient, record.study or "", record.view or "", record.split or "", record.licence or "")
    return dict(zip(COLUMNS, (*values, *columns), strict=True))


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
    if not folder.is_dir():
        raise InputError.missing_file(
            "no such folder", file=folder, expected="MIMIC-CXR-JPG as published: files/ and its tables"
        )
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
    found = []
    for name, (line, row) in splits.items():
        if row["split"] not in SPLITS:
            like = nearest(row["split"], SPLITS)
            remedy = f"did you mean {like}?" if like else None
            what = f"unknown split {row['split']}"
            faults.append(Fault.unknown(what, split_path, line, name, ", ".join(SPLITS), remedy))
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
            found.append(_Image(name, patient, study, view, SPLITS[row["split"]], line))
    for name in metadata:
        if name not in splits:
            line, _ = metadata[name]
            faults.append(Fault.missing("in no split", metadata_path, line, name, expected=f"a row in {split_path}"))
    if faults:
        raise InputError(faults)
    return found


def _read(path: Path, columns: Sequence[str], faults: list[Fault]) -> dict[str, tuple[int, dict[str, str]]]:
    """{dicom_id: (line, {column: cell})} of a table that may be compressed."""
    rows: dict[str, tuple[int, dict[str, str]]] = {}
    try:
        with _open(path) as stream:
            reader = csv.DictReader(stream)
            absent = [name for name in columns if name not in (reader.fieldnames or ())]
            if absent:
                faults.append(
                    Fault.missing_column(f"no column {', '.join(absent)}", path, 1, expected=", ".join(columns))
                )
                return rows
            for row in reader:
                cells = {name: (row[name] or "").strip() for name in columns}
                name = cells["dicom_id"]
                if not name or name in rows:
                    what = f"again, first on line {rows[name][0]}" if name else "no dicom_id"
                    faults.append(
                        Fault(
                            what,
                            path,
                            reader.line_num,
                            name or None,
                            kind=FaultKind.DUPLICATE if name else FaultKind.MISSING,
                        )
                    )
                else:
                    rows[name] = (reader.line_num, cells)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        what = f"cannot be read ({type(error).__name__}: {error})"
        faults.append(Fault.damaged(what, path, remedy="download it again"))
        return rows
    if not rows:
        faults.append(Fault.empty("no rows", path))
    return rows


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


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
        found = self._read(f"{patient[:3]}/{patient}/{study}.txt")
        if found is None:
            return None
        sections = parse_sections(found)
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
