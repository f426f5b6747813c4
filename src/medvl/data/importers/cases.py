"""What the importers of published sets share: a draft of cases in, manifest.csv with masks/ and boxes.csv out.

A case is one row of the manifest. Its masks are shapes until they are painted, one file at a time, so that memory holds
the rows of a set and a single mask. Nothing is written when there is a fault.

An importer makes a `Draft` of its layout, adds cases, faults, counts and warnings to it, and calls `Draft.write`.

Labels: column `labels` holds the positive ones (`none`: all were looked for and absent), column `labels_unknown` those
about which nothing is known (neither positive nor negative: no loss, not scored). Every other label of the layout is
negative.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvl.core.errors import Fault, FaultKind, InputError, warn
from medvl.core.files import whole_folder
from medvl.data.box_table import Box
from medvl.data.images import image_size
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.set_files import need_folder
from medvl.data.importers.shapes import CocoRuns, Shape
from medvl.data.record import ABSENT, NOT_A_MASK
from medvl.data.records import write_manifest
from medvl.data.reports.cleaning import CleanReport
from medvl.data.tables import SUFFIXES

SPLITS = ("train", "val", "test")
BOX_COLUMNS = ("id", "cls", "x0", "y0", "x1", "y1")
MAX_LISTED = 20  # faults of one kind that are listed one by one; the others are counted
MAX_OVER_EDGE = 1.0  # pixels by which a box may leave its image (rounding) and is cut; further out is a fault
_UNSAFE = re.compile(r'[\x00-\x1f<>:"/\\|?*\s]+')


@dataclass(slots=True)
class Case:
    """One row: an image and what is known of it.

    `masks`: class -> shapes whose union is the mask; empty = looked for and absent, None = not annotated.
    """

    id: str
    image: Path
    split: str
    text: str = ""
    masks: Mapping[str, Sequence[Shape] | None] = field(default_factory=dict)
    boxes: Sequence[Box] = ()
    boxes_absent: bool = False  # boxes were looked for and there is none
    labels: Sequence[str] | None = None  # None: not annotated; (): looked for and absent
    labels_unknown: Sequence[str] = ()
    patient: str = ""
    study: str = ""
    view: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None  # (H, W) that the annotation was made for; another image size is a fault
    licence: str = ""  # where the row has another one than the layout


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The manifest that was written, and what became of the files that were found."""

    manifest: Path
    num_records: dict[str, int]  # by split
    counts: dict[str, int] = field(default_factory=dict)  # what each rule kept, cut or left out
    warnings: tuple[str, ...] = ()
    left_out: tuple[Fault, ...] = ()  # images that do not fit the rule of the layout

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        values = {"manifest": str(self.manifest), "records": self.num_records, "counts": self.counts}
        return {**values, "warnings": list(self.warnings), "left_out": [str(fault) for fault in self.left_out]}

    def __str__(self) -> str:
        records = ", ".join(f"{name} {number}" for name, number in self.num_records.items())
        return f"{self.manifest}: {records}" + "".join(
            f"\n  {name.replace('_', ' ')}: {number}" for name, number in self.counts.items()
        )


