from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from faults import refused

from medvl.core.errors import InputError
from medvl.data.record import Manifest
from medvl.data.records import load_manifest
from medvl.evaluation.prediction_sources import FolderSource, PredictorSource, predicted_masks
from medvl.tasks.segment.evaluate import choose_threshold, evaluate

from .conftest import SIZE, FakePredictor, lung, write_rows


def write(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask.astype(np.uint8) * 255)


@pytest.mark.parametrize("pattern", ["{id}.png", "{id}__{slug}.png", "{stem}__{slug}.png", "{id}__mask.tif"])
def test_a_folder_of_masks_end_to_end(phrases: Manifest, tmp_path: Path, pattern: str) -> None:
    for record in phrases.split("val"):
        name = pattern.format(id=record.id, stem=record.image.stem, slug=record.text.replace(" ", "-"))
        write(tmp_path / "masks" / name, lung(record.text))
    found = evaluate(FolderSource(tmp_path / "masks"), phrases, split="val", out=tmp_path / "out")
    assert found.summary["metrics"]["dice_per_image"]["mean"] == 1.0
    assert found.summary["threshold"] is None
    assert found.summary["metrics"]["hd95_mm"]["num"] == 0  # PNG without spacing
    assert (tmp_path / "out" / "cases.csv").is_file()


def test_the_more_specific_file_is_taken(phrases: Manifest, tmp_path: Path) -> None:
    for record in phrases.split("val"):
        write(tmp_path / "masks" / f"{record.id}.png", lung(""))
        write(tmp_path / "masks" / f"{record.id}__{record.text.replace(' ', '-')}.png", lung(record.text))
    found = evaluate(FolderSource(tmp_path / "masks"), phrases, split="val")
    assert found.summary["metrics"]["dice_per_image"]["mean"] == 1.0


def test_all_missing_and_misfitting_masks_are_reported_together(phrases: Manifest, tmp_path: Path) -> None:
    write(tmp_path / "masks" / "film0_right.png", lung("right lung"))
    write(tmp_path / "masks" / "film0_left.png", lung("left lung")[:20])
    with pytest.raises(InputError) as caught:
        evaluate(FolderSource(tmp_path / "masks"), phrases, split="val", out=tmp_path / "out")
    faults = caught.value.faults
    assert len(faults) == 11
    assert "20 rows x 60 columns" in str(faults[0]) and "40 rows x 60 columns" in str(faults[0])
    assert "film0_both.png" in str(faults[1])
    assert not (tmp_path / "out").exists()


def test_several_classes(phrases: Manifest, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "image": "film0.png", "mask_right": "masks/film0_right.png", "mask_left": "masks/film0_left.png"},
        {"id": "b", "image": "film1.png", "mask_right": "masks/film1_right.png", "mask_left": ""},
    ]
    rows = [{**row, "text": "", "patient": row["id"], "split": "val"} for row in rows]
    manifest = load_manifest(write_rows(phrases.path.with_name("classes.csv"), rows))
    for name, mask in (("a__right", "right"), ("a__left", "both"), ("b__right", "right")):
        write(tmp_path / "masks" / f"{name}.png", lung(mask))
    found = evaluate(FolderSource(tmp_path / "masks"), manifest, split="val")
    assert found.summary["num_not_annotated"] == 1
    by_class = found.summary["by_class"]
    assert by_class["right"]["metrics"]["dice_per_image"]["mean"] == 1.0
    assert by_class["left"]["metrics"]["dice_per_image"]["mean"] == pytest.approx(2 / 3)


def test_an_image_is_encoded_once_and_a_text_asked_once(phrases: Manifest) -> None:
    predictor = FakePredictor()
    source = PredictorSource(predictor, "fake")  # type: ignore[arg-type]
    records = [record for record in phrases.split("val") if record.patient == "p0"]
    answers = source.probs([*records, records[0]], [r.text for r in records] + [records[0].text])
    source.probs(records, [r.text for r in records])
    assert len(answers) == 4
    assert len(predictor.images) == 1 and predictor.asked == ["right lung", "left lung", "both lungs"]
    assert source.spacing_mm(records[0]) == (0.2, 0.2)
    other = next(record for record in phrases.split("val") if record.patient == "p1")
    source.probs([other], [other.text])
    assert len(predictor.images) == 2 and len(predictor.asked) == 4


