"""What is drawn of a case: masks and boxes over an image in standard display.

Masks and boxes are in stored pixels and turned with the image. Shapes: H W native pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvl.config import make_config
from medvl.data.images import image_orientation, image_size, read_image
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest
from medvl.evaluation.cases import load_true_mask
from medvl.evaluation.kind import Key, TrueCell
from medvl.evaluation.model_inputs import parse_overrides, read_as_trained

if TYPE_CHECKING:
    from medvl.evaluation.scored_runs import ScoredRun

BoolArray = NDArray[np.bool_]
TRUE, PRED = "#1fb8ac", "#f08a34"


def draw_mask(axes: Any, record: Record, mask: BoolArray, colour: str, width: float, *, filled: bool = False) -> None:
    """Outline a (H, W) mask, with `filled` over a shade."""
    mask = image_orientation(record.image).turn.apply(mask)
    if filled:  # a contour alone does not say which side is meant, and a mask of everything has none
        from matplotlib.colors import to_rgba

        shade = np.zeros((*mask.shape, 4), dtype=np.float32)
        shade[mask] = to_rgba(colour, 0.25)
        axes.imshow(shade)
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width)


def draw_box(
    axes: Any, record: Record, corners: tuple[float, float, float, float], colour: str, label: str = ""
) -> None:
    """Outline x0 y0 x1 y1 in native pixels, with a label above."""
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = image_orientation(record.image).turn.apply_box(corners, image_size(record.image))
    axes.text(x0, y0 - 2, label, color=colour, fontsize=5.5)
    axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.3))


def true_masks(run: ScoredRun, name_of: Callable[[Key], str]) -> TrueCell:
    """Draws the true contour; `name_of` says the class of a case."""
    reading = reading_of(run)

    def draw(axes: Any, record: Record, key: Key) -> None:
        mask = record.masks.get(name_of(key))
        assert mask is not None  # only scored cases are shown
        size = read_image(record.image, **reading).size
        draw_mask(axes, record, load_true_mask(mask, size, record, reading["slice_index"]), TRUE, 1.4)

    return draw


def reading_of(run: ScoredRun) -> dict[str, Any]:
    """Window and slice of DICOM and NIfTI files, as the run was scored with."""
    data = {**((run.config or {}).get("data") or {}), **parse_overrides(run.summary.get("overrides") or ())}
    window = data.get("window")
    slice_index = run.summary.get("slice", data.get("slice_index"))
    return {
        "window": None if window is None else tuple(window),
        "slice_index": None if slice_index == "all" else slice_index,  # a volume has no picture of its own
    }


def manifest_as_trained(run: ScoredRun) -> Manifest:
    """The manifest that a run was scored on, read by the model's configuration."""
    summary = run.summary
    return read_as_trained(make_config(summary["config"]), summary["manifest"], summary.get("overrides") or ())[0]


def manifest_as_written(run: ScoredRun) -> Manifest:
    """The manifest that a run was scored on, read by itself."""
    target = run.summary.get("target", "mask")
    return load_manifest(Path(run.summary["manifest"]), classes=[target] if target != "mask" else None)


def plain_text(text: str) -> str:
    """As matplotlib shows it literally: what is between two dollars it takes for a formula."""
    return text.replace("$", r"\$")
