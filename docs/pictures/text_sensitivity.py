"""The same image with its true text and with untrue ones, and what that does to the Dice of the shipped model."""

from __future__ import annotations

from textwrap import wrap

import matplotlib.pyplot as plt
import shipped
import style
from matplotlib.figure import Figure

from medvl.evaluation.text_sensitivity import text_versions

REGION = "left_lower"  # of the row that is shown; it names one side, so that all five texts exist
WIDTH = 28  # letters in a line of a text
NAMES = {
    "true": "its own text",
    "empty": "no text",
    "shuffled": "another patient's text",
    "side_swapped": "side exchanged",
    "negated": "denied",
}


def draw() -> Figure:
    """Five tiles over five bars."""
    record = next(row for row in shipped.rows() if row.extra["region"] == REGION)
    split = shipped.table().split(shipped.SPLIT)
    texts = text_versions(split)[split.index(record)]
    groups = shipped.card()["groups"][shipped.SPLIT]
    pixels, truth, predictor = shipped.pixels(), shipped.truth(record), shipped.predictor()
    figure, axes = plt.subplots(2, 5, figsize=(11.5, 4.9), height_ratios=(1, 0.6))
    for (condition, name), (tile, bar) in zip(NAMES.items(), axes.T, strict=True):
        text = texts[condition]
        style.show(tile, pixels)
        style.paint(tile, predictor.segment(text).mask)
        style.outline(tile, truth, style.TRUTH, 1.6, "dashed")
        tile.text(0.5, 1.37, name, transform=tile.transAxes, ha="center", va="center", fontweight="bold")
        words = "\n".join(wrap(f"“{text}”", WIDTH)) if text else "(empty)"
        tile.text(0.5, 1.13, words, transform=tile.transAxes, ha="center", va="center")
        _bar(bar, groups[f"probe: {condition}"])
    axes[1, 0].set_ylabel("Dice per image")
    figure.subplots_adjust(left=0.055, right=0.995, top=0.84, bottom=0.145, wspace=0.04, hspace=0.08)
    style.footnote(
        figure,
        f"Bars: mean over the prompts of the validation split ({shipped.MODEL}, card.json). All answers (orange) are "
        f"scored\nagainst the mask of the true text (dashed). {shipped.CREDIT} {shipped.MASK_CREDIT}",
    )
    return figure


def _bar(axes: plt.Axes, group: dict[str, float]) -> None:
    value = group["dice_per_image"]
    axes.bar([0], [value], width=0.35, color=style.MASK, edgecolor=style.DARK, linewidth=0.8)
    axes.text(0, value + 0.03, f"{value:.3f}", ha="center", va="bottom", fontsize=style.LARGE, fontweight="bold")
    axes.text(0, -0.06, f"{group['num_cases']:,} prompts", ha="center", va="top", fontsize=style.SMALL)
    axes.set(xlim=(-1, 1), ylim=(0, 1.12), xticks=[], yticks=[0, 0.5, 1])
    if not axes.get_subplotspec().is_first_col():
        axes.spines["left"].set_visible(False)
        axes.set_yticks([])
