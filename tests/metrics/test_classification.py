"""Classification metrics against brute force, and their intervals by patient."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.evaluation.report.classification_figures import confusion_svg, pr_svg, reliability_svg, roc_svg
from medvl.metrics import classification as c
from medvl.metrics.exclusive_classes import multiclass_metrics
from medvl.metrics.statistics import mean_interval, ratio_intervals

cases = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25)


def split_up(rows: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([r[0] / 6 for r in rows]), np.array([float(r[1]) for r in rows])


def brute_auc(score: np.ndarray, label: np.ndarray) -> float:
    pairs = list(product(score[label == 1], score[label == 0]))
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else math.nan


def brute_ap(score: np.ndarray, label: np.ndarray) -> float:
    if not label.sum():
        return math.nan
    total, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        above = score >= threshold
        recall = label[above].sum() / label.sum()
        total += (recall - before) * label[above].mean()
        before = recall
    return total


def brute_quality(score: np.ndarray, label: np.ndarray, threshold: float, by: str) -> float:
    above, true = score >= threshold, label == 1
    tp, fp, fn, tn = (above & true).sum(), (above & ~true).sum(), (~above & true).sum(), (~above & ~true).sum()
    if by == "f1":
        return 2 * tp / (2 * tp + fp + fn)
    root = math.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    return (tp * tn - fp * fn) / root if root else 0.0


@settings(max_examples=60, deadline=None)
@given(cases)
def test_auc_and_average_precision_are_those_of_all_pairs_and_thresholds(rows: list[tuple[int, bool]]) -> None:
    score, label = split_up(rows)
    assert c.auc(score, label) == pytest.approx(brute_auc(score, label), abs=1e-12, nan_ok=True)
    assert c.average_precision(score, label) == pytest.approx(brute_ap(score, label), abs=1e-12, nan_ok=True)
    found = c.binary_metrics(score, label, [str(i) for i in range(len(score))], num_draws=1)["auc"]["mean"]
    assert (math.nan if found is None else found) == pytest.approx(brute_auc(score, label), abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from(["f1", "mcc"]))
def test_no_threshold_is_better_than_the_best_one(rows: list[tuple[int, bool]], by: c.By) -> None:
    score, label = split_up(rows)
    found = c.best_threshold(score, label, by)
    if len(set(label)) < 2:
        assert math.isnan(found)
        return
    qualities = [brute_quality(score, label, value, by) for value in (*score, 2.0)]
    if by == "mcc" and max(qualities) <= 0:
        return  # nothing is better than predicting nothing
    assert brute_quality(score, label, found, by) == pytest.approx(max(qualities))


def test_a_threshold_lies_between_neighbouring_scores_even_of_floating_point() -> None:
    assert c.best_threshold([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]) == pytest.approx(0.4)
    above = np.nextafter(0.5, 1)
    assert c.best_threshold([0.5, above], [0, 1]) == above
    with pytest.raises(ValueError):
        c.best_threshold([0.1, 0.2], [0, 1], by="accuracy")  # type: ignore[arg-type]


def example(num: int = 80, seed: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    label = (rng.random(num) < 0.3).astype(float)
    score = np.round(np.clip(0.3 * label + 0.7 * rng.random(num), 0, 1), 2)
    return score, label, [f"p{i // 2}" for i in range(num)]


def resampled_rows(patients: list[str], num: int) -> list[list[int]]:
    """The rows of each draw of patients, from seed 1."""
    names = sorted(set(patients))
    rows = [[i for i, patient in enumerate(patients) if patient == name] for name in names]
    picks = np.random.default_rng(1).integers(len(names), size=(num, len(names)))
    return [[i for k in pick for i in rows[k]] for pick in picks]


def test_threshold_metrics_and_calibration_by_hand() -> None:
    score, label, patients = example()
    found = c.binary_metrics(score, label, patients, 0.5)
    above = score >= 0.5
    assert found["num"] == 80 and found["num_positive"] == label.sum() and found["threshold"] == 0.5
    assert found["sensitivity"]["mean"] == pytest.approx(above[label == 1].mean())
    assert found["specificity"]["mean"] == pytest.approx((~above)[label == 0].mean())
    assert found["specificity"]["num"] == (label == 0).sum()
    for name in ("f1", "mcc"):
        assert found[name]["mean"] == pytest.approx(brute_quality(score, label, 0.5, name))
    assert found["brier"]["mean"] == pytest.approx(((score - label) ** 2).mean())
    place = np.minimum((score * 15).astype(int), 14)
    ece = sum(abs((score - label)[place == k].sum()) for k in range(15)) / len(score)
    assert found["ece"]["mean"] == pytest.approx(ece)
    mean, share, num = c.reliability(score, label)
    assert np.nansum(num * np.abs(mean - share)) / num.sum() == pytest.approx(ece)
    for name in c.METRICS:
        assert found[name]["lo"] <= found[name]["mean"] <= found[name]["hi"] or name == "ece"
    found = c.binary_metrics(score, label, patients, 0.5, seed=7)  # the intervals are those of the common bootstrap
    right = (above == label).astype(float)
    assert found["accuracy"] == pytest.approx(mean_interval(right, patients, seed=7).to_dict())
    tops, bottoms = 2 * above * label, 2 * above * label + 1 - right
    f1 = ratio_intervals(tops[:, None], bottoms[:, None], patients, seed=7)[0].to_dict()
    assert found["f1"] == pytest.approx(f1)


def test_the_last_two_of_the_fifteen_bins_are_two_and_a_certainty_lies_in_the_last() -> None:
    found = c.binary_metrics([0.9, 0.95, 1.0], [0, 1, 1], ["a", "b", "c"], num_draws=1)  # 14/15 = 0.933
    assert found["ece"]["mean"] == pytest.approx((0.9 + (0.05 + 0.0)) / 3)


def test_the_interval_of_the_auc_is_that_of_resampled_patients() -> None:
    score, label, patients = example(40)
    found = c.binary_metrics(score, label, patients, num_draws=200, seed=1)
    for name, brute in (("auc", brute_auc), ("average_precision", brute_ap)):
        draws = [brute(score[i], label[i]) for i in resampled_rows(patients, 200)]
        assert (found[name]["lo"], found[name]["hi"]) == pytest.approx(tuple(np.nanpercentile(draws, [2.5, 97.5])))


def test_without_two_patients_of_each_kind_there_is_no_interval() -> None:
    found = c.binary_metrics([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], ["a", "a", "b", "c"], 0.5)
    assert found["auc"] == {"mean": 1.0, "lo": None, "hi": None, "num": 4}
    assert found["accuracy"]["lo"] == 1.0 and found["specificity"]["lo"] == 1.0
    alone = c.binary_metrics([0.9, 0.1], [1, 0], ["a", "a"], 0.5)
    assert alone["accuracy"] == {"mean": 1.0, "lo": None, "hi": None, "num": 2}


def test_missing_labels_are_not_scored_and_scores_that_are_no_probabilities_have_no_calibration() -> None:
    score, label, patients = example()
    with_gaps = np.where(np.arange(80) % 4 == 0, np.nan, label)
    known = ~np.isnan(with_gaps)
    found = c.binary_metrics(np.where(known, score, np.nan), with_gaps, patients, 0.5, num_draws=10)
    assert found["num"] == 60
    assert found["auc"]["mean"] == pytest.approx(c.auc(score[known], label[known]))
    cosine = c.binary_metrics(2 * score - 3, label, patients, num_draws=10)
    assert cosine["ece"]["mean"] is None and cosine["brier"]["mean"] is None and cosine["f1"]["mean"] is None
    assert cosine["auc"]["mean"] == pytest.approx(c.auc(score, label))
    with refused("not_finite"):
        c.binary_metrics([math.nan], [1.0], ["a"])
    with pytest.raises(ValueError):
        c.binary_metrics([0.5], [0.5], ["a"])


def test_macro_leaves_undefined_classes_out_and_names_them() -> None:
    score, label, patients = example()
    scores, labels = np.stack([score, 1 - score, score], axis=1), np.stack([label, label, 0 * label], axis=1)
    found = c.multilabel_metrics(scores, labels, patients, ["a", "b", "never"], [0.5, 0.5, math.nan], num_draws=50)
    assert found["undefined"]["auc"] == ["never"] and found["undefined"]["accuracy"] == ["never"]
    assert found["by_class"]["never"]["threshold"] is None
    assert found["macro"]["auc"]["num"] == 2
    assert found["macro"]["auc"]["mean"] == pytest.approx(0.5)  # x and 1 - x
    assert found["macro"]["auc"]["lo"] == pytest.approx(0.5) and found["macro"]["auc"]["hi"] == pytest.approx(0.5)
    assert "brier" not in found["undefined"]


def test_the_macro_interval_is_of_the_classes_that_have_one_and_they_are_named() -> None:
    rng = np.random.default_rng(5)
    num, patients = 40, [f"p{i // 2}" for i in range(40)]
    labels = (rng.random((num, 4)) < 0.3).astype(float)
    labels[:, 1] = [i in (4, 5) for i in range(num)]  # one patient
    labels[:, 2] = 0
    labels[:, 3] = [i in (0, 9) for i in range(num)]  # two patients, so that some draws have neither
    scores = np.clip(0.3 * labels + 0.7 * rng.random((num, 4)), 0, 1)
    found = c.multilabel_metrics(scores, labels, patients, list("abcd"), num_draws=300, seed=1)
    areas = {name: brute_auc(scores[:, k], labels[:, k]) for k, name in enumerate("abcd") if name != "c"}
    assert found["macro"]["auc"]["mean"] == pytest.approx(np.mean(list(areas.values())))
    assert found["macro"]["auc"]["num"] == 3 and found["macro"]["auc"]["lo"] is None
    some = found["macro_with_interval"]["auc"]
    assert some["classes"] == ["a", "d"] and some["num"] == 2
    assert some["mean"] == pytest.approx((areas["a"] + areas["d"]) / 2)
    draws = [[brute_auc(scores[i, k], labels[i, k]) for k in (0, 3)] for i in resampled_rows(patients, 300)]
    known = np.array(draws)[~np.isnan(draws).any(axis=1)].mean(axis=1)
    assert 200 < len(known) < 300  # where "d" has no positive the mean of "a" alone is no draw of this mean
    assert (some["lo"], some["hi"]) == pytest.approx(tuple(np.percentile(known, [2.5, 97.5])))
    assert "ece" not in found["macro_with_interval"] and found["macro"]["ece"]["lo"] is not None
    whole = c.multilabel_metrics(scores[:, [0, 3]], labels[:, [0, 3]], patients, ["a", "d"], num_draws=300, seed=1)
    assert whole["macro_with_interval"] == {}
    assert whole["macro"]["auc"] == {key: value for key, value in some.items() if key != "classes"}
    true = np.array([0] * 20 + [1] * 18 + [2] * 2)  # the last class: one patient
    of_one = multiclass_metrics(rng.dirichlet(np.ones(3), num), true, patients, list("xyz"), num_draws=50)
    assert of_one["metrics"]["macro_auc"]["lo"] is None
    names = ["balanced_accuracy", "macro_f1", "macro_auc", "macro_average_precision"]
    assert sorted(of_one["macro_with_interval"]) == sorted(names)
    assert of_one["macro_with_interval"]["balanced_accuracy"]["classes"] == ["x", "y"]


def test_multiclass_by_hand() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.6, 0.3, 0.1], [0.3, 0.4, 0.3]])
    true = np.array([0, 1, 1, 0, 0])
    found = multiclass_metrics(probs, true, list("abcde"), ["x", "y", "z"], num_draws=20)
    metrics = found["metrics"]
    assert metrics["accuracy"]["mean"] == pytest.approx(3 / 5)
    assert found["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    expected = np.mean([brute_auc(probs[:, k], (true == k).astype(float)) for k in (0, 1)])
    assert metrics["macro_auc"]["mean"] == pytest.approx(expected) and metrics["macro_auc"]["num"] == 2
    precision = np.mean([brute_ap(probs[:, k], (true == k).astype(float)) for k in (0, 1)])
    assert metrics["macro_average_precision"]["mean"] == pytest.approx(precision)
    assert metrics["balanced_accuracy"]["mean"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    # Right are .7, .5 and .6, wrong .6 and .4; .6 shares a bin, which holds one right of two.
    assert metrics["ece"]["mean"] == pytest.approx((0.3 + 0.5 + abs(0.6 + 0.6 - 1) + 0.4) / 5)
    assert found["undefined"]["auc"] == ["z"]
    assert found["by_class"]["x"]["sensitivity"]["mean"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError):
        multiclass_metrics(probs, true + 2, list("abcde"), ["x", "y", "z"])


def correlation(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> float:
    """Gorodkin's R_K from its definition by covariances."""
    x, y = (np.eye(num_classes)[one] - np.eye(num_classes)[one].mean(axis=0) for one in (predicted, true))
    root = math.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / root) if root > 1e-12 else (math.nan if (y * y).sum() < 1e-12 else 0.0)


