"""LabelMe's files and label maps with a table of colours, as annotation programs write them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from imported import area, loaded, mask_of, picture
from PIL import Image

from medvl.core.errors import InputError
from medvl.data.box_table import Box
from medvl.data.importers.colour_masks import import_colour_masks
from medvl.data.importers.labelme import import_labelme


def encoded(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def shape(label: str, kind: str | None, points: Any, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def labelme(path: Path, shapes: list[dict[str, Any]], **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.png", "imageData": None,
            "imageHeight": 12, "imageWidth": 16}  # fmt: skip
    path.write_text(json.dumps(data | more))
    return path


SIZE = (12, 16)


def test_labelme_shapes(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    small = np.array([[255, 0], [255, 255]], np.uint8)
    labelme(folder / "train" / "a.json", [
        shape("nodule", "polygon", [[1, 1], [4, 1], [4, 3], [1, 3]], group_id=7),
        shape("nodule", None, [[6, 6], [9, 6], [9, 8], [6, 8]], group_id=7),  # the other part of the same object
        shape("device", "rectangle", [[9, 5], [5, 2]]),
        shape("device", "rectangle", [[0, 9], [2, 9], [2, 12], [0, 12]]),
        shape("clip", "mask", [[10, 3], [11, 4]], mask=encoded(small)),
    ], flags={"post-op": True, "lateral": False})  # fmt: skip
    labelme(folder / "train" / "b.json", [
        shape("disc", "circle", [[8, 6], [8, 2]]), shape("nodule", "point", [[3, 3]]),
        shape("device", "line", [[0, 0], [5, 5]]), shape("__ignore__", "rectangle", [[0, 0], [5, 5]]),
        shape("clip", "polygon", [[1, 1], [3, 3], [5, 5]]),
    ])  # fmt: skip
    for name in ("a", "b"):
        picture(folder / "train" / f"{name}.png", SIZE)
    labelme(folder / "train" / "._a.json", []).write_bytes(b"\0\5\26\7")
    (folder / "other.json").write_text('{"shapes": 3}')
    result = import_labelme(folder, tmp_path / "out" / "m.csv")
    records = loaded(result.manifest)
    assert result.num_records == {"train": 2, "val": 0, "test": 0} and set(records) == {"a", "b"}
    first, second = records["a"], records["b"]
    nodules = area(slice(1, 3), slice(1, 4), SIZE) | area(slice(6, 8), slice(6, 9), SIZE)
    devices = area(slice(2, 5), slice(5, 9), SIZE) | area(slice(9, 12), slice(0, 2), SIZE)
    assert (mask_of(first, "nodule") == nodules).all() and (mask_of(first, "device") == devices).all()
    clip = np.zeros((12, 16), bool)
    clip[3, 10] = clip[4, 10] = clip[4, 11] = True
    assert (mask_of(first, "clip") == clip).all() and not mask_of(first, "disc").any()
    assert first.boxes == (Box("nodule", 1, 1, 9, 8), Box("device", 5, 2, 9, 5), Box("device", 0, 9, 2, 12),
                           Box("clip", 10, 3, 12, 5))  # fmt: skip
    assert set(first.labels) == {"nodule", "device", "clip", "post-op"}
    rows, columns = np.mgrid[:12, :16]
    assert (mask_of(second, "disc") == ((rows + 0.5 - 6) ** 2 + (columns + 0.5 - 8) ** 2 <= 16)).all()
    assert all(second.masks[name] is None for name in ("nodule", "device", "clip"))  # there, but not outlined
    assert set(second.extra["labels_unknown"].split("|")) >= {"nodule", "device", "clip"}
    counts = {name: number for name, number in result.counts.items() if name.startswith("left_out")}
    assert counts == {"left_out_point": 1, "left_out_line": 1, "left_out_no_area": 1, "left_out_ignored": 1}


@pytest.mark.parametrize(
    ("image_path", "place"),  # the last is called like the JSON
    [("..\\images\\a.png", "images/a.png"), ("C:\\Users\\me\\Desktop\\set\\a.png", "labels/a.png"),
     ("/home/me/x/a.PNG", "elsewhere/a.png"), ("renamed.jpg", "labels/a.png")],
)  # fmt: skip
def test_labelme_finds_the_image(tmp_path: Path, image_path: str, place: str) -> None:
    labelme(tmp_path / "set" / "labels" / "a.json", [shape("x", "rectangle", [[1, 1], [3, 3]])], imagePath=image_path)
    picture(tmp_path / "set" / place, SIZE)
    (record,) = loaded(import_labelme(tmp_path / "set", tmp_path / "out" / "m.csv").manifest).values()
    assert record.image.resolve() == (tmp_path / "set" / place).resolve() and record.split is None


def test_labelme_with_the_image_inside(tmp_path: Path) -> None:
    pixels = np.arange(192, dtype=np.uint8).reshape(12, 16)
    path = labelme(tmp_path / "set" / "a.json", [shape("x", "rectangle", [[1, 1], [3, 3]])], imageData=encoded(pixels))
    result = import_labelme(tmp_path / "set", tmp_path / "out" / "m.csv")
    (record,) = loaded(result.manifest).values()
    assert record.image.resolve() == tmp_path / "out" / "images" / "a.png" and result.counts["embedded_images"] == 1
    assert (np.asarray(Image.open(record.image)) == pixels).all()
    labelme(path, [shape("x", "rectangle", [[1, 1], [3, 3]])], imageData=encoded(pixels), imageHeight=99)
    with pytest.raises(InputError):
        import_labelme(tmp_path / "set", tmp_path / "other" / "m.csv")
    assert not (tmp_path / "other" / "images").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": [shape("", "polygon", [[1, 1], [4, 1], [4, 3]])]},
        {"shapes": [shape("a|b", "polygon", [[1, 1], [4, 1], [4, 3]])]},
        {"shapes": [shape("x", "heart", [[1, 1], [4, 1], [4, 3]])]}, {"shapes": [shape("x", "circle", [[1, 1]])]},
        {"shapes": [shape("x", "mask", [[1, 1], [2, 2]], mask="!!")]},
        {"shapes": [shape("x", "polygon", [[1, "y"], [4, 1], [4, 3]])]}, {"shapes": [3]},
        {"shapes": [{"label": "x"}]}, {"imagePath": 5}, {"imagePath": "gone.png"},
        {"imagePath": "gone.png", "imageData": "AAAA"},
    ],
)  # fmt: skip
def test_labelme_faults(tmp_path: Path, change: dict[str, Any]) -> None:
    picture(tmp_path / "set" / "x.png", SIZE)
    more = {"imagePath": "x.png"} | change
    labelme(tmp_path / "set" / "a.json", more.pop("shapes", []), **more)
    with pytest.raises(InputError):
        import_labelme(tmp_path / "set", tmp_path / "out" / "m.csv")
    assert not (tmp_path / "out" / "m.csv").exists()


def colours(path: Path, *, palette: bool = False, stray: bool = False) -> Path:
    """Rows 0-3 background, 4-7 lung (200, 0, 0), 8-11 heart (0, 0, 200); the last columns of the heart void (white)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.zeros((12, 16, 3), np.uint8)
    rgb[4:8] = 200, 0, 0
    rgb[8:] = 0, 0, 200
    rgb[8:, 12:] = 255, 255, 255
    if stray:
        rgb[:4, :8] = 0, 200, 0
    image = Image.fromarray(rgb)
    (image.quantize(8) if palette else image).save(path)
    return path


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nlung:200,0,0::\nheart:0,0,200::\nvoid:255,255,255::\n"
TABLES = {
    "labelmap.txt": LABELMAP,
    "class_dict.csv": "name, r, g, b\nbackground,0,0,0\nlung,200,0,0\nheart,0,0,200\nvoid,255,255,255\n",
    "label_colors.txt": "0 0 0 background\n200 0 0 lung\n0 0 200 heart\n255 255 255 void\n",
}


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("table", TABLES)
def test_masks_with_a_table_of_colours(tmp_path: Path, table: str, palette: bool) -> None:
    folder = tmp_path / "set"
    colours(folder / "SegmentationClass" / "a.png", palette=palette)
    colours(folder / "SegmentationObject" / "a.png")
    for name in ("a", "b"):
        picture(folder / "JPEGImages" / f"{name}.png", SIZE)
    (folder / table).write_text(TABLES[table])
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("a\n")
    result = import_colour_masks(folder, tmp_path / "out" / "m.csv")
    records = loaded(result.manifest)
    assert (mask_of(records["a"], "lung") == area(slice(4, 8), slice(0, 16), SIZE)).all()
    assert (mask_of(records["a"], "heart") == area(slice(8, 12), slice(0, 12), SIZE)).all()
    assert set(records["a"].masks) == {"lung", "heart"} and records["a"].labels == ("lung", "heart")
    assert records["a"].split == "val" and records["b"].split is None
    assert records["b"].masks == {"lung": None, "heart": None} and result.counts["images_without_a_mask"] == 1
    assert any("void" in message for message in result.warnings)