@dataclass(slots=True)
class Draft:
    """What an importer has gathered of a set, before anything is written."""

    layout: str
    folder: Path
    cases: list[Case] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """InputError where the folder is none."""
        self.folder = need_folder(self.folder, self.layout)

    def fault_of(
        self, kind: FaultKind, what: str, examples: Sequence[str], file: Path, expected: str | None = None
    ) -> None:
        """One fault for many alike, where there are any: their number and the first few."""
        if examples:
            self.faults.append(summed_up(kind, what, examples, file, expected))

    def missing(self, what: str, names: Sequence[str], file: Path, expected: str | None = None) -> None:
        """One fault for all images that are not there, where there are any."""
        self.fault_of(FaultKind.MISSING_FILE, what, names, file, expected)

    def note_patients_in_two_splits(self) -> None:
        """Count the patients of a published split of images that stand in two of its parts, and warn of them."""
        splits: dict[str, set[str]] = {}
        for case in self.cases:
            splits.setdefault(case.patient, set()).add(case.split)
        num = sum(len(names) > 1 for names in splits.values())
        self.counts["patients_in_two_splits"] = num
        if num:
            self.warnings.append(
                f"{num} patients stand in two splits, because the published split is one of images; medvl data split "
                "--by patient --keep-test makes one by patient"
            )

    def write(
        self,
        out: str | Path,
        *,
        splits: Sequence[str] = SPLITS,
        columns: Sequence[str] = (),
        read_headers: bool = False,
    ) -> ImportResult:
        """Check all images, paint the masks, write masks/, boxes.csv and last the manifest `out`.

        Args:
            splits: the splits that the layout has, for the counts of the result; () where it has none.
            columns: written even where every cell of theirs is empty.
            read_headers: open every image; without it only those with a mask, a box or a size to compare.

        Raises:
            InputError: every fault together: those of the importer, images missing, unreadable or of another size than
                their annotation, boxes outside, runs that do not fit; masks/ or boxes.csv stand beside `out` already.
        """
        out = Path(out)
        classes = list(dict.fromkeys(name for case in self.cases for name in case.masks))
        with_masks = any(shapes for case in self.cases for shapes in case.masks.values())
        _check_target(out, with_masks)
        faults = [*self.faults, *_missing(self.cases), *_same_ids(self.cases), *_bad_classes(classes)]
        if not self.cases and not faults:
            raise InputError.empty("nothing to import: the tables hold no case that is kept")
        cases = _checked(self.cases, faults, self.counts, read_headers)
        if faults:
            raise InputError(faults)
        if splits and (loose := sum(not case.split for case in cases)):
            self.warnings.append(f"{self.folder}: {loose} images belong to no split; medvl data split makes one")
        mask_columns = {name: _column(name, classes) for name in classes}
        out.parent.mkdir(parents=True, exist_ok=True)
        masks, boxes = out.parent / "masks", out.parent / "boxes.csv"
        try:
            if with_masks:
                with whole_folder(masks, flush=False) as folder:
                    cells, num_masks, num_empty = _paint(cases, mask_columns, folder)
                if not num_masks:
                    masks.rmdir()
            else:
                cells, num_masks, num_empty = _paint(cases, mask_columns, masks)
            rows = [_row(case, out.parent, get_layout(self.layout).licence) for case in cases]
            rows = [row | cell for row, cell in zip(rows, cells, strict=True)]
            num_boxes = _write_boxes(boxes, cases)
            write_manifest(out, rows, _columns(rows, list(mask_columns.values()), columns))
        except BaseException:
            if with_masks:
                shutil.rmtree(masks, ignore_errors=True)
            boxes.unlink(missing_ok=True)
            raise
        if num_empty:
            self.counts["masks_without_a_pixel"] = num_empty
            self.warnings.append(f"{num_empty} masks hold no pixel centre: their cells are empty, not annotated")
        for message in self.warnings:
            warn(message)
        if classes:
            self.counts["masks"] = num_masks
        if num_boxes or any(case.boxes_absent for case in cases):
            self.counts["boxes"] = num_boxes
        by_split = Counter(case.split for case in cases)
        numbers = {split: by_split[split] for split in splits} | ({"(none)": by_split[""]} if by_split[""] else {})
        return ImportResult(out, numbers, dict(self.counts), tuple(self.warnings))


def safe_id(name: str) -> str:
    """A name as an id: what cannot stand in a file name becomes "_"."""
    return _UNSAFE.sub("_", name).lstrip(".") or "_"


def unique_ids(paths: Sequence[Path], folder: Path) -> list[str]:
    """The stems as ids where they differ, else (for those that stand twice) the whole path below `folder`."""
    stems = [safe_id(path.stem) for path in paths]
    counts = Counter(stems)
    relative = (safe_id(Path(os.path.relpath(path, folder)).with_suffix("").as_posix()) for path in paths)
    return [stem if counts[stem] == 1 else whole for stem, whole in zip(stems, relative, strict=True)]


def section_columns(report: CleanReport) -> dict[str, str]:
    """The sections of a report, as the columns text_findings and text_impression."""
    return {"text_findings": report.findings, "text_impression": report.impression}


