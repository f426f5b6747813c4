"""Object-CXR (JF Healthcare, MIDL 2020): foreign objects as rectangles, ellipses and polygons.

train.csv and dev.csv with columns `image_name` (or `image_path`) and `annotation`: "TYPE x0 y0 x1 y1;TYPE x y x y ...",
TYPE 0 a rectangle, 1 an ellipse (its bounding box), 2 a polygon; an empty cell is an image without foreign object. The
images lie in train/ and dev/ or anywhere below. Boxes are the bounds of the shapes, the mask is their union.
Source: README of the challenge (object-CXR). Layout from description, never met real files.

Split (G2D: 6,400 / 1,600 / 1,000): test is dev.csv; validation is a fifth of train.csv. Which fifth was not published:
`shuffle_split` with seed 0 over the sorted names. The challenge's own test set (test.csv), where present, is `holdout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvl.core.errors import Fault, FaultKind, InputError
from medvl.core.files import read_text
from medvl.data.importers.cases import Case, ImportResult, boxed, safe_id, summed_up, write_cases
from medvl.data.importers.published_splits import shuffle_split
from medvl.data.importers.set_files import find_file, index_files, need_folder, stream_csv
from medvl.data.importers.shapes import Ellipse, Polygon, Rectangle

LABELS = ("foreign_object",)
LICENCE = "object-CXR challenge terms"
SUFFIXES = (".jpg", ".jpeg", ".png")
ObjectShape = Rectangle | Ellipse | Polygon


def import_object_cxr(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest, masks/, boxes.csv and labels of Object-CXR."""
    folder = need_folder(folder, "object-cxr")
    faults: list[Fault] = []
    tables = {name: find_file(folder, (f"{name}.csv",)) for name in ("train", "dev")}
    if (own_test := tables["train"].with_name("test.csv")).is_file():
        tables["test"] = own_test
    files = index_files(folder, SUFFIXES)
    cases: list[Case] = []
    num_images = 0
    for name, table in tables.items():
        shapes = read_shapes(table, faults)
        num_images += len(shapes)
        val = validation_of(list(shapes)) if name == "train" else set()
        missing = []
        for image, found in shapes.items():
            paths = files.get(image, [])
            own = [path for path in paths if path.parent.name == name] or paths
            if len(own) != 1:
                missing.append(image)
                continue
            split = {"dev": "test", "test": "holdout"}.get(name, "val" if image in val else "train")
            boxes = [boxed(LABELS[0], shape.bounds()) for shape in found]
            masks = {"mask": found}
            ident = safe_id(f"{name}_{Path(image).stem}")
            labels = LABELS if found else ()
            cases.append(Case(ident, own[0], split, masks=masks, boxes=boxes, boxes_absent=not boxes, labels=labels))
        if missing:
            what = f"of {len(shapes)} images are missing or stand in several folders"
            faults.append(summed_up(FaultKind.MISSING_FILE, what, missing, table, f"each once in {name}/"))
    counts = {"images": num_images, "positive": sum(bool(case.labels) for case in cases)}
    splits = ("train", "val", "test") + (("holdout",) if "test" in tables else ())
    return write_cases(out, cases, splits=splits, licence=LICENCE, counts=counts, faults=faults)


def validation_of(names: Sequence[str]) -> set[str]:
    """The images of train.csv that are validation."""
    names = sorted(names)
    return {names[i] for i in shuffle_split(len(names), round(len(names) / 5), 0)[1]}


def read_shapes(path: Path, faults: list[Fault]) -> dict[str, list[ObjectShape]]:
    """Image name -> its shapes, [] without a foreign object, in the order of the table."""
    shapes: dict[str, list[ObjectShape]] = {}
    column = "image_name"
    if "image_path" in read_text(path, "a table").partition("\n")[0].split(","):
        column = "image_path"
    for line, row in stream_csv(path, (column, "annotation"), faults):
        name = Path(row[column]).name
        if name in shapes:
            faults.append(Fault.duplicate(f"{name} again", path, line))
        found = shapes.setdefault(name, [])
        for text in filter(None, (part.strip() for part in row["annotation"].split(";"))):
            try:
                found.append(parse_shape(text))
            except InputError as error:
                fault = error.faults[0]
                faults.append(Fault(fault.what, path, line, name, fault.expected, kind=fault.kind))
    return shapes


def parse_shape(text: str) -> ObjectShape:
    """One shape: "0 x0 y0 x1 y1", "1 x0 y0 x1 y1" or "2 x y x y x y ...". InputError for anything else."""
    try:
        kind, *numbers = (float(part) for part in text.split())
    except ValueError:
        kind, numbers = -1.0, []
    if kind in (0, 1) and len(numbers) == 4 and numbers[0] < numbers[2] and numbers[1] < numbers[3]:
        corners = (numbers[0], numbers[1], numbers[2], numbers[3])
        return Rectangle(corners) if kind == 0 else Ellipse(corners)
    if kind == 2 and len(numbers) >= 6 and len(numbers) % 2 == 0:
        polygon = Polygon(tuple(zip(numbers[0::2], numbers[1::2], strict=True)))
        x0, y0, x1, y1 = polygon.bounds()
        if x0 < x1 and y0 < y1:
            return polygon
    raise InputError.malformed(f"not a shape: {text[:40]!r}", expected=_SHAPE)


_SHAPE = "0 or 1 and x0 y0 x1 y1 (x0 < x1, y0 < y1), or 2 and x y of at least three points"
