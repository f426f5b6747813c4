"""MS-CXR: phrases of radiologists with boxes, on images of MIMIC-CXR-JPG.

MS_CXR_Local_Alignment_v1.0.0.csv or _v1.1.0.csv: dicom_id, category_name, label_text, path, x, y, w, h, image_width,
image_height and, in 1.1.0, split; one row a box, in pixels of the image. `path` is below MIMIC-CXR-JPG
("files/p10/p10000032/s50414267/<dicom_id>.jpg"); the images may lie beside the table or in a folder of their own.
Source: Boecking et al., ECCV 2022, and the set's page on PhysioNet. Layout from description, never met real files.

One record an (image, phrase), since an image has several phrases: text the phrase, label its category, boxes and mask
(their union) what the phrase means. Version 1.0.0 has no split: everything is test, as the set was made for evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medvl.core.errors import Fault
from medvl.data.box_table import Box
from medvl.data.importers.cases import Case, Draft, ImportResult, safe_id
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.set_files import matching, need_folder, only_table, stream_csv
from medvl.data.importers.shapes import Corners, Rectangle

LABELS = get_layout("ms-cxr").labels
PATTERN = "MS_CXR_Local_Alignment*.csv"
_PATIENT = re.compile(r"/(p\d{8})/(s\d+)/")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val", "test": "test"}


@dataclass(slots=True)
class Phrase:
    """What one phrase means on one image."""

    image: str  # path below MIMIC-CXR-JPG
    dicom_id: str
    text: str
    label: str
    split: str
    size: tuple[int, int]  # (H, W)
    boxes: list[Corners] = field(default_factory=list)


def import_ms_cxr(folder: str | Path, out: str | Path, *, images: str | Path | None = None) -> ImportResult:
    """Write the manifest, masks/ and boxes.csv of MS-CXR.

    Args:
        images: the folder of MIMIC-CXR-JPG (that holds files/, or files/ itself); default: the folder of the table.
    """
    draft = Draft("ms-cxr", Path(folder))
    table = only_table(matching(draft.folder, PATTERN) or matching(draft.folder, f"*/{PATTERN}"), draft.folder, PATTERN)
    phrases = read_phrases(table, draft.faults)
    base = table.parent if images is None else need_folder(images, "ms-cxr")
    missing = []
    numbers: Counter[str] = Counter()
    for phrase in phrases:
        inside = Path(phrase.image)
        choices = [base / inside, base / Path(*inside.parts[1:]), base / inside.name]
        image = next((path for path in choices if path.is_file()), None)
        if image is None:
            missing.append(phrase.image)
            continue
        numbers[phrase.dicom_id] += 1
        match = _PATIENT.search(phrase.image)
        draft.cases.append(
            Case(
                safe_id(f"{phrase.dicom_id}_{numbers[phrase.dicom_id]}"),
                image,
                phrase.split,
                text=phrase.text,
                masks={"mask": [Rectangle(corners) for corners in phrase.boxes]},
                boxes=[Box(phrase.label, *corners) for corners in phrase.boxes],
                labels=(phrase.label,),
                patient=match[1] if match else "",
                study=match[2] if match else "",
                size=phrase.size,
            )
        )
    missing = list(dict.fromkeys(missing))
    draft.missing("images are missing", missing, base, "MIMIC-CXR-JPG; say where with --images")
    draft.counts.update(images=len({phrase.image for phrase in phrases}), phrases=len(phrases))
    return draft.write(out)


def read_phrases(path: Path, faults: list[Fault]) -> list[Phrase]:
    """The phrases in the order of the table; the boxes of one image, category and phrase belong together."""
    names = ("dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")
    phrases: dict[tuple[str, str, str], Phrase] = {}
    for line, row in stream_csv(path, names, faults):
        try:
            x, y, w, h = (float(row[name]) for name in ("x", "y", "w", "h"))
            size = (int(float(row["image_height"])), int(float(row["image_width"])))
        except ValueError:
            x, y, w, h, size = 0.0, 0.0, 0.0, 0.0, (0, 0)
        split = _SPLITS.get(row.get("split", "test").lower() or "test")
        if w <= 0 or h <= 0 or min(size) < 1 or split is None or not row["label_text"]:
            expected = "a phrase, numbers with w and h above 0, split train, val or test"
            faults.append(Fault.malformed("not a box with its phrase", path, line, row["dicom_id"], expected))
            continue
        if row["category_name"] not in LABELS:
            what = f"unknown category_name {row['category_name']}"
            faults.append(Fault.unknown(what, path, line, row["dicom_id"], ", ".join(LABELS)))
            continue
        key = (row["dicom_id"], row["category_name"], row["label_text"])
        phrase = phrases.setdefault(
            key, Phrase(row["path"], row["dicom_id"], row["label_text"], row["category_name"], split, size)
        )
        if (phrase.image, phrase.size, phrase.split) != (row["path"], size, split):
            faults.append(Fault.mismatch("another path, size or split than before", path, line, row["dicom_id"]))
        phrase.boxes.append((x, y, x + w, y + h))
    return list(phrases.values())
