"""How all pictures look: light, readable in greyscale, no letter below 9 pt."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image as PILImage

DPI = 120
MASK = "#f28e1c"  # orange, of what a model answers
TRUTH = "#00b4e0"  # cyan, of what people drew
DARK, LIGHT = "#333333", "#e6e6e6"
SMALL, NORMAL, LARGE = 9, 10, 11.5  # pt
plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": NORMAL,
        "axes.titlesize": NORMAL,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": DARK,
        "axes.edgecolor": DARK,
        "axes.labelcolor": DARK,
        "xtick.color": DARK,
        "ytick.color": DARK,
    }
)

BoolArray = NDArray[np.bool_]


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG without a date, with a palette of 256 colours that covers rare ones too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    plt.close(figure)
    picture = PILImage.open(buffer).convert("RGB")
    picture = picture.quantize(256, PILImage.Quantize.MAXCOVERAGE, kmeans=5, dither=PILImage.Dither.NONE)
    picture.save(path, format="PNG", optimize=True)


def show(axes: Axes, pixels: NDArray[Any], title: str = "", **options: Any) -> None:
    """An image (H, W) without ticks or frame."""
    axes.imshow(pixels, **({"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "bilinear"} | options))
    axes.autoscale(False)  # masks and lines over it do not change what is shown
    axes.set_axis_off()
    axes.set_title(title, pad=5)


def paint(axes: Axes, mask: BoolArray, colour: str = MASK) -> None:
    """A mask over an image: a tint and a line around it, which is seen in greyscale too."""
    tint = np.zeros((*mask.shape, 4))
    tint[..., :3] = matplotlib.colors.to_rgb(colour)
    tint[..., 3] = 0.42 * mask
    axes.imshow(tint, interpolation="nearest")
    outline(axes, mask, "white", 1.6)
    outline(axes, mask, colour, 0.9)


def outline(axes: Axes, mask: BoolArray, colour: str, width: float = 1.2, line: str = "solid") -> None:
    """The edge of a mask; nothing where it is empty."""
    if mask.any():
        axes.contour(np.pad(mask, 1), [0.5], colors=[colour], linewidths=width, linestyles=[line],
                     extent=(-1.5, mask.shape[1] + 0.5, -1.5, mask.shape[0] + 0.5))  # fmt: skip


def side_letters(axes: Axes, left: str = "R", right: str = "L") -> None:
    """The letters of a radiograph's sides, at the viewer's left and right edge."""
    for at, letter, align in ((0.03, left, "left"), (0.97, right, "right")):
        box = {"facecolor": "black", "alpha": 0.55, "pad": 1.5, "linewidth": 0}
        words = {"color": "white", "fontsize": NORMAL, "fontweight": "bold", "bbox": box}
        axes.text(at, 0.96, letter, transform=axes.transAxes, ha=align, va="top", **words)


def footnote(figure: Figure, words: str) -> None:
    """Source and licence of what is shown, at the foot."""
    figure.text(0.5, 0.012, words, ha="center", va="bottom", fontsize=SMALL, color="#555555")
