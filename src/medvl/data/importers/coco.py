"""COCO's instance annotations: JSON files with images, annotations, categories; polygons or run lengths -> masks.

The JSON files lie in annotations/, in the folder itself or beside their images, under any name (CVAT:
annotations/instances_default.json; Label Studio: result.json; Roboflow: train/_annotations.coco.json). The split is the
word train, val or test in the name of the file, else of its folder, else there is none. An image is looked for beside
its JSON, in FOLDER, FOLDER/images, in the sub-folder (also of images/) that the JSON is named after (train2017), then
anywhere below by the end of its path.
`segmentation` is a list of polygons (x, y, x, y, ...), or {"size", "counts"} of run lengths (`shapes.coco_counts`);
iscrowd objects give masks and no box. Every image is taken to be searched for every category, as COCO is. What has no
area (polygons on a line with their boxes, boxes of no width) is left out and counted; a box that is absent is made from
the outline.
Source: cocodataset.org, "Data format". Whole files of COCO were never met.

A JSON is read whole; masks are painted one at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvl.core.errors import Fault, InputError
from medvl.core.files import read_json
from medvl.data.importers.cases import Draft, ImportResult, capped, unique_ids
from medvl.data.importers.image_finder import ImageFinder
from medvl.data.importers.instances import Instance, Objects, split_of_name
from medvl.data.importers.set_files import matching
from medvl.data.importers.shapes import CocoRuns, Corners, Polygon, bounds_of, polygon

Outline = Polygon | CocoRuns
_EXPECTED = "a JSON file with images, annotations and categories, in the folder, annotations/ or beside its images"
_NO_INSTANCES = ("person_keypoints_", "captions_", "image_info_", "panoptic_")  # CVAT writes them beside instances_


def import_coco(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest, masks/, boxes.csv and labels of a set in COCO's instance format.

    `counts` of the result: objects, objects_without_an_outline, crowds_without_a_box; polygons_left_out and
    objects_left_out (no area), boxes_from_outlines (absent or of no area), boxes_unlike_outlines (more than 2 pixels
    and a tenth of their side apart; the box is kept), group_categories_left_out (Roboflow's name of the set).
    """
    draft = Draft("coco", Path(folder))
    folder = draft.folder
    sets = {path: data for path in annotation_files(folder) if (data := _load(path)) is not None}
    if not sets:
        raise InputError.missing_file("no COCO annotations", file=folder, expected=_EXPECTED)
    names = _category_names(sets.values(), draft.counts)
    finder = ImageFinder(folder)
    images: list[tuple[Path, str, Objects, tuple[int, int] | None]] = []
    for path, data in sets.items():
        inside = path.parent != folder and split_of_name(path.parent.name)
        split = split_of_name(path.stem) or inside or ""
        by_image = read_instances(path, data, draft)
        missing = []
        for item in data["images"]:
            image = finder.find(item["file_name"], _places(folder, path))
            if image is None:
                missing.append(item["file_name"])
                continue
            images.append((image, split, by_image.get(item["id"], Objects()), _size(item)))
        expected = "each once below the folder" if finder.several else None
        draft.missing(f"of {len(data['images'])} images are missing", missing, path, expected)
    ids = unique_ids([image for image, _, _, _ in images], folder)
    with_masks = any(objects.have_outlines for _, _, objects, _ in images)
    for ident, (image, split, objects, size) in zip(ids, images, strict=True):
        draft.counts += objects.counts()
        draft.cases.append(objects.case(ident, image, split, names, with_masks=with_masks, size=size))
    _warn(draft)
    return draft.write(out)


def annotation_files(folder: Path) -> list[Path]:
    """The JSON files of annotations/, the folder itself and its sub-folders, in sorted order."""
    paths = matching(folder, "*.json", "*/*.json")
    return [path for path in paths if not path.name.startswith(_NO_INSTANCES)] or paths


def _category_names(sets: Any, counts: Counter[str]) -> list[str]:
    """The names of all categories, without those that only group others and have no object."""
    used = {item["category_id"] for data in sets for item in data["annotations"] if _has_category(item)}
    groups = {str(item.get("supercategory")) for data in sets for item in data["categories"]}
    names: dict[str, None] = {}
    for data in sets:
        for item in data["categories"]:
            if item["name"] in groups and item["id"] not in used:
                counts["group_categories_left_out"] += 1
            else:
                names[item["name"]] = None
    return list(names)


def _has_category(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("category_id"), _ID)


def _warn(draft: Draft) -> None:
    counts = draft.counts
    if counts["objects_left_out"] or counts["polygons_left_out"]:
        draft.warnings.append(
            f"{draft.folder}: {counts['objects_left_out']} objects and {counts['polygons_left_out']} polygons without "
            "an area are left out; a category of which an image has no other object is not annotated there"
        )
    if number := counts["boxes_unlike_outlines"]:
        draft.warnings.append(
            f"{draft.folder}: {number} boxes are not those of their outlines; both are kept as they are"
        )


def _size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    return (int(item["height"]), int(item["width"])) if item.get("height") and item.get("width") else None


