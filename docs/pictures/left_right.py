"""Whose left a text means, and what a flip of the image does to the words."""

from __future__ import annotations

import matplotlib.pyplot as plt
import shipped
import style
from matplotlib.figure import Figure

import medvl

TEXT = "left lower zone"


def draw() -> Figure:
    """Four tiles: the patient's left, the viewer's left, a flip with its words, a flip without."""
    regions = {row.extra["region"]: shipped.truth(row) for row in shipped.rows()}
    pixels, left, right = shipped.pixels(), regions["left_lower"], regions["right_lower"]
    swapped = medvl.mirror_text(TEXT, left_right=True)
    figure, axes = plt.subplots(1, 4, figsize=(11.5, 3.75))
    flipped, moved = pixels[:, ::-1], left[:, ::-1]
    tiles = (
        (pixels, left, TEXT, "laterality: patient", "the patient's left,\nat the viewer's right"),
        (pixels, right, TEXT, "laterality: viewer", "the viewer's left,\nas in LViT's captions"),
        (flipped, moved, swapped, "flip_text: rewrite", "flipped: the words follow.\nThe heart is on the wrong side"),
        (flipped, moved, TEXT, "flip_text: keep", "flipped: the words are now false,\nas in LViT's program"),
    )
    for one, (picture, mask, words, name, note) in zip(axes, tiles, strict=True):
        style.show(one, picture)
        style.paint(one, mask)
        one.text(0.5, 1.15, name, transform=one.transAxes, ha="center", va="bottom", fontweight="bold")
        one.text(0.5, 1.03, f"“{words}”", transform=one.transAxes, ha="center", va="bottom")
        one.text(0.5, -0.04, note, transform=one.transAxes, ha="center", va="top", linespacing=1.3)
    style.side_letters(axes[0])
    for width, colour in ((3.5, "white"), (2, "#b00020")):
        axes[3].plot([0, 1], [0, 1], transform=axes[3].transAxes, color=colour, linewidth=width)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.85, bottom=0.22, wspace=0.03)
    words = "R: the patient's right. Both switches are keys of a recipe; flips are off by default."
    style.footnote(figure, f"{words}\n{shipped.CREDIT} {shipped.MASK_CREDIT}")
    return figure
