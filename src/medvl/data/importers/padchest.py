"""PadChest (BIMCV, Hospital San Juan, Alicante): PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv and PNG images.

One row is one image: ImageID (file name), ImageDir (number of its zip file, "0" to "54"), StudyID, PatientID,
Projection (PA, L, AP, AP_horizontal, COSTAL, EXCLUDE, UNK), Report, Labels (a list as Python writes it), MethodLabel
(Physician, or RNN_model) and the tags of the DICOM file. The images are 16-bit PNG of 10- or 12-bit values, in one
folder for each zip file, or all in one. Reports are Spanish, cut to word stems without accents and capitals.
Source: Bustos et al., Medical Image Analysis 2020 (arXiv 1901.07441), and the table, which was met whole (160,861 rows,
67,625 patients); images never.

No official split. Labels: "normal", "unchanged", "exclude" and "suboptimal study" name nothing that is to be seen and
are no labels here; of a row with nothing but the last three, or without a label cell, all labels are unknown.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvl.core.errors import Fault, FaultKind, InputError
from medvl.data.cells import is_missing
from medvl.data.images import image_size
from medvl.data.importers.cases import Case, Draft, ImportResult, safe_id, summed_up
from medvl.data.importers.set_files import index_files, matching, only_table, stream_csv
from medvl.data.reports.cleaning import report_text
from medvl.data.reports.sections import Sections

TABLE = "PADCHEST_chest_x_ray_images_labels*.csv"
COLUMNS = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Report", "Labels")
FRONTAL = ("PA", "AP", "AP_horizontal")
NOT_SEEN = ("normal", "unchanged", "exclude", "suboptimal study")
_MORE = {  # further columns of the table -> of the manifest
    "StudyDate_DICOM": "study_date",
    "PatientBirth": "birth_year",
    "PatientSex_DICOM": "sex",
    "Pediatric": "pediatric",
    "MethodLabel": "label_method",
    "MethodProjection": "view_method",
}


def import_padchest(folder: str | Path, out: str | Path, *, views: Sequence[str] = FRONTAL) -> ImportResult:
    """Write the manifest of PadChest: one row an image, with its report (Spanish), labels and labels_unknown.

    Images that are not below the folder (zip files that were not fetched) or cannot be opened are left out, counted and
    named; so are rows of other views and rows without a report.

    Args:
        views: values of Projection that are kept.

    `counts` of the result: images (all of the table), left_out_view_*, left_out_no_report, left_out_no_file,
    left_out_unreadable; of the rows that are kept: normal (no label but that), labels_unknown (rows), pediatric,
    studies_of_two_patients.
    """
    draft = Draft("padchest", Path(folder))
    folder, counts = draft.folder, draft.counts
    table = only_table(matching(folder, TABLE, f"{TABLE}.gz", f"*/{TABLE}", f"*/{TABLE}.gz"), folder, TABLE)
    wanted = {view.lower() for view in views}
    files = index_files(folder, (".png",))
    entries: list[tuple[Entry, Path]] = []
    unread: list[str] = []
    lines: dict[str, int] = {}
    every: dict[str, None] = {}
    for entry in read_entries(table, draft.faults):
        counts["images"] += 1
        every |= dict.fromkeys(entry.labels or ())
        if entry.name in lines:
            draft.faults.append(
                Fault.duplicate(f"{entry.name} again, first on line {lines[entry.name]}", table, entry.line)
            )
        lines.setdefault(entry.name, entry.line)
        paths = files.get(entry.name, [])
        paths = [path for path in paths if path.parent.name == entry.folder] or paths
        if entry.view.lower() not in wanted:
            counts[f"left_out_view_{entry.view or 'none'}"] += 1
        elif not entry.text:
            counts["left_out_no_report"] += 1
        elif not paths:
            counts["left_out_no_file"] += 1
        elif fault := _unreadable(paths[0]):
            counts["left_out_unreadable"] += 1
            unread.append(f"{entry.name} ({fault})")
        else:
            entries.append((entry, paths[0]))
    if draft.faults:
        raise InputError(draft.faults)
    if not entries:
        why = ", ".join(f"{name} {number}" for name, number in counts.items())
        expected = "images of the table below the folder, as ImageDir/ImageID, with one of the views"
        raise InputError.empty(f"no image is left ({why})", file=folder, expected=expected)
    labels = [name for name in every if name not in NOT_SEEN]
    draft.cases = [_case(entry, path, labels, counts) for entry, path in entries]
    patients: dict[str, set[str]] = {}
    for case in draft.cases:
        patients.setdefault(case.study, set()).add(case.patient)
    counts["studies_of_two_patients"] = sum(len(names) > 1 for names in patients.values())
    draft.warnings += [
        f"{folder}: the reports are Spanish word stems: the rules for sides, findings and negation are English and are "
        "not applied to them; horizontal flips are off",
        f"{folder}: there is no official split: column split is empty; medvl data split --by patient makes one",
    ]
    if number := counts["left_out_no_file"]:
        draft.warnings.append(f"{folder}: {number} images of the table are not here and are left out")
    if unread:
        draft.warnings.append(
            str(summed_up(FaultKind.DAMAGED, "images cannot be opened and are left out", unread, folder))
        )
    if number := counts["studies_of_two_patients"]:
        draft.warnings.append(f"{folder}: {number} studies have images of two patients: split by study would mix them")
    return draft.write(out, splits=(), columns=("labels_unknown",))


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table."""

    name: str
    folder: str
    study: str
    patient: str
    view: str
    text: str
    labels: tuple[str, ...] | None  # None: the cell is empty
    more: dict[str, str]
    line: int


