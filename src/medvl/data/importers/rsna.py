"""RSNA Pneumonia Detection Challenge (Kaggle, stage 2): stage_2_train_labels.csv and stage_2_train_images/*.dcm.

Columns patientId, x, y, width, height, Target; one row a box, of pixels of the 1024 x 1024 image; Target 0 has no box.
Every patientId has one image, <patientId>.dcm. The mask of an image is the union of its boxes.
Source: the competition's data page, rsna-pneumonia-detection-challenge. The table was met whole (30,227 rows of 26,684
patients, 9,555 boxes); DICOM files of this set never.

Split (G2D and MGCA: 16,010 / 5,337 / 5,337 of the sorted patients): train_test_split(test_size=10674, random_state=0),
then 50/50 with random_state=0, of which the first half is test. MedKLIP's test list for grounding is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvl.core.errors import Fault
from medvl.data.box_table import Box
from medvl.data.importers.cases import Case, Draft, ImportResult
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.published_splits import train_val_test
from medvl.data.importers.set_files import find_file, index_files, stream_csv
from medvl.data.importers.shapes import Corners, Rectangle

LABELS = get_layout("rsna").labels
PUBLISHED = (26684, 10674)  # patients, of which validation and test
TABLES = ("stage_2_train_labels.csv",)


def import_rsna(folder: str | Path, out: str | Path, *, canvas: int = 1024) -> ImportResult:
    """Write the manifest, masks/ (union of boxes), boxes.csv and labels of RSNA Pneumonia.

    Args:
        canvas: side of the square images that the boxes were made for; an image of another size is a fault.
    """
    draft = Draft("rsna", Path(folder))
    table = find_file(draft.folder, TABLES)
    boxes = read_boxes(table, draft.faults)
    files = index_files(draft.folder, (".dcm",), stems=True)
    missing = [name for name in boxes if name not in files]
    draft.missing(f"of {len(boxes)} images are missing", missing, table, "patientId.dcm below it")
    split = split_of(list(boxes))
    draft.cases = [
        Case(
            name,
            files[name][0],
            split[name],
            masks={"mask": [Rectangle(corners) for corners in rows]},
            boxes=[Box(LABELS[0], *corners) for corners in rows],
            boxes_absent=not rows,
            labels=LABELS if rows else (),
            patient=name,
            size=(canvas, canvas),
        )
        for name, rows in boxes.items()
        if name in files
    ]
    draft.counts.update(images=len(boxes), positive=sum(bool(rows) for rows in boxes.values()))
    return draft.write(out)


def read_boxes(path: Path, faults: list[Fault]) -> dict[str, list[Corners]]:
    """patientId -> boxes (x0, y0, x1, y1) in pixels, [] for Target 0, in the order of the table."""
    boxes: dict[str, list[Corners]] = {}
    for line, row in stream_csv(path, ("patientId", "x", "y", "width", "height", "Target"), faults):
        corners = boxes.setdefault(row["patientId"], [])
        cells = [row[name] for name in ("x", "y", "width", "height")]
        if row["Target"] == "0" and not any(cells):
            continue
        try:
            x, y, width, height = (float(cell) for cell in cells)
        except ValueError:
            x = y = width = height = 0.0
        if row["Target"] != "1" or width <= 0 or height <= 0:
            expected = "Target 1 with a box, or Target 0 without"
            faults.append(Fault.malformed("not a box", path, line, row["patientId"], expected))
            continue
        corners.append((x, y, x + width, y + height))
    return boxes


def split_of(names: Sequence[str]) -> dict[str, str]:
    """Patient -> train, val or test. Of another number than the published one the same shares are taken."""
    return train_val_test(names, round(len(names) * PUBLISHED[1] / PUBLISHED[0]))
