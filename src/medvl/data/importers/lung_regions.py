"""Lung masks -> phrases and regions: one label map per image, one row per (image, phrase).

The rule: the two components of a lung mask are the lungs (in standard display the patient's right lung is on the
viewer's left); each is cut into equal thirds of its own height. Nothing else is known about the image, so the phrase
alone decides the mask. Wordings: `region_phrases`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import Fault, InputError, warn
from medvl.core.files import whole_folder
from medvl.data.image import UPRIGHT, Turn
from medvl.data.images import image_orientation, read_image
from medvl.data.importers.cases import ImportResult
from medvl.data.importers.region_phrases import CLASSES, Region, WordingSet, region_code, region_name, regions, wordings
from medvl.data.masks import read_mask, resample_mask
from medvl.data.record import Record
from medvl.data.records import load_manifest, write_manifest

COLUMNS = ("id", "image", "text", "mask", "mask_values", "patient", "split", "licence", "region", "kind", "wording")
SMALL = 0.01  # a component below this part of the mask's area is a speck, not a lung
T = TypeVar("T")

# Rows per image. Training: (regions of the kind that are drawn, wordings each). Validation and test: regions drawn and
# whether each occurs in a seen and in an unseen wording (True) or in turn in one of the two (False).
_TRAIN_ROWS = {"zone": (6, 2), "lung": (2, 2), "both": (1, 2), "pair": (5, 1), "bilateral": (5, 1), "mixed": (10, 1)}
_EVAL_ROWS = {
    "zone": (6, True),
    "lung": (2, True),
    "both": (1, True),
    "pair": (3, False),
    "bilateral": (2, False),
    "mixed": (3, False),
    "heldout": (2, False),
}


def import_lung_regions(
    source: str | Path, out: str | Path, *, max_size: int | None = None, licence: str | None = None
) -> ImportResult:
    """Make a phrase-and-region set from any manifest with lung masks and splits.

    Args:
        source: a manifest, or a folder with manifest.csv, whose column `mask` holds both lungs as two components.
        out: a new folder: images/, maps/, manifest.csv (phrases), manifest_labels.csv (one row per image, mask = its
            label map), classes.json.
        max_size: shrink images to this longest side (JPEG, quality 90); without it they are copied as they are.
        licence: replaces the licence of the rows.

    Images whose mask has another number of large components than two are left out and reported (`left_out`); so are
    rows without a mask (not annotated, or looked for and absent).

    `counts` of the result: images, phrases, images_with_specks (components below SMALL were dropped),
    rows_without_a_mask.
    """
    source, out = Path(source), Path(out)
    source = source / "manifest.csv" if source.is_dir() else source
    manifest = load_manifest(source, classes=["mask"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError.exists("the folder is not empty", file=out, expected="a new folder")
    if max_size is not None and max_size < 16:
        raise InputError.out_of_range(f"--max-size is {max_size}", expected="at least 16 pixels")
    records, num_without = _with_masks(source, manifest.records)
    _check_rows(source, records)
    with whole_folder(out) as work:
        for name in ("images", "maps"):
            (work / name).mkdir()
        splits, counts, left_out = _write(source, records, work, max_size, licence)
    counts["rows_without_a_mask"] = num_without
    return ImportResult(out / "manifest.csv", splits, counts, left_out=left_out)


def label_map(right: NDArray[np.bool_], left: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Two (H, W) lungs, patient's sides -> (H, W) uint8: 1..3 right upper, middle, lower third, 4..6 left, 0 outside.

    A row of pixels belongs to the third in which its centre lies.
    """
    values = np.zeros(right.shape, np.uint8)
    for lung, first in ((right, 1), (left, 4)):
        rows = np.flatnonzero(lung.any(axis=1))
        top, height = int(rows[0]), int(rows[-1]) - int(rows[0]) + 1
        third = (2 * (np.arange(lung.shape[0]) - top) + 1) * 3 // (2 * height)  # floor of 3 (row + 1/2 - top) / height
        values[lung] = (first + np.broadcast_to(third[:, None], lung.shape))[lung]
    return values


def two_lungs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], bool]:
    """(patient's right lung, left lung, were specks dropped?) of a mask in standard display.

    InputError unless there are exactly two large components, one clearly to the left of the other.
    """
    from scipy import ndimage

    labels, num = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=num + 1)[1:]
    large = [i + 1 for i in np.flatnonzero(areas >= SMALL * max(int(areas.sum()), 1))]
    if len(large) != 2:
        raise InputError.malformed(f"the mask has {len(large)} large components", expected="2, one for each lung")
    columns = [float(x) for _, x in ndimage.center_of_mass(mask, labels, large)]
    if abs(columns[0] - columns[1]) < 0.1 * mask.shape[1]:
        raise InputError.malformed("the two components do not lie side by side", expected="a lung on each side")
    first, second = (large[i] for i in np.argsort(columns))  # the viewer's left is the patient's right
    return labels == first, labels == second, num > 2


def phrase_rows(image: str, split: str) -> Iterator[tuple[str, Region, str, str]]:
    """(kind, region, wording set, text) for one image: a pure function of its name and split."""
    unseen: WordingSet = "val" if split == "val" else "test"
    for kind, choices in regions().items():
        if split == "train":
            if kind in _TRAIN_ROWS:
                num, each = _TRAIN_ROWS[kind]
                for region in _draw(choices, num, image, kind):
                    for text in _draw(wordings(region, "seen"), each, image, region_name(region)):
                        yield kind, region, "seen", text
            continue
        num, both = _EVAL_ROWS[kind]
        for i, region in enumerate(_draw(choices, num, image, kind)):
            turn = (i + _number(image, kind, "turn")) % 2
            sets: tuple[WordingSet, ...] = ("seen", unseen) if both else (("seen", unseen)[turn],)
            for which in sets:
                (text,) = _draw(wordings(region, which), 1, image, region_name(region) + which)
                yield kind, region, "seen" if which == "seen" else "unseen", text