def count_removed(report: CleanReport, counts: Counter[str]) -> None:
    """Count what was taken out of a report: marks, list_numbers, headers."""
    counts["marks"] += report.num_marks
    counts["list_numbers"] += report.num_list_numbers
    counts["headers"] += report.num_headers


def summed_up(
    kind: FaultKind, what: str, examples: Sequence[str], file: Path | None = None, expected: str | None = None
) -> Fault:
    """One fault for many alike: their number and the first few."""
    shown = ", ".join(examples[:5]) + (", ..." if len(examples) > 5 else "")
    return Fault(f"{len(examples)} {what}: {shown}", file, kind=kind, expected=expected)


def capped(faults: Sequence[Fault]) -> list[Fault]:
    """At most MAX_LISTED faults and the number of the others."""
    if len(faults) <= MAX_LISTED:
        return list(faults)
    return [*faults[:MAX_LISTED], Fault(f"and {len(faults) - MAX_LISTED} more of this kind", kind=faults[0].kind)]


def _check_target(out: Path, with_masks: bool) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise InputError.malformed(
            f"{out.suffix or 'no suffix'} is no table that can be written", file=out, expected=_SUFFIXES
        )
    for name in ("boxes.csv", *(["masks"] if with_masks else [])):
        if (out.parent / name).exists():
            raise InputError.exists(
                f"{name} stands beside it already", file=out, expected="a folder without it", remedy="take a new folder"
            )


_SUFFIXES = "one of " + ", ".join(SUFFIXES)


def _missing(cases: Sequence[Case]) -> list[Fault]:
    images = dict.fromkeys(case.image for case in cases)
    missing = [path for path in images if not path.is_file()]
    if not missing:
        return []
    fault = summed_up(FaultKind.MISSING_FILE, f"of {len(images)} images are missing", [str(path) for path in missing])
    return [replace(fault, remedy="complete the images, or keep only the rows (or reports) whose images you have")]


def _same_ids(cases: Sequence[Case]) -> list[Fault]:
    twice = [name for name, number in Counter(case.id for case in cases).items() if number > 1]
    return [summed_up(FaultKind.DUPLICATE, "ids stand twice", twice)] if twice else []


def _bad_classes(classes: Sequence[str]) -> list[Fault]:
    faults = [Fault.unsupported(f"a class cannot be called {name}") for name in classes if f"mask_{name}" in NOT_A_MASK]
    slugs: dict[str, list[str]] = {}
    for name in classes:
        slugs.setdefault(safe_id(name).lower(), []).append(name)
    faults += [
        Fault.duplicate(f"classes with one file name: {', '.join(same)}") for same in slugs.values() if len(same) > 1
    ]
    return faults


def _checked(cases: Sequence[Case], faults: list[Fault], counts: Counter[str], read_headers: bool) -> list[Case]:
    """The cases with their boxes inside their images."""
    sizes: dict[Path, tuple[int, int]] = {}
    unreadable: list[Fault] = []
    other: list[Fault] = []
    outside: list[Fault] = []
    result = []
    num_cut = 0
    for case in _progress(cases, "checking images"):
        result.append(case)
        is_needed = read_headers or case.boxes or case.size or any(case.masks.values())
        if not is_needed or not case.image.is_file():
            continue
        try:
            if case.image not in sizes:
                sizes[case.image] = image_size(case.image)
        except InputError as error:
            unreadable += error.faults
            continue
        size = sizes[case.image]
        if case.size is not None and case.size != size:
            expected = f"{_size(case.size)}, as its annotation"
            other.append(Fault.mismatch(f"an image of {_size(size)}", case.image, record=case.id, expected=expected))
            continue
        for shapes in case.masks.values():
            for shape in shapes or ():
                if isinstance(shape, CocoRuns) and shape.size != size:
                    expected = f"{_size(shape.size)}, as its run lengths"
                    other.append(
                        Fault.mismatch(f"an image of {_size(size)}", case.image, record=case.id, expected=expected)
                    )
        boxes = []
        for box in case.boxes:
            cut = cut_box(box, size)
            if cut is None:
                outside.append(
                    Fault.out_of_range(f"{box} leaves the image", case.image, record=case.id, expected=_size(size))
                )
            else:
                num_cut += cut != box
                boxes.append(cut)
        result[-1] = replace(case, boxes=tuple(boxes))
    if num_cut:
        counts["boxes_cut_at_the_edge"] = num_cut
    faults += capped(unreadable) + capped(other) + capped(outside)
    return result


