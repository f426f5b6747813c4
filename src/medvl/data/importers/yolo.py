"""YOLO's text format: images/, labels/, data.yaml; boxes and, in its segmentation form, polygons.

data.yaml names the classes (`names`, a list or a mapping) and the parts (`train`, `val`, `test`: folders or lists of
images, relative to `path`, else to data.yaml). The labels of images/a/b.png are labels/a/b.txt: the last "images" of
the path is replaced. A line is "CLASS cx cy w h" (a box) or "CLASS x y x y x y ..." (a polygon of at least three
points), all as fractions of the image. An image without a label file or with an empty one shows no object: that is the
format's rule; images without a file are counted and reported. Polygons give masks; a box alone gives none. What has
no area is left out and counted.
Source: the Ultralytics documentation, "Object detection" and "Instance segmentation" datasets. Layout from description,
never met real files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvl.core.errors import Fault, InputError
from medvl.core.files import read_text
from medvl.core.plain_yaml import read_yaml
from medvl.data.box_table import Box
from medvl.data.images import image_size
from medvl.data.importers.cases import SPLITS, Draft, ImportResult, capped, cut_box, unique_ids
from medvl.data.importers.instances import Instance, Objects
from medvl.data.importers.set_files import walk
from medvl.data.importers.shapes import Polygon, polygon

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


def import_yolo(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest, boxes.csv, labels and (of polygons) masks/ of a set in YOLO's format."""
    draft = Draft("yolo", Path(folder))
    folder = draft.folder
    config = _config(folder)
    names = class_names(config, folder)
    images: list[tuple[Path, str, Objects]] = []
    splits = [split for split in SPLITS if config.get(split)]
    for split in splits:
        faults: list[Fault] = []
        for image in _images(config[split], _base(config, folder), folder):
            labels = label_file(image)
            objects = Objects()
            if labels.is_file():
                try:
                    objects = read_labels(labels, names, image_size(image), faults)
                except InputError as error:
                    faults += error.faults
                    continue
            else:
                draft.counts["images_without_a_label_file"] += 1
            images.append((image, split, objects))
        draft.faults += capped(faults)
    if not splits:
        raise InputError.missing("no part is named", file=folder / "data.yaml", expected="train, val or test")
    ids = unique_ids([image for image, _, _ in images], folder)
    with_masks = any(objects.have_outlines for _, _, objects in images)
    for ident, (image, split, objects) in zip(ids, images, strict=True):
        draft.counts += objects.counts()
        draft.counts["objects_left_out"] += len(objects.left_out)
        draft.cases.append(objects.case(ident, image, split, names, with_masks=with_masks))
    if number := draft.counts["images_without_a_label_file"]:
        draft.warnings.append(f"{folder}: {number} images without a label file are taken to show no object")
    if number := draft.counts["objects_left_out"]:
        draft.warnings.append(
            f"{folder}: {number} objects without an area are left out; their class is not annotated there"
        )
    return draft.write(out, splits=splits)


def class_names(config: Mapping[str, Any], folder: Path) -> list[str]:
    """The names of the classes by number."""
    names = config.get("names")
    if isinstance(names, Mapping):
        numbers = sorted(names, key=lambda name: (not isinstance(name, int), str(name).zfill(9)))
        if numbers != list(range(len(numbers))):
            raise InputError.malformed(
                f"names has the numbers {numbers}", file=folder / "data.yaml", expected="0, 1, 2, ..."
            )
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names:
        raise InputError.missing("no names", file=folder / "data.yaml", expected="names: a list of class names")
    names = [str(name) for name in names]
    if len(set(names)) < len(names) or any("|" in name or not name.strip() for name in names):
        what = "names that stand twice, are empty or hold |, which separates labels"
        raise InputError.malformed(what, file=folder / "data.yaml", expected="a name of its own for each class")
    return names


def read_labels(path: Path, names: list[str], size: tuple[int, int], faults: list[Fault]) -> Objects:
    """The objects of one label file, in pixels of an image of `size` (H, W).

    Lines not understood, and objects that leave the image, are faults.
    """
    objects = Objects()
    for line, text in enumerate(read_text(path, "YOLO labels").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            number, *values = (float(part) for part in text.split())
        except ValueError:
            number, values = -1.0, []
        if number not in range(len(names)):
            expected = f"a class from 0 to {len(names) - 1} and fractions"
            faults.append(Fault.malformed(f"not an object: {text.strip()[:40]!r}", path, line, expected=expected))
            continue
        label = names[int(number)]
        if not all(map(math.isfinite, values)):
            values = []
        if len(values) == 4 and min(values[2:]) == 0:
            objects.left_out.append(label)
            continue
        if len(values) == 4 and values[2] > 0 and values[3] > 0:
            x, y, width, height = values[0] * size[1], values[1] * size[0], values[2] * size[1], values[3] * size[0]
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            shapes: tuple[Polygon, ...] = ()
        elif len(values) >= 6 and len(values) % 2 == 0:
            shape = polygon([value * size[1 - i % 2] for i, value in enumerate(values)])
            if shape is None:
                objects.left_out.append(label)
                continue
            corners, shapes = shape.bounds(), (shape,)
        else:
            expected = "cx cy w h, or x y of at least three points"
            faults.append(Fault.malformed(f"not an object: {text.strip()[:40]!r}", path, line, expected=expected))
            continue
        if cut_box(Box(label, *corners), size) is None:
            expected = f"fractions of its {size[0]} rows x {size[1]} columns, from 0 to 1"
            faults.append(Fault.out_of_range(f"leaves the image: {text.strip()[:40]!r}", path, line, expected=expected))
            continue
        objects.instances.append(Instance(label, corners, shapes))
    return objects


def label_file(image: Path) -> Path:
    """The label file of an image: the last folder `images` of its path becomes `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "data.yaml"
    if not path.is_file():
        raise InputError.missing_file("no data.yaml", file=folder, expected="data.yaml with names, train and val")
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise InputError.malformed("not a mapping", file=path, expected="names, train, val")
    return config


def _base(config: Mapping[str, Any], folder: Path) -> Path:
    """`path` where it is a folder here (published files often hold one of another machine), else that of data.yaml."""
    given = config.get("path")
    if given and (folder / str(given)).is_dir():
        return folder / str(given)
    return folder


def _images(part: Any, base: Path, folder: Path) -> list[Path]:
    """The images of one part: of a folder, of a list in a text file, or of several of them."""
    images = []
    for name in part if isinstance(part, list) else [part]:
        # "../train/images", as some exports write it, means a folder beside data.yaml.
        path = next(
            (path for path in (base / str(name), folder / str(name).removeprefix("../")) if path.exists()), None
        )
        if path is None:
            raise InputError.missing_file(
                f"{name} is missing", file=folder / "data.yaml", expected="a folder or a list of images"
            )
        if path.is_dir():
            images += [file for file in walk(path) if file.suffix.lower() in SUFFIXES]
        else:
            lines = read_text(path, "a list of images").splitlines()
            images += [path.parent / line.strip() for line in lines if line.strip()]
    return images