def _draw(items: Sequence[T], num: int, *key: str) -> list[T]:
    """`num` distinct items, chosen by the key alone, in their own order."""
    order = sorted(range(len(items)), key=lambda i: _number(*key, str(i)))
    return [items[i] for i in sorted(order[:num])]


def _number(*key: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(key).encode()).digest()[:8], "big")


def _with_masks(source: Path, records: Sequence[Record]) -> tuple[list[Record], int]:
    """The rows with a lung mask, and how many have none."""
    kept = [record for record in records if (mask := record.masks["mask"]) is not None and mask.path is not None]
    num_without = len(records) - len(kept)
    if not kept:
        raise InputError.empty(f"none of {len(records)} rows has a mask", file=source, expected="masks of both lungs")
    if num_without:
        warn(f"{source}: {num_without} of {len(records)} rows have no lung mask and are left out")
    return kept, num_without


def _check_rows(source: Path, records: Iterable[Record]) -> None:
    faults = []
    lines: dict[Path, int] = {}
    for record in records:
        if record.split is None:
            faults.append(Fault.missing("no split", source, record.line, record.id, remedy="medvl data split MANIFEST"))
        if record.image in lines:
            faults.append(
                Fault.duplicate(f"the image of line {lines[record.image]} again", source, record.line, record.id)
            )
        lines.setdefault(record.image, record.line)
    if faults:
        raise InputError(faults)


def _write(
    source: Path, records: Sequence[Record], out: Path, max_size: int | None, licence: str | None
) -> tuple[dict[str, int], dict[str, int], tuple[Fault, ...]]:
    rows: list[dict[str, str]] = []
    maps: list[dict[str, str]] = []
    left_out: list[Fault] = []
    num_specks = 0
    for record, name in zip(records, _short_names(records), strict=True):
        reference = record.masks["mask"]
        assert reference is not None and reference.path is not None and record.split is not None  # _check_rows
        try:
            orientation = image_orientation(record.image)
            if orientation.kind == "sideless":
                raise InputError.unsupported(
                    "a lateral or oblique image", expected="a frontal one, whose sides are the patient's"
                )
            mask = orientation.turn.apply(read_mask(reference.path, reference.values))
            right, left, specks = two_lungs(mask)
        except InputError as error:
            fault = error.faults[0]
            left_out.append(Fault(fault.what, source, record.line, record.id, fault.expected, kind=fault.kind))
            continue
        num_specks += specks
        image, size, turn = _copy_image(record.image, out / "images" / name, max_size)
        labels = label_map(*(resample_mask(lung, size) for lung in (right, left)))
        _save_map(turn.undo(labels), out / "maps" / f"{name}.png")
        shared = {"image": f"images/{image}", "mask": f"maps/{name}.png", "patient": record.patient}
        shared |= {"split": record.split, "licence": licence or record.licence or ""}
        letters: Counter[str] = Counter()
        for kind, region, wording, text in phrase_rows(name, record.split):
            code = region_code(region)
            row = shared | {"id": f"{name}_{code}_{'abcdefgh'[letters[code]]}", "text": text, "kind": kind}
            letters[code] += 1
            row["mask_values"] = "|".join(map(str, sorted(region)))
            rows.append(row | {"region": region_name(region), "wording": wording})
        maps.append(shared | {"id": name, "labels": "|".join(record.labels)})
    if not rows:
        raise InputError(left_out or [Fault.empty("no image has a mask of two lungs")])
    write_manifest(out / "manifest.csv", rows, COLUMNS)
    write_manifest(out / "manifest_labels.csv", maps, ("id", "image", "mask", "patient", "split", "licence", "labels"))
    classes = {name: [value] for name, value in CLASSES.items()}
    (out / "classes.json").write_text(json.dumps(classes) + "\n", encoding="utf-8")
    counts = {"images": len(maps), "phrases": len(rows), "images_with_specks": num_specks}
    return dict(Counter(row["split"] for row in rows)), counts, tuple(left_out)


def _short_names(records: Sequence[Record]) -> list[str]:
    """Ids up to the first "-" where that distinguishes all records, else the whole ids."""
    short = [record.id.split("-")[0].replace(" ", "_") for record in records]
    return short if len(set(short)) == len(short) and all(short) else [record.id for record in records]


def _copy_image(path: Path, target: Path, max_size: int | None) -> tuple[str, tuple[int, int], Turn]:
    """Copy, or shrink in standard display -> the file name, (H, W) as displayed, and how the new file is turned."""
    from PIL import Image

    image = read_image(path)
    pixels = image.displayed().pixels
    height, width = pixels.shape[:2]
    scale = 1.0 if max_size is None else min(1.0, max_size / max(height, width))
    if scale == 1.0:
        name = target.name + path.suffix.lower()
        shutil.copyfile(path, target.with_name(name))
        return name, (height, width), image.orientation.turn
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    eight = Image.fromarray(np.rint(pixels * 255).astype(np.uint8))
    eight = eight.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    eight.save(target.with_name(f"{target.name}.jpg"), quality=90, optimize=True)
    return f"{target.name}.jpg", size, UPRIGHT


def _save_map(values: NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    Image.fromarray(values).save(path, optimize=True)