def read_instances(path: Path, data: Mapping[str, Any], draft: Draft) -> dict[Any, Objects]:
    """Image id -> its objects. An annotation that cannot be understood is a fault; one without an area is counted."""
    names = {item["id"]: item["name"] for item in data["categories"]}
    images = {item["id"] for item in data["images"]}
    by_image: dict[Any, Objects] = {}
    faults: list[Fault] = []
    for item in data["annotations"]:
        try:
            for key, known in (("category_id", names), ("image_id", images)):
                if item[key] not in known:
                    raise InputError.unknown(f"{key} {item[key]!r}", expected=f"an id of {_LISTS_OF[key]} in this file")
            objects = by_image.setdefault(item["image_id"], Objects())
            label, crowd = names[item["category_id"]], bool(item.get("iscrowd"))
            shapes = _shapes(item.get("segmentation"), draft.counts)
            is_flat = not shapes and any(item.get("segmentation") or ())  # drawn on a line: its box is no object's
            box = None if (crowd and shapes) or is_flat else _box(item.get("bbox"), shapes, draft.counts)
            if not shapes and box is None:
                draft.counts["objects_left_out"] += 1
                objects.left_out.append(label)
            else:
                objects.instances.append(Instance(label, None if crowd else box, shapes))
        except KeyError as error:
            expected = "image_id, category_id, and bbox or segmentation"
            faults.append(Fault.missing(f"no {error.args[0]}", path, record=_name(item), expected=expected))
        except (TypeError, ValueError, OverflowError) as error:
            faults.append(Fault.malformed(f"not an annotation ({error})", path, record=_name(item)))
        except InputError as error:
            fault = error.faults[0]
            faults.append(Fault(fault.what, path, record=_name(item), expected=fault.expected, kind=fault.kind))
    draft.faults += capped(faults)
    return by_image


def _name(item: Any) -> str:
    return f"annotation {str(item.get('id') if isinstance(item, dict) else item)[:40]}"


def _box(bbox: Any, shapes: Sequence[Outline], counts: Counter[str]) -> Corners | None:
    """The box of an object: its own, else that of its outline; None where neither has an area."""
    outline = bounds_of(shapes)
    if not bbox:
        counts["boxes_from_outlines"] += outline is not None
        return outline
    numbers = [float(value) for value in bbox]
    if len(numbers) != 4:
        raise InputError.malformed(f"bbox of {len(numbers)} numbers", expected="x, y, width, height")
    x, y, width, height = numbers
    if not all(map(math.isfinite, numbers)) or width <= 0 or height <= 0:
        counts["boxes_from_outlines"] += outline is not None
        return outline
    box = (x, y, x + width, y + height)
    if outline is not None:
        apart = max(abs(one - other) for one, other in zip(box, outline, strict=True))
        counts["boxes_unlike_outlines"] += apart > 2 + 0.1 * max(width, height)
    return box


def _shapes(segmentation: Any, counts: Counter[str]) -> tuple[Outline, ...]:
    if not segmentation:
        return ()
    if isinstance(segmentation, Mapping):
        if not ("size" in segmentation and "counts" in segmentation):
            raise InputError.missing("run lengths without size or counts", expected='{"size": [H, W], "counts": ...}')
        height, width = segmentation["size"]
        numbers = segmentation["counts"]
        codes = numbers if isinstance(numbers, str) else tuple(int(count) for count in numbers)
        runs = CocoRuns(codes, (int(height), int(width)))
        if height <= 0 or width <= 0 or height * width > _MOST_PIXELS:
            raise InputError.mismatch(
                f"run lengths of {height} rows x {width} columns", expected="the size of the image"
            )
        if runs.bounds() is None:
            counts["polygons_left_out"] += 1
            return ()
        return (runs,)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise InputError.malformed(
            "a segmentation of another kind", expected="lists of x, y, x, y, ..., or run lengths"
        )
    parts = [segmentation] if isinstance(segmentation[0], (int, float)) else segmentation
    shapes = []
    for part in parts:
        numbers = [number for pair in part for number in (pair if isinstance(pair, list) else [pair])]
        if not numbers:
            continue  # [[]]: only a box
        if len(numbers) % 2:
            raise InputError.malformed(f"a polygon of {len(numbers)} numbers", expected="x, y of at least three points")
        shape = polygon([float(number) for number in numbers])
        counts["polygons_left_out"] += shape is None
        shapes += [] if shape is None else [shape]
    return tuple(shapes)


_MOST_PIXELS = 10**9


def _load(path: Path) -> dict[str, Any] | None:
    """The content where it is COCO's, None where it is another JSON."""
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in _LISTS):
        return None
    for name, keys in _LISTS.items():
        for key, kinds in keys.items():
            for item in data[name]:
                value = item.get(key) if isinstance(item, dict) else None
                if not isinstance(value, kinds) or value == "":
                    raise InputError.missing(
                        f"{name}: {key} is {str(value)[:40]!r}",
                        file=path,
                        expected=f"{', '.join(keys)} in each of them",
                    )
        if keys and len({item["id"] for item in data[name]}) < len(data[name]):
            raise InputError.duplicate(f"{name}: an id stands twice", file=path, expected="an id of its own for each")
    for item in data["images"]:
        for key in ("height", "width"):
            value = item.get(key)
            if isinstance(value, str) and value.isdigit():
                item[key] = int(value)
            elif value is not None and (not isinstance(value, (int, float)) or not 0 <= value < _MOST_PIXELS):
                raise InputError.malformed(f"images: {key} is {str(value)[:40]!r}", file=path, expected="whole pixels")
    if torn := next((item["name"] for item in data["categories"] if "|" in item["name"]), None):
        raise InputError.malformed(
            f"a category with |: {torn}", file=path, expected="names without |, which separates labels"
        )
    return data


_ID = (int, float, str)
_LISTS_OF = {"category_id": "categories", "image_id": "images"}
_LISTS: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": _ID, "file_name": (str,)},
    "categories": {"id": _ID, "name": (str,)},
    "annotations": {},
}


def _places(folder: Path, annotations: Path) -> list[Path]:
    word = split_of_name(annotations.stem) or ""
    tail = annotations.stem.removeprefix("instances_")
    folders: Sequence[str] = (tail, word, "valid" if word == "val" else word)
    bases = [folder, folder / "images"]
    beside = [annotations.parent, annotations.parent / "images"]
    return [*beside, *bases, *(base / name for base in bases for name in folders if name)]
