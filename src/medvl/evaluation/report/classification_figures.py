"""Curves of a classifier, one panel for each class, and its confusion matrix, as whole SVG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.evaluation.report.figures import FAINT, FIRST, INK, SECOND, new_figure, to_svg
from medvl.metrics.classification import auc, average_precision, pr_points, reliability, roc_points

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
        filled = num > 0
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
        axes.plot(mean[filled], share[filled], color=SECOND, linewidth=1)
        axes.scatter(mean[filled], share[filled], s=6 + 60 * num[filled] / num.max(), color=SECOND, edgecolor="none")
        error = float((num[filled] * np.abs(mean[filled] - share[filled])).sum() / num.sum())
        return f"ECE {error:.3f}"

    return _panels(probs, labels, classes, draw, "Reliability", "probability", "share of positives", needs=())


def confusion_svg(tables: Sequence[tuple[str, Sequence[str], NDArray[np.int64]]]) -> str:
    """Confusion matrices, each (title, K names, (K, K) cases: rows true, columns predicted) -> an SVG file's text.

    A cell is the darker the greater its share of its row.
    """
    from matplotlib.patches import Rectangle

    columns = min(COLUMNS, len(tables))
    rows = -(-len(tables) // columns)
    side = 1.3 + 0.45 * max(len(names) for _, names, _ in tables)
    figure, axes = new_figure(rows, columns, ((side + 0.6) * columns, (side + 0.3) * rows))
    for spare in axes[len(tables) :]:
        spare.set_axis_off()
    for (title, names, table), one in zip(tables, axes, strict=False):
        places, shown = range(len(names)), [_plain(name) for name in names]
        for i, row in enumerate(table):
            for j, value in enumerate(row):
                alpha = 0.6 * float(value) / max(int(row.sum()), 1)
                one.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=FIRST, alpha=alpha, edgecolor="none"))
                one.text(j, i, str(int(value)), ha="center", va="center", fontsize=9, color=INK)
        one.grid(False)
        one.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        one.set_xticks(places, shown, rotation=45, ha="right", fontsize=8)
        one.set_yticks(places, shown, fontsize=8)
        one.set_title(_plain(title), loc="left", fontsize=8, color=INK)
        one.set_xlabel("predicted", fontsize=8, color=INK)
        one.set_ylabel("true", fontsize=8, color=INK)
    return _whole(to_svg(figure, "Confusion matrix"))


def _plain(name: str) -> str:
    """As matplotlib shows it literally: what is between two dollars it takes for a formula."""
    return name.replace("$", r"\$")


def _whole(svg: str) -> str:
    end = svg.index(">") + 1
    return svg[:end] + STYLE + svg[end:] + "\n"


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
            value = ""
        else:
            value = draw(one, scores[known, k], label)
        counted = f"{int(label.sum())} of {len(label)} positive"
        one.set_title(f"{_plain(name)}\n{value or '-'}, {counted}", loc="left", fontsize=8, color=INK)
        one.set_xlabel(x_label, fontsize=8, color=INK)
        one.set_ylabel(y_label, fontsize=8, color=INK)
    return _whole(to_svg(figure, title))
