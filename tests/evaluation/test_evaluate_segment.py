from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faults import refused

from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest
from medvl.evaluation.case_metrics import COLUMNS, read_case_table
from medvl.evaluation.record import log_folder, log_test
from medvl.tasks.segment.evaluate import choose_threshold, evaluate

from .conftest import SIZE, Deaf, Listener, lung, write_rows

HEAD = "id,image,patient,split,class,text,dice,iou,hd95_px,hd95_mm,assd_px,assd_mm,true_px,pred_px"


class Drawn(Listener):
    """Gives each record the probabilities that a function draws of it and its text."""

    def __init__(self, draw: Callable[[Record, str], np.ndarray]) -> None:
        self.draw = draw

    def probs(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [{"mask": self.draw(*pair).astype(np.float32)} for pair in zip(records, texts, strict=True)]


def noise(record: Record, text: str) -> np.ndarray:
    """The right answer with noise that depends on the record alone."""
    level = 0.1 + 0.3 * (int(record.patient, 36) % 4)
    return (1 - level) * lung(text) + level * np.random.default_rng(sum(record.id.encode())).random(SIZE)


# 0.7 in the mask, 0.6 in a halo of five rows, 0.1 elsewhere.
GRADED = Drawn(lambda _, text: np.where(np.arange(SIZE[0])[:, None] < 5, 0.6, np.where(lung(text), 0.7, 0.1)))
NOISY, CROPPED = Drawn(noise), Drawn(lambda *_: np.zeros((30, 60)))


def test_both_conventions_by_hand(phrases: Manifest, tmp_path: Path) -> None:
    found = evaluate(Deaf(), phrases, split="val", out=tmp_path / "out", group_by=["kind"])
    metrics = found.summary["metrics"]
    # Per patient: two rows of one lung (Dice 2/3, IoU 1/2) and one of both (1, 1); a lung has 432 pixels.
    assert metrics["dice_per_image"]["mean"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert metrics["iou_per_image"]["mean"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    both, true, pred = 432 * 4, 432 * 4, 864 * 3
    assert metrics["dice_pooled"]["mean"] == pytest.approx(2 * both / (true + pred))
    assert metrics["iou_pooled"]["mean"] == pytest.approx(both / (true + pred - both))
    d, j = metrics["dice_pooled"]["mean"], metrics["iou_pooled"]["mean"]
    assert d == pytest.approx(2 * j / (1 + j))
    d, j = metrics["dice_per_image"]["mean"], metrics["iou_per_image"]["mean"]
    assert d != pytest.approx(2 * j / (1 + j), abs=1e-3)
    # Every case of a patient is alike, so the interval has no width.
    assert metrics["dice_per_image"]["lo"] == pytest.approx(metrics["dice_per_image"]["hi"])
    assert metrics["lesion_sensitivity"] == {"mean": 1.0, "lo": 1.0, "hi": 1.0, "num": 16}
    assert metrics["lesion_precision"]["mean"] == pytest.approx(16 / 24)
    assert metrics["lesion_precision"]["num"] == 24
    assert metrics["hd95_mm"]["mean"] == pytest.approx(metrics["hd95_px"]["mean"] / 2)
    kinds = found.summary["by_group"]["kind"]
    assert kinds["union"]["metrics"]["dice_per_image"]["mean"] == 1.0
    assert kinds["one lung"]["num_cases"] == 8
    assert set(found.summary["by_phrase"]) == {"right lung", "left lung", "both lungs"}
    assert found.summary["by_phrase"]["left lung"]["metrics"]["dice_per_image"]["mean"] == pytest.approx(2 / 3)


def test_files_hold_what_the_interface_names(phrases: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = evaluate(Listener(), phrases, split="val", out=out)
    text = (out / "cases.csv").read_text()
    assert text.splitlines()[0].startswith(HEAD + ",")
    assert tuple(text.splitlines()[0].split(",")) == COLUMNS
    rows = list(csv.DictReader(text.splitlines()))
    assert rows[0]["id"] == "film0_right" and rows[0]["image"] == "film0.png" and rows[0]["dice"] == "1.0"
    assert read_case_table(text) == list(found.cases)
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary == found.summary
    names = "format model manifest split split_hash seed config versions machine threshold threshold_source grid"
    for name in [*names.split(), "empty_mask", "num_cases", "num_patients", "metrics", "by_class", "by_phrase"]:
        assert name in summary, name
    assert summary["format"] == "medvl-evaluation/2" and summary["evaluation"] == "segment"
    assert (summary["num_cases"], summary["num_patients"], summary["num_images"]) == (12, 4, 4)
    assert (summary["threshold"], summary["threshold_source"], summary["grid"]) == (0.5, "fixed", "native")
    assert set(summary["metrics"]["dice_per_image"]) == {"mean", "lo", "hi", "num"}
    assert not list(out.glob("*.tmp"))


@pytest.fixture
def sparse(tmp_path: Path, phrases: Manifest) -> Manifest:
    """Absent, missed, found and not annotated masks of two patients, all with the text "left lung"."""
    rows = [
        {"id": "absent", "image": "film0.png", "mask": "none", "patient": "a", "text": ""},
        {"id": "found", "image": "film1.png", "mask": "masks/film1_left.png", "patient": "a", "text": "left lung"},
        {"id": "missed", "image": "film2.png", "mask": "masks/film2_left.png", "patient": "b", "text": ""},
        {"id": "unknown", "image": "film3.png", "mask": "", "patient": "b", "text": "left lung"},
    ]
    path = phrases.path.with_name("sparse.csv")
    return load_manifest(write_rows(path, [{**row, "split": "val"} for row in rows]))


@pytest.mark.parametrize(("rule", "mean", "num"), [("one", 2 / 3, 3), ("zero", 1 / 3, 3), ("skip", 1 / 2, 2)])
def test_empty_masks_are_scored_by_the_rule_and_unannotated_ones_not_at_all(
    sparse: Manifest, rule: Any, mean: float, num: int
) -> None:
    found = evaluate(Listener(), sparse, split="val", empty_mask=rule)
    assert [row.id for row in found.cases] == ["absent", "found", "missed"]
    assert found.summary["num_not_annotated"] == 1
    assert found.summary["num_both_empty"] == 1
    metric = found.summary["metrics"]["dice_per_image"]
    assert (metric["mean"], metric["num"]) == (pytest.approx(mean), num)
    # Surface distances only where both masks have pixels; the others are counted by reason.
    assert found.summary["metrics"]["hd95_px"] == {"mean": 0.0, "lo": None, "hi": None, "num": 1}
    assert found.summary["surface_undefined"] == {"both_empty": 1, "prediction_empty": 1}
    assert math.isnan(found.cases[2].hd95_px)


def test_void_is_not_scored(phrases: Manifest) -> None:
    """The other lung is void (255 beside class 1): who finds both lungs makes no fault, who misses it neither."""
    for record in phrases.records:
        reference = record.masks["mask"]
        assert reference is not None and reference.path is not None
        true_mask = lung(record.text)
        labels = true_mask.astype(np.uint8) + 255 * (lung("both lungs") & ~true_mask).astype(np.uint8)
        cv2.imwrite(str(reference.path), labels)
    for source in (Deaf(), Listener()):
        found = evaluate(source, phrases, split="val")
        assert found.summary["metrics"]["dice_pooled"]["mean"] == 1.0
        assert {(row.true_px, row.pred_px) for row in found.cases} == {(432, 432), (864, 864)}
        assert choose_threshold(source, phrases.split("val"), phrases.classes)[1] == 1.0


@pytest.mark.parametrize(("batch", "mgca"), [(1, 2 / 3), (2, 1 / 2), (8, 2 / 3)])
def test_dice_of_mgca_and_of_positives(sparse: Manifest, batch: int, mgca: float) -> None:
    # In order: both empty (1), found (1), missed (0); of two batches of 2 the last has one case: (1 + 0) / 2.
    found = evaluate(Listener(), sparse, split="val", empty_mask="zero", mgca_batch=batch).summary
    assert found["metrics"]["dice_mgca"]["mean"] == pytest.approx(mgca) and found["mgca_batch"] == batch
    assert found["metrics"]["dice_mgca"]["num"] == 3
    assert found["metrics"]["dice_positives"]["mean"] == pytest.approx(1 / 2)
    assert found["metrics"]["dice_positives"]["num"] == 2
    assert any(f"batches of {batch} cases" in note for note in found["notes"])
    # What is predicted where nothing is scores 0, whatever --empty-mask says
    wrong = evaluate(Deaf(), sparse, split="val", mgca_batch=batch, threshold=0.4).summary
    assert wrong["metrics"]["dice_mgca"]["mean"] < 1
    assert any("dice_mgca is at the threshold 0.4" in note for note in wrong["notes"])


def test_the_result_is_deterministic(phrases: Manifest) -> None:
    first = evaluate(NOISY, phrases, split="val", seed=1).summary["metrics"]
    assert first == evaluate(NOISY, phrases, split="val", seed=1).summary["metrics"]
    assert first["dice_per_image"]["lo"] < first["dice_per_image"]["mean"] < first["dice_per_image"]["hi"]
    other = evaluate(NOISY, phrases, split="val", seed=2).summary
    assert first["dice_per_image"]["mean"] == other["metrics"]["dice_per_image"]["mean"]
    assert other["bootstrap"] == {"unit": "patient", "draws": 2000, "seed": 2, "confidence": 0.95}


def test_one_patient_has_no_interval_and_it_is_said(phrases: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(Listener(), phrases, split="test")
    assert found.summary["metrics"]["dice_per_image"] == {"mean": 1.0, "lo": None, "hi": None, "num": 3}
    assert any("single patient" in note for note in found.summary["notes"])


def test_without_surface_distances_and_with_another_text(phrases: Manifest) -> None:
    found = evaluate(Deaf(), phrases, split="val", surface=False).summary
    assert found["metrics"]["hd95_px"]["num"] == 0 and found["surface_undefined"] == {}
    assert found["metrics"]["dice_per_image"]["num"] == 12
    asked = evaluate(Listener(), phrases, split="val", text_of=lambda record: "", text_name="empty").summary
    assert asked["metrics"]["dice_per_image"]["mean"] == 0.0
    assert (asked["text"], asked["contains_text"]) == ("empty", False)


def test_bad_input(phrases: Manifest) -> None:
    with refused("unknown"):
        evaluate(Listener(), phrases, split="holdout")
    with refused("missing_column"):
        evaluate(Listener(), phrases, split="val", group_by=["wordings"])
    with refused("mismatch"):
        evaluate(CROPPED, phrases, split="val")


def test_the_threshold_is_chosen_where_dice_is_best(phrases: Manifest) -> None:
    threshold, dice = choose_threshold(GRADED, phrases.split("val"), phrases.classes)
    assert (threshold, dice) == (0.6, 1.0)
    found = evaluate(GRADED, phrases, split="val", threshold=threshold, threshold_source="val")
    assert found.summary["metrics"]["dice_per_image"]["mean"] == dice
    assert found.summary["threshold_source"] == "val"
    # All thresholds below 0.9 are equal for the listener: the one nearest to 0.5 is taken.
    assert choose_threshold(Listener(), phrases.split("val"), phrases.classes) == (0.5, 1.0)


def test_the_chosen_dice_is_what_evaluation_finds(phrases: Manifest, sparse: Manifest) -> None:
    for manifest in (phrases, sparse):
        for rule in ("one", "zero", "skip"):
            threshold, dice = choose_threshold(NOISY, manifest.split("val"), ["mask"], empty_mask=rule)  # type: ignore[arg-type]
            found = evaluate(NOISY, manifest, split="val", threshold=threshold, empty_mask=rule)  # type: ignore[arg-type]
            assert found.summary["metrics"]["dice_per_image"]["mean"] == pytest.approx(dice)


def test_opening_test_is_logged_in_the_run(phrases: Manifest, tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "format_version").write_text("medvl-model/1\n")
    (model / "card.json").write_text("{}")
    (tmp_path / "run" / "config.yaml").write_text("{}")
    record = evaluate(Listener(), phrases, split="test")
    for folder in (tmp_path / "run", model):  # both ways of naming the model write to one log
        assert log_folder(folder) == tmp_path / "run"
        log_test(folder, record)
    lines = [json.loads(line) for line in (tmp_path / "run" / "test_log.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert lines[0]["metrics"]["dice_per_image"] == 1.0
    assert lines[0]["manifest_hash"] == phrases.content_hash()
    assert "opened: 2" in (model / "card.md").read_text()
