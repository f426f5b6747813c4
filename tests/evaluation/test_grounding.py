"""Grounding and zero-shot classification against masks and labels, with models whose answers are known beforehand."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from faults import refused
from PIL import Image

from medvl.config import make_config
from medvl.data.record import Manifest
from medvl.data.records import load_manifest
from medvl.metrics.grounding import contrast_to_noise, measure, pointing_game
from medvl.tasks.pretrain import grounding as module
from medvl.tasks.pretrain import zero_shot_classification as classes_module
from medvl.tasks.pretrain.grounding import (
    LEVELS,
    GroundingCase,
    as_text,
    best_level,
    grounding,
    other_phrases,
    patient_halves,
)
from medvl.tasks.pretrain.zero_shot_classification import as_text as classes_as_text
from medvl.tasks.pretrain.zero_shot_classification import zero_shot_classification
from medvl.text.prompts import PromptPair, load_prompts

MAP = np.array([[0.9, 0.5, 0.1], [0.3, 0.7, -0.2]], np.float32)
MASK = np.array([[1, 0, 0], [1, 0, 1]], bool)


def test_overlap_at_every_level_by_hand() -> None:
    found = measure(MAP, MASK, np.array([-0.5, 0.2, 0.6], np.float32))
    assert found.pred_px.tolist() == [6, 4, 2] and found.both_px.tolist() == [3, 2, 1]
    assert (found.true_px, found.num_px) == (3, 6)
    dice, iou, recall = found.overlap(slice(None))
    np.testing.assert_allclose(dice, [6 / 9, 4 / 7, 2 / 5])
    np.testing.assert_allclose(iou, [3 / 6, 2 / 5, 1 / 4])
    np.testing.assert_allclose(recall, [1, 2 / 3, 1 / 3])
    assert found.overlap(1)[2] == pytest.approx(2 / 3)


def test_a_pixel_at_the_threshold_is_outside_as_in_the_mask_of_ground() -> None:
    level = np.array([0.7], np.float32)
    assert measure(MAP, MASK, level).pred_px.tolist() == [int((level[0] < MAP).sum())] == [1]


def test_contrast_to_noise_by_hand() -> None:
    inside, outside = np.array([0.9, 0.3, -0.2]), np.array([0.5, 0.1, 0.7])
    mu = 1 / 3 - 1.3 / 3
    var_in = (0.81 + 0.09 + 0.04) / 3 - (1 / 3) ** 2
    var_out = (0.25 + 0.01 + 0.49) / 3 - (1.3 / 3) ** 2
    expected = mu / math.sqrt(var_in + var_out)
    assert contrast_to_noise(inside, outside) == pytest.approx(expected) and expected < 0
    assert measure(MAP, MASK).cnr == pytest.approx(expected, abs=1e-6)
    assert math.isnan(contrast_to_noise(np.ones(2), np.zeros(2))) and math.isnan(contrast_to_noise(inside, inside[:0]))


def test_pointing_game() -> None:
    assert pointing_game(MAP, MASK) == 1 and pointing_game(-MAP, MASK) == 1 and pointing_game(MAP, ~MASK) == 0
    assert pointing_game(np.zeros((2, 3), np.float32), MASK) == pytest.approx(0.5)


def case(values: Any, mask: Any) -> GroundingCase:
    asked = measure(np.asarray(values, np.float32), np.asarray(mask, bool))
    return GroundingCase(SimpleNamespace(id="a"), "x", asked, None, None)  # type: ignore[arg-type]


def test_the_best_level_is_the_middle_of_the_best_ones() -> None:
    level = LEVELS[best_level([case([[0.8, 0.2, 0.1]], [[1, 0, 0]])])]
    assert level == pytest.approx(0.5, abs=0.002)
    # The second case alone would want 0.3; both together are best between 0.2 and 0.4.
    both = [case([[0.8, 0.2, 0.1]], [[1, 0, 0]]), case([[0.4, 0.2, 0.2]], [[1, 0, 0]])]
    assert 0.2 <= LEVELS[best_level(both)] < 0.4


def test_other_phrases_differ_and_are_seeded() -> None:
    phrases = ["a", "b", "a", "c", "a", "b"] * 5
    for seed in range(10):
        others = other_phrases(phrases, seed)
        assert all(other in "abc" and other != phrase for other, phrase in zip(others, phrases, strict=True))
        assert others == other_phrases(phrases, seed)
    of_b = [o for seed in range(60) for o, p in zip(other_phrases(phrases, seed), phrases, strict=True) if p == "b"]
    assert 0.7 < of_b.count("a") / len(of_b) < 0.8  # as often as they occur: 15 a, 5 c
    assert other_phrases(["a", "a"], 0) == [None, None]


def test_halves_are_of_patients() -> None:
    patients = [f"p{i // 3}" for i in range(30)]
    half = patient_halves(patients, 0)
    assert half.sum() == 15 and all(len(set(half[i : i + 3])) == 1 for i in range(0, 30, 3))
    assert not np.array_equal(half, patient_halves(patients, 1))
    with refused("empty"):
        patient_halves(["a", "a"], 0)


class KnownGrounder:
    """Gives `level` inside the rectangle that a phrase names and less outside, on the image's native grid."""

    def __init__(self) -> None:
        self.config = make_config({"task": "pretrain", "data": {"laterality": "image"}})
        self.encoder = SimpleNamespace(
            unknown_words=lambda texts: [t for t in texts if "strange" in t],
            tokenize=lambda texts: SimpleNamespace(num_truncated=sum("strange" in t for t in texts)),
            max_tokens=3,
        )
        self.module = SimpleNamespace(network=SimpleNamespace(attention_pool=object()))
        self.num_images = 0

    def set_image(self, path: Path) -> KnownGrounder:
        self.num_images += 1
        self.image = SimpleNamespace(pixels=np.asarray(Image.open(path)))
        return self

    def similarity(self, phrase: str, sigma: float, how: str) -> Any:
        values = np.full(self.image.pixels.shape, -0.4, np.float32)
        values[:, :2] = -0.5  # the map varies outside, else there is no noise
        values[part(self.image.pixels.shape, phrase)] = 0.6
        return values


