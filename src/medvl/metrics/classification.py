"""Classification metrics with intervals by patient: AUC, average precision, threshold metrics, calibration.

Scores and labels are per (case, class); a NaN label is missing: that pair is not scored. Patients are resampled, not
cases, with the draws of `statistics.ratio_intervals` (same patients and seed: same draws); all classes in the same
draw, so that a macro mean has an interval too. A case is predicted positive where score >= threshold.

Shapes: n cases, K classes, P patients, T draws, G groups of equal scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvl.core.errors import InputError
from medvl.metrics.statistics import NUM_DRAWS, Interval, interval_of, resampled

FloatArray = NDArray[np.float64]
By = Literal["f1", "mcc"]

METRICS = ("auc", "average_precision", "f1", "accuracy", "mcc", "sensitivity", "specificity", "ece", "brier")
RULES: dict[By, str] = {"f1": "max f1 (MedKLIP)", "mcc": "max mcc (KAD)"}  # who chooses a threshold by what
THRESHOLD_METRICS = ("f1", "accuracy", "mcc", "sensitivity", "specificity")
NUM_BINS = 15  # of the calibration error, of equal width


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, a tie counting half.

    Args:
        scores: (n,), any range.
        labels: (n,) 1 or True positive, 0 or False negative, NaN missing.

    Returns:
        0 to 1; NaN where there are no positives or no negatives.
    """
    score, label = _known(scores, labels)
    return float(ScoredClass(score, label).auc(np.ones((1, len(score))))[0])


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Sum over the thresholds of precision times the recall gained there, equal scores together; NaN without positives.

    No interpolation. Chance is the share of positives. Arguments as for `auc`.
    """
    score, label = _known(scores, labels)
    return float(ScoredClass(score, label).average_precision(np.ones((1, len(score))))[0])


def best_threshold(scores: ArrayLike, labels: ArrayLike, by: By = "f1") -> float:
    """The threshold (positive where score >= threshold) with the highest F1 or MCC on these cases.

    Thresholds lie midway between two neighbouring scores, the lowest at the lowest score. Of equally good ones the
    highest is taken. NaN where there are no positives or no negatives. Arguments as for `auc`.
    """
    if by not in ("f1", "mcc"):
        raise ValueError(f"best_threshold by {by!r}, expected 'f1' or 'mcc'")
    score, label = _known(scores, labels)
    if not label.any() or label.all():
        return math.nan
    values, place = np.unique(score, return_inverse=True)  # ascending
    positives = np.bincount(place, weights=label)[::-1].cumsum()[::-1]  # (G,): with at least this score
    predicted = np.bincount(place)[::-1].cumsum()[::-1].astype(np.float64)
    tp, fp = positives, predicted - positives
    fn, tn = label.sum() - tp, (~label).sum() - fp
    quality = _f1(tp, fp, fn) if by == "f1" else np.nan_to_num(_mcc(tp, fp, fn, tn))
    best = int(np.flatnonzero(quality >= quality.max() - 1e-12)[-1])
    if best == 0:
        return float(values[0])
    middle = float((values[best - 1] + values[best]) / 2)
    return middle if middle > values[best - 1] else float(values[best])  # neighbours in floating point


def published_practice(split: str) -> str:
    """The name of what published tables report: thresholds chosen on the scored split itself, hence optimistic."""
    return f"threshold chosen on {split}, published practice"


def roc_points(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """False and true positive rates, one point for each distinct score, from (0, 0) to (1, 1)."""
    tp, fp = _cumulated(scores, labels)
    return fp / max(fp[-1], 1.0), tp / max(tp[-1], 1.0)


def pr_points(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Recall and precision, one point for each distinct score, by growing recall."""
    tp, fp = (side[1:] for side in _cumulated(scores, labels))
    return tp / max(tp[-1], 1.0), tp / (tp + fp)


