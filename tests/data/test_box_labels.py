"""Boxes: from cells, boxes.csv and masks; not annotated against absent; fractions; on the model's grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from PIL import Image

from medvl.config import Config, make_config
from medvl.data.box_labels import BoxDataset, box_labels, find_box_classes, fit_anchors, mean_boxes
from medvl.data.box_table import Box
from medvl.data.class_labels import labelled_part
from medvl.data.dataset import MOVED_OUT, NO_BOX, collate
from medvl.data.geometry import Affine, fit
from medvl.data.image import Orientation, Turn
from medvl.data.record import Manifest
from medvl.data.records import load_manifest, write_manifest
from medvl.data.splits import split_manifest
from medvl.metrics.detection import ImageBoxes
from medvl.tasks.detect import evaluate as detector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures a.png to d.png of 20 x 40, dark but for a bright part at rows 4..9, columns 10..19."""
    pixels = np.zeros((20, 40), np.uint8)
    pixels[4:10, 10:20] = 255
    for name in "abcd":
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    mask = np.zeros((20, 40), np.uint8)
    mask[4:10, 10:20] = mask[9:12, 30:36] = mask[8, 29] = 255  # the last pixel touches at a corner
    mask[0, 0] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    return tmp_path


def rows_of(**cells: str) -> list[dict[str, str]]:
    return [
        {"id": name, "image": f"{name[0]}.png", "patient": f"p{name}", "split": "train", "boxes": cell}
        for name, cell in cells.items()
    ]


def manifest_of(folder: Path, **cells: str) -> Manifest:
    write_manifest(folder / "manifest.csv", rows_of(**cells))
    return load_manifest(folder / "manifest.csv")


def config_of(**tree: Any) -> Config:
    return make_config({"task": "detect", **tree})


def test_not_annotated_absent_and_boxes_file(folder: Path) -> None:
    (folder / "boxes.csv").write_text("id,cls,x0,y0,x1,y1\nc,x,0,0,5,5\nc,y,1,1,40,20\nd,none,,,,\n")
    manifest = manifest_of(folder, a="x 10 4 20 10|z 0 0 1 1", b="none", c="", d="")
    config = config_of()
    assert find_box_classes(manifest, manifest.records, config) == ("x", "y", "z")
    labels = box_labels(manifest.records, ("x", "y"), config)
    assert [row.id for row in labels.records] == ["a", "b", "c", "d"]
    assert [len(boxes) for boxes in labels.boxes] == [1, 0, 2, 0] and labels.counts["other_names"] == {"z": 1}
    assert labels.per_class() == {"x": {"boxes": 2, "images": 2}, "y": {"boxes": 1, "images": 1}}
    (folder / "boxes.csv").unlink()
    manifest = manifest_of(folder, a="x 10 4 20 10", b="", c="none")
    labels = box_labels(manifest.records, ("x",), config)
    assert [row.id for row in labels.records] == ["a", "c"] and labels.counts["not_annotated"] == 1
    loose = box_labels(manifest.records, ("x",), config_of(detect={"empty_means_absent": True}))
    assert [row.id for row in loose.records] == ["a", "b", "c"] and loose.counts["not_annotated"] == 0


def test_all_that_is_wrong_with_boxes_is_one_error(folder: Path) -> None:
    (folder / "boxes.csv").write_text("id,cls,x0,y0,x1,y1\na,x,5,5,5,9\nb,x,nan,0,1,1\nc,x,0,0,5,5\n")
    write_manifest(folder / "manifest.csv", rows_of(a="x 3 3 1 9", b="x 0 0 41 5", c="none", d="x 0 0 inf 3"))
    with refused("malformed", "conflict", "out_of_range") as caught:
        load_manifest(folder / "manifest.csv")
    assert {(fault.kind, Path(fault.file or "").name, fault.line) for fault in caught.value.faults} == {
        ("malformed", "boxes.csv", 2), ("malformed", "boxes.csv", 3), ("malformed", "manifest.csv", 2),
        ("out_of_range", "manifest.csv", 3), ("conflict", "manifest.csv", 4), ("malformed", "manifest.csv", 5),
    }  # fmt: skip
    (folder / "boxes.csv").write_text("id,cls,x0,y0,x1,y1\na,x,0,0,5,5\na,none,,,,\n")
    with refused("conflict"):
        manifest_of(folder, a="")