def part(size: tuple[int, ...], phrase: str) -> Any:
    mask = np.zeros(size, bool)
    half = size[1] // 2
    mask[:, (slice(0, half) if "left" in phrase else slice(half, None))] = True
    mask[size[0] // 2 :] = False
    return mask


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """12 images of 12 patients, 2 rows each; val 8, test 4; one row not annotated, one absent, one painted empty."""
    lines = ["id,image,text,mask_spot,other,patient,split"]
    for i in range(12):
        size = (10 + i, 16)
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / f"{i}.png")
        for side in ("left", "right"):
            mask = part(size, side)
            name = f"{i}{side}.png"
            if (i, side) == (0, "left"):
                name = ""
            elif (i, side) == (1, "left"):
                name = "none"
            elif (i, side) == (2, "left"):
                mask = np.zeros(size, bool)
            Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / f"{i}{side}.png")
            text = "" if (i, side) == (3, "left") else f"{side} spot"
            lines.append(f"c{i}{side},{i}.png,{text},{name},wrong {side},p{i},{'val' if i < 8 else 'test'}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(module.ZeroShot, "load", classmethod(lambda cls, folder, device="cpu": KnownGrounder()))
    monkeypatch.setattr(module, "weights_hash", lambda model: "hash")
    monkeypatch.setattr(module, "seen_images", lambda model, records: None)  # there is no model folder
    return tmp_path


def manifest_of(films: Path, **options: Any) -> Manifest:
    return load_manifest(films / "manifest.csv", classes=["spot"], **options)


def test_a_model_that_knows_scores_one_and_its_controls_do_not(films: Path) -> None:
    found = grounding("run", manifest_of(films), target="spot", out=films / "out").summary
    assert found["num_cases"] == 12 and found["num_patients"] == 8
    assert (found["num_not_annotated"], found["num_empty"], found["num_without_phrase"]) == (1, 2, 1)
    own, other = found["methods"]["phrase"], found["methods"]["shuffled phrase"]
    assert [own[name]["mean"] for name in ("dice", "iou", "recall", "pointing")] == [1, 1, 1, 1]
    assert [other[name]["mean"] for name in ("dice", "iou", "recall", "pointing")] == [0, 0, 0, 0]
    assert own["cnr"]["mean"] == own["cnr_signed"]["mean"] > 5 > 0 > other["cnr_signed"]["mean"]
    assert other["cnr"]["mean"] > 0  # the magnitude does not see that the map is low where it should be high
    assert found["differences"]["phrase - shuffled phrase"]["dice"] == {"mean": 1, "lo": 1, "hi": 1, "num": 12}
    assert found["threshold"] is None and "half of its patients" in found["threshold_source"]
    text = as_text(found, films / "out")
    assert "pixel" in text and "shuffled phrase" in text and "1.000 [1.000, 1.000]" in text
    with (films / "out" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48 and json.loads((films / "out" / "summary.json").read_text()) == found
    chance = next(row for row in rows if row["method"] == "chance")
    share = int(chance["true_px"]) / (11 * 16 if chance["id"].startswith("c1") else 10 * 16)
    # As many pixels as the phrase got, which here is the mask's own number: Dice, recall and pointing are the share.
    for name in ("dice", "recall", "pointing"):
        assert float(chance[name]) == pytest.approx(share)
    everything = next(row for row in rows if row["method"] == "everything")
    assert float(everything["recall"]) == 1 and float(everything["iou"]) == pytest.approx(share)


def test_each_half_of_val_is_scored_at_the_threshold_of_the_other(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps of one half are high, those of the other low: at the other's threshold one half is all, one nothing."""
    half = patient_halves([f"p{i}" for i in range(8)], 0)

    def similarity(self: KnownGrounder, phrase: str, sigma: float, how: str) -> Any:
        size = self.image.pixels.shape
        inside, outside = (0.6, -0.4) if half[size[0] - 10] else (-0.6, -0.9)
        return np.where(part(size, phrase), np.float32(inside), np.float32(outside))

    monkeypatch.setattr(KnownGrounder, "similarity", similarity)
    grounding("run", manifest_of(films), target="spot", out=films / "out")
    with (films / "out" / "cases.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "phrase"]
    assert len(rows) == 12
    for row in rows:
        high = half[int(row["patient"][1:])]
        assert float(row["threshold"]) == pytest.approx(-0.75 if high else 0.1, abs=0.01)
        assert float(row["recall"]) == (1 if high else 0)


def test_a_threshold_is_withheld_where_the_phrase_is_no_better_than_chance(films: Path) -> None:
    """Texts of the other side are low where the mask is: the best mask of all is the whole image."""
    manifest = manifest_of(films)
    opposite = {"left spot": "right spot", "right spot": "left spot", "": ""}
    rows = tuple(replace(row, text=opposite[row.text]) for row in manifest.records)
    wrong = replace(manifest, records=rows)
    found = grounding("run", wrong, target="spot").summary
    practice = found["published_practice"]
    assert found["threshold"] is None and practice["threshold"] is None
    assert "whole image" in found["threshold_withheld"] and "whole image" in practice["threshold_withheld"]
    own, everything = found["methods"]["phrase"], found["methods"]["everything"]
    assert own["dice"]["mean"] == pytest.approx(everything["dice"]["mean"]) and "withheld" in as_text(found)
    known = grounding("run", manifest_of(films), target="spot").summary
    assert known["threshold_withheld"] is None and known["published_practice"]["threshold"] is not None
    fixed = grounding("run", wrong, target="spot", threshold=0.0).summary
    assert fixed["threshold"] == 0.0  # a number that is given is the user's own


def test_test_is_scored_at_the_threshold_of_val_and_logged(films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    monkeypatch.setattr(module, "log_test", lambda model, record: logged.append((model, record.threshold)))
    found = grounding("run", manifest_of(films), target="spot", split="test").summary
    assert found["threshold"] == pytest.approx(0.1, abs=0.01)  # between -0.4 and 0.6
    assert found["threshold_source"] == "val: best Dice per case on 12 cases"
    assert logged == [("run", found["threshold"])] and found["metrics"]["dice"]["mean"] == 1
    fixed = grounding("run", manifest_of(films), target="spot", threshold=0.7).summary
    assert fixed["metrics"]["dice"]["mean"] == 0 == fixed["metrics"]["recall"]["mean"]
    assert fixed["threshold_source"] == "fixed" and fixed["metrics"]["pointing"]["mean"] == 1
    assert len(logged) == 1


def test_one_phrase_for_all_has_no_shuffled_control(films: Path) -> None:
    found = grounding("run", manifest_of(films), target="spot", phrase="strange left", threshold=0).summary
    assert set(found["methods"]) == {"phrase", "chance", "everything"} and found["num_cases"] == 13
    assert found["metrics"]["recall"]["mean"] == pytest.approx(5 / 13)  # the masks of the right are missed
    assert any("no control" in note for note in found["notes"]) and any("strange" in note for note in found["notes"])
    assert "1 distinct phrases were cut to 3 tokens" in found["notes"]
    other = grounding("run", manifest_of(films, text_column="other"), target="spot").summary
    assert other["num_cases"] == 13 and other["metrics"]["dice"]["mean"] == 1


def test_grounding_errors(films: Path) -> None:
    with refused("unknown"):
        grounding("run", manifest_of(films), target="lung")
    with refused("out_of_range"):
        grounding("run", manifest_of(films), target="spot", threshold=2)
    rows = (films / "manifest.csv").read_text().splitlines()
    (films / "manifest.csv").write_text("\n".join([rows[0], rows[1], rows[3], *rows[-8:]]) + "\n")
    with refused("empty"):
        grounding("run", manifest_of(films), target="spot")
    with refused("empty"):
        grounding("run", manifest_of(films), target="spot", split="test")


class KnownClassifier:
    """Probabilities by class and image; `strange` is a word it does not know."""

    def __init__(self, table: Mapping[str, Mapping[str, float]]) -> None:
        self.table, self.config = table, make_config({"task": "pretrain"})
        self.encoder = SimpleNamespace(
            unknown_words=lambda texts: {"strange": 1} if any("strange" in t for t in texts) else {},
            tokenize=lambda texts: SimpleNamespace(num_truncated=0),
        )
        self.asked: list[Mapping[str, PromptPair]] = []

    def set_image(self, path: Path) -> KnownClassifier:
        self.name = path.stem
        return self

    def classify(self, prompts: Mapping[str, PromptPair], temperature: str) -> dict[str, float]:
        self.asked.append(prompts)
        return {name: self.table[self.name][name] for name in prompts}

    def ensemble(self, texts: Any) -> Any:
        return torch.tensor([float(len(texts[0])), 1.0])


TABLE = {  # a separates val at 0.5 < t <= 0.6 and test only in its order; b is unknown for half of the images
    "v0": {"a": 0.9, "b": 0.1}, "v1": {"a": 0.6, "b": 0.9}, "v2": {"a": 0.5, "b": 0.2}, "v3": {"a": 0.1, "b": 0.8},
    "t0": {"a": 0.55, "b": 0.1}, "t1": {"a": 0.45, "b": 0.7}, "t2": {"a": 0.3, "b": 0.6}, "t3": {"a": 0.2, "b": 0.4},
}  # fmt: skip
LABELS = {"v0": "a", "v1": "a|b", "v2": "", "v3": "", "t0": "a", "t1": "a", "t2": "No Finding", "t3": "No Finding"}
UNKNOWN = {"v2": "b", "t0": "b", "t3": "b | c"}


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = ["id,image,labels,labels_unknown,patient,split"]
    for i, name in enumerate(TABLE):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
        split = "val" if name[0] == "v" else "test"
        lines.append(f"{name},{name}.png,{LABELS[name] or 'none'},{UNKNOWN.get(name, '')},p{i},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    known = KnownClassifier(TABLE)
    monkeypatch.setattr(classes_module.ZeroShot, "load", classmethod(lambda cls, folder, device="cpu": known))
    monkeypatch.setattr(classes_module, "weights_hash", lambda model: "hash")
    monkeypatch.setattr(classes_module, "seen_images", lambda model, records: None)
    monkeypatch.setattr(classes_module, "log_test", lambda model, record: (tmp_path / "logged").touch())
    return tmp_path


def classified(folder: Path, **options: Any) -> dict[str, Any]:
    return zero_shot_classification("run", load_manifest(folder / "manifest.csv"), load_prompts(), **options).summary


def test_labels_missing_undefined_and_both_thresholds(labelled: Path) -> None:
    found = classified(labelled, split="test", classes=["a", "b"], threshold_from="val", out=labelled / "out")
    assert (labelled / "logged").is_file()
    a, b = found["by_class"]["a"], found["by_class"]["b"]
    assert (a["num"], a["num_positive"], a["auc"]["mean"]) == (4, 2, 1)
    assert (b["num"], b["num_positive"], b["auc"]["mean"]) == (2, 0, None)  # t0 and t3 are not known
    assert found["num_missing"] == {"a": 0, "b": 2}
    assert found["undefined"]["auc"] == ["b"] and found["metrics"]["auc"]["mean"] == 1
    assert found["metrics"]["auc"]["num"] == 1  # never averaged in
    chosen = found["decisions"]["threshold chosen on val (4 images)"]["max f1"]["by_class"]["a"]
    assert chosen["threshold"] == pytest.approx(0.55) and chosen["sensitivity"]["mean"] == 0.5
    assert chosen["f1"]["mean"] == pytest.approx(2 / 3) and chosen["accuracy"]["mean"] == 0.75
    published = found["decisions"]["threshold chosen on test, published practice"]
    assert published["max f1 (MedKLIP)"]["by_class"]["a"]["f1"]["mean"] == 1
    assert published["max mcc (KAD)"]["by_class"]["a"]["threshold"] == pytest.approx(0.375)
    assert published["max mcc (KAD)"]["by_class"]["b"]["mcc"]["mean"] is None
    with (labelled / "out" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label_b"] for row in rows] == ["", "0", "0", ""] and rows[0]["prob_a"] == "0.55"
    assert json.loads((labelled / "out" / "summary.json").read_text()) == found
    text = classes_as_text(found, labelled / "out")
    for told in ("not in the mean: b", "threshold chosen on test, published practice", "threshold chosen on val"):
        assert told in text


def test_thresholds_come_from_val_unless_said_and_need_one(labelled: Path) -> None:
    lines = (labelled / "manifest.csv").read_text().splitlines()
    (labelled / "manifest.csv").write_text("\n".join([lines[0], *lines[5:]]) + "\n")
    with refused("empty"):
        classified(labelled, split="test", classes=["a"])
    assert classified(labelled, split="test", classes=["a"], threshold_from="fixed")["threshold"] == 0.5


def test_val_decides_about_each_half_by_the_other(labelled: Path) -> None:
    labels, probs = np.array([1, 1, 0, 0]), np.array([0.9, 0.6, 0.5, 0.1])
    halves = {seed: patient_halves(["p0", "p1", "p2", "p3"], seed) for seed in range(50)}
    seed = next(seed for seed, half in halves.items() if half.tolist() == [True, False, True, False])
    found = classified(labelled, classes=["a"], threshold_from="val", seed=seed)
    assert not (labelled / "logged").exists()
    name, practice = found["decisions"]
    assert practice == "threshold chosen on val, published practice"
    assert name == "threshold chosen on the other half of the val patients"
    row = found["decisions"][name]["max f1"]["by_class"]["a"]
    assert row["threshold"] == pytest.approx([0.35, 0.7])  # middles of v1, v3 for v0, v2, and of v0, v2 for v1, v3
    right = (probs >= np.where(halves[seed], 0.35, 0.7)) == labels
    assert row["accuracy"]["mean"] == right.mean() == 0.5


@pytest.mark.parametrize("seed", range(8))
def test_a_half_without_positives_decides_nothing(labelled: Path, seed: int) -> None:
    found = classified(labelled, classes=["a"], threshold_from="val", seed=seed)
    half = patient_halves(["p0", "p1", "p2", "p3"], seed)
    row = found["decisions"]["threshold chosen on the other half of the val patients"]["max mcc"]["by_class"]["a"]
    mixed = half[:2].sum() == 1
    assert (row["mcc"]["mean"] is not None) == mixed == all(t is not None for t in row["threshold"])


def test_classes_by_default_and_by_name(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {name: {**row, "c": 0.5} for name, row in TABLE.items()}
    classes_module.ZeroShot.load("run").table = table  # type: ignore[attr-defined]
    found = classified(labelled, threshold_from="fixed", rules=["mcc"])
    assert list(found["by_class"]) == ["a", "b", "c"] and "threshold 0.5" in found["decisions"]
    assert list(found["decisions"]["threshold chosen on val, published practice"]) == ["max mcc (KAD)"]
    assert found["prompts"]["a"] == {"positive": ["a"], "negative": ["no a"]}
    assert found["by_class"]["c"]["auc"]["mean"] is None and "c" in found["undefined"]["auc"]
    assert "class No Finding is left out" in capsys.readouterr().err
    for classes, kind in ((["A"], "unknown"), (["a", "a"], "duplicate"), (["No Finding"], "malformed"), ([], "empty")):
        with refused(kind):
            classified(labelled, classes=classes)


def test_without_labels_there_are_probabilities_only(labelled: Path) -> None:
    rows = [line.split(",") for line in (labelled / "manifest.csv").read_text().splitlines()]
    (labelled / "manifest.csv").write_text("\n".join(",".join([*r[:2], *r[4:]]) for r in rows) + "\n")
    with refused("empty"):
        classified(labelled)
    found = classified(labelled, classes=["a"], out=labelled / "out")
    assert found["by_class"] == {} and "nothing is scored" in found["notes"][0] and "note: " in classes_as_text(found)
    assert (labelled / "out" / "cases.csv").read_text().splitlines()[1] == "v0,v0.png,p0,val,0.9,"


def test_an_image_in_several_rows_is_one_case(labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (labelled / "manifest.csv").open("a") as file:
        file.write("v2again,v2.png,b,,p2,val\nv3again,v3.png,none,a,p3,val\n")
    found = classified(labelled, classes=["a", "b"])
    assert found["num_cases"] == 4 and "2 images stand in rows of different labels" in capsys.readouterr().err
    assert found["by_class"]["b"]["num"] == 4 and found["by_class"]["b"]["num_positive"] == 2  # v2 too
    assert found["num_missing"] == {"a": 1, "b": 0}