def confusion_at(scores: ArrayLike, labels: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """(2, 2) cases: rows truly negative and positive, columns predicted negative and positive (score >= threshold)."""
    score, label = _known(scores, labels)
    table = np.zeros((2, 2), dtype=np.int64)
    np.add.at(table, (label.astype(int), (score >= threshold).astype(int)), 1)
    return table


def reliability(probs: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Mean probability, share of positives and number of cases of each of the `NUM_BINS` bins; NaN where empty."""
    prob, label = _known(probs, labels)
    place = _bins(prob)
    num = np.bincount(place, minlength=NUM_BINS)
    sums = np.zeros((2, NUM_BINS))
    np.add.at(sums[0], place, prob)
    np.add.at(sums[1], place, label)
    return divide(sums[0], num.astype(np.float64)), divide(sums[1], num.astype(np.float64)), num


def binary_metrics(
    scores: ArrayLike,
    labels: ArrayLike,
    patients: Sequence[str],
    threshold: float | None = None,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Every metric of one class, each as {mean, lo, hi, num} with a 95 % interval by patient.

    Args:
        scores: (n,); outside [0, 1] they are no probabilities, and `ece` and `brier` are undefined.
        labels: (n,) in {0, 1}; NaN = missing.
        patients: n names.
        threshold: positive where score >= threshold; None leaves the threshold metrics undefined.

    Returns:
        `num`, `num_positive`, `threshold` and one entry for each of `METRICS`. Undefined values are None. There is no
        interval where fewer than two patients have a positive or (for AUC, MCC, specificity) a negative; a draw in
        which the metric is undefined is left out. `num` of sensitivity and average precision is the number of
        positives, of specificity that of negatives.
    """
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    result = multilabel_metrics(
        score[:, None], label[:, None], patients, ["class"], [threshold], num_draws=num_draws, seed=seed
    )
    metrics: dict[str, Any] = result["by_class"]["class"]
    return metrics


def multilabel_metrics(
    scores: ArrayLike,
    labels: ArrayLike,
    patients: Sequence[str],
    classes: Sequence[str],
    thresholds: Sequence[float | None] | None = None,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """The metrics of every class and their macro means.

    Args:
        scores, labels: (n, K), labels in {0, 1} or NaN = missing.
        thresholds: K, see `binary_metrics`; None = no threshold metrics. A NaN threshold (of a class without positives
            where it was chosen) counts as None.

    Returns:
        `by_class` {class: as `binary_metrics`}, `macro` {metric: {mean, lo, hi, num}}, `undefined` {metric: classes},
        `macro_with_interval` {metric: {mean, lo, hi, num, classes}}.
        A macro mean is over the classes where the metric is defined; `num` is their number and `undefined` names the
        others. It has an interval where each of them has; where only some have (see `binary_metrics`), the mean of
        these `classes` and its interval stand under `macro_with_interval`. The classes are the same in every draw: a
        draw in which one of them is undefined is left out.
    """
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if score.shape != label.shape or score.ndim != 2 or score.shape != (len(patients), len(classes)):
        raise ValueError(
            f"scores {score.shape}, labels {label.shape}, {len(patients)} patients, {len(classes)} classes"
        )
    if not np.isin(label[~np.isnan(label)], (0.0, 1.0)).all():
        raise ValueError("labels other than 0, 1 and NaN")
    if np.isnan(score[~np.isnan(label)]).any():
        raise InputError.not_finite("a score is NaN", expected="a number for every case with a label")
    given = [None] * len(classes) if thresholds is None else thresholds
    used = [None if value is None or math.isnan(value) else float(value) for value in given]
    names, code = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    cases = []
    for k in range(len(classes)):
        known = ~np.isnan(label[:, k])
        cases.append(ScoredClass(score[known, k], label[known, k] > 0.5, code[known], used[k]))
    estimates = [{m: float(v[0]) for m, v in case.metrics(np.ones((1, len(names)))).items()} for case in cases]
    parts: dict[str, list[FloatArray]] = {name: [] for name in METRICS}
    for times in resampled(len(names), num_draws, seed):
        values = [case.metrics(times) for case in cases]
        for name in METRICS:
            parts[name].append(np.stack([value[name] for value in values], axis=1))  # (t, K)
    draws = {name: np.concatenate(part) for name, part in parts.items()}  # (T, K)
    by_class: dict[str, Any] = {}
    for k, (name, case) in enumerate(zip(classes, cases, strict=True)):
        by_class[name] = {"num": len(case.score), "num_positive": int(case.label.sum()), "threshold": used[k]}
        for metric in METRICS:
            column = draws[metric][:, k] if case.has_interval(metric) else np.full(1, math.nan)
            by_class[name][metric] = interval_of(estimates[k][metric], column, case.count(metric)).to_dict()
    macro, with_interval, undefined = {}, {}, {}
    for metric in METRICS:
        means = np.array([estimate[metric] for estimate in estimates])  # (K,)
        defined = [k for k in range(len(classes)) if not math.isnan(means[k])]
        usable = [k for k in defined if cases[k].has_interval(metric)]
        some = _macro(means[usable], draws[metric][:, usable])
        macro[metric] = (some if usable == defined else _macro(means[defined])).to_dict()
        if usable and usable != defined:
            with_interval[metric] = {**some.to_dict(), "classes": [classes[k] for k in usable]}
        undefined[metric] = [name for k, name in enumerate(classes) if k not in defined]
    return {
        "by_class": by_class,
        "macro": macro,
        "macro_with_interval": with_interval,
        "undefined": {metric: left for metric, left in undefined.items() if left},
    }


class ScoredClass:
    """The known cases of one class, sorted by falling score, and its metrics under any weights of the patients."""

    def __init__(
        self,
        score: FloatArray,
        label: NDArray[np.bool_],
        code: NDArray[np.int_] | None = None,
        threshold: float | None = None,
    ) -> None:
        order = np.argsort(-score, kind="stable")
        self.score, self.label = score[order], label[order]
        self.code = np.arange(len(score)) if code is None else code[order]
        self.starts = np.flatnonzero(np.r_[True, np.diff(self.score) != 0]) if len(score) else np.zeros(0, dtype=int)
        self.threshold = threshold
        self.are_probs = bool(len(score)) and self.score[0] <= 1 and self.score[-1] >= 0

    def has_interval(self, metric: str) -> bool:
        """Whether two patients or more have what the metric is made of."""
        sides = {"average_precision": (True,), "sensitivity": (True,), "f1": (True,), "specificity": (False,)}
        needed = sides.get(metric, (True, False) if metric in ("auc", "mcc") else ())
        return len(np.unique(self.code)) >= 2 and all(
            len(np.unique(self.code[self.label == side])) >= 2 for side in needed
        )

    def count(self, metric: str) -> int:
        """How many cases the metric is of."""
        side = {"average_precision": True, "sensitivity": True, "specificity": False}.get(metric)
        return len(self.label) if side is None else int((self.label == side).sum())

    def metrics(self, times: FloatArray) -> dict[str, FloatArray]:
        """Weights of the patients (T, P) -> {metric: (T,)}, NaN where it is undefined."""
        weights = times[:, self.code]  # (T, n)
        positive = weights @ self.label
        total = weights.sum(axis=1)
        values = {name: np.full(len(times), math.nan) for name in METRICS}
        if not len(self.score):
            return values
        values["auc"] = self.auc(weights)
        values["average_precision"] = self.average_precision(weights)
        if self.threshold is not None:
            above = self.score >= self.threshold
            tp, fp = weights @ (above & self.label), weights @ (above & ~self.label)
            fn, tn = positive - tp, total - positive - fp
            values["f1"] = _f1(tp, fp, fn)
            values["accuracy"] = divide(tp + tn, total)
            values["mcc"] = _mcc(tp, fp, fn, tn)
            values["sensitivity"] = divide(tp, positive)
            values["specificity"] = divide(tn, total - positive)
        if self.are_probs:
            values["brier"] = divide(weights @ (self.score - self.label) ** 2, total)
            gaps = np.zeros((len(self.score), NUM_BINS))
            gaps[np.arange(len(self.score)), _bins(self.score)] = self.score - self.label
            values["ece"] = divide(np.abs(weights @ gaps).sum(axis=1), total)
        return values

    def auc(self, weights: FloatArray) -> FloatArray:
        """(T, n) -> (T,)."""
        positive, negative = self._groups(weights)  # (T, G)
        num_negative = negative.sum(axis=1)
        below = num_negative[:, None] - negative.cumsum(axis=1) + negative / 2  # and half of the equal ones
        return divide((positive * below).sum(axis=1), positive.sum(axis=1) * num_negative)

    def average_precision(self, weights: FloatArray) -> FloatArray:
        """(T, n) -> (T,)."""
        positive, negative = self._groups(weights)  # (T, G)
        tp = positive.cumsum(axis=1)
        precision = np.nan_to_num(divide(tp, tp + negative.cumsum(axis=1)))
        return divide((positive * precision).sum(axis=1), positive.sum(axis=1))

    def _groups(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weight of the positives and of the negatives at each distinct score, highest first: (T, G) each."""
        if not len(self.score):
            return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
        positive = np.add.reduceat(weights * self.label, self.starts, axis=1)
        negative = np.add.reduceat(weights * ~self.label, self.starts, axis=1)
        return positive, negative


def _known(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    score, label = np.asarray(scores, dtype=np.float64).ravel(), np.asarray(labels, dtype=np.float64).ravel()
    if score.shape != label.shape:
        raise ValueError(f"{len(score)} scores, {len(label)} labels")
    known = ~np.isnan(label)
    if np.isnan(score[known]).any():
        raise InputError.not_finite("a score is NaN", expected="a number for every case with a label")
    return score[known], label[known] > 0.5


def _cumulated(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """True and false positives at falling thresholds, from none: (G + 1,) each."""
    score, label = _known(scores, labels)
    positive, negative = (side[0] for side in ScoredClass(score, label)._groups(np.ones((1, len(score)))))
    return np.r_[0.0, positive.cumsum()], np.r_[0.0, negative.cumsum()]


def _bins(prob: FloatArray) -> NDArray[np.int64]:
    """The bin of each probability: equal widths, 1 in the last one."""
    return np.minimum((prob * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def _f1(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> FloatArray:
    value = divide(2 * tp, 2 * tp + fp + fn)
    return np.where(tp + fn > 0, value, math.nan)


def _mcc(tp: FloatArray, fp: FloatArray, fn: FloatArray, tn: FloatArray) -> FloatArray:
    """Matthews' correlation; 0 where all cases are predicted alike, NaN where all cases are alike."""
    product = (tp + fp) * (tn + fn)
    sides = (tp + fn) * (tn + fp)
    value = divide(tp * tn - fp * fn, np.sqrt(product * sides))
    return np.where(sides > 0, np.where(product > 0, value, 0.0), math.nan)


def divide(top: FloatArray, bottom: FloatArray) -> FloatArray:
    """top / bottom, element by element; NaN where `bottom` is 0."""
    ratio: FloatArray = np.divide(top, bottom, out=np.full_like(bottom, math.nan), where=bottom > 0)
    return ratio


def _macro(values: FloatArray, draws: FloatArray | None = None) -> Interval:
    """Mean of some classes' values (K',); with the draws (T, K') its interval, of those in which all are known."""
    if not len(values):
        return Interval(math.nan, math.nan, math.nan, 0)
    return interval_of(float(values.mean()), np.full(1, math.nan) if draws is None else draws.mean(axis=1), len(values))