def test_masks_with_a_table_of_values(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "train"
    values = np.zeros((12, 16), np.uint8)
    values[2:5, 3:9] = 1
    picture(folder / "a_png.rf.1.png", SIZE)
    Image.fromarray(values).save(folder / "a_png.rf.1_mask.png")
    (folder / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, nodule\n2, effusion\n")
    (record,) = loaded(import_colour_masks(folder.parent, tmp_path / "out" / "m.csv").manifest).values()
    assert record.split == "train" and (mask_of(record, "nodule") == area(slice(2, 5), slice(3, 9), SIZE)).all()
    assert not mask_of(record, "effusion").any()
    (folder / "_classes.csv").write_text("Pixel Value, Class\n0, background\n2, effusion\n")
    with pytest.raises(InputError):
        import_colour_masks(folder.parent, tmp_path / "other" / "m.csv")


@pytest.mark.parametrize(
    ("table", "naming"),
    [("lung:200,0\n", ""), ("lung:200,0,0\nlung:0,0,200\n", ""), ("lung:1,1,1\nheart:1,1,1\n", ""), (":1,1,1", ""),
     (LABELMAP, "#00c800")],
)  # fmt: skip
def test_tables_of_colours_that_do_not_fit(tmp_path: Path, table: str, naming: str) -> None:
    """Four that are none, and one without a colour of the mask."""
    colours(tmp_path / "set" / "masks" / "a.png", stray=bool(naming))
    picture(tmp_path / "set" / "images" / "a.png", SIZE)
    (tmp_path / "set" / "labelmap.txt").write_text(table)
    with pytest.raises(InputError) as caught:
        import_colour_masks(tmp_path / "set", tmp_path / "out" / "m.csv")
    assert naming in str(caught.value)
    assert not naming or {fault.kind for fault in caught.value.faults} == {"unknown"}


def test_jpeg_is_named_as_the_cause_of_further_colours(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    picture(folder / "images" / "a.png", SIZE)
    (folder / "masks").mkdir()
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[3:9, 4:11] = (255, 0, 0)
    Image.fromarray(pixels).save(folder / "masks" / "a.jpg", quality=60)
    (folder / "labelmap.txt").write_text("background:0,0,0::\nlung:255,0,0::\n")
    with refused("unknown", file=folder / "masks" / "a.jpg") as caught:
        import_colour_masks(folder, tmp_path / "out" / "m.csv")
    assert "PNG" in (caught.value.faults[0].remedy or "")
