"""LabelMe (and AnyLabeling): one JSON file an image, with its outlines -> masks, boxes, labels.

`shapes` holds polygons, rectangles (two points, or four), circles (centre and a point of the edge) and masks (a PNG in
text, from its first point on). Lines and points have no area: they are left out and counted, and their label is not
annotated in that image where it has no other object. Shapes of one label and one group_id are one object. Image flags
that are set are labels. Every image is taken to be searched for every label.
The image is `imagePath`, whatever folder or drive it names, else the file that is called like the JSON, else
`imageData`, which is then written to images/ beside the manifest. The split is the word train, val or test in the name
of a folder, else there is none.
Source: the repository wkentaro/labelme. Layout from description, never met real files.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medvl.core.errors import Fault, InputError
from medvl.core.files import read_json, write_bytes
from medvl.data.importers.cases import Draft, ImportResult, capped, unique_ids
from medvl.data.importers.image_finder import SUFFIXES, ImageFinder
from medvl.data.importers.instances import Instance, Objects, split_of_name
from medvl.data.importers.set_files import walk
from medvl.data.importers.shapes import Ellipse, Outline, Pixels, Rectangle, bounds_of, polygon

WITHOUT_AREA = ("line", "linestrip", "point", "points", "cuboid")
IGNORED = ("__ignore__", "_background_")  # LabelMe's names of what is no object


def import_labelme(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest, masks/, boxes.csv and labels of a folder of LabelMe's files, and images/ of embedded ones.

    `counts` of the result: objects, embedded_images, left_out_line, left_out_point, ... (by shape), left_out_no_area.
    """
    draft, out = Draft("labelme", Path(folder)), Path(out)
    folder = draft.folder
    files = {path: data for path in walk(folder) if path.suffix.lower() == ".json" and (data := _load(path))}
    if not files:
        raise InputError.missing_file(
            "no files of LabelMe", file=folder, expected="a JSON an image, with shapes and imagePath"
        )
    finder = ImageFinder(folder)
    images: list[tuple[str, Path, str, Objects, list[str], tuple[int, int] | None]] = []
    missing, embedded = [], {}
    for ident, (path, data) in zip(unique_ids(list(files), folder), files.items(), strict=True):
        objects = _objects(path, data, draft)
        draft.counts += objects.counts()
        image = _image(finder, path, data)
        if image is None and data.get("imageData"):
            try:
                pixels, suffix = _embedded(data["imageData"])
                image = out.parent / "images" / f"{ident}{suffix}"
                embedded[image] = pixels
            except InputError as error:
                draft.faults.append(replace(error.faults[0], file=path))
                continue
        if image is None:
            missing.append(f"{data['imagePath']} ({path.name})")
            continue
        flags = data.get("flags") or {}
        names = [str(name) for name, is_set in flags.items() if is_set is True] if isinstance(flags, Mapping) else []
        images.append((ident, image, _split(path.relative_to(folder)), objects, names, _size(data)))
    draft.missing(f"of {len(files)} images are missing", missing, folder, "imagePath, or imageData")
    draft.counts["embedded_images"] = len(embedded)
    categories = list(dict.fromkeys(one.label for _, _, _, objects, _, _ in images for one in objects.instances))
    for ident, image, split, objects, flagged, size in images:
        case = objects.case(ident, image, split, categories, with_masks=bool(categories), size=size)
        case.labels = tuple(dict.fromkeys((*(case.labels or ()), *flagged)))
        case.labels_unknown = tuple(label for label in case.labels_unknown if label not in case.labels)
        draft.cases.append(case)
    left_out = {name.removeprefix("left_out_"): n for name, n in draft.counts.items() if name.startswith("left_out_")}
    if parts := ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in left_out.items() if number):
        draft.warnings.append(
            f"{folder}: shapes without an area are left out ({parts}); where an image has no other object of their "
            "label, the label is not annotated"
        )
    if embedded and (out.parent / "images").exists():
        raise InputError.exists("images stands beside it already", file=out, expected="a folder without it")
    try:
        for image, pixels in embedded.items():
            image.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(image, pixels)
        return draft.write(out)
    except BaseException:
        if embedded:
            shutil.rmtree(out.parent / "images", ignore_errors=True)
        raise


def _load(path: Path) -> dict[str, Any] | None:
    """The content where it is LabelMe's, None where it is another JSON."""
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list) or "imagePath" not in data:
        return None
    if not isinstance(data["imagePath"], str):
        raise InputError.malformed(
            f"imagePath is {str(data['imagePath'])[:40]!r}", file=path, expected="the name of the image"
        )
    return data


