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

from medvl.core.errors import Fault, InputError
from medvl.core.files import read_text
from medvl.data.box_table import Box
from medvl.data.importers.cases import SPLITS, Case, Draft, ImportResult, safe_id
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.published_splits import shuffle_split
from medvl.data.importers.set_files import find_file, index_files, stream_csv
from medvl.data.importers.shapes import Ellipse, Polygon, Rectangle

LABELS = get_layout("object-cxr").labels
SUFFIXES = (".jpg", ".jpeg", ".png")
ObjectShape = Rectangle | Ellipse | Polygon


def import_object_cxr(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest, masks/, boxes.csv and labels of Object-CXR."""
    draft = Draft("object-cxr", Path(folder))
    tables = {name: find_file(draft.folder, (f"{name}.csv",)) for name in ("train", "dev")}
    if (test := tables["train"].with_name("test.csv")).is_file():
        tables["test"] = test
    files = index_files(draft.folder, SUFFIXES)
    for name, table in tables.items():
        shapes = read_shapes(table, draft.faults)
        draft.counts["images"] += len(shapes)
        val = validation_of(list(shapes)) if name == "train" else set()
        missing = []
        for image, outlines in shapes.items():
            paths = files.get(image, [])
            paths = [path for path in paths if path.parent.name == name] or paths
            if len(paths) != 1:
                missing.append(image)
                continue
            split = {"dev": "test", "test": "holdout"}.get(name, "val" if image in val else "train")
            case = Case(safe_id(f"{name}_{Path(image).stem}"), paths[0], split, masks={"mask": outlines})
            case.boxes = [Box(LABELS[0], *outline.bounds()) for outline in outlines]
            case.boxes_absent, case.labels = not outlines, LABELS if outlines else ()
            draft.cases.append(case)
        what = f"of {len(shapes)} images are missing or stand in several folders"
        draft.missing(what, missing, table, f"each once in {name}/")
    draft.counts["positive"] = sum(bool(case.labels) for case in draft.cases)
    return draft.write(out, splits=(*SPLITS, "holdout") if "test" in tables else SPLITS)


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
        outlines = shapes.setdefault(name, [])
        for text in filter(None, (part.strip() for part in row["annotation"].split(";"))):
            try:
                outlines.append(parse_shape(text))
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
