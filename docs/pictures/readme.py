"""One radiograph, three prompts, and the first of them with its side exchanged."""

from __future__ import annotations

import matplotlib.pyplot as plt
import shipped
import style
from matplotlib.figure import Figure

import medvl


def draw() -> Figure:
    """Five tiles in a row."""
    pixels, predictor = shipped.pixels(), shipped.predictor()
    swapped = medvl.mirror_text(shipped.PROMPTS[0], left_right=True)
    figure, axes = plt.subplots(1, 5, figsize=(11.5, 2.75))
    style.show(axes[0], pixels, "the image")
    for one, prompt in zip(axes[1:], (*shipped.PROMPTS, swapped), strict=True):
        style.show(one, pixels, f"“{prompt}”")
        style.paint(one, predictor.segment(prompt).mask)
    axes[4].text(0.5, -0.04, "first prompt, side exchanged", transform=axes[4].transAxes, ha="center", va="top")
    axes[0].text(0.5, -0.04, "R marks the patient's right", transform=axes[0].transAxes, ha="center", va="top")
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.17, wspace=0.03)
    style.footnote(figure, f"Masks by {shipped.MODEL} on a validation image. {shipped.CREDIT}")
    return figure
