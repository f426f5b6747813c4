from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from faults import refused

from medvl.data.image import Orientation, Turn
from medvl.data.record import Manifest
from medvl.evaluation import text_sensitivity as module
from medvl.evaluation.prediction_sources import FolderSource
from medvl.evaluation.text_sensitivity import centroid_x, side_of, text_sensitivity, text_versions

from .conftest import Deaf, Listener


def test_a_model_that_listens(phrases: Manifest, tmp_path: Path) -> None:
    found = text_sensitivity(Listener(), phrases, split="val", laterality="patient", out=tmp_path / "out").summary
    conditions, swap = found["conditions"], found["side_swap"]
    assert found["num_rows"] == 12
    assert conditions["true"]["dice"]["mean"] == 1.0
    assert conditions["empty"]["dice"]["mean"] == 0.0
    assert conditions["empty"]["pred_fraction"]["mean"] == 0.0
    assert conditions["empty"]["share_empty"]["mean"] == 1.0
    assert conditions["side_swapped"] == {**conditions["side_swapped"], "num": 8}  # "both lungs" names no one side
    assert conditions["side_swapped"]["dice"]["mean"] == 0.0
    assert conditions["side_swapped"]["true_minus_this"]["mean"] == 1.0
    assert conditions["negated"]["dice"]["mean"] == 0.0
    # Another phrase of the three: the other lung 0, one lung against both 2/3.
    assert 0.0 < conditions["shuffled"]["dice"]["mean"] < 0.67
    assert swap["num"] == 8 and swap["num_empty"] == 0
    assert swap["share_changing_side"] == {"mean": 1.0, "lo": 1.0, "hi": 1.0, "num": 8}
    assert swap["share_on_named_side"]["mean"] == swap["share_on_named_side_swapped"]["mean"] == 1.0
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == found
    rows = list(csv.DictReader((tmp_path / "out" / "probe_cases.csv").open()))
    assert len(rows) == sum(condition["num"] for condition in conditions.values())


def test_the_named_side_depends_on_whose_left_is_meant(phrases: Manifest) -> None:
    swap = text_sensitivity(Listener(), phrases, split="val", laterality="viewer").summary["side_swap"]
    assert swap["share_changing_side"]["mean"] == 1.0
    assert swap["share_on_named_side"]["mean"] == 0.0


def test_a_model_that_ignores_its_text(phrases: Manifest) -> None:
    found = text_sensitivity(Deaf(), phrases, split="val", laterality="patient").summary
    own = found["conditions"]["true"]["dice"]["mean"]
    assert own == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    for name in ("empty", "shuffled", "negated"):
        condition = found["conditions"][name]
        assert condition["dice"]["mean"] == own
        assert condition["true_minus_this"] == {"mean": 0.0, "lo": 0.0, "hi": 0.0, "num": 12}
    assert found["side_swap"]["share_changing_side"]["mean"] == 0.0


def test_shuffled_texts_are_of_another_patient_and_other_words(phrases: Manifest) -> None:
    records = phrases.split("val")
    texts = text_versions(records, seed=1)
    assert texts == text_versions(records, seed=1) != text_versions(records, seed=2)
    for record, own in zip(records, texts, strict=True):
        assert own["shuffled"] != record.text
        givers = {other.patient for other in records if other.text == own["shuffled"]}
        assert givers - {record.patient}
        assert own["empty"] == "" and own["true"] == record.text
    # One text for all: there is nothing to shuffle with.
    same = [record for record in records if record.text == "left lung"]
    assert all("shuffled" not in own for own in text_versions(same))


def test_fewer_rows_are_a_seeded_choice_and_said(phrases: Manifest) -> None:
    found = text_sensitivity(Listener(), phrases, split="val", max_rows=5).summary
    assert found["conditions"]["true"]["num"] == found["num_rows"] == 5
    assert found["num_rows_of_split"] == 12
    assert any("5 of 12 rows" in note for note in found["notes"])
    assert found == text_sensitivity(Listener(), phrases, split="val", max_rows=5).summary


def test_one_side_means_exactly_one() -> None:
    assert side_of("opacity in the left lung") == "left"
    assert side_of("right upper zone") == "right"
    assert side_of("both lungs") is None
    assert side_of("left and right lung") is None


def test_sides_of_a_turned_image(phrases: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are in stored pixels, sides are those of the standard display."""
    mirrored = Orientation(Turn(left_right=True), "standard", "R\\F")
    monkeypatch.setattr(module, "image_orientation", lambda path: mirrored)
    swap = text_sensitivity(Listener(), phrases, split="val", laterality="viewer").summary["side_swap"]
    assert swap["share_on_named_side"]["mean"] == swap["share_on_named_side_swapped"]["mean"] == 1.0


def test_centroid() -> None:
    mask = np.zeros((4, 10), dtype=bool)
    assert np.isnan(centroid_x(mask))
    mask[:, 0] = True
    assert centroid_x(mask) == pytest.approx(0.05)
    mask[:, 9] = True
    assert centroid_x(mask) == pytest.approx(0.5)


def test_a_folder_of_masks_cannot_be_probed(phrases: Manifest, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    with refused("unsupported"):
        text_sensitivity(FolderSource(tmp_path / "masks"), phrases)