def test_the_mcc_of_several_classes_and_its_interval_of_resampled_patients() -> None:
    rng = np.random.default_rng(2)
    true = rng.integers(3, size=40)
    probs = rng.dirichlet(np.ones(3), 40) * 0.6 + 0.4 * np.eye(3)[true]
    predicted = probs.argmax(axis=1)
    patients = [f"p{i // 2}" for i in range(40)]
    found = multiclass_metrics(probs, true, patients, list("xyz"), num_draws=200, seed=1)["metrics"]
    assert found["mcc"]["mean"] == pytest.approx(correlation(true, predicted, 3)) and found["mcc"]["num"] == 40
    draws = [correlation(true[i], predicted[i], 3) for i in resampled_rows(patients, 200)]
    lo, hi = np.nanpercentile(draws, [2.5, 97.5])
    assert (found["mcc"]["lo"], found["mcc"]["hi"]) == pytest.approx((lo, hi))
    assert all(found[name]["lo"] < found[name]["mean"] for name in ("ece", "macro_average_precision", "macro_auc"))
    alike = multiclass_metrics(np.eye(3)[[0] * 4], np.array([0, 0, 1, 1]), list("abcd"), list("xyz"), num_draws=50)
    assert alike["metrics"]["mcc"] == {"mean": 0, "lo": 0, "hi": 0, "num": 4}
    one = multiclass_metrics(probs[:4], np.zeros(4, dtype=int), list("abcd"), list("xyz"), num_draws=5)["metrics"]
    assert one["mcc"]["mean"] is None and one["accuracy"]["lo"] is not None
    few = multiclass_metrics(probs[:3], np.array([0, 0, 1]), list("abc"), list("xyz"), num_draws=50)["metrics"]
    assert few["mcc"]["mean"] is not None and few["mcc"]["lo"] is None  # class y has one patient