def test_boxes_of_masks(folder: Path) -> None:
    lines = ["id,image,patient,split,mask_x,mask_y", "a,a.png,p1,train,m.png,none", "b,b.png,p2,train,m.png,"]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    manifest = load_manifest(folder / "manifest.csv")
    config = config_of(data={"boxes_from": "masks"}, detect={"min_component_px": 2})
    assert find_box_classes(manifest, manifest.records, config) == ("x",)  # y has no pixel
    labels = box_labels(manifest.records, ("x", "y"), config)
    assert labels.boxes == ((Box("x", 10, 4, 20, 10), Box("x", 29, 8, 36, 12)),)
    assert labels.counts["small_components"] == 1 and labels.counts["not_annotated"] == 1  # b says nothing of y
    assert len(box_labels(manifest.records, ("x",), config).records) == 2
    with refused("empty"):
        find_box_classes(manifest, manifest.records, config_of())


def test_records_of_one_image_are_one_sample(folder: Path) -> None:
    """As in MS-CXR, where an image has several phrases with boxes of their own."""
    manifest = manifest_of(folder, a1="x 0 0 5 5", a2="x 0 0 5 5|x 6 6 9 9", a3="")
    labels = box_labels(manifest.records, ("x",), config_of())
    assert [len(boxes) for boxes in labels.boxes] == [2] and labels.counts["same_image"] == 2


def test_classes_of_the_recipe(folder: Path) -> None:
    manifest = manifest_of(folder, a="nodule 0 0 5 5|mass 6 6 9 9")
    for wanted, kind in ((["nodul"], "unknown"), (["mass", "mass"], "malformed"), ([], "malformed")):
        with refused(kind, naming="nodule" if wanted == ["nodul"] else ""):
            find_box_classes(manifest, manifest.records, config_of(detect={"classes": wanted}))
    assert find_box_classes(manifest, manifest.records, config_of(detect={"classes": ["nodule"]})) == ("nodule",)


def test_fractions_are_nested_by_patient(folder: Path) -> None:
    rows = [
        {"id": f"r{i}", "image": "abcd"[i % 4] + f"{i}.png", "patient": f"p{i // 2}", "boxes": "x 0 0 5 5"}
        for i in range(80)
    ]
    write_manifest(folder / "many.csv", rows)
    labels = box_labels(load_manifest(folder / "many.csv", check_files=False).records, ("x",), config_of())
    parts = []
    for fraction in (0.1, 0.5, 1.0):
        taken, counts = labelled_part(labels, config_of(data={"label_fraction": fraction}))
        assert counts["labelled_images"] == len(taken.records) == len(taken.boxes) == 80 * fraction
        parts.append({row.patient for row in taken.records})
    assert parts[0] < parts[1] < parts[2] and len(parts[0]) == 4


def test_boxes_move_with_the_picture(folder: Path) -> None:
    """The bright part lies in its box after any drawn affine, and touches each of its sides."""
    labels = box_labels(manifest_of(folder, a="x 10 4 20 10").records, ("x",), config_of())
    augment = {"max_rotate_deg": 0, "p_flip_lr": 0.5, "p_flip_ud": 0.5, "max_noise": 0, "scale": [0.8, 1.2]}
    data = config_of(data={"image_size": [80, 160], "in_channels": 1, "normalize": "none", "augment": augment}).data
    dataset = BoxDataset(labels, data, seed=0, train=True)
    flips = set()
    for epoch in range(12):
        sample = dataset[epoch, 0]
        assert sample.boxes is not None
        kind, x0, y0, x1, y1 = sample.boxes[0]
        rows, columns = np.nonzero(sample.image[0] > sample.image[0].max() / 2)
        assert kind == 0
        assert (columns.min(), rows.min()) == pytest.approx((x0, y0), abs=1.5)
        assert (columns.max() + 1, rows.max() + 1) == pytest.approx((x1, y1), abs=1.5)
        flips.add((sample.affine.left_right, sample.affine.up_down))
    assert len(flips) == 4
    plain = BoxDataset(labels, data, seed=0, train=False)[0]
    assert plain.boxes is not None and plain.boxes.tolist() == [[0, 40, 16, 80, 40]]


def test_a_box_outside_the_picture_is_marked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = box_labels(manifest_of(folder, a="x 0 0 4 4|x 30 10 40 20", b="none").records, ("x",), config_of())
    data = config_of(data={"image_size": [20, 40], "in_channels": 1}).data
    base = fit((20, 40), (20, 40))
    pushed = Affine(base.matrix + np.array([[0, 0, -10.0], [0, 0, 0]]), (20, 40), (20, 40))
    monkeypatch.setattr("medvl.data.dataset.draw", lambda *args, **kwargs: pushed)
    dataset = BoxDataset(labels, data, seed=0, train=True)
    batch = collate([dataset[0, 0], dataset[0, 1]])
    assert batch.boxes is not None and batch.boxes.shape == (2, 2, 5)
    assert batch.boxes[0, :, 0].tolist() == [MOVED_OUT, 0] and batch.boxes[0, 1, 1:].tolist() == [20, 10, 30, 20]
    assert batch.boxes[1, :, 0].tolist() == [NO_BOX, NO_BOX]
    assert collate([dataset[0, 1]]).boxes is not None  # no boxes at all