def read_entries(path: Path, faults: list[Fault]) -> Iterator[Entry]:
    """The rows of the table, one at a time. Cells such as nan are empty."""
    for line, row in stream_csv(path, COLUMNS, faults):
        cells = {name: "" if is_missing(cell) else cell for name, cell in row.items()}
        if not (cells["ImageID"] and cells["PatientID"]):
            faults.append(Fault.missing("no ImageID or PatientID", path, line))
            continue
        try:
            labels = _labels(cells["Labels"])
        except ValueError:
            expected = "a list, e.g. ['pleural effusion', 'nodule']"
            faults.append(Fault.malformed(f"Labels {cells['Labels'][:40]!r}", path, line, cells["ImageID"], expected))
            continue
        report = re.sub(r"\s*\.(?:\s*\.)+", " .", cells["Report"])
        text = report_text(Sections(findings=report), min_words=1).text
        more = {name: cells[column].removesuffix(".0") for column, name in _MORE.items() if column in cells}
        study = cells["StudyID"] or cells["PatientID"]
        values = cells["ImageID"], cells["ImageDir"], study, cells["PatientID"], cells["Projection"]
        yield Entry(*values, text, labels, more, line)


def _labels(cell: str) -> tuple[str, ...] | None:
    """The distinct names of a list as Python writes it, without blanks round them and empty ones."""
    if not cell:
        return None
    try:
        names = ast.literal_eval(cell)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(names, list) or not all(isinstance(name, str) and "|" not in name for name in names):
        raise ValueError("not a list of names")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _case(entry: Entry, path: Path, labels: Sequence[str], counts: Counter[str]) -> Case:
    positive = tuple(name for name in entry.labels or () if name not in NOT_SEEN)
    is_unknown = not positive and "normal" not in (entry.labels or ())
    counts["normal"] += not positive and not is_unknown
    counts["labels_unknown"] += is_unknown
    counts["pediatric"] += entry.more.get("pediatric", "No") not in ("", "No")
    return Case(
        safe_id(Path(entry.name).stem),
        path,
        "",
        text=entry.text,
        labels=positive,
        labels_unknown=labels if is_unknown else (),
        patient=entry.patient,
        study=entry.study,
        view=entry.view,
        extra=entry.more,
    )


def _unreadable(path: Path) -> str:
    try:
        image_size(path)
    except InputError as error:
        return error.faults[0].what
    return ""
