"""Comparisons of what has no masks, of several tasks at once, and the picture of the same cases."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from matplotlib.figure import Figure
from PIL import Image

from medvl.config import config_dict, make_config
from medvl.data.image import Orientation, Turn
from medvl.data.record import Manifest
from medvl.evaluation import case_drawing, side_by_side
from medvl.evaluation.compare import compare
from medvl.evaluation.comparison_metrics import bootstrap_p
from medvl.evaluation.comparison_tables import as_text
from medvl.evaluation.prediction_sources import FolderSource
from medvl.evaluation.scored_runs import read_run
from medvl.evaluation.side_by_side import pick_keys
from medvl.metrics.classification import auc, average_precision, multilabel_metrics
from medvl.tasks.segment.evaluate import evaluate

from .conftest import PHRASES, lung

LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [1, math.nan, 0], [0, 1, 0]])  # "c" has no positive
PATIENTS = ("p0", "p0", "p1", "p2", "p3", "p4")
RNG = np.random.default_rng(0)
GOOD = np.clip(np.nan_to_num(LABELS) * 0.4 + RNG.uniform(0.1, 0.5, LABELS.shape), 0, 1).round(3)
POOR = RNG.uniform(0, 1, LABELS.shape).round(3)


def folder(place: Path, task: str, rows: list[dict[str, Any]], seed: int = 0, lr: float = 1e-3, **more: Any) -> str:
    """An evaluation folder as `medvl evaluate`, `classify`, `ground` write it."""
    place.mkdir(parents=True)
    with (place / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    config = config_dict(make_config({"train": {"seed": seed, "lr": lr}}))
    summary = {
        "format": "medvl-evaluation/2", "evaluation": task, "model": "gone", "manifest": "set.csv", "split": "val",
        "config": config,
    }  # fmt: skip
    summary |= {"manifest_hash": "a", "split_hash": "b", "threshold": 0.5, "threshold_source": "fixed", "seed": seed}
    (place / "summary.json").write_text(json.dumps(summary | more))
    return str(place)


def labelled(place: Path, probs: np.ndarray, task: str = "classify", truth: np.ndarray = LABELS, **more: Any) -> str:
    prefix = "prob_"
    rows = []
    for i, (row, known) in enumerate(zip(probs, truth, strict=True)):
        cells: dict[str, Any] = {"id": f"c{i}", "patient": PATIENTS[i], "split": "val"}
        cells |= {f"{prefix}{name}": p for name, p in zip("abc", row, strict=True)}
        rows.append(cells | {f"label_{n}": "" if math.isnan(y) else int(y) for n, y in zip("abc", known, strict=True)})
    return folder(place, task, rows, **({"labels": "multilabel"} if task == "classify" else {}) | more)


def test_areas_are_those_of_the_evaluation_and_differences_are_paired(tmp_path: Path) -> None:
    runs = [labelled(tmp_path / "good", GOOD), labelled(tmp_path / "poor", POOR, lr=1.0)]
    result = compare(runs, out=tmp_path / "out")
    assert result["task"] == "classify" and list(result["titles"]) == [
        "macro_auc", "macro_average_precision", "auc_a", "auc_b",
    ]  # fmt: skip
    for method, probs in zip(result["methods"], (GOOD, POOR), strict=True):
        own = [auc(probs[:, k], LABELS[:, k]) for k in (0, 1)]
        assert [method["metrics"][f"auc_{name}"]["mean"] for name in "ab"] == pytest.approx(own)
        assert method["metrics"]["macro_auc"]["mean"] == pytest.approx(np.mean(own))  # "c" has no part in it
        precision = np.mean([average_precision(probs[:, k], LABELS[:, k]) for k in (0, 1)])
        assert method["metrics"]["macro_average_precision"]["mean"] == pytest.approx(precision)
        # Same draws as the evaluation of one model: same interval.
        alone = multilabel_metrics(probs, LABELS, PATIENTS, list("abc"))["by_class"]["a"]["auc"]
        assert method["metrics"]["auc_a"]["lo"] == pytest.approx(alone["lo"])
        assert method["metrics"]["auc_a"]["hi"] == pytest.approx(alone["hi"])
    first, second = (method["metrics"]["macro_auc"] for method in result["methods"])
    assert first["difference"] is None and second["difference"]["mean"] == pytest.approx(second["mean"] - first["mean"])
    assert second["p"] <= second["p_holm"] <= 1 and result["test"]["family"] == 3
    assert any("no AUC, not in any mean" in note and note.endswith(": c") for note in result["notes"])
    assert "Macro AUC (mean over 2 classes)" in as_text(result, tmp_path / "out")
    assert "AUC of a (3 positive)" in (tmp_path / "out" / "compare.html").read_text()
    same = compare([runs[0], labelled(tmp_path / "same", GOOD, lr=1.0)])["methods"][1]["metrics"]["macro_auc"]
    assert (same["difference"]["lo"], same["difference"]["hi"], same["p"]) == (0, 0, 1)


def test_the_means_that_are_tested_are_of_classes_with_an_interval(tmp_path: Path) -> None:
    truth = LABELS.copy()
    truth[:, 2] = [1, 1, 0, 0, 0, 0]  # both of one patient
    runs = [labelled(tmp_path / "good", GOOD, truth=truth), labelled(tmp_path / "poor", POOR, truth=truth, lr=1.0)]
    result = compare(runs, out=tmp_path / "out")
    for method, probs in zip(result["methods"], (GOOD, POOR), strict=True):
        own = [auc(probs[:, k], truth[:, k]) for k in range(3)]
        metrics = method["metrics"]
        assert metrics["macro_auc"]["mean"] == pytest.approx(np.mean(own)) and metrics["macro_auc"]["lo"] is None
        assert metrics["auc_c"]["lo"] is None and metrics["auc_b"]["lo"] is not None
        some = metrics["macro_auc_with_interval"]
        alone = multilabel_metrics(probs, truth, PATIENTS, list("abc"))["macro_with_interval"]["auc"]
        assert alone["classes"] == ["a", "b"] and some["mean"] == pytest.approx(np.mean(own[:2]))
        assert (some["lo"], some["hi"]) == pytest.approx((alone["lo"], alone["hi"]))
    assert result["tested"] == ["macro_auc_with_interval", "auc_a", "auc_b", "auc_c"]
    tested = result["methods"][1]["metrics"]
    assert 0 < tested["macro_auc_with_interval"]["p"] <= 1 and tested["auc_c"]["p"] is None
    assert "Macro AUC (mean over the 2 classes with an interval)" in as_text(result, tmp_path / "out")
    assert any(note.startswith("no interval") and note.endswith(": c") for note in result["notes"])


def test_the_seeds_of_a_method_are_averaged(tmp_path: Path) -> None:
    runs = [labelled(tmp_path / "good", GOOD), labelled(tmp_path / "again", POOR, seed=1)]
    result = compare([*runs, labelled(tmp_path / "poor", POOR, lr=1.0)])
    found = result["methods"][0]["metrics"]["macro_auc"]
    assert result["methods"][0]["num_seeds"] == 2 and found["mean"] == pytest.approx(np.mean(found["by_seed"]))
    assert found["by_seed"][1] == result["methods"][1]["metrics"]["macro_auc"]["mean"]


def test_accuracy_is_compared_where_an_image_has_one_label(tmp_path: Path) -> None:
    rows = []
    for i in range(4):
        probs, truth = ([0.9, 0.1], [1, 0]) if i < 3 else ([0.8, 0.2], [0, 1])
        rows.append({"id": f"c{i}", "patient": f"p{i}", "prob_a": probs[0], "prob_b": probs[1]})
        rows[-1] |= {"label_a": truth[0], "label_b": truth[1]}
    one = folder(tmp_path / "one", "classify", rows, labels="multiclass")
    rows[3] |= {"prob_a": 0.3, "prob_b": 0.7}
    two = folder(tmp_path / "two", "classify", rows, lr=1.0, labels="multiclass")
    result = compare([one, two])
    assert [method["metrics"]["accuracy"]["mean"] for method in result["methods"]] == [0.75, 1.0]


@pytest.mark.parametrize("changes", [{"split_hash": "x"}, {"manifest_hash": "x"}, {"labels": "multiclass"}])
def test_classifiers_of_another_set_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    runs = [labelled(tmp_path / "good", GOOD), labelled(tmp_path / "poor", POOR, lr=1.0, **changes)]
    with refused("mismatch"):
        compare(runs)


def test_other_labels_and_other_classes_are_refused(tmp_path: Path) -> None:
    runs = [labelled(tmp_path / "good", GOOD), labelled(tmp_path / "poor", POOR, lr=1.0)]
    path = Path(runs[1]) / "cases.csv"
    path.write_text(path.read_text().replace("label_c", "label_d").replace("prob_c", "prob_d"))
    with refused("mismatch"):
        compare(runs)
    path.write_text((Path(runs[0]) / "cases.csv").read_text().replace(",1,0,0", ",0,1,0", 1))
    with refused("mismatch"):
        compare(runs)


def grounded(place: Path, dice: list[float], **more: Any) -> str:
    rows = [
        {"id": f"c{i}", "patient": f"p{i // 2}", "method": method, "text": "here", "threshold": 0.1}
        | {"dice": value if method == "phrase" else 0, "iou": value / 2, "recall": value, "pointing": float(i == 0)}
        | {"true_px": 5}
        for i, value in enumerate(dice)
        for method in ("phrase", "chance")
    ]
    return folder(place, "ground", rows, grid="native", target="mask", phrase="the record's text", **more)


def detected(place: Path, found: list[tuple[int, int, int, str]], **more: Any) -> str:
    rows = [
        {"id": f"c{i}", "patient": f"p{i}", "num_true": true, "num_pred": pred, "matched50": hit, "ap": ap}
        for i, (true, pred, hit, ap) in enumerate(found)
    ]
    return folder(place, "detect", rows, grid="native", classes=["lung"], **more)


def test_phrases_and_boxes_by_hand(tmp_path: Path) -> None:
    runs = [grounded(tmp_path / "a", [0.2, 0.4, 0.6]), grounded(tmp_path / "b", [0.2, 0.4, 0.9], lr=1.0)]
    result = compare(runs)
    first, second = (method["metrics"] for method in result["methods"])
    assert (first["dice"]["mean"], second["dice"]["mean"]) == (pytest.approx(0.4), pytest.approx(0.5))
    assert first["pointing"]["mean"] == pytest.approx(1 / 3) and second["dice"]["p"] == 1.0  # one of two patients
    boxes = [
        detected(tmp_path / "c", [(2, 3, 1, "0.5"), (0, 1, 0, ""), (2, 0, 0, "0.0")]),
        detected(tmp_path / "d", [(2, 2, 2, "1.0"), (0, 0, 0, ""), (2, 2, 1, "0.5")], lr=1.0),
    ]
    result = compare([*runs, *boxes], out=tmp_path / "out")
    assert list(result["tasks"]) == ["ground", "detect"] and "metrics" not in result
    first, second = (method["metrics"] for method in result["tasks"]["detect"]["methods"])
    assert [first[name]["mean"] for name in ("ap", "recall50", "precision50")] == [0.25, 0.25, 0.25]
    assert [second[name]["mean"] for name in ("ap", "recall50", "precision50")] == [0.75, 0.75, 0.75]
    assert result["tasks"]["ground"]["methods"][1]["metrics"]["dice"]["mean"] == pytest.approx(0.5)
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.html")}
    assert written == {"ground/compare.html", "detect/compare.html"}
    assert "nothing is averaged over tasks" in as_text(result, tmp_path / "out")
    result = compare([*runs, boxes[0]], out=tmp_path / "alone", pictures=True)
    assert result["tasks"]["ground"]["methods"][1]["metrics"]["dice"]["difference"] is not None
    alone = result["tasks"]["detect"]
    assert [one["metrics"]["ap"]["mean"] for one in alone["methods"]] == [0.25] and alone["test"]["family"] == 0
    assert alone["notes"][0].endswith("is the only method of this task: no differences and no tests")
    assert not any("p of" in note for note in alone["notes"]) and "p of" in str(result["tasks"]["ground"]["notes"])
    assert "(reference)" in as_text(alone, tmp_path) and (tmp_path / "alone" / "detect" / "compare.html").is_file()
    with refused("mismatch"):
        compare([runs[0], grounded(tmp_path / "e", [0.2, 0.4, 0.6], lr=1.0) and _edit(tmp_path / "e")])


def test_another_split_is_named_with_several_tasks_too(tmp_path: Path) -> None:
    runs = [grounded(tmp_path / "val", [0.2, 0.4]), grounded(tmp_path / "test", [0.2, 0.4], split="test")]
    classifiers = [labelled(tmp_path / "good", GOOD), labelled(tmp_path / "poor", POOR, lr=1.0)]
    with refused("mismatch"):
        compare([*runs, *classifiers])
    with refused("mismatch"):
        compare([str(tmp_path / "no_run"), runs[1]])  # before anything else is opened, and perhaps evaluated
    other = grounded(tmp_path / "other", [0.2, 0.4], manifest_hash="x")
    with refused("mismatch"):
        compare([runs[0], other, *classifiers])


def test_what_was_asked_makes_a_method(tmp_path: Path) -> None:
    def prompted(name: str, word: str, **more: Any) -> str:
        asked = {"a": {"positive": [word], "negative": [f"no {word}"]}}
        told = {"prompts": asked, "prompt_family": "own", "temperature": 0.07}
        return labelled(tmp_path / name, GOOD if word == "x" else POOR, "zero-shot classify", **told | more)

    result = compare([prompted("one", "x"), prompted("two", "y"), prompted("three", "x", seed=1)])
    assert [method["num_seeds"] for method in result["methods"]] == [2, 1]
    names = [method["name"] for method in result["methods"]]
    assert all(name.startswith("prompts=own ") for name in names) and names[0] != names[1]
    assert list(result["settings"]) == ["asked.prompts"]
    warm = compare([prompted("four", "x"), prompted("five", "x", temperature=1.0)])
    assert warm["settings"] == {"asked.temperature": ["0.07", "1.0"]}
    ways = [
        grounded(tmp_path / f"g{i}", [0.2, 0.4, 0.6], how=how, sigma_cells=sigma)
        for i, (how, sigma) in enumerate((("value", 1.5), ("projector", 1.5), ("value", 0.0)))
    ]
    asked = compare(ways)
    assert asked["settings"] == {
        "asked.how": ["value", "projector", "value"], "asked.sigma_cells": ["1.5", "1.5", "0.0"],
    }  # fmt: skip
    with refused("duplicate"):
        compare([ways[0], grounded(tmp_path / "again", [0.2, 0.4, 0.6], how="value", sigma_cells=1.5)])


def test_trained_and_prompted_classifiers_stand_in_one_table(tmp_path: Path) -> None:
    told: dict[str, Any] = {"prompts": {}, "prompt_family": "own", "temperature": 1.0}
    trained = labelled(tmp_path / "tuned", GOOD)
    asked = labelled(tmp_path / "asked", POOR, "zero-shot classify", lr=1.0, **told)
    result = compare([trained, asked], names=["tuned", "asked"], out=tmp_path / "out")
    assert result["task"] == "classify and prompts" and "threshold" in result
    for method, probs in zip(result["methods"], (GOOD, POOR), strict=True):
        assert method["metrics"]["auc_a"]["mean"] == pytest.approx(auc(probs[:, 0], LABELS[:, 0]))
    assert 0 < result["methods"][1]["metrics"]["macro_auc"]["p"] <= 1
    assert (tmp_path / "out" / "compare.html").is_file()
    assert result["settings"]["asked.prompts"][0] == "none" and result["settings"]["asked.prompts"][1][:4] == "own "
    elsewhere = labelled(tmp_path / "elsewhere", POOR, "zero-shot classify", manifest_hash="x", **told)
    with refused("mismatch"):
        compare([trained, elsewhere])
    two = [labelled(tmp_path / "poor", POOR, lr=2.0), labelled(tmp_path / "also", GOOD, "zero-shot classify",
           manifest_hash="x", lr=3.0, **told)]  # fmt: skip
    apart = compare([trained, elsewhere, *two])
    assert list(apart["tasks"]) == ["classify", "zero-shot classify"]  # of two sets: a table each


def _edit(place: Path) -> str:
    path = place / "summary.json"
    path.write_text(path.read_text().replace('"target": "mask"', '"target": "lesion"'))
    return str(place)


def test_bootstrap_p_by_hand() -> None:
    assert bootstrap_p(np.array([1.0, 2.0, 3.0, -1.0, math.nan])) == pytest.approx(2 * 2 / 5)
    assert bootstrap_p(np.zeros(4)) == 1.0 and math.isnan(bootstrap_p(np.array([math.nan])))


# --- the picture


def test_cases_are_the_worst_the_median_and_the_best(tmp_path: Path) -> None:
    run = read_run("a", Path(grounded(tmp_path / "a", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])))
    values = {key: case.values[0] for key, case in run.cases.items()}
    groups = [(name, [key[0] for key in keys]) for name, keys in pick_keys(values, seed=0, each=1)]
    assert groups == [("worst", ["c0"]), ("median", ["c3"]), ("best", ["c7"])]
    two = [[key[0] for key in keys] for _, keys in pick_keys(values, seed=0, each=2)]
    assert two == [["c0", "c1"], ["c3", "c4"], ["c7", "c6"]]  # whatever their patients
    equal = dict.fromkeys(values, 0.5)
    first, again, other = (pick_keys(equal, seed=seed, each=2) for seed in (3, 3, 4))
    assert first == again != other


def masks_of(manifest: Manifest, place: Path, answer: str | None) -> str:
    """An evaluation of masks that say `answer` to every phrase (None: the true ones)."""
    (place / "masks").mkdir(parents=True)
    for record in manifest.records:
        mask = lung(record.text if answer is None else answer)
        Image.fromarray(mask.astype(np.uint8) * 255).save(place / "masks" / f"{record.id}.png")
    evaluate(FolderSource(place / "masks"), manifest, out=place / "val", surface=False)
    return str(place / "val")


def test_masks_side_by_side(phrases: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "EACH", 1)
    runs = [masks_of(phrases, tmp_path / "both", "both"), masks_of(phrases, tmp_path / "true", None)]
    out = tmp_path / "out"
    result = compare(runs, out=out, names=["both", "true"], pictures=True)
    picture = Image.open(out / "cases.png").convert("RGB")
    colours = {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3)[::3].tolist()}
    assert any(g > r + 60 and b > r + 60 for r, g, b in colours)  # the contour of the truth
    assert any(r > b + 60 and r > g + 20 for r, g, b in colours)  # and of the predictions
    told = result["pictures"]
    assert told["num_cases"] == 3 and told["contains_text"] and not told["left_out"]
    assert {case["group"] for case in told["cases"]} == {"worst", "median", "best"}
    page = (out / "compare.html").read_text()
    assert "data:image/png;base64," in page and "contains its texts" in page
    assert not any(phrase in page for phrase in PHRASES)  # they are pixels of the picture
    for path in (tmp_path / "both" / "masks").iterdir():
        path.unlink()
    names = {"names": ["both", "true"], "reference": "true"}
    gone = compare(runs, out=tmp_path / "gone", pictures=True, include_text=False, **names)["pictures"]
    assert list(gone["left_out"]) == ["both"] and gone["num_cases"] == 3 and not gone["contains_text"]
    assert "contains its texts" not in (tmp_path / "gone" / "compare.html").read_text()


def test_pictures_in_standard_display(phrases: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks and boxes of a mirrored image are turned with it."""
    axes = Figure().subplots()
    record, turned = phrases.records[0], Orientation(Turn(left_right=True), "standard", "R\\F")
    monkeypatch.setattr(case_drawing, "image_orientation", lambda path: turned)
    mask = lung("left lung")
    case_drawing.draw_mask(axes, record, mask, "#00ff00", 1, filled=True)
    shade = np.asarray(axes.images[0].get_array())[:, :, 3] > 0
    assert (shade == mask[:, ::-1]).all()
    case_drawing.draw_box(axes, record, (36, 8, 54, 32), "#00ff00")
    (box,) = axes.patches
    assert np.allclose(box.get_corners()[[0, 2]] + 0.5, [[mask.shape[1] - 54, 8], [mask.shape[1] - 36, 32]])


def test_labels_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "EACH", 1)
    rows = ["id,image,labels,patient,split"]
    for i in range(6):
        Image.fromarray(np.full((16, 16), 40 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"c{i},{i}.png,a,{PATIENTS[i]},val")
    (tmp_path / "set.csv").write_text("\n".join(rows) + "\n")
    where = {"manifest": str(tmp_path / "set.csv")}
    runs = [labelled(tmp_path / "good", GOOD, **where), labelled(tmp_path / "poor", POOR, lr=1.0, **where)]
    result = compare(runs, out=tmp_path / "out", pictures=True)
    assert result["pictures"]["num_cases"] == 3 and not result["pictures"]["contains_text"]
    assert "mean |score - label|" in result["pictures"]["what"]
    assert Image.open(tmp_path / "out" / "cases.png").size[0] > 600
    moved = compare([labelled(tmp_path / "x", GOOD), labelled(tmp_path / "y", POOR, lr=1.0)], out=tmp_path / "z")
    assert "pictures" not in moved and not (tmp_path / "z" / "cases.png").exists()