def cut_box(box: Box, size: tuple[int, int]) -> Box | None:
    """The box within an image of `size` (H, W); None where it leaves the image by more than `MAX_OVER_EDGE` pixels."""
    x0, y0, x1, y1 = max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, float(size[1])), min(box.y1, float(size[0]))
    moved = max(abs(x0 - box.x0), abs(y0 - box.y0), abs(x1 - box.x1), abs(y1 - box.y1))
    return Box(box.label, x0, y0, x1, y1) if moved <= MAX_OVER_EDGE and x0 < x1 and y0 < y1 else None


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} rows x {size[1]} columns"


def _column(name: str, classes: Sequence[str]) -> str:
    return "mask" if name == "mask" and len(classes) == 1 else f"mask_{name}"


def _paint(cases: Sequence[Case], columns: Mapping[str, str], folder: Path) -> tuple[list[dict[str, str]], int, int]:
    """The mask cells of every case, how many masks were written and how many would have no pixel.

    The files are written into `folder`, 8 bit, 0 and 255, one at a time.
    """
    from PIL import Image

    cells: list[dict[str, str]] = []
    faults: list[Fault] = []
    num = num_empty = 0
    for case in _progress(cases, "writing masks"):
        cells.append({})
        for name, shapes in case.masks.items():
            if not shapes:
                cells[-1][columns[name]] = "" if shapes is None else ABSENT
                continue
            mask = np.zeros(image_size(case.image), np.bool_)  # (H, W)
            try:
                for shape in shapes:
                    shape.paint(mask)
            except InputError as error:
                faults += [replace(fault, file=case.image, record=case.id) for fault in error.faults]
                continue
            if not mask.any():  # a shape between pixel centres: "none" would say that it was looked for in vain
                cells[-1][columns[name]] = ""
                num_empty += 1
                continue
            file = f"{case.id}.png" if len(columns) == 1 else f"{case.id}__{safe_id(name)}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / file)
            cells[-1][columns[name]] = f"masks/{file}"
            num += 1
    if faults:
        raise InputError(capped(faults))
    return cells, num, num_empty


def _row(case: Case, base: Path, licence: str) -> dict[str, str]:
    row = {"id": case.id, "image": Path(os.path.relpath(case.image, base)).as_posix(), "text": case.text}
    labels = "" if case.labels is None else "|".join(case.labels) or ABSENT
    row |= {"labels": labels, "labels_unknown": "|".join(case.labels_unknown), "patient": case.patient}
    row["boxes"] = ABSENT if case.boxes_absent else ""
    row |= {"study": case.study, "view": case.view, "split": case.split, "licence": case.licence or licence}
    return row | dict(case.extra)


def _write_boxes(path: Path, cases: Iterable[Case]) -> int:
    rows: list[dict[str, str]] = []
    for case in cases:
        for box in case.boxes:
            corners = (f"{value:.10g}" for value in (box.x0, box.y0, box.x1, box.y1))
            rows.append(dict(zip(BOX_COLUMNS, (case.id, box.label, *corners), strict=True)))
    if rows:
        write_manifest(path, rows, BOX_COLUMNS)
    return len(rows)


def _columns(rows: Sequence[dict[str, str]], masks: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns in the manifest's order, without those that are empty throughout."""
    names = dict.fromkeys(name for row in rows for name in row)
    order = ["id", "image", "text", *(name for name in names if name.startswith("text_")), *masks]
    order += ["boxes", "labels", "labels_unknown", "patient", "study", "view", "split", "licence"]
    order += [name for name in names if name not in order]
    keep = {"id", "image", "split", *masks, *columns}
    kept = [name for name in order if name in keep or any(row.get(name) for row in rows)]
    for row in rows:
        for name in set(row) - set(kept):
            del row[name]
    return kept


def _progress(cases: Sequence[Case], label: str) -> Iterator[Case]:
    from medvl.core.progress import track

    return track(cases, label, len(cases))