def _image(finder: ImageFinder, path: Path, data: Mapping[str, Any]) -> Path | None:
    image = finder.find(data["imagePath"], (path.parent,))
    if image is not None:
        return image
    return next((path.with_suffix(suffix) for suffix in SUFFIXES if path.with_suffix(suffix).is_file()), None)


def _embedded(text: Any) -> tuple[bytes, str]:
    """The bytes of an image in base64, and the suffix of its kind."""
    from PIL import Image

    try:
        pixels = base64.b64decode(text, validate=False)
        with Image.open(io.BytesIO(pixels)) as image:
            image.verify()
            kind = (image.format or "").lower()
    except Exception as error:  # Pillow raises what it likes
        raise InputError.damaged(f"imageData cannot be read ({error})", expected="an image in base64") from None
    suffix = {"jpeg": ".jpg", "png": ".png", "tiff": ".tif", "bmp": ".bmp"}.get(kind)
    if suffix is None:
        raise InputError.unsupported(f"imageData of kind {kind}", expected="JPEG, PNG, TIFF or BMP")
    return pixels, suffix


def _split(path: Path) -> str:
    words = (split_of_name(part) for part in reversed(path.parts[:-1]))
    return next((word for word in words if word), "")


def _size(data: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = data.get("imageHeight"), data.get("imageWidth")
    both = all(isinstance(value, (int, float)) and 0 < value < 10**9 for value in (height, width))
    return (int(height), int(width)) if both and height and width else None


def _objects(path: Path, data: Mapping[str, Any], draft: Draft) -> Objects:
    """The objects of one file. A shape that cannot be understood is a fault."""
    objects = Objects()
    groups: dict[tuple[str, str | int], list[Outline]] = {}  # a shape without a group is an object of its own
    faults: list[Fault] = []
    for i, shape in enumerate(data["shapes"]):
        try:
            label, kind = str(shape["label"]).strip(), shape.get("shape_type") or "polygon"
            if not label or "|" in label:
                raise InputError.malformed(f"label {label!r}", expected="a name without |")
            if label in IGNORED:
                draft.counts["left_out_ignored"] += 1
                continue
            outline = None if kind in WITHOUT_AREA else _outline(kind, shape)
            if outline is None:
                draft.counts[f"left_out_{kind if kind in WITHOUT_AREA else 'no_area'}"] += 1
                objects.left_out.append(label)
            else:
                group = shape.get("group_id")
                groups.setdefault((label, i if group is None else str(group)), []).append(outline)
        except InputError as error:
            faults.append(replace(error.faults[0], file=path, record=f"shape {i}"))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"not a shape ({type(error).__name__}: {error})"
            faults.append(Fault.malformed(what, path, record=f"shape {i}", expected="label, points, shape_type"))
    draft.faults += capped(faults)
    for (label, _), outlines in groups.items():
        objects.instances.append(Instance(label, bounds_of(outlines), tuple(outlines)))
    return objects


def _outline(kind: str, shape: Mapping[str, Any]) -> Outline | None:
    """The outline of a shape with an area; None where it has none."""
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if not all(math.isfinite(value) for point in points for value in point):
        return None
    if kind in ("polygon", "rotation", "oriented_rectangle"):
        return polygon([value for point in points for value in point])
    if kind == "rectangle" and len(points) in (2, 4):
        (x0, x1), (y0, y1) = ((min(values), max(values)) for values in zip(*points, strict=True))
        return Rectangle((x0, y0, x1, y1)) if x0 < x1 and y0 < y1 else None
    if kind == "circle" and len(points) == 2:
        (x, y), radius = points[0], math.dist(*points)
        return Ellipse((x - radius, y - radius, x + radius, y + radius)) if radius > 0 else None
    if kind == "mask" and points and shape.get("mask"):
        return _pixels(shape["mask"], points[0])
    raise InputError.malformed(f"a shape {kind} of {len(points)} points", expected="polygon, rectangle, circle or mask")


def _pixels(text: Any, corner: tuple[float, float]) -> Pixels | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            values = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, TypeError, SyntaxError) as error:
        raise InputError.damaged(f"a mask that cannot be read ({error})", expected="a PNG in base64") from None
    return Pixels(values, round(corner[1]), round(corner[0])) if values.any() else None
