"""Metrics of exclusive classes, of which each case has one: decisions by the most probable class, K-class MCC.

Shapes: n cases, K classes, P patients, T draws. Patients are resampled as in `classification`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvl.metrics.classification import (
    FloatArray,
    binary_metrics,
    divide,
    multilabel_metrics,
)
from medvl.metrics.statistics import NUM_DRAWS, Interval, interval_of, resampled


def multiclass_metrics(
    probs: ArrayLike,
    labels: ArrayLike,
    patients: Sequence[str],
    classes: Sequence[str],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of the most probable class (the first of equal ones), AUC one against the rest, confusion matrix.

    Args:
        probs: (n, K), each row of sum 1.
        labels: (n,) the index of the true class.

    Returns:
        `metrics`, each {mean, lo, hi, num}: `accuracy`, `balanced_accuracy`, `mcc` (of K classes), `macro_f1`,
        `macro_auc`, `macro_average_precision` (one against the rest), `ece` (of the most probable class's probability
        against its being right; bins as in `binary_metrics`). `by_class` {class: num_positive, auc, average_precision,
        ece, brier (one against the rest), sensitivity, f1 (of the decisions)}; `confusion` (K rows of true, K columns
        of predicted classes); `macro_with_interval` and `undefined` as in `multilabel_metrics`.
    """
    prob, true = np.asarray(probs, dtype=np.float64), np.asarray(labels)
    num_classes = len(classes)
    if prob.shape != (len(true), num_classes) or len(patients) != len(true):
        raise ValueError(f"probs {prob.shape}, {len(true)} labels, {len(patients)} patients, {num_classes} classes")
    if len(true) and not (np.issubdtype(true.dtype, np.integer) and 0 <= true.min() and true.max() < num_classes):
        raise ValueError(f"labels must be whole numbers from 0 to {num_classes - 1}")
    predicted = prob.argmax(axis=1)
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (true, predicted), 1)
    one_hot = np.eye(num_classes)[true]
    rest = multilabel_metrics(prob, one_hot, patients, classes, num_draws=num_draws, seed=seed)
    # Asked at 0.5 of the one-hot decisions, the threshold metrics are those of the most probable class.
    hard = multilabel_metrics(
        np.eye(num_classes)[predicted], one_hot, patients, classes, [0.5] * num_classes, num_draws=num_draws, seed=seed
    )
    right = (predicted == true).astype(np.float64)
    accuracy = binary_metrics(right, np.ones(len(true)), patients, 0.5, num_draws=num_draws, seed=seed)["accuracy"]
    ece = binary_metrics(prob.max(axis=1), right, patients, num_draws=num_draws, seed=seed)["ece"]
    kept = ("num_positive", "auc", "average_precision", "ece", "brier")
    by_class = {
        name: {key: rest["by_class"][name][key] for key in kept}
        | {key: hard["by_class"][name][key] for key in ("sensitivity", "f1")}
        for name in classes
    }
    undefined = {m: rest["undefined"][m] for m in ("auc", "average_precision") if m in rest["undefined"]}
    if "sensitivity" in hard["undefined"]:
        undefined["sensitivity"] = hard["undefined"]["sensitivity"]
    return {
        "metrics": {
            "accuracy": accuracy,
            "balanced_accuracy": hard["macro"]["sensitivity"],
            "mcc": _mcc_of_classes(true, predicted, num_classes, patients, num_draws, seed).to_dict(),
            "macro_f1": hard["macro"]["f1"],
            "macro_auc": rest["macro"]["auc"],
            "macro_average_precision": rest["macro"]["average_precision"],
            "ece": ece,
        },
        "macro_with_interval": {
            title: result["macro_with_interval"][name]
            for title, result, name in (
                ("balanced_accuracy", hard, "sensitivity"),
                ("macro_f1", hard, "f1"),
                ("macro_auc", rest, "auc"),
                ("macro_average_precision", rest, "average_precision"),
            )
            if name in result["macro_with_interval"]
        },
        "by_class": by_class,
        "confusion": confusion.tolist(),
        "undefined": undefined,
    }


def _mcc_of_classes(
    true: NDArray[Any],
    predicted: NDArray[Any],
    num_classes: int,
    patients: Sequence[str],
    num_draws: int,
    seed: int,
) -> Interval:
    """Matthews' correlation of K classes: R_K of Gorodkin (2004), of two classes the usual one.

    NaN and 0 as in `_mcc`. There is no interval unless two classes have two patients or more each.
    """
    names, code = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    pairs = np.zeros((len(names), num_classes**2))
    np.add.at(pairs, (code, true * num_classes + predicted), 1)

    def of(times: FloatArray) -> FloatArray:
        """Weights of the patients (T, P) -> (T,)."""
        table = (times @ pairs).reshape(len(times), num_classes, num_classes)
        total, right = table.sum(axis=(1, 2)), np.trace(table, axis1=1, axis2=2)
        rows, columns = table.sum(axis=2), table.sum(axis=1)
        product, sides = (total**2 - (side**2).sum(axis=1) for side in (columns, rows))
        value = divide(right * total - (rows * columns).sum(axis=1), np.sqrt(product * sides))
        return np.where(sides > 0, np.where(product > 0, value, 0.0), math.nan)

    draws = np.concatenate([of(times) for times in resampled(len(names), num_draws, seed)])
    enough = sum(len(np.unique(code[true == k])) >= 2 for k in range(num_classes)) >= 2
    estimate = float(of(np.ones((1, len(names))))[0])
    return interval_of(estimate, draws if enough else np.full(1, math.nan), len(true))
