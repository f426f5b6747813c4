"""The same cases under several methods, side by side: one picture of the worst, the median and the best ones.

Rows are chosen by the reference method (its first run), so that the choice favours no other; columns are the image, the
truth, and each method's first run. Masks and prompts: contours, with Dice. Labels: a bar for each score. Boxes: boxes.

Images are shown in standard display; masks and boxes are in stored pixels and turned with them.

Shapes: H W native pixels, n cases.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.core.files import whole_file
from medvl.data.images import read_image
from medvl.data.intensity import stretched
from medvl.data.record import Record
from medvl.evaluation.case_drawing import plain_text, reading_of
from medvl.evaluation.case_metrics import worst_median_best
from medvl.evaluation.grouping import Method
from medvl.evaluation.kind import Cell, Key
from medvl.evaluation.scored_runs import ScoredRun

EACH = 2  # rows of the worst, of the median, of the best cases


def draw_cases(
    methods: Sequence[Method], base: int, path: Path, include_text: bool, device: str, seed: int
) -> dict[str, Any]:
    """Write the PNG `path`; -> what it shows: {what, num_cases, cases, contains_text, left_out}.

    A method whose predictions or images are no longer where its summary says is left out with a warning, and without
    the reference or the images nothing is written and `num_cases` is 0.

    Args:
        base: index of the reference among `methods`.
        include_text: False leaves prompts out; ids, labels and names of methods stay.
        seed: of the choice among cases of equal quality.
    """
    reference = methods[base].runs[0]
    cells: dict[str, Cell] = {}
    left_out: dict[str, str] = {}
    for method in methods:
        try:
            cells[method.name] = reference.kind.draw(method.runs[0], device)
        except (InputError, OSError) as error:
            left_out[method.name] = str(error)
            warn(f"{method.name} is not in the picture: {error}")
    result: dict[str, Any] = {"what": "", "num_cases": 0, "cases": [], "contains_text": False, "left_out": left_out}
    if methods[base].name not in cells:
        return result
    groups = pick_keys({key: case.quality for key, case in reference.cases.items()}, seed, EACH)
    try:
        records = {record.id: record for record in reference.kind.manifest(reference).records}
        rows = [(name, key, _pixels(records[key[0]], reference)) for name, keys in groups for key in keys]
    except (InputError, OSError, KeyError) as error:
        warn(f"no picture of the cases: {error}")
        return result
    _draw(reference, rows, records, cells, path, include_text)
    phrase = any(reference.cases[key].text for _, key, _ in rows)
    result |= {
        "what": _what(reference, methods[base].name),
        "num_cases": len(rows),
        "cases": [{"group": name, "id": key[0], "class": key[1]} for name, key, _ in rows],
        "contains_text": include_text and phrase,
    }
    return result


def pick_keys(values: Mapping[Key, float], seed: int, each: int) -> list[tuple[str, list[Key]]]:
    """The worst, the median and the best cases: (name, keys), no case twice.

    Equal values are ordered by a seeded shuffle. Cases without a value are left out.
    """
    keys = sorted(key for key, value in values.items() if not math.isnan(value))
    order = np.random.default_rng(seed).permutation(len(keys))
    ranked = [keys[i] for i in sorted(order, key=lambda i: values[keys[i]])]
    return worst_median_best(ranked, each)


def _draw(
    reference: ScoredRun,
    rows: Sequence[tuple[str, Key, NDArray[np.float32]]],
    records: Mapping[str, Record],
    cells: Mapping[str, Cell],
    path: Path,
    include_text: bool,
) -> None:
    from matplotlib.figure import Figure

    draw_truth = reference.kind.draw_truth and reference.kind.draw_truth(reference)
    titles = ["image", *(["truth"] if draw_truth else []), *cells]
    heights = [max(1.2, 2.0 * pixels.shape[0] / pixels.shape[1]) + 0.6 for _, _, pixels in rows]  # inches, with caption
    figure = Figure(figsize=(2.0 * len(titles), sum(heights)), dpi=110, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for i, (name, key, pixels) in enumerate(rows):
        case = reference.cases[key]
        label = f"{name}: {key[0]}" + (f", {key[1]}" if key[1] not in ("", "mask") else "")
        phrase = case.text if include_text else ""
        under = [textwrap.fill(label, 30), textwrap.shorten(phrase, 160)]
        _show(grid[i][0], pixels)
        _caption(grid[i][0], "\n".join(textwrap.fill(line, 34) for line in under if line))
        column = 1
        if draw_truth:
            _show(grid[i][1], pixels)
            draw_truth(grid[i][1], records[key[0]], key)
            column = 2
        for cell in cells.values():
            axes = grid[i][column]
            if draw_truth:
                _show(axes, pixels)
                draw_truth(axes, records[key[0]], key)
            _caption(axes, cell(axes, key))
            column += 1
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(textwrap.fill(plain_text(title), 26), fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _show(axes: Any, pixels: NDArray[np.float32]) -> None:
    axes.imshow(pixels, cmap=None if pixels.ndim == 3 else "gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _caption(axes: Any, text: str) -> None:
    axes.set_xlabel(plain_text(text), fontsize=7, labelpad=2)


def _pixels(record: Record, run: ScoredRun) -> NDArray[np.float32]:
    return stretched(read_image(record.image, **reading_of(run)).displayed().pixels)


def _what(run: ScoredRun, reference: str) -> str:
    colours = "Green: true labels." if run.kind.draw_truth is None else "Green: truth. Orange: prediction."
    return (
        f"The worst, median and best cases of the first run of {reference}, by {run.kind.quality}, under the first run "
        f"of each method. {colours}"
    )
