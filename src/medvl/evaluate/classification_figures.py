"""ROC, precision-recall and reliability curves of a classifier, one panel for each class, as whole SVG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.evaluate.classification import auc, average_precision, pr_points, reliability, roc_points
from medvl.evaluate.figures import FAINT, FIRST, INK, SECOND, new_figure, to_svg

FloatArray = NDArray[np.float64]
COLUMNS = 4
TICKS = (0, 0.5, 1)
# The colours that a report's page defines; a file of its own has to bring them, for a light and for a dark ground.
STYLE = (
    "<style>svg{--true:#1f6fb2;--pred:#c2571a;--line:#c8ccd2;color:#22262b;background:#fff}"
    "@media (prefers-color-scheme:dark){svg{--true:#6fb1e8;--pred:#f0995f;--line:#4a5058;color:#e6e8eb;"
    "background:#16181b}}</style>"
)


def roc_svg(scores: FloatArray, labels: FloatArray, classes: Sequence[str]) -> str:
    """ROC curves: scores and labels (n, K), NaN labels left out -> an SVG file's text."""

    def draw(axes: Any, score: FloatArray, label: FloatArray) -> str:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        axes.plot(*roc_points(score, label), color=FIRST, linewidth=1.5)
        return f"AUC {auc(score, label):.3f}"

    return _panels(scores, labels, classes, draw, "ROC curves", "false positive rate", "sensitivity", needs=(0, 1))


def pr_svg(scores: FloatArray, labels: FloatArray, classes: Sequence[str]) -> str:
    """Precision over recall, with the share of positives as the chance line: as `roc_svg`."""

    def draw(axes: Any, score: FloatArray, label: FloatArray) -> str:
        axes.axhline(float(label.mean()), color=FAINT, linewidth=1, linestyle="--")
        recall, precision = pr_points(score, label)
        axes.step(np.r_[0.0, recall], np.r_[precision[0], precision], where="pre", color=FIRST, linewidth=1.5)
        return f"AP {average_precision(score, label):.3f}"

    return _panels(scores, labels, classes, draw, "Precision-recall curves", "recall", "precision", needs=(1,))


def reliability_svg(probs: FloatArray, labels: FloatArray, classes: Sequence[str]) -> str:
    """Share of positives over mean probability, of the bins of the calibration error (size by cases): as `roc_svg`."""

    def draw(axes: Any, prob: FloatArray, label: FloatArray) -> str:
        mean, share, num = reliability(prob, label)
        there = num > 0
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        axes.plot(mean[there], share[there], color=SECOND, linewidth=1)
        axes.scatter(mean[there], share[there], s=6 + 60 * num[there] / num.max(), color=SECOND, edgecolor="none")
        error = float((num[there] * np.abs(mean[there] - share[there])).sum() / num.sum())
        return f"ECE {error:.3f}"

    return _panels(probs, labels, classes, draw, "Reliability", "probability", "share of positives", needs=())


def _panels(
    scores: FloatArray,
    labels: FloatArray,
    classes: Sequence[str],
    draw: Callable[[Any, FloatArray, FloatArray], str],
    title: str,
    x_label: str,
    y_label: str,
    *,
    needs: tuple[int, ...],
) -> str:
    """`draw` fills the panel of one class and says its number; `needs` are the labels without which it cannot."""
    columns = min(COLUMNS, len(classes))
    rows = -(-len(classes) // columns)
    figure, axes = new_figure(rows, columns, (2.6 * columns, 2.7 * rows))
    for spare in axes[len(classes) :]:
        spare.set_axis_off()
    for k, (name, one) in enumerate(zip(classes, axes, strict=False)):
        known = ~np.isnan(labels[:, k])
        label = labels[known, k]
        one.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=TICKS, yticks=TICKS)
        if not len(label) or any(value not in label for value in needs):
            what = "none are known" if not len(label) else "one kind only"
            one.text(0.5, 0.5, what, ha="center", va="center", fontsize=9, color=INK)
            told = ""
        else:
            told = draw(one, scores[known, k], label)
        shown = name.replace("$", r"\$")  # matplotlib takes what is between two of them for a formula
        counted = f"{int(label.sum())} of {len(label)} positive"
        one.set_title(f"{shown}\n{told or '-'}, {counted}", loc="left", fontsize=8, color=INK)
        one.set_xlabel(x_label, fontsize=8, color=INK)
        one.set_ylabel(y_label, fontsize=8, color=INK)
    svg = to_svg(figure, title)
    end = svg.index(">") + 1
    return svg[:end] + STYLE + svg[end:] + "\n"