def test_curves_end_where_they_must_and_enclose_the_area() -> None:
    score, label, _ = example()
    fpr, tpr = c.roc_points(score, label)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(c.auc(score, label))
    recall, precision = c.pr_points(score, label)
    assert recall[-1] == 1 and precision[-1] == pytest.approx(label.mean())
    assert (np.diff(recall, prepend=0) * precision).sum() == pytest.approx(c.average_precision(score, label))


def test_figures_are_whole_svg_files_with_a_panel_per_class(tmp_path: Path) -> None:
    score, label, _ = example()
    scores = np.stack([score] * 6, axis=1)
    labels = np.stack([label] * 5 + [np.full_like(label, np.nan)], axis=1)
    names = [f"class {k} <&>" for k in range(6)]
    for draw in (roc_svg, pr_svg, reliability_svg):
        text = draw(scores, labels, names)
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "class 0 &lt;&amp;&gt;" in text and "class 5" in text and "none are known" in text
        assert "--true:" in text and "nan" not in text.lower().replace("covariance", "")


def test_the_confusion_matrix_is_a_figure_with_every_count() -> None:
    table = np.array([[31, 2, 7], [1, 47, 4], [6, 0, 15]])
    found = c.confusion_at([0.5, 0.4, 0.9, 0.1, 0.2], [0, 0, 1, 1, np.nan], 0.5)
    assert found.tolist() == [[1, 1], [1, 1]]
    text = confusion_svg([("all $", ["a <&>", "b", "c"], table), ("other", ["no", "yes"], found)])
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "a &lt;&amp;&gt;" in text and "all $" in text and "predicted" in text and "<image" not in text
    told = re.findall(r">\s*(\d+)\s*</text>", text)
    assert told == [str(value) for value in (*table.ravel(), *found.ravel())]
    dark = [float(alpha) for alpha in re.findall(r"[^-]opacity: ([\d.]+)", text)]
    assert max(dark) == pytest.approx(0.6 * 47 / 52, abs=1e-3)
