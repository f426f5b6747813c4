"""Label maps with a table of their colours or values: CVAT's and Pascal VOC's masks, Roboflow's, CamVid's.

Tables, in the folder or one folder down:

    labelmap.txt      "name:r,g,b:parts:actions", "#" begins a remark (CVAT "Segmentation mask", Pascal VOC)
    class_dict.csv    columns name, r, g, b
    label_colors.txt  "r g b name" (CamVid)
    _classes.csv      columns Pixel Value, Class (Roboflow, "semantic segmentation masks")

Masks lie in SegmentationClass/, masks/ or labels/ under the name of their image, or beside it as NAME_mask.png. Black,
and classes called background, are the background; classes called void or ignore make no mask. A colour that the table
does not have is a fault. ImageSets/Segmentation/train.txt, val.txt and test.txt, or the word in the name of a folder,
give the split. Layout from description, never met real files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from medvl.core.errors import Fault, FaultKind, InputError
from medvl.core.files import read_text
from medvl.data.importers.cases import SPLITS, Case, Draft, ImportResult, capped, unique_ids
from medvl.data.importers.image_finder import SUFFIXES
from medvl.data.importers.instances import split_of_name
from medvl.data.importers.set_files import matching, stream_csv, walk
from medvl.data.importers.shapes import MaskFile
from medvl.data.mask_colours import LabelValue, StoredMask, colours_of
from medvl.data.masks import read_labels
from medvl.data.pictures import decode

TABLES = ("labelmap.txt", "class_dict.csv", "label_colors.txt", "_classes.csv")
MASK_FOLDERS = ("segmentationclass", "masks", "labels", "segmentation_masks")
_OBJECTS = "segmentationobject"
_BACKGROUND = {"background", "_background_", "bg", "unlabeled", "unlabelled"}
_VOID = {"void", "ignore", "__ignore__", "ignored"}


def import_colour_masks(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest and one mask a class, of label maps whose colours or values a table names.

    `counts` of the result: label_maps, images_without_a_mask (their classes are not annotated).
    """
    draft = Draft("colour-masks", Path(folder))
    folder, faults = draft.folder, draft.faults
    tables = matching(folder, *TABLES, *(f"*/{name}" for name in TABLES))
    if not tables:
        raise InputError.missing_file("no table of colours", file=folder, expected=" or ".join(TABLES))
    classes: dict[str, LabelValue] = {}
    for table in tables:
        for name, value in _read(table, faults).items():
            if classes.setdefault(name, value) != value:
                faults.append(Fault.conflict(f"{name} is {value} here and {classes[name]} in another table", table))
    if faults:
        raise InputError(faults)
    images, masks, twice = _files(folder)
    draft.fault_of(FaultKind.DUPLICATE, "masks belong to the same image", twice, folder, "one mask an image")
    lonely = [str(path.relative_to(folder)) for key, path in masks.items() if key not in images]
    draft.missing("masks have no image", lonely, folder, "an image of the same name")
    splits = _splits(folder)
    names = [name for name in classes if name.lower() not in _BACKGROUND | _VOID and classes[name] not in _EMPTY]
    draft.counts["label_maps"] = len(masks)
    ids = unique_ids(list(images.values()), folder)
    for ident, (key, image) in zip(ids, images.items(), strict=True):
        mask = masks.get(key)
        words = (split_of_name(part) for part in image.relative_to(folder).parts[:-1])
        case = Case(ident, image, splits.get(image.stem) or next((word for word in words if word), ""))
        if mask is None:
            draft.counts["images_without_a_mask"] += 1
            case.masks = dict.fromkeys(names)
        else:
            present = _present(mask, classes, faults)
            case.masks = {
                name: [MaskFile(mask, (classes[name],))] if classes[name] in present else [] for name in names
            }
            case.labels = tuple(name for name in names if case.masks[name])
        draft.cases.append(case)
    if void := [name for name in classes if name.lower() in _VOID]:
        draft.warnings.append(f"{folder}: pixels of {', '.join(void)} are read as background")
    draft.faults = capped(faults)
    return draft.write(out)


_EMPTY = ("#000000", 0)


