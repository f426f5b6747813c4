"""LViT: the U of the CNN around the U of the ViT, and PLAM between them. All sizes are read off a forward pass."""

from __future__ import annotations

from functools import partial

import matplotlib.pyplot as plt
import style
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from medvl.models.lvit import LViT

TOKENS, TEXT_DIM = 10, 768  # of the published setting
CNN, VIT, PLAM_FILL, TEXT_FILL = "#dfe9f3", "#fbe3c6", "#ffffff", "#e9e4f0"
X_CNN, X_DOWN, X_UP, X_ADD, X_PLAM, X_OUT = 1.1, 3.6, 5.7, 7.35, 8.55, 10.7
WIDTH, HEIGHT = 1.55, 0.46
Shape = tuple[int, ...]


def draw() -> Figure:
    """The network above, PLAM in detail below."""
    model = LViT("T").eval()
    shapes = _shapes(model)
    figure, axes = plt.subplots(figsize=(11.5, 7.3))
    axes.set(xlim=(0, 12.1), ylim=(-2.62, 5.75))
    axes.set_axis_off()
    for x, title in ((X_CNN, "U-CNN, down"), (X_DOWN, "U-ViT, down"), (X_UP, "U-ViT, up"), (X_OUT, "U-CNN, up")):
        axes.text(x, 4.62, title, ha="center", fontweight="bold")
    for k in range(4):
        _level(axes, shapes, k)
    _box(axes, X_CNN, 0, _map(shapes["cnn4"]), CNN)
    _arrow(axes, (X_CNN + WIDTH / 2, 0), (X_OUT, 0), head=False)
    _arrow(axes, (X_OUT, 0), (X_OUT, 1 - HEIGHT / 2))
    axes.text(6.5, 0.06, "deepest map of the CNN", ha="center", va="bottom", fontsize=style.SMALL)
    _box(axes, X_CNN, 5.35, f"image, {_map(shapes['image'])}", "white", 1.8)
    _arrow(axes, (X_CNN, 5.35 - HEIGHT / 2), (X_CNN, 4.9))
    _box(axes, X_OUT, 5.35, f"mask logits, {_map(shapes['logits'])}", "white", 2.1)
    _arrow(axes, (X_OUT, 4.9), (X_OUT, 5.35 - HEIGHT / 2))
    _box(axes, X_DOWN, 5.35, f"text, {TOKENS} tokens × {TEXT_DIM}", TEXT_FILL, 2.2)
    _arrow(axes, (X_DOWN, 5.35 - HEIGHT / 2), (X_DOWN, 4.9))
    words = "slots (paper): enters at the first level\nattention (medvl): enters at every level"
    axes.text(X_DOWN + 1.2, 5.35, words, va="center", fontsize=style.SMALL)
    _plam(axes, model)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    figure.subplots_adjust(left=0.01, right=0.99, top=0.995, bottom=0.05)
    words = f"LViT-T: {count:.1f} million parameters, text encoder apart. Channels × height × width of a"
    style.footnote(figure, f"{words} map; tokens × width in the ViT. Sizes read off medvl.LViT('T').")
    return figure


def _level(axes: Axes, shapes: dict[str, Shape], k: int) -> None:
    y = 4 - k
    half = WIDTH / 2
    _box(axes, X_CNN, y, _map(shapes[f"cnn{k}"]), CNN)
    _box(axes, X_DOWN, y, _map(shapes[f"down{k}"]), VIT)
    _box(axes, X_UP, y, _map(shapes[f"up{k}"]), VIT)
    _circle(axes, X_ADD, y)
    _box(axes, X_PLAM, y, "PLAM", PLAM_FILL, 0.9)
    _box(axes, X_OUT, y, _map(shapes[f"out{k}"]), CNN)
    _arrow(axes, (X_CNN + half, y), (X_DOWN - half, y))
    _arrow(axes, (X_DOWN + half, y), (X_UP - half, y))
    _arrow(axes, (X_UP + half, y), (X_ADD - 0.14, y))
    _arrow(axes, (X_ADD + 0.14, y), (X_PLAM - 0.45, y))
    _arrow(axes, (X_PLAM + 0.45, y), (X_OUT - half, y))
    over = y + HEIGHT / 2 + 0.11  # the skip connection, above the ViT
    start = X_CNN + half + 0.18
    axes.plot([start, start, X_ADD, X_ADD], [y, over, over, y + 0.2], color="#777777", linewidth=1)
    _arrow(axes, (X_ADD, y + 0.22), (X_ADD, y + 0.13), "#777777")
    edge = HEIGHT / 2
    _arrow(axes, (X_CNN, y - edge), (X_CNN, y - 1 + edge))
    if k < 3:
        _arrow(axes, (X_DOWN, y - edge), (X_DOWN, y - 1 + edge))
        _arrow(axes, (X_UP, y - 1 + edge), (X_UP, y - edge))
        _arrow(axes, (X_OUT, y - 1 + edge), (X_OUT, y - edge))
    if k == 0:
        for x, words in ((X_CNN + half + 0.3, "patches"), (X_UP + half + 0.05, "to a map")):
            axes.text(x, y - 0.09, words, va="top", fontsize=style.SMALL)