def test_the_fixed_guess_is_the_median_of_the_training_boxes(folder: Path) -> None:
    cells = {"a": "x 0 0 10 10", "b": "x 4 2 20 10", "c": "x 8 4 40 20|y 0 0 40 20"}
    labels = box_labels(manifest_of(folder, **cells).records, ("x", "y", "z"), config_of())
    assert mean_boxes(labels) == {"x": [0.1, 0.1, 0.5, 0.5], "y": [0, 0, 1, 1]}


def test_the_fixed_guess_is_in_standard_display(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All images stored mirrored: the guess is mirrored, and stands in stored pixels again where it is scored."""
    mirrored = Orientation(Turn(left_right=True), "standard", "R\\F")
    for module in ("medvl.data.box_labels", "medvl.tasks.detect.evaluate"):
        monkeypatch.setattr(f"{module}.image_orientation", lambda path: mirrored)
    labels = box_labels(manifest_of(folder, a="x 0 0 10 10").records, ("x",), config_of())
    assert mean_boxes(labels) == {"x": [0.75, 0, 1, 0.5]}
    boxes, classes = np.zeros((0, 4)), np.zeros(0, np.int64)
    image = ImageBoxes("a", "a", boxes, classes, boxes, np.zeros(0), classes)
    (guess,) = detector._guesses([image], labels, mean_boxes(labels))
    assert guess.boxes.tolist() == [[0, 0, 10, 10]]


def test_fitted_anchors(folder: Path) -> None:
    sizes = [(w, h) for w in (4, 10, 30) for h in (3, 8, 18)]
    cells = {f"{'abcd'[i]}": "|".join(f"x 0 0 {w + 0.1 * i:g} {h + 0.1 * i:g}" for w, h in sizes) for i in range(3)}
    labels = box_labels(manifest_of(folder, **cells).records, ("x",), config_of())
    config = config_of(data={"image_size": [40, 40]})
    found = fit_anchors(labels, config)
    assert found == fit_anchors(labels, config)  # seeded
    expected = sorted(([w + 0.1, 2 * (h + 0.1)] for w, h in sizes), key=lambda pair: -pair[0] * pair[1])
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-3)  # the middle one of each three
    with refused("empty"):
        fit_anchors(box_labels(manifest_of(folder, a="x 0 0 5 5").records, ("x",), config_of()), config)


def test_a_split_elsewhere_keeps_what_is_said_of_boxes(folder: Path) -> None:
    (folder / "boxes.csv").write_text("id,cls,x0,y0,x1,y1\na,x,0,0,5,5\nb,none,,,,\n")
    rows = [{**row, "split": ""} for row in rows_of(a="", b="", c="none", d="")]
    write_manifest(folder / "manifest.csv", rows)
    (folder / "elsewhere").mkdir()
    (file,) = split_manifest(folder / "manifest.csv", folder / "elsewhere" / "split.csv", fractions=(0.5, 0.5))
    found = {row.id: row for row in load_manifest(file.path).records}
    assert found["a"].boxes == (Box("x", 0, 0, 5, 5),)
    assert [found[name].boxes_absent for name in "abcd"] == [False, True, True, False]


def test_boxes_come_back_to_the_native_grid() -> None:
    for how in ("stretch", "letterbox"):
        affine = fit((20, 40), (64, 64), how)  # type: ignore[arg-type]
        boxes = [Box("x", 3, 2, 17, 19), Box("x", 0, 0, 40, 20)]
        moved = affine.apply_boxes(boxes)
        back = affine.invert_boxes(np.array([(b.x0, b.y0, b.x1, b.y1) for b in moved]))
        assert back == pytest.approx(np.array([(b.x0, b.y0, b.x1, b.y1) for b in boxes]), abs=1e-9)
    outside = fit((20, 40), (64, 64), "letterbox").invert_boxes(np.array([[0.0, 0, 64, 64], [0, 0, 5, 5]]))
    assert outside == pytest.approx(np.array([[0, 0, 40, 20], [0, 0, 3.125, 0]]), abs=1e-9)