def _read(path: Path, faults: list[Fault]) -> dict[str, LabelValue]:
    """Class -> its colour (#rrggbb) or value."""
    classes: dict[str, LabelValue] = {}
    for line, name, numbers in _lines(path, faults):
        try:
            values = [int(number) for number in numbers]
        except ValueError:
            values = []
        if not name or "|" in name or len(values) not in (1, 3) or not all(0 <= value <= 255 for value in values):
            faults.append(
                Fault.malformed("not a class with its colour", path, line, expected="a name, and 0 to 255 for r, g, b")
            )
        elif name in classes:
            faults.append(Fault.duplicate(f"{name} again", path, line))
        else:
            classes[name] = values[0] if len(values) == 1 else "#" + "".join(f"{value:02x}" for value in values)
    if len(set(classes.values())) < len(classes):
        faults.append(Fault.duplicate("two classes have one colour", path, expected="a colour of its own for each"))
    return classes


def _lines(path: Path, faults: list[Fault]) -> Iterable[tuple[int, str, list[str]]]:
    if path.name == "_classes.csv":
        for line, row in stream_csv(path, ("Pixel Value", "Class"), faults):
            yield line, row["Class"], [row["Pixel Value"]]
    elif path.suffix == ".csv":
        for line, row in stream_csv(path, ("name", "r", "g", "b"), faults):
            yield line, row["name"], [row["r"], row["g"], row["b"]]
    else:
        for line, words in enumerate(read_text(path, "a table of colours").splitlines(), start=1):
            if not words.strip() or words.lstrip().startswith("#"):
                continue
            if path.name == "labelmap.txt":
                name, _, rest = words.partition(":")
                yield line, name.strip(), rest.split(":")[0].split(",")
            else:
                parts = words.split(None, 3)
                yield line, parts[3].strip() if len(parts) == 4 else "", parts[:3]


def _files(folder: Path) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    """Images and masks by the key that pairs them (their folder without its kind, and their stem), and masks that
    stand twice."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    twice = []
    for path in walk(folder):
        parts = [part.lower() for part in path.relative_to(folder).parts[:-1]]
        if path.suffix.lower() not in SUFFIXES or _OBJECTS in parts:
            continue
        is_mask = any(part in MASK_FOLDERS for part in parts) or path.stem.endswith("_mask")
        key = "/".join([part for part in parts if part not in (*MASK_FOLDERS, "images", "jpegimages", "img")])
        key += "/" + (path.stem.removesuffix("_mask") if is_mask else path.stem)
        target = masks if is_mask else images
        if key in target:
            twice.append(str(path.relative_to(folder)))
        target[key] = path
    return images, masks, twice


def _splits(folder: Path) -> dict[str, str]:
    """Image stem -> split, of ImageSets/Segmentation/*.txt."""
    splits: dict[str, str] = {}
    for path in matching(folder, "ImageSets/*/*.txt", "*/ImageSets/*/*.txt"):
        if path.stem in SPLITS:
            names = read_text(path, "a list of images").splitlines()
            splits |= {Path(name.strip()).stem: path.stem for name in names if name.strip()}
    return splits


def _present(path: Path, classes: Mapping[str, LabelValue], faults: list[Fault]) -> set[LabelValue]:
    """The colours or values of the table that a label map has. Those that the table does not have are faults."""
    is_lossy = False
    try:
        if all(isinstance(value, int) for value in classes.values()):
            present: set[LabelValue] = set(np.unique(read_labels(path)).tolist())
        else:
            decoded = decode(path, labels=True)
            is_lossy = decoded.lossy
            present = set(colours_of(StoredMask(path, decoded.array, decoded.palette, decoded.lossy)))
    except InputError as error:
        faults += error.faults
        return set()
    unknown = sorted(map(str, present - set(classes.values()) - set(_EMPTY)))
    if unknown:
        known = ", ".join(f"{name} {value}" for name, value in list(classes.items())[:8])
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        remedy = "write the masks as PNG: JPEG changes colours" if is_lossy else None
        faults.append(
            Fault.unknown(
                f"{len(unknown)} colours that the table does not have: {shown}", path, None, None, known, remedy
            )
        )
    return present
