"""Two images by hand, on which the mean of the images' Dice and the Dice of all pixels differ."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medvl.metrics.segmentation import Counts, count_pixels, dice

SIDE = 10  # pixels
# rows and columns of the true and the predicted rectangle
LARGE = (slice(1, 9), slice(1, 9)), (slice(1, 9), slice(2, 9))
SMALL = (slice(4, 6), slice(2, 4)), (slice(5, 7), slice(3, 5))


def draw() -> Figure:
    """The two images with their counts, then the two means."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.1), width_ratios=(1, 1, 1.5))
    counts = []
    for one, (true, pred), name in zip(axes, (LARGE, SMALL), ("a large lesion", "a small lesion"), strict=False):
        true_mask, pred_mask = np.zeros((2, SIDE, SIDE), dtype=bool)
        true_mask[true], pred_mask[pred] = True, True
        counts.append(count_pixels(pred_mask, true_mask))
        _grid(one, true_mask, pred_mask)
        one.set_title(name, fontweight="bold")
        one.text(0.5, -0.04, _formula(counts[-1]), transform=one.transAxes, ha="center", va="top", linespacing=1.5)
    total = Counts(*(sum(values) for values in zip(*((c.tp_px, c.true_px, c.pred_px) for c in counts), strict=True)))
    values = [dice(one) for one in counts]
    axes[2].set_axis_off()
    lines = (
        ("dice_per_image", f"mean of the two: ({values[0]:.3f} + {values[1]:.3f}) / 2", np.mean(values)),
        ("dice_pooled", f"all pixels together: 2 × {total.tp_px} / ({total.true_px} + {total.pred_px})", dice(total)),
    )
    for row, (name, how, value) in enumerate(lines):
        top = 0.95 - 0.45 * row
        axes[2].text(0.06, top, name, fontsize=style.LARGE, fontweight="bold", va="top", family="monospace")
        axes[2].text(0.06, top - 0.1, how, va="top")
        axes[2].text(0.06, top - 0.2, f"{value:.3f}", fontsize=20, fontweight="bold", va="top")
    axes[2].text(0.06, 0.02, "The same two answers. Never compare one with the other.", va="top", style="italic")
    figure.subplots_adjust(left=0.015, right=0.99, top=0.92, bottom=0.2, wspace=0.06)
    style.footnote(figure, "Blue dashed: the true mask. Orange: the answer. Computed by medvl.metrics.segmentation.")
    return figure


def _formula(counts: Counts) -> str:
    parts = f"2 × {counts.tp_px} / ({counts.true_px} + {counts.pred_px})"
    return f"Dice = 2 × both / (true + answer)\n= {parts} = {dice(counts):.3f}"


def _grid(axes: Axes, true_mask: style.BoolArray, pred_mask: style.BoolArray) -> None:
    axes.imshow(np.full((SIDE, SIDE), 0.93), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=np.arange(SIDE) - 0.5, yticks=np.arange(SIDE) - 0.5, xticklabels=[], yticklabels=[])
    axes.grid(color="white", linewidth=1)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for mask, options in (
        (pred_mask, {"facecolor": style.MASK, "alpha": 0.6, "linewidth": 0}),
        (true_mask, {"fill": False, "edgecolor": "#0079a8", "linewidth": 2.2, "zorder": 3, "linestyle": (0, (3, 1.5))}),
    ):
        rows, columns = np.nonzero(mask)
        corner = (columns.min() - 0.5, rows.min() - 0.5)
        axes.add_patch(Rectangle(corner, np.ptp(columns) + 1, np.ptp(rows) + 1, **options))
