"""The same cases under several methods, side by side: one picture of the worst, the median and the best ones.

Rows are chosen by the reference method (its first run), so that the choice favours no other; columns are the image, the
truth, and each method's first run. Masks and phrases: contours, with Dice. Labels: a bar for each score. Boxes: boxes.

Images are shown in standard display; masks and boxes are in stored pixels and turned with them.

Shapes: H W native pixels, n cases.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.config import make_config
from medvl.core.csv_cells import read_dicts
from medvl.core.errors import InputError, warn
from medvl.core.files import whole_file
from medvl.data.box_labels import box_labels
from medvl.data.images import image_orientation, image_size, read_image
from medvl.data.intensity import stretched
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest
from medvl.evaluation.case_metrics import CaseRow, worst_median_best
from medvl.evaluation.cases import load_true_mask
from medvl.evaluation.comparison_metrics import Key, ScoredCase
from medvl.evaluation.grouping import Method
from medvl.evaluation.model_inputs import open_inputs, parse_overrides, read_as_trained
from medvl.evaluation.prediction_sources import predicted_masks
from medvl.evaluation.scored_runs import ScoredRun

BoolArray = NDArray[np.bool_]
EACH = 2  # rows of the worst, of the median, of the best cases
MAX_CLASSES = 14  # bars in a cell; more classes: the true ones and the highest scores
TRUE, PRED = "#1fb8ac", "#f08a34"
Cell = Callable[[Any, Key], str]  # draws a case into axes -> what stands under it


def draw_cases(
    methods: Sequence[Method], base: int, path: Path, include_text: bool, device: str, seed: int
) -> dict[str, Any]:
    """Write the PNG `path`; -> what it shows: {what, num_cases, cases, contains_text, left_out}.

    A method whose predictions or images are no longer where its summary says is left out with a warning, and without
    the reference or the images nothing is written and `num_cases` is 0.

    Args:
        base: index of the reference among `methods`.
        include_text: False leaves phrases out; ids, labels and names of methods stay.
        seed: of the choice among cases of equal quality.
    """
    reference = methods[base].runs[0]
    cells: dict[str, Cell] = {}
    left_out: dict[str, str] = {}
    for method in methods:
        try:
            cells[method.name] = _CELLS[reference.kind.task](method.runs[0], device)
        except (InputError, OSError) as error:
            left_out[method.name] = str(error)
            warn(f"{method.name} is not in the picture: {error}")
    told: dict[str, Any] = {"what": "", "num_cases": 0, "cases": [], "contains_text": False, "left_out": left_out}
    if methods[base].name not in cells:
        return told
    groups = pick_keys({key: quality(case) for key, case in reference.cases.items()}, seed, EACH)
    try:
        records = {record.id: record for record in _manifest(reference).records}
        rows = [(name, key, _pixels(records[key[0]], reference)) for name, keys in groups for key in keys]
    except (InputError, OSError, KeyError) as error:
        warn(f"no picture of the cases: {error}")
        return told
    _draw(reference, rows, records, cells, path, include_text)
    phrase = any(_phrase(reference.cases[key]) for _, key, _ in rows)
    told |= {
        "what": _what(reference, methods[base].name),
        "num_cases": len(rows),
        "cases": [{"group": name, "id": key[0], "class": key[1]} for name, key, _ in rows],
        "contains_text": include_text and phrase,
    }
    return told


def quality(case: CaseRow | ScoredCase) -> float:
    """By which cases are ordered: Dice; of labels 1 - mean |score - label|; else the first value (AP of boxes)."""
    if isinstance(case, CaseRow):
        return case.dice
    if not case.has_labels:
        return case.values[0]
    return 1 - float(np.mean([abs(p - float(y)) for p, y in zip(case.values, case.truth, strict=True) if y != ""]))


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

    with_truth = reference.kind.ratios is not None or reference.kind.task == "segment"
    titles = ["image", *(["truth"] if with_truth else []), *cells]
    heights = [max(1.2, 2.0 * pixels.shape[0] / pixels.shape[1]) + 0.6 for _, _, pixels in rows]  # inches, with caption
    figure = Figure(figsize=(2.0 * len(titles), sum(heights)), dpi=110, layout="constrained")
    grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for i, (name, key, pixels) in enumerate(rows):
        case = reference.cases[key]
        label = f"{name}: {key[0]}" + (f", {key[1]}" if key[1] not in ("", "mask") else "")
        phrase = _phrase(case) if include_text else ""
        under = [textwrap.fill(label, 30), textwrap.shorten(phrase, 160)]
        _show(grid[i][0], pixels)
        _caption(grid[i][0], "\n".join(textwrap.fill(line, 34) for line in under if line))
        column = 1
        if with_truth:
            _show(grid[i][1], pixels)
            _truth(grid[i][1], reference, records[key[0]], key)
            column = 2
        for cell in cells.values():
            axes = grid[i][column]
            if with_truth:
                _show(axes, pixels)
                _truth(axes, reference, records[key[0]], key)
            _caption(axes, cell(axes, key))
            column += 1
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(textwrap.fill(_plain(title), 26), fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _show(axes: Any, pixels: NDArray[np.float32]) -> None:
    axes.imshow(pixels, cmap=None if pixels.ndim == 3 else "gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _caption(axes: Any, text: str) -> None:
    axes.set_xlabel(_plain(text), fontsize=7, labelpad=2)


def _contour(axes: Any, record: Record, mask: BoolArray, colour: str, width: float, *, filled: bool = False) -> None:
    mask = image_orientation(record.image).turn.apply(mask)
    if filled:  # a contour alone does not say which side is meant, and a mask of everything has none
        from matplotlib.colors import to_rgba

        shade = np.zeros((*mask.shape, 4), dtype=np.float32)
        shade[mask] = to_rgba(colour, 0.25)
        axes.imshow(shade)
    if mask.any() and not mask.all():
        axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width)


def _truth(axes: Any, run: ScoredRun, record: Record, key: Key) -> None:
    """The true contour, or the true boxes."""
    if run.kind.task == "detect":
        config = make_config(run.summary["config"])
        for box in box_labels([record], run.summary["classes"], config).boxes[0]:
            _box(axes, record, (box.x0, box.y0, box.x1, box.y1), TRUE)
        return
    name = key[1] if run.kind.task == "segment" else str(run.summary["target"])
    mask = record.masks.get(name)
    assert mask is not None  # only scored cases are shown
    size = read_image(record.image, **_reading(run)).size
    _contour(axes, record, load_true_mask(mask, size, record, _reading(run)["slice_index"]), TRUE, 1.4)


def _box(axes: Any, record: Record, corners: tuple[float, float, float, float], colour: str, label: str = "") -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = image_orientation(record.image).turn.apply_box(corners, image_size(record.image))
    axes.text(x0, y0 - 2, label, color=colour, fontsize=5.5)
    axes.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1.3))


def _mask_cells(run: ScoredRun, device: str) -> Cell:
    """Contours of a model, or of a folder of masks."""
    inputs = open_inputs(str(run.summary["model"]), run.summary.get("overrides") or (), device=device)
    manifest = inputs.manifest(Path(run.summary["manifest"]))
    records = {record.id: record for record in manifest.records}
    ids = {key[0] for key in run.cases}
    shown = [record for record in manifest.split(run.summary["split"]) if record.id in ids]
    inputs.source.check(shown, sorted({key[1] for key in run.cases}))

    def cell(axes: Any, key: Key) -> str:
        record, row = records[key[0]], run.cases[key]
        assert isinstance(row, CaseRow)
        found = predicted_masks(inputs.source, [record], [record.text], run.summary["threshold"])[0]
        _contour(axes, record, found[key[1]], PRED, 1.1, filled=True)
        return f"Dice {row.dice:.3f}"

    return cell


def _phrase_cells(run: ScoredRun, device: str) -> Cell:
    """Contours of a pre-trained model asked for the phrase, at the threshold that the case was scored with."""
    from medvl.tasks.pretrain.zero_shot import ZeroShot

    reader = ZeroShot.load(run.summary["model"], device)
    records = {record.id: record for record in _manifest(run).records}
    with (run.folder / "cases.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in read_dicts(file) if row["method"] == "phrase"}

    def cell(axes: Any, key: Key) -> str:
        row, record = rows[key[0]], records[key[0]]
        reader.set_image(record.image)
        sigma, how = run.summary["sigma_cells"], run.summary["how"]
        found = reader.ground(row["text"], float(row["threshold"]), sigma, how)
        assert found.mask is not None
        _contour(axes, record, found.mask, PRED, 1.1, filled=True)
        return f"Dice {float(row['dice']):.3f}"

    return cell


def _label_cells(run: ScoredRun, device: str) -> Cell:
    """A bar for each class; the true ones in the colour of the truth and in bold."""
    classes = run.summary["classes"]

    def cell(axes: Any, key: Key) -> str:
        case = run.cases[key]
        assert isinstance(case, ScoredCase)
        order = list(range(len(classes)))
        if len(order) > MAX_CLASSES:
            order = sorted(order, key=lambda k: (case.truth[k] != 1, -case.values[k]))[:MAX_CLASSES]
        place = np.arange(len(order))[::-1]
        colours = [TRUE if case.truth[k] == 1 else "#b8c0c8" if case.truth[k] == 0 else "#e6e0d0" for k in order]
        axes.barh(place, [case.values[k] for k in order], color=colours)
        axes.set(xlim=(0, 1.35), ylim=(-0.6, len(order) - 0.4), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for y, k in zip(place, order, strict=True):
            mark = "unknown" if case.truth[k] == "" else ""
            text = f"{_plain(classes[k])[:20]} {case.values[k]:.2f} {mark}"
            weight = "bold" if case.truth[k] == 1 else "normal"  # seen where a true class has no score
            axes.text(0.02, y, text, va="center", fontsize=5.5 if len(order) > 6 else 7, fontweight=weight)
        return f"mean |score - label| {1 - quality(case):.3f}"

    return cell


def _box_cells(run: ScoredRun, device: str) -> Cell:
    """Detections from the score threshold on."""
    records = {record.id: record for record in _manifest(run).records}
    with (run.folder / "detections.csv").open(encoding="utf-8", newline="") as file:
        found = [row for row in read_dicts(file) if float(row["score"]) >= run.summary["threshold"]]

    def cell(axes: Any, key: Key) -> str:
        case = run.cases[key]
        assert isinstance(case, ScoredCase)
        for row in found:
            if row["id"] == key[0]:
                corners = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
                label = f"{_plain(row['class'])} {float(row['score']):.2f}"
                _box(axes, records[key[0]], corners, PRED, label)
        return f"AP {case.values[0]:.3f}"

    return cell


_CELLS: dict[str, Callable[[ScoredRun, str], Cell]] = {
    "segment": _mask_cells,
    "ground": _phrase_cells,
    "classify": _label_cells,
    "zero-shot classify": _label_cells,
    "classify and prompts": _label_cells,
    "detect": _box_cells,
}


def _manifest(run: ScoredRun) -> Manifest:
    """The manifest that a run was scored on, read as it was."""
    path, summary = Path(run.summary["manifest"]), run.summary
    if run.kind.task == "segment":
        return open_inputs(str(summary["model"]), summary.get("overrides") or ()).manifest(path)
    if run.kind.task in ("classify", "detect"):
        return read_as_trained(make_config(summary["config"]), path, summary.get("overrides") or ())[0]
    target = summary.get("target", "mask")
    return load_manifest(path, classes=[target] if target != "mask" else None)


def _reading(run: ScoredRun) -> dict[str, Any]:
    """Window and slice of DICOM and NIfTI files, as the run was scored with."""
    data = {**((run.config or {}).get("data") or {}), **parse_overrides(run.summary.get("overrides") or ())}
    window = data.get("window")
    slice_index = run.summary.get("slice", data.get("slice_index"))
    return {
        "window": None if window is None else tuple(window),
        "slice_index": None if slice_index == "all" else slice_index,  # a volume has no picture of its own
    }


def _pixels(record: Record, run: ScoredRun) -> NDArray[np.float32]:
    return stretched(read_image(record.image, **_reading(run)).displayed().pixels)


def _phrase(case: CaseRow | ScoredCase) -> str:
    """The text that a case was asked with; "" of labels and boxes."""
    if isinstance(case, CaseRow):
        return case.text
    return "" if case.has_labels else str(case.truth[1])


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib takes what is between two of them for a formula


def _what(run: ScoredRun, reference: str) -> str:
    labelled = "classify" in run.kind.task
    measure = "mean |score - label|" if labelled else {"detect": "AP of the image"}.get(run.kind.task, "Dice")
    colours = "Green: true labels." if labelled else "Green: truth. Orange: prediction."
    return (
        f"The worst, median and best cases of the first run of {reference}, by {measure}, under the first run of "
        f"each method. {colours}"
    )
