"""COCO and YOLO miniatures: polygons, run lengths, crowds, boxes without an outline; faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from imported import area, loaded, mask_of, picture

from medvl.core.errors import InputError
from medvl.data.box_table import Box
from medvl.data.importers import cases
from medvl.data.importers.coco import import_coco
from medvl.data.importers.instances import split_of_name
from medvl.data.importers.yolo import import_yolo, label_file
from medvl.data.records import write_manifest


def annotation(number: int, image: int, category: Any, box: list[Any], shape: Any, crowd: int = 0) -> dict[str, Any]:
    item = {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
    return item | {"segmentation": shape}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    categories = [{"id": 7, "name": "nodule"}, {"id": 9, "name": "pleural effusion"}]
    images = [{"id": i, "file_name": f"{i}.png", "width": 10, "height": 8} for i in range(3)]
    two = [[1, 1, 4, 1, 4, 3, 1, 3], [6, 6, 9, 6, 9, 8, 6, 8]]  # one object in two parts
    # 8 rows: 17 zeros lead to column 2, row 1; runs of 2 in columns 2 and 3; the rest of 80.
    runs = {"size": [8, 10], "counts": [17, 2, 6, 2, 53]}
    annotations = [
        annotation(1, 0, 7, [1, 1, 8, 7], two),
        annotation(2, 0, 9, [2, 1, 2, 2], runs),
        annotation(3, 1, 7, [0, 0, 10, 8], {"size": [8, 10], "counts": [0, 80]}, crowd=1),
        annotation(4, 1, 9, [2, 2, 3, 3], []),
    ]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(data))
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps({"images": [], "annotations": []}))
    for i in range(3):
        picture(folder / "train2017" / f"{i}.png")
    picture(folder / "valid" / "0.png")
    data = {"images": images[:1], "annotations": [], "categories": categories}
    (folder / "valid" / "_annotations.coco.json").write_text(json.dumps(data))
    return folder


def test_coco(coco: Path, tmp_path: Path) -> None:
    result = import_coco(coco, tmp_path / "out" / "manifest.csv")
    assert result.num_records == {"train": 3, "val": 1, "test": 0}
    records = loaded(result.manifest)
    assert set(records) == {"train2017_0", "1", "2", "valid_0"}  # the stem that stands twice with its folder
    first = records["train2017_0"]
    both = area(slice(1, 3), slice(1, 4)) | area(slice(6, 8), slice(6, 9))
    assert (mask_of(first, "nodule") == both).all()
    assert (mask_of(first, "pleural effusion") == area(slice(1, 3), slice(2, 4))).all()
    assert first.boxes == (Box("nodule", 1, 1, 9, 8), Box("pleural effusion", 2, 1, 4, 3))
    assert first.labels == ("nodule", "pleural effusion")
    second = records["1"]
    assert mask_of(second, "nodule").all() and second.masks["pleural effusion"] is None  # its outline is not known
    assert second.boxes == (Box("pleural effusion", 2, 2, 5, 5),)
    assert not mask_of(records["2"], "nodule").any() and records["2"].labels == ()
    assert records["valid_0"].split == "val" and not mask_of(records["valid_0"], "nodule").any()
    counts = {"objects": 4, "objects_without_an_outline": 1, "crowds_without_a_box": 1, "masks": 3, "boxes": 3}
    assert result.counts == counts
    assert (tmp_path / "out" / "masks" / "train2017_0__pleural_effusion.png").is_file()


def written(coco: Path) -> tuple[Path, dict[str, Any]]:
    path = coco / "annotations" / "instances_train2017.json"
    return path, json.loads(path.read_text())


def test_coco_faults(coco: Path, tmp_path: Path) -> None:
    path, data = written(coco)
    data["annotations"] += [
        annotation(10, 0, 8, [1, 1, 2, 2], []), annotation(11, 5, 7, [1, 1, 2, 2], []),
        annotation(13, 0, 7, [1, 1, 2, 2], [[1, 2, 3, 4, 5]]), {"id": 14, "image_id": 0},
        annotation(17, 0, 7, [1, 1, 2], []), annotation(18, 0, 7, [1, 1, "x", 2], []),
        annotation(19, 0, 7, [1, 1, 2, 2], {"size": [8, 10], "counts": [17, 2]}),
        annotation(20, 0, [], [1, 1, 2, 2], []), annotation(21, 0, 7, [1, 1, 2, 2], "abc"),
        annotation(22, 0, 7, [1, 1, 2, 2], {"size": [10**9, 10**9], "counts": "0"}),
        annotation(15, 0, 7, [9, 1, 5, 2], []),
        annotation(16, 2, 9, [1, 1, 2, 2], {"size": [4, 4], "counts": [1, 15]}),
    ]  # fmt: skip
    data["images"].append({"id": 9, "file_name": "gone.png", "width": 10, "height": 8})
    data["images"].append({"id": 10, "file_name": "a" * 300 + ".png", "width": 10, "height": 8})
    path.write_text(json.dumps(data))
    with refused(
        "unknown", "malformed", "missing", "mismatch", "missing_file", "out_of_range", file=path, naming="2 of 5 images"
    ) as caught:
        import_coco(coco, tmp_path / "out" / "m.csv")
    faults = caught.value.faults
    assert {fault.record for fault in faults if fault.file == path and fault.record} == {
        f"annotation {number}" for number in (10, 11, 13, 14, 17, 18, 19, 20, 21, 22)
    }
    assert {fault.kind for fault in faults if fault.file != path} == {"out_of_range", "mismatch"}  # box, run lengths
    assert not (tmp_path / "out").exists()
    with refused("missing_file"):
        import_coco(coco / "train2017", tmp_path / "out" / "m.csv")


@pytest.mark.parametrize(
    "change",
    [
        {"images": [{"id": 1}]}, {"images": [{"id": [1], "file_name": "0.png"}]},
        {"images": [{"id": 1, "file_name": "0.png", "height": "x"}]},
        {"images": [{"id": 1, "file_name": "0.png", "height": 1e400, "width": 2}]},
        {"images": [{"id": 1, "file_name": "0.png"}] * 2}, {"categories": [{"id": 1, "name": None}]},
        {"categories": [{"id": 1, "name": "a|b"}]}, {"images": ["x"]},
    ],
)  # fmt: skip
def test_coco_files_that_are_none(coco: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    path, data = written(coco)
    path.write_text(json.dumps(data | change))
    with pytest.raises(InputError):
        import_coco(coco, tmp_path / "out" / "m.csv")


def test_coco_objects_without_an_area_are_left_out(coco: Path, tmp_path: Path) -> None:
    path, data = written(coco)
    data["annotations"] += [
        annotation(30, 0, 7, [3, 3, 0, 2], [[3, 3, 3, 4, 3, 5]]),  # a stray click beside another object
        annotation(31, 2, 9, [1, 1, 0, 2], []),
        annotation(32, 2, 9, [float("nan"), 1, 1, 2], [[1, 1, 5, 5]]),
        {"id": 33, "image_id": 2, "category_id": 7, "segmentation": [2, 3, 6, 3, 6, 5, 2, 5]},  # no bbox, no nesting
        annotation(34, 2, 7, [0, 0, 0, 0], [[[1, 6], [3, 6], [3, 8], [1, 8]], [4, 4, 5, 5]]),
        annotation(35, 2, 7, [0, 0, 9, 2], [[7, 1, 9, 1, 9, 3, 7, 3]]),  # not the box of its outline
        annotation(36, 2, 7, [1, 1, 3, 3], [[1, 1, 4, 4]]),  # two points: neither it nor its box counts
        annotation(37, 2, 7, [1, 1, 3, 3], {"size": [8, 10], "counts": [80]}),
        annotation(38, 1, 9, [1, 1, 3, 3], [[]]),  # only a box
    ]
    path.write_text(json.dumps(data))
    result = import_coco(coco, tmp_path / "out" / "m.csv")
    counts = result.counts
    assert (counts["objects_left_out"], counts["polygons_left_out"]) == (5, 5)
    assert (counts["boxes_from_outlines"], counts["boxes_unlike_outlines"]) == (2, 1)
    records = loaded(result.manifest)
    third = records["2"]
    assert third.masks["pleural effusion"] is None  # neither absent nor outlined
    assert third.labels == ("nodule",) and third.extra["labels_unknown"] == "pleural effusion"
    assert records["1"].boxes[-1] == Box("pleural effusion", 1, 1, 4, 4)
    nodules = area(slice(3, 5), slice(2, 6)) | area(slice(6, 8), slice(1, 3)) | area(slice(1, 3), slice(7, 9))
    assert (mask_of(third, "nodule") == nodules).all()
    assert third.boxes == (Box("nodule", 2, 3, 6, 5), Box("nodule", 1, 6, 3, 8), Box("nodule", 0, 0, 9, 2))
    assert len(result.warnings) >= 2


@pytest.mark.parametrize(
    ("name", "file_name", "image", "split"),
    [
        ("annotations/instances_default.json", "a.png", "images/a.png", None),  # CVAT
        ("annotations/instances_default.json", "sub/a.png", "images/default/sub/a.png", None),
        ("annotations/instances_Validation.json", "a.png", "images/Validation/a.png", "val"),
        ("result.json", "images\\a%20b.png", "images/a b.png", None),  # Label Studio
        ("result.json", "/data/local-files/?d=set/a.png", "images/a.png", None),
        ("result.json", "C:\\Users\\me\\a.PNG", "images/a.png", None),
        ("result.json", "s3://bucket/x/a.png", "deep/er/a.png", None),
        ("valid/_annotations.coco.json", "a_png.rf.1.jpg", "valid/a_png.rf.1.jpg", "val"),  # Roboflow
        ("contest.json", "../images/a.png", "images/a.png", None),
    ],
)
def test_coco_as_programs_write_it(tmp_path: Path, name: str, file_name: str, image: str, split: str | None) -> None:
    folder = tmp_path / "train_project"  # the name of the whole set tells no split
    picture(folder / image)
    for clutter in ("._a.png", ".DS_Store", "Thumbs.db"):
        (folder / image).with_name(clutter).write_bytes(b"\0\5")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for hidden in (path.with_name(f"._{path.name}"), folder / "__MACOSX" / path.name):
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_bytes(b"\0\5\26\7")
    categories = [
        {"id": 0, "name": "nodules", "supercategory": "none"},
        {"id": 1, "name": "nodule", "supercategory": "nodules"},
    ]
    outline = [[1, 1, 4, 1, 4, 3, 1, 3]]
    data = {
        "info": {},
        "images": [{"id": 0, "file_name": file_name, "width": 10, "height": 8}],
        "annotations": [annotation(1, 0, 1, [1, 1, 3, 2], outline) | {"attributes": {"occluded": False}}],
        "categories": categories,
    }
    path.write_text(json.dumps(data))
    result = import_coco(folder, tmp_path / "out" / "m.csv")
    (record,) = loaded(result.manifest).values()
    assert record.split == split and record.image.resolve() == (folder / image).resolve()
    assert set(record.masks) == {"nodule"}  # no class for the group
    assert result.counts["group_categories_left_out"] == 1
    assert (mask_of(record, "nodule") == area(slice(1, 3), slice(1, 4))).all()


def test_an_image_that_stands_in_several_folders_is_a_fault(coco: Path, tmp_path: Path) -> None:
    path, data = written(coco)
    data["images"].append({"id": 9, "file_name": "elsewhere/x.png", "width": 10, "height": 8})
    path.write_text(json.dumps(data))
    for folder in ("one", "two"):
        picture(coco / folder / "x.png")
    with pytest.raises(InputError):
        import_coco(coco, tmp_path / "out" / "m.csv")
    picture(coco / "deep" / "elsewhere" / "x.png")
    assert len(loaded(import_coco(coco, tmp_path / "out" / "m.csv").manifest)) == 5


def test_a_shape_without_a_pixel_is_not_called_absent(coco: Path, tmp_path: Path) -> None:
    path, data = written(coco)
    data["annotations"].append(annotation(20, 2, 7, [3.1, 3.1, 0.2, 0.2], [[3.1, 3.1, 3.3, 3.1, 3.3, 3.3]]))
    path.write_text(json.dumps(data))
    result = import_coco(coco, tmp_path / "out" / "m.csv")
    assert result.counts["masks_without_a_pixel"] == 1 and loaded(result.manifest)["2"].masks["nodule"] is None


def test_what_cannot_be_written_leaves_nothing(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *rest: object) -> None:
        if path.name == "m.csv":
            raise OSError(28, "No space left on device", str(path))
        write_manifest(path, *rest)  # type: ignore[arg-type]

    out = tmp_path / "out" / "m.csv"
    monkeypatch.setattr(cases, "write_manifest", full)
    with pytest.raises(OSError, match="No space"):
        import_coco(coco, out)
    assert not list(out.parent.iterdir())
    monkeypatch.undo()
    assert import_coco(coco, out).counts["masks"] == 3 and (out.parent / "boxes.csv").is_file()


def test_split_of_name() -> None:
    names = {"instances_train2017": "train", "valid": "val", "dev.json": "val", "TEST": "test", "all": None}
    names |= {"contest": None, "latest_strain": None, "instancesTrain": "train", "test-set_1": "test", "devices": None}
    assert {name: split_of_name(name) for name in names} == names
    assert split_of_name("val_of_train.json") == "val"


def yolo_set(folder: Path, lines: dict[str, str]) -> Path:
    """Images of 8 rows x 10 columns; name -> content of its label file."""
    (folder / "data.yaml").parent.mkdir(parents=True, exist_ok=True)
    parts = "path: /elsewhere\ntrain: ../train/images\nval: valid/images\n"
    (folder / "data.yaml").write_text(parts + "names: [opacity, device]\n")
    for name, text in lines.items():
        image = picture(folder / f"{name}.png")
        label_file(image).parent.mkdir(exist_ok=True)
        label_file(image).write_text(text)
    return folder


def test_yolo_boxes(tmp_path: Path) -> None:
    lines = {"train/images/a": "0 0.5 0.5 0.2 0.5\n1 0.95 0.25 0.1 0.5\n", "valid/images/b": ""}
    folder = yolo_set(tmp_path / "yolo", lines)
    picture(folder / "train" / "images" / "c.png")
    result = import_yolo(folder, tmp_path / "out" / "manifest.csv")
    records = loaded(result.manifest)
    assert result.num_records == {"train": 2, "val": 1} and records["b"].split == "val"
    # Width 10, height 8: centre (5, 4), 2 wide, 4 high.
    assert records["a"].boxes == (Box("opacity", 4, 2, 6, 6), Box("device", 9, 0, 10, 4))
    assert records["a"].labels == ("opacity", "device") and records["a"].masks == {}
    assert result.counts["images_without_a_label_file"] == 1 and "1 images without" in result.warnings[0]
    assert not (tmp_path / "out" / "masks").exists()


def test_yolo_polygons(tmp_path: Path) -> None:
    lines = {
        "train/images/a": "0 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75\n1 0.5 0.5 0.2 0.5",
        "valid/images/a": "1 0.0 0.0 1.0 0.0 1.0 1.0",
    }
    result = import_yolo(yolo_set(tmp_path / "yolo", lines), tmp_path / "out" / "manifest.csv")
    records = loaded(result.manifest)
    first = records["train_images_a"]
    assert (mask_of(first, "opacity") == area(slice(2, 6), slice(1, 5))).all()
    assert first.boxes[0] == Box("opacity", 1, 2, 5, 6) and first.masks["device"] is None
    assert not mask_of(records["valid_images_a"], "opacity").any()
    # The centre (c + .5, r + .5) lies in the upper right triangle where (r + .5) / 8 < (c + .5) / 10.
    rows, columns = np.mgrid[:8, :10]
    assert (mask_of(records["valid_images_a"], "device") == ((rows + 0.5) * 10 < (columns + 0.5) * 8)).all()


def test_yolo_objects_without_an_area_are_left_out(tmp_path: Path) -> None:
    lines = {"train/images/a": "0 0.5 0.5 0.2 0\n1 0.1 0.1 0.2 0.2 0.3 0.3\n1 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75"}
    folder = yolo_set(tmp_path / "yolo", lines)
    (folder / "valid" / "images").mkdir(parents=True)
    result = import_yolo(folder, tmp_path / "out" / "m.csv")
    (record,) = loaded(result.manifest).values()
    assert result.counts["objects_left_out"] == 2 and record.labels == ("device",)
    assert record.masks["opacity"] is None and mask_of(record, "device").sum() == 16


def test_yolo_faults(tmp_path: Path) -> None:
    lines = {"train/images/a": "2 0.5 0.5 0.2 0.5\n0 0.5 0.5 0.2\nx\n0 0.5 0.5 -0.2 0.1\n0 0.9 0.5 0.8 0.5\n"
             "1 0 0 1.5 0 1.5 1"}  # fmt: skip
    folder = yolo_set(tmp_path / "yolo", lines)
    (folder / "valid" / "images").mkdir(parents=True)
    with refused("malformed", "out_of_range", file=label_file(folder / "train/images/a.png")) as caught:
        import_yolo(folder, tmp_path / "m.csv")
    assert [(fault.line, fault.kind) for fault in caught.value.faults] == [
        *((line, "malformed") for line in (1, 2, 3, 4)),
        *((line, "out_of_range") for line in (5, 6)),
    ]
    (folder / "data.yaml").write_text("train: nowhere\nnames: {0: a, 1: b}\n")
    with refused("missing_file", naming="nowhere"):
        import_yolo(folder, tmp_path / "m.csv")
    (folder / "data.yaml").write_text("train: nowhere\nnames: {1: a}\n")
    with refused("malformed"):
        import_yolo(folder, tmp_path / "m.csv")
