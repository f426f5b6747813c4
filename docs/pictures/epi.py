"""EPI over the visits of a real training: predictions, the pseudo label that they leave, and both against the mask.

The run is small: 72 radiographs of the shipped set with one lung each, of which twelve keep their masks. It takes about
two minutes on two cores and is kept in runs/pictures/epi.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import shipped
import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medvl.config import load_config
from medvl.data.record import Record
from medvl.data.records import load_manifest, write_manifest
from medvl.losses import pseudo_labels
from medvl.losses.pseudo_labels import UNKNOWN, PseudoLabelStore
from medvl.metrics.segmentation import count_pixels, dice
from medvl.tasks.segment.semi import hidden_mask
from medvl.train.run import train

ROOT = Path(__file__).resolve().parents[2]
RECIPE, RUNS = ROOT / "recipes" / "lvit_semi.yaml", ROOT / "runs" / "pictures" / "epi"
NUM_IMAGES, NUM_VAL = 72, 6
LABELLED = 12 / NUM_IMAGES
SHOWN = (1, 3, 6, 12, 24)  # visits
FloatArray = NDArray[np.float32]
History = dict[str, list[FloatArray]]  # the predictions of each record, by visit, NaN where the view did not reach


def draw() -> Figure:
    """Above one image at five of its visits, below the Dice of all unlabelled images."""
    history = _history()
    config = load_config(RECIPE, _overrides())
    truths = {row.id: hidden_mask(row, "mask", config) for row in load_manifest(RUNS / "table.csv").split("train")}
    beta = config.semi.beta
    shared = min(map(len, history.values()))
    labels = {name: _labels(rows, beta, warmup=True) for name, rows in history.items()}
    first = {name: _labels(rows, beta, warmup=False) for name, rows in history.items()}
    gains = {
        name: _score(rows[shared - 1], truths[name]) - _score(rows[0], truths[name]) for name, rows in labels.items()
    }
    name = max(gains, key=lambda one: gains[one])
    figure = plt.figure(figsize=(10.5, 6.9))
    grid = figure.add_gridspec(3, len(SHOWN) + 1, height_ratios=(1, 1, 1), width_ratios=(1.15, *[1] * len(SHOWN)))
    record = next(row for row in load_manifest(RUNS / "table.csv").records if row.id == name)
    _image(figure.add_subplot(grid[0:2, 0]), record, truths[name])
    for column, visit in enumerate(SHOWN, 1):
        for row, (values, words) in enumerate(((history[name], "prediction"), (labels[name], "pseudo label"))):
            axes = figure.add_subplot(grid[row, column])
            style.show(axes, np.nan_to_num(values[visit - 1], nan=UNKNOWN), interpolation="nearest")
            style.outline(axes, truths[name], style.TRUTH, 1.3, "dashed")
            axes.set_title(f"{words}, visit {visit}", fontsize=style.SMALL)
    axes = figure.add_subplot(grid[2, :])
    visits = np.arange(1, shared + 1)
    for values, words, look in (
        (history, "prediction", {"color": "#888888", "linewidth": 1.2}),
        (
            first,
            f"pseudo label, beta {beta} (paper)",
            {"color": style.DARK, "linestyle": "dashed"},
        ),
        (labels, f"pseudo label, beta min({beta}, 1 − 1/visit) (medvl)", {"color": style.MASK, "linewidth": 2.4}),
    ):
        axes.plot(visits, _dice(values, truths, shared), label=words, **look)
    axes.set(xlabel="visit", ylabel="Dice against\nthe hidden mask", xlim=(1, shared))
    axes.legend(loc="lower center", bbox_to_anchor=(0.48, 0.98), ncols=3, frameon=False, fontsize=style.SMALL)
    figure.subplots_adjust(left=0.08, right=0.99, top=0.955, bottom=0.145, wspace=0.08, hspace=0.32)
    words = (
        f"One run, {len(history)} unlabelled images, both labels from the same predictions. Above: the image whose "
        "label gains most; blue: its hidden mask."
    )
    style.footnote(figure, f"{words}\n{shipped.CREDIT} {shipped.MASK_CREDIT}")
    return figure


def _image(axes: plt.Axes, record: Record, truth: Any) -> None:
    import medvl

    pixels = np.asarray(medvl.read_image(record.image).pixels).squeeze()
    style.show(axes, pixels, f"“{record.text}”", extent=(-0.5, truth.shape[1] - 0.5, truth.shape[0] - 0.5, -0.5))
    style.outline(axes, truth, style.TRUTH, 1.6, "dashed")


def _labels(predictions: list[FloatArray], beta: float, *, warmup: bool) -> list[FloatArray]:
    """The pseudo label after each visit: P = beta P + (1 - beta) prediction, where the view reached."""
    label, seen, result = np.full_like(predictions[0], UNKNOWN), np.zeros(predictions[0].shape, dtype=np.int64), []
    for prediction in predictions:
        reached = np.isfinite(prediction)
        weight = pseudo_labels.beta_at(beta, seen, warmup=warmup)
        label = np.where(reached, weight * label + (1 - weight) * np.nan_to_num(prediction), label)
        seen = seen + reached
        result.append(label)
    return result


def _dice(values: History, truths: dict[str, Any], visits: int) -> list[float]:
    """Mean over the records at each visit."""
    return [float(np.mean([_score(rows[at], truths[name]) for name, rows in values.items()])) for at in range(visits)]


def _score(values: FloatArray, truth: Any) -> float:
    """Dice over the pixels that the view reached."""
    return dice(count_pixels(values > 0.5, truth & np.isfinite(values)))


def _history() -> History:
    """The predictions that the run put into its store, from the kept run or from a new one."""
    path = RUNS / "predictions.npz"
    if not path.is_file():
        _train(path)
    with np.load(path) as arrays:
        return {name: list(arrays[name].astype(np.float32)) for name in arrays.files}


def _train(path: Path) -> None:
    """A labelled-only model, then EPI from it; what each visit puts into the store is written to `path`."""
    write_manifest(RUNS / "table.csv", _rows())
    seen_by: defaultdict[str, list[FloatArray]] = defaultdict(list)

    class Recorder(PseudoLabelStore):
        def update(self, ident: str, probs: FloatArray, seen: Any, beta: float, *, warmup: bool) -> None:
            super().update(ident, probs, seen, beta, warmup=warmup)
            seen_by[ident].append(np.where(True if seen is None else seen, probs[0], np.nan).astype(np.float16))

    import medvl.tasks.segment.semi as learner

    supervised = RUNS / "labelled_only"
    train(load_config(RECIPE, [*_overrides(), "semi.epi=none", "train.epochs=4"]), supervised)
    learner.PseudoLabelStore = Recorder  # type: ignore[misc]  # for this process, which only draws
    train(load_config(RECIPE, [*_overrides(), f"init={supervised}", "train.lr=1e-3", "train.epochs=9"]), RUNS / "semi")
    np.savez_compressed(path, **{name: np.stack(rows) for name, rows in sorted(seen_by.items())})


def _overrides() -> list[str]:
    data = [f"data.manifest={RUNS / 'table.csv'}", f"data.label_fraction={LABELLED}", "data.rows_per_image=null"]
    return [*data, "semi.lv_bank=none", "train.steps_per_epoch=50"]


def _rows() -> list[dict[str, str]]:
    """One lung of each of the first images of train and val, right and left in turn."""
    rows = []
    for split, number in (("train", NUM_IMAGES), ("val", NUM_VAL)):
        zones: dict[Path, list[Record]] = defaultdict(list)
        for record in shipped.table().split(split):
            if record.extra["kind"] == "lung" and record.extra["wording"] == "seen":
                zones[record.image].append(record)
        for index, records in enumerate(list(zones.values())[:number]):
            record = records[index % len(records)]
            reference = record.masks["mask"]
            assert reference is not None and reference.values is not None
            row = {"id": record.id, "image": str(record.image), "text": record.text, "mask": str(reference.path)}
            row |= {"mask_values": "|".join(map(str, reference.values)), "patient": record.patient, "split": split}
            rows.append(row)
    return rows
