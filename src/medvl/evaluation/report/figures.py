"""Figures of the report as inline SVG: training curves, the distribution of Dice, images with contours.

Colours are CSS variables of the page, so that one figure is legible on a light and on a dark ground.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from medvl.data.intensity import stretched

BoolArray = NDArray[np.bool_]

PANEL_PX = 320  # longest side of an embedded image
# Stand-ins that matplotlib accepts, replaced by what the page defines.
INK, FIRST, SECOND, FAINT = "#010203", "#040506", "#070809", "#0a0b0c"
_PAGE_COLOUR = {INK: "currentColor", FIRST: "var(--true)", SECOND: "var(--pred)", FAINT: "var(--line)"}


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """metrics.jsonl -> [(epoch, value)] of "train loss", "val loss", "val dice". Unknown keys, broken lines pass."""
    curves: dict[str, list[tuple[float, float]]] = {"train loss": [], "val loss": [], "val dice": []}
    if not path.is_file():
        return curves
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a killed run
        if not isinstance(row, dict) or row.get("kind") not in ("train", "val"):
            continue
        x = row.get("epoch", row.get("step"))
        for name, key in ((f"{row['kind']} loss", "loss"), (f"{row['kind']} dice", "dice_per_image")):
            value = row.get(key)
            if name in curves and _is_number(x) and _is_number(value):
                curves[name].append((float(x), float(value)))
    return curves


def curves_svg(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Loss (training, validation) and validation Dice over epochs, side by side; "" when there is nothing to draw."""
    if not any(curves.values()):
        return ""
    figure, (left, right) = new_figure(1, 2, (9.2, 2.9))
    for name, colour in (("train loss", FIRST), ("val loss", SECOND)):
        if points := curves[name]:
            marker = "o" if len(points) == 1 else None  # which makes no line
            label = name.replace("val", "validation")
            left.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, marker=marker, markersize=4, label=label)
    left.set_title("Loss", loc="left", fontsize=10)
    if curves["train loss"] or curves["val loss"]:
        left.legend(frameon=False, fontsize=9)
    if points := curves["val dice"]:
        best = max(points, key=lambda point: point[1])
        right.plot(*zip(*points, strict=True), color=SECOND, linewidth=1.4)
        right.plot(*best, "o", color=SECOND, markersize=4)
        right.annotate(f"{best[1]:.3f}", best, textcoords="offset points", xytext=(0, 6), ha="center", fontsize=9)
        right.margins(y=0.18)
    right.set_title("Validation Dice per image, model grid", loc="left", fontsize=10)
    for axes in (left, right):
        axes.set_xlabel("epoch", fontsize=9)
    return to_svg(figure, "Training curves")


def histogram_svg(values: Sequence[float]) -> str:
    """Distribution of Dice over cases, 20 bins from 0 to 1; "" without values."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    figure, (axes,) = new_figure(1, 1, (4.4, 1.9))
    axes.hist(finite, bins=np.linspace(0, 1, 21), color=SECOND, edgecolor="none", rwidth=0.9)
    axes.set_xlim(0, 1)
    axes.set_xlabel("Dice of a case", fontsize=9)
    axes.set_title("Cases", loc="left", fontsize=10)
    return to_svg(figure, "Distribution of Dice over cases")


def image_data_uri(pixels: NDArray[np.float32]) -> tuple[str, float]:
    """(H, W) or (H, W, 3) in [0, 1] -> (JPEG data URI, scale from native to embedded pixels).

    Stretched to the 0.5 and 99.5 percentiles, for the eye only.
    """
    import cv2

    shown = stretched(pixels)
    scale = min(1.0, PANEL_PX / max(pixels.shape[:2]))
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        shown = np.asarray(cv2.resize(shown, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    grey = np.round(shown * 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", grey if grey.ndim == 2 else grey[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode(), scale


def contour_path(mask: BoolArray, scale: float) -> str:
    """Outlines of a (H, W) mask, holes included, as an SVG path in embedded pixels; "" when it is empty."""
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = []
    for contour in contours:
        points = (contour[:, 0, :].astype(np.float32) + 0.5) * scale  # (n, 2) x, y
        fewer = cv2.approxPolyDP(points[:, None], 0.3, True)[:, 0]  # (m, 2)
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in fewer) + "Z")
    return "".join(parts)


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for one in axes:
        one.set_facecolor("none")
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color(FAINT)
        one.tick_params(colors=INK, labelsize=9, length=0)
        one.grid(axis="y", color=FAINT, linewidth=0.6)
        one.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Any, title: str) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    for colour, page in _PAGE_COLOUR.items():
        svg = svg.replace(colour, page)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    slug = re.sub(r"\W+", "-", title.lower())
    svg = re.sub(r'\b(id="|url\(#|xlink:href="#)', lambda match: match.group(1) + slug + "-", svg)
    return svg.strip()


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