def test_a_model_without_text_is_asked_nothing(phrases: Manifest) -> None:
    predictor = FakePredictor(uses_text=False)
    source = PredictorSource(predictor, "fake")  # type: ignore[arg-type]
    records = phrases.split("val")[:3]
    answers = source.masks(records, [record.text for record in records])
    assert predictor.asked == [""]
    assert all(np.array_equal(answer["mask"], lung("both")) for answer in answers)


def label_map_set(phrases: Manifest) -> Manifest:
    """Label map 1 = right, 2 = left; each row selects values."""
    folder = phrases.path.parent
    cv2.imwrite(str(folder / "labels.png"), (lung("right") + 2 * lung("left")).astype(np.uint8))
    rows = [
        {"id": "r", "mask_values": "1", "text": "right lung"},
        {"id": "l", "mask_values": "2", "text": "left lung"},
        {"id": "b", "mask_values": "1|2", "text": "both lungs"},
    ]
    rows = [{**row, "image": "film0.png", "mask": "labels.png", "patient": row["id"], "split": "val"} for row in rows]
    return load_manifest(write_rows(folder / "labels.csv", rows))


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_fixed_classes_answer_a_phrase_with_the_union_of_its_values(phrases: Manifest, mode: str) -> None:
    manifest = label_map_set(phrases)
    predictor = FakePredictor(("left", "right"), False, {"left": [2], "right": [1]}, mode)
    source = PredictorSource(predictor, "fake")  # type: ignore[arg-type]
    source.check(manifest.records, manifest.classes)
    answers = source.probs(manifest.records, ["", "", ""])
    for answer, side in zip(answers, ("right", "left", "both"), strict=True):
        assert np.array_equal(answer["mask"] > 0.5, lung(side))


def test_probabilities_of_exclusive_classes_add_up(phrases: Manifest) -> None:
    manifest = label_map_set(phrases)
    for mode, union in (("multiclass", 0.8), ("multilabel", 0.4)):
        predictor = FakePredictor(("left", "right"), False, {"left": [2], "right": [1]}, mode)
        predictor._probs = lambda phrase: np.full((2, *SIZE), 0.4, np.float32)  # type: ignore[method-assign]
        answers = PredictorSource(predictor, "fake").probs(manifest.records, ["", "", ""])  # type: ignore[arg-type]
        assert answers[2]["mask"].max() == pytest.approx(union)
        assert answers[0]["mask"].max() == pytest.approx(0.4)


def test_exclusive_classes_are_scored_by_the_most_probable(phrases: Manifest, tmp_path: Path) -> None:
    """Right .3, left .4, background .3 in the left lung; background .9 elsewhere. None is above one half."""
    manifest = label_map_set(phrases)
    predictor = FakePredictor(("left", "right"), False, {"left": [2], "right": [1]}, "multiclass")
    probs = np.full((2, *SIZE), 0.05, np.float32)
    probs[:, lung("left")] = [[0.4], [0.3]]
    predictor._probs = lambda phrase: probs  # type: ignore[method-assign]
    source = PredictorSource(predictor, "fake")  # type: ignore[arg-type]
    right, left, both = (answer["mask"] for answer in predicted_masks(source, manifest.records, [""] * 3, 0.5))
    assert not right.any() and np.array_equal(left, lung("left")) and np.array_equal(both, lung("left"))
    found = evaluate(source, manifest, split="val", surface=False)
    assert found.summary["threshold"] is None and found.summary["threshold_source"] == "the most probable class"
    assert {row.id: row.dice for row in found.cases} == pytest.approx({"r": 0, "l": 1, "b": 2 / 3})
    with refused("conflict"):
        evaluate(source, manifest, split="val", threshold=0.3)
    with refused("conflict"):
        choose_threshold(source, manifest.records, manifest.classes)


def test_classes_that_do_not_fit_are_refused(phrases: Manifest) -> None:
    manifest = label_map_set(phrases)
    part = PredictorSource(FakePredictor(("lungs", "x"), False, {"lungs": [1, 2], "x": [3]}), "fake")  # type: ignore[arg-type]
    with refused("mismatch"):
        part.check(manifest.records, manifest.classes)
    unknown = PredictorSource(FakePredictor(("a", "b"), False, {"a": [1], "b": [7]}), "fake")  # type: ignore[arg-type]
    with refused("mismatch"):
        unknown.check(manifest.records, manifest.classes)
    names = PredictorSource(FakePredictor(("a", "b")), "fake")  # type: ignore[arg-type]
    with refused("mismatch"):
        names.check(manifest.records, ("mask",))