def _plam(axes: Axes, model: LViT) -> None:
    """Pixel-level attention: one weight for each pixel."""
    first, last = (layer for layer in model.plam[0].bottleneck if hasattr(layer, "in_features"))
    y, step = -1.62, 0.42
    axes.text(0.3, -0.72, "PLAM: one weight for each pixel", fontweight="bold", va="center")
    _box(axes, 0.95, y, "map", CNN, 1.1)
    rows = (("a: 1×1 conv, ReLU, mean over channels", step), ("m: 1×1 conv, ReLU, maximum over channels", -step))
    for words, up in rows:
        _box(axes, 4.0, y + up, words, "white", 3.6)
        _arrow(axes, (1.5, y), (2.2, y + up))
        _arrow(axes, (5.8, y + up), (6.5, y + up * 0.3))
    _box(
        axes,
        7.45,
        y,
        f"a, m and a + m\nMLP {first.in_features} → {first.out_features} → {last.out_features}",
        "white",
        1.9,
        0.68,
    )
    _arrow(axes, (8.4, y), (9.0, y))
    _box(axes, 9.7, y, "weight", "white", 1.4)
    _arrow(axes, (10.4, y), (10.86, y))
    _circle(axes, 11.0, y, "×")
    _arrow(axes, (11.14, y), (11.75, y))
    low = y - 0.78
    axes.plot([0.95, 0.95, 11.0, 11.0], [y - HEIGHT / 2, low, low, y - 0.2], color="#777777", linewidth=1)
    _arrow(axes, (11.0, y - 0.22), (11.0, y - 0.13), "#777777")


def _shapes(model: LViT) -> dict[str, Shape]:
    """Shapes without the batch, of what each part gives in one forward pass."""
    shapes: dict[str, Shape] = {}

    def keep(name: str, module: object, inputs: object, output: torch.Tensor) -> None:
        shapes[name] = tuple(output.shape[1:])

    for name, modules in (("down", model.vit_down), ("up", model.vit_up), ("out", model.up)):
        for k, module in enumerate(modules):
            module.register_forward_hook(partial(keep, f"{name}{k}"))
    image = torch.zeros(1, 3, *model.image_size)
    with torch.inference_mode():
        for k, feature in enumerate(model.encode_image(image)):
            shapes[f"cnn{k}"] = tuple(feature.shape[1:])
        shapes["image"] = tuple(image.shape[1:])
        shapes["logits"] = tuple(model(image, torch.zeros(1, TOKENS, TEXT_DIM)).shape[1:])
    return shapes


def _map(shape: Shape) -> str:
    return " × ".join(map(str, shape))


def _box(axes: Axes, x: float, y: float, words: str, fill: str, width: float = WIDTH, height: float = HEIGHT) -> None:
    corner = (x - width / 2, y - height / 2)
    style_of = "round,pad=0,rounding_size=0.07"
    axes.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=style_of, facecolor=fill, edgecolor=style.DARK, zorder=2)
    )
    axes.text(x, y, words, ha="center", va="center", fontsize=style.SMALL, zorder=3)


def _circle(axes: Axes, x: float, y: float, sign: str = "+") -> None:
    options = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": style.DARK}
    axes.text(x, y, sign, ha="center", va="center", fontsize=style.SMALL, zorder=3, bbox=options)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = style.DARK, *, head: bool = True
) -> None:
    look = {"arrowstyle": "-|>" if head else "-", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color=colour, linewidth=1, zorder=1, **look))
