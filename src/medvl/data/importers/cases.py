"""What the importers of published sets share: a list of cases in, manifest.csv with masks/ and boxes.csv out.

A case is one row of the manifest. Its masks are shapes until they are painted, one file at a time, so that memory holds
the rows of a set and a single mask. Nothing is written when there is a fault.

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

import numpy as np

from medvl.core.errors import Fault, FaultKind, InputError, warn
from medvl.data.box_table import Box
from medvl.data.images import image_size
from medvl.data.importers.shapes import CocoRuns, Corners, Shape
from medvl.data.record import ABSENT, NOT_A_MASK
from medvl.data.records import write_manifest
from medvl.data.tables import SUFFIXES

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


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The manifest that was written, and what became of the files that were found."""

    manifest: Path
    num_records: dict[str, int]  # by split
    counts: dict[str, int] = field(default_factory=dict)  # what each rule kept, cut or left out
    warnings: tuple[str, ...] = ()
    left_out: tuple[Fault, ...] = ()  # images that do not fit the rule of the layout


def write_cases(
    out: str | Path,
    cases: Sequence[Case],
    *,
    splits: Sequence[str],
    licence: str,
    counts: Mapping[str, int] | None = None,
    warnings: Sequence[str] = (),
    faults: Sequence[Fault] = (),
    unknown_labels: bool = False,
) -> ImportResult:
    """Check all images, paint the masks, write masks/, boxes.csv and last the manifest `out`.

    Args:
        splits: the splits that the layout has, for the counts of the result.
        counts, warnings: what the importer found; passed on, with what is counted here.
        faults: what the importer found wrong; raised together with what is wrong with the images.
        unknown_labels: write column labels_unknown even when no case has one.

    Raises:
        InputError: every fault together: images missing, unreadable or of another size than their annotation, boxes
            outside, runs that do not fit; masks/ or boxes.csv stand beside `out` already.
    """
    out = Path(out)
    classes = list(dict.fromkeys(name for case in cases for name in case.masks))
    with_masks = any(shapes for case in cases for shapes in case.masks.values())
    _check_target(out, with_masks)
    counts = dict(counts or {})
    found = list(faults) + _missing(cases) + _same_ids(cases) + _bad_classes(classes)
    if not cases and not found:
        raise InputError.empty("nothing to import: the tables hold no case that is kept")
    cases = _checked(cases, found, counts)
    if found:
        raise InputError(found)
    out.parent.mkdir(parents=True, exist_ok=True)
    work = out.parent / f".import.{os.getpid()}.tmp"
    try:
        (work / "masks").mkdir(parents=True)
        columns = {name: _column(name, classes) for name in classes}
        cells, num_masks, num_empty = _paint(cases, columns, work / "masks")
        rows = [_row(case, out.parent) | cell for case, cell in zip(cases, cells, strict=True)]
        num_boxes = _write_boxes(work / "boxes.csv", cases)
        if num_masks:
            os.replace(work / "masks", out.parent / "masks")
        if num_boxes:
            os.replace(work / "boxes.csv", out.parent / "boxes.csv")
        for row in rows:
            row["licence"] = licence
        write_manifest(out, rows, _columns(rows, list(columns.values()), unknown_labels))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    warnings = list(warnings)
    if num_empty:
        counts["masks_without_a_pixel"] = num_empty
        warnings.append(f"{num_empty} masks hold no pixel centre: their cells are empty, not annotated")
    for message in warnings:
        warn(message)
    by_split = Counter(case.split for case in cases)
    counts |= {"masks": num_masks, "boxes": num_boxes}
    numbers = {split: by_split[split] for split in splits} | ({"(none)": by_split[""]} if by_split[""] else {})
    return ImportResult(out, numbers, counts, tuple(warnings))


def safe_id(name: str) -> str:
    """A name as an id: what cannot stand in a file name becomes "_"."""
    return _UNSAFE.sub("_", name).lstrip(".") or "_"


def unique_ids(paths: Sequence[Path], folder: Path) -> list[str]:
    """The stems as ids where they differ, else (for those that stand twice) the whole path below `folder`."""
    stems = [safe_id(path.stem) for path in paths]
    counts = Counter(stems)
    relative = (safe_id(Path(os.path.relpath(path, folder)).with_suffix("").as_posix()) for path in paths)
    return [stem if counts[stem] == 1 else whole for stem, whole in zip(stems, relative, strict=True)]


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
    return [summed_up(FaultKind.MISSING_FILE, f"of {len(images)} images are missing", [str(path) for path in missing])]


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


def _checked(cases: Sequence[Case], faults: list[Fault], counts: dict[str, int]) -> list[Case]:
    """The cases with their boxes inside their images; a header is read only where a case has shapes or boxes."""
    sizes: dict[Path, tuple[int, int]] = {}
    unreadable: list[Fault] = []
    other: list[Fault] = []
    outside: list[Fault] = []
    result = []
    num_cut = 0
    for case in _progress(cases, "checking images"):
        result.append(case)
        if not (case.boxes or any(case.masks.values()) or case.size) or not case.image.is_file():
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


def _row(case: Case, base: Path) -> dict[str, str]:
    row = {"id": case.id, "image": Path(os.path.relpath(case.image, base)).as_posix(), "text": case.text}
    labels = "" if case.labels is None else "|".join(case.labels) or ABSENT
    row |= {"labels": labels, "labels_unknown": "|".join(case.labels_unknown), "patient": case.patient}
    row["boxes"] = ABSENT if case.boxes_absent else ""
    return row | {"study": case.study, "view": case.view, "split": case.split} | dict(case.extra)


def _write_boxes(path: Path, cases: Iterable[Case]) -> int:
    rows: list[dict[str, str]] = []
    for case in cases:
        for box in case.boxes:
            corners = (f"{value:.10g}" for value in (box.x0, box.y0, box.x1, box.y1))
            rows.append(dict(zip(BOX_COLUMNS, (case.id, box.label, *corners), strict=True)))
    write_manifest(path, rows, BOX_COLUMNS)
    return len(rows)


def _columns(rows: Sequence[dict[str, str]], masks: Sequence[str], unknown_labels: bool) -> list[str]:
    """The columns in the manifest's order, without those that are empty throughout."""
    order = ["id", "image", "text", *masks, "boxes", "labels", "labels_unknown", "patient"]
    order += ["study", "view", "split", "licence"]
    order += [name for name in dict.fromkeys(name for row in rows for name in row) if name not in order]
    keep = {"id", "image", "split", *masks} | ({"labels_unknown"} if unknown_labels else set())
    kept = [name for name in order if name in keep or any(row.get(name) for row in rows)]
    for row in rows:
        for name in set(row) - set(kept):
            del row[name]
    return kept


def _progress(cases: Sequence[Case], label: str) -> Iterator[Case]:
    from medvl.core.progress import track

    return track(cases, label, len(cases))


def boxed(label: str, corners: Corners) -> Box:
    """A named box from corners."""
    return Box(label, *corners)
