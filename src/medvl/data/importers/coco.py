"""COCO's instance annotations: JSON files with images, annotations, categories; polygons or run lengths -> masks.

The JSON files lie in annotations/, in the folder itself or beside their images (instances_train2017.json,
train/_annotations.coco.json); the split is the word train, val or test in the name of the file, else of its folder. An
image is looked for beside its JSON, in FOLDER, FOLDER/images, and in the sub-folder (also of images/) that the JSON is
named after (train2017) or that is named train, val, valid or test.
`segmentation` is a list of polygons (x, y, x, y, ...), or {"size", "counts"} of run lengths (`rle.coco_counts`);
iscrowd objects give masks and no box. Every image is taken to be searched for every category, as COCO is.
Source: cocodataset.org, "Data format". Run lengths were compared with pycocotools; whole files of COCO were never met.

A JSON is read whole; masks are painted one at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvl.core.files import read_json
from medvl.data.importers.cases import Case, capped, summed_up, unique_ids, write_cases
from medvl.data.importers.instances import SPLITS, Instance, case_of, counted, split_of_name
from medvl.data.importers.result import ImportResult
from medvl.data.importers.set_files import need_folder
from medvl.data.importers.shapes import CocoRuns, Polygon, Shape
from medvl.errors import Fault, InputError

LICENCE = ""  # of the user's own set; COCO itself: annotations CC BY 4.0, images under Flickr's terms
_EXPECTED = "a JSON file with images, annotations and categories, named after its split (train, val, test)"


def import_coco(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest, masks/, boxes.csv and labels of a set in COCO's instance format."""
    folder = need_folder(folder, "coco")
    faults: list[Fault] = []
    sets = {path: data for path in annotation_files(folder) if (data := _load(path)) is not None}
    if not sets:
        raise InputError("no COCO annotations", file=folder, expected=_EXPECTED)
    names = list(dict.fromkeys(str(item["name"]) for data in sets.values() for item in data["categories"]))
    found: list[tuple[Path, str, list[Instance], tuple[int, int] | None]] = []
    counts: Counter[str] = Counter()
    for path, data in sets.items():
        split = split_of_name(path.name) or split_of_name(path.parent.name)
        if split is None:
            faults.append(Fault("the name tells no split", path, expected="train, val or test in it"))
            continue
        by_image = read_instances(path, data, faults)
        missing = []
        for item in data["images"]:
            image = _find_image(folder, path, str(item["file_name"]))
            if image is None:
                missing.append(str(item["file_name"]))
                continue
            size = (int(item["height"]), int(item["width"])) if item.get("height") and item.get("width") else None
            instances = by_image.get(item["id"], [])
            counts += counted(instances)
            found.append((image, split, instances, size))
        if missing:
            faults.append(summed_up(f"of {len(data['images'])} images are missing", missing, path))
    with_masks = any(instance.shapes for _, _, instances, _ in found for instance in instances)
    ids = unique_ids([image for image, _, _, _ in found], folder)
    cases: list[Case] = [
        case_of(ident, image, split, instances, names, with_masks=with_masks, size=size)
        for ident, (image, split, instances, size) in zip(ids, found, strict=True)
    ]
    return write_cases(out, cases, splits=SPLITS, licence=LICENCE, counts=counts, faults=faults)


def annotation_files(folder: Path) -> list[Path]:
    """The JSON files of annotations/, the folder itself and its sub-folders, in sorted order."""
    return sorted(set(folder.glob("*.json")) | set(folder.glob("*/*.json")))


def read_instances(path: Path, data: Mapping[str, Any], faults: list[Fault]) -> dict[Any, list[Instance]]:
    """Image id -> its objects. An annotation that cannot be understood is a fault."""
    names = {item["id"]: str(item["name"]) for item in data["categories"]}
    images = {item["id"] for item in data["images"]}
    by_image: dict[Any, list[Instance]] = {}
    own: list[Fault] = []
    for item in data["annotations"]:
        try:
            for key, known in (("category_id", names), ("image_id", images)):
                if item[key] not in known:
                    raise InputError(f"{key} {item[key]!r}", expected=f"an id of {_LISTS_OF[key]} in this file")
            shapes = _shapes(item.get("segmentation"))
            crowd = bool(item.get("iscrowd"))
            bbox = [float(value) for value in item["bbox"]]
            if len(bbox) != 4 or not (crowd or (bbox[2] > 0 and bbox[3] > 0)):
                raise InputError(f"bbox {item['bbox']}", expected="x, y, width, height with both above 0")
            x, y, width, height = bbox
            box = None if crowd else (x, y, x + width, y + height)
            instance = Instance(names[item["category_id"]], box, shapes)
            by_image.setdefault(item["image_id"], []).append(instance)
        except KeyError as error:
            own.append(Fault(f"no {error.args[0]}", path, record=_name(item), expected="image_id, category_id, bbox"))
        except (TypeError, ValueError) as error:
            own.append(Fault(f"not an annotation ({error})", path, record=_name(item)))
        except InputError as error:
            fault = error.faults[0]
            own.append(Fault(fault.what, path, record=_name(item), expected=fault.expected))
    faults += capped(own)
    return by_image


def _name(item: Any) -> str:
    return f"annotation {item.get('id') if isinstance(item, dict) else item!r}"


def _shapes(segmentation: Any) -> tuple[Shape, ...]:
    if not segmentation:
        return ()
    if isinstance(segmentation, Mapping):
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        codes = counts if isinstance(counts, str) else tuple(int(count) for count in counts)
        return (CocoRuns(codes, (int(height), int(width))),)
    shapes = []
    for numbers in segmentation:
        if len(numbers) < 6 or len(numbers) % 2:
            raise InputError(f"a polygon of {len(numbers)} numbers", expected="x, y of at least three points")
        values = [float(number) for number in numbers]
        shapes.append(Polygon(tuple(zip(values[0::2], values[1::2], strict=True))))
    return tuple(shapes)


def _load(path: Path) -> dict[str, Any] | None:
    """The content where it is COCO's, None where it is another JSON."""
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(name), list) for name in _LISTS):
        return None
    for name, keys in _LISTS.items():
        for key in keys:
            if not all(isinstance(item, dict) and key in item for item in data[name]):
                raise InputError(f"{name} without {key}", file=path, expected=f"{', '.join(keys)} in each of them")
    return data


_LISTS_OF = {"category_id": "categories", "image_id": "images"}
_LISTS: dict[str, tuple[str, ...]] = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ()}


def _find_image(folder: Path, annotations: Path, name: str) -> Path | None:
    word = split_of_name(annotations.stem) or ""
    tail = annotations.stem.removeprefix("instances_")
    folders: Sequence[str] = (tail, word, "valid" if word == "val" else word)
    bases = [folder, folder / "images"]
    choices = [annotations.parent, *bases, *(base / own for base in bases for own in folders if own)]
    return next((path / name for path in choices if (path / name).is_file()), None)
