"""Evaluation of a trained detector on one split: summary.json, cases.csv (one row an image), detections.csv.

A fixed guess is evaluated in the same way: of each class one box with score 1, the median of the training boxes as
shares of the image. Where boxes lie in nearly the same place on every image, a model must beat it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from medvl.config import Config, config_dict, manifest_path
from medvl.core.device import usable_device
from medvl.core.errors import InputError, warn
from medvl.core.progress import track
from medvl.data.box_labels import BoxDataset, BoxLabels, box_labels
from medvl.data.box_table import Box
from medvl.data.dataset import collate
from medvl.data.images import image_orientation
from medvl.data.record import Manifest
from medvl.data.workers import usable_workers
from medvl.evaluation.model_inputs import read_as_trained
from medvl.evaluation.record import CASES, EvaluationRecord
from medvl.evaluation.seen_images import say_seen, seen_images
from medvl.evaluation.tables import csv_text, interval_text, number_text, text_table
from medvl.inference.model_folder import load_model, weights_hash
from medvl.metrics.detection import (
    COCO_IOUS,
    METRICS,
    PUBLISHED_IOUS,
    WHAT,
    ImageBoxes,
    image_row,
    match,
    score,
)
from medvl.metrics.statistics import NUM_DRAWS
from medvl.tasks.detect.learner import MAX_DETECTIONS, SCORE_FLOOR, detections
from medvl.tasks.detect.model import Detector

BATCH = 16
DETECTIONS = "detections.csv"  # beside cases.csv
BASELINE = "a fixed box of each class with score 1: the median of the training boxes' edges, as shares of the picture"
OPTIMISTIC = "val chose the checkpoint of the model: its metrics there are optimistic"


def evaluate_detector(
    model: str | Path,
    manifest: str | Path | None = None,
    *,
    split: str = "val",
    threshold: float | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    num_draws: int = NUM_DRAWS,
) -> EvaluationRecord:
    """Score a RUN or MODEL of `task: detect`; with `out` write the files there.

    `metrics` and `baseline.metrics` are {name: {mean, lo, hi, num}}; see `evaluate.detection.WHAT`. `baseline.lead` is
    the model's less the baseline's, paired by patient.

    Args:
        manifest: as for training; None = the one that the model was trained on.
        threshold: score from which on a box is a prediction; None = `detect.score_threshold`. COCO's take all.
        overrides: `data.KEY=VALUE`, how pixels are read (window, slice_index).
        seed: of the bootstrap by patient.

    Raises:
        InputError: not a detector, or no annotated image in the split.
    """
    module, _, config, card = load_model(model)
    if not isinstance(module, Detector):
        raise InputError.unsupported("not a detector", file=model, expected="a run of task: detect")
    if manifest is None:
        manifest = manifest_path(config)
    records, data = read_as_trained(config, manifest, overrides)
    classes = tuple(card["classes"])
    threshold = config.detect.score_threshold if threshold is None else threshold
    labels, num_other_views = annotated_images(records, split, classes, replace(config, data=data))
    images = _detect(module, BoxDataset(labels, data, seed=0, train=False), labels, config, usable_device(device))
    guesses = _guesses(images, labels, card.get("mean_boxes", {}))
    scored = score(images, classes, threshold, num_draws=num_draws, seed=seed)
    fixed = score(guesses, classes, threshold, num_draws=num_draws, seed=seed)
    notes = [OPTIMISTIC] if split == "val" else []
    if labels.counts["other_names"]:
        others = ", ".join(f"{name} ({num})" for name, num in labels.counts["other_names"].items())
        notes.append(f"boxes that are no class of the model are not scored: {others}")
    if not any(labels.boxes):
        notes.append("no image of this split has a box: there is no average precision")
    num_patients = len({row.patient for row in labels.records})
    if num_patients < 2:
        notes.append("a single patient: there are no intervals")
    for note in notes:
        warn(note)
    overlap = seen_images(model, labels.records)
    notes += say_seen(overlap, split)
    record = EvaluationRecord.of(
        "detect",
        model=model,
        model_hash=weights_hash(model),
        config=config_dict(config),
        overrides=list(overrides),
        manifest=records,
        split=split,
        seed=seed,
        bootstrap_seed=seed,
        num_draws=num_draws,
        overlap=overlap,
        threshold=threshold,
        threshold_source="fixed",
        grid="native",
        counts={
            "num_cases": len(images),
            "num_patients": num_patients,
            "num_with_boxes": sum(bool(boxes) for boxes in labels.boxes),
        },
        metrics=scored.metrics(),
        by_class=scored.by_class,
        extras={
            "trained_on": {key: card.get(key) for key in ("manifest_hash", "split_hash", "data", "seed")},
            "classes": list(classes),
            "protocol": {
                "ious": PUBLISHED_IOUS,
                "coco_ious": COCO_IOUS,
                "nms_iou": config.detect.nms_iou,
                "score_floor": SCORE_FLOOR,
                "max_detections": MAX_DETECTIONS,
                "metrics": WHAT,
            },
            "num_left_out": {"not_annotated": labels.counts["not_annotated"], "other_views": num_other_views},
            "baseline": {
                "what": BASELINE,
                "boxes": card.get("mean_boxes", {}),
                "lead": scored.lead(fixed),
                "metrics": fixed.metrics(),
                "by_class": fixed.by_class,
            },
        },
        notes=notes,
    )
    if out is not None:
        files = {
            CASES: _case_table(images, guesses, split, threshold),
            DETECTIONS: _detection_table(images, classes),
        }
        record.write(out, files)
    return record


def defaults(config: Config) -> dict[str, Any]:
    """What the record of an evaluation without a threshold of the caller says."""
    return {"threshold": config.detect.score_threshold}


def as_text(summary: Mapping[str, Any], out: Path) -> str:
    """The summary for a terminal: the model and the fixed guess side by side."""
    fixed = summary["baseline"]["metrics"]
    rows = [
        [name, interval_text(value), interval_text(fixed[name]), value["num"], WHAT[name]]
        for name, value in ((name, summary["metrics"][name]) for name in METRICS)
    ]
    by_class = [
        [name, number_text(row["map"]), number_text(row["coco_ap50"]), row["num_true"], row["num_predicted"]]
        for name, row in summary["by_class"].items()
    ]
    leads = (f"{name} {interval_text(value)}" for name, value in summary["baseline"]["lead"].items())
    lines = [
        f"{summary['model']} on {summary['split']} of {summary['manifest']}: {summary['num_cases']} images "
        f"({summary['num_with_boxes']} with boxes), {summary['num_patients']} patients; "
        f"score threshold {summary['threshold']:g}",
        "",
        *text_table(["metric", "model [95 %]", "fixed mean box [95 %]", "of", ""], rows),
        "",
        f"  ahead of the fixed mean box (paired by patient): {'; '.join(leads)}",
        "",
        *text_table(["class", "map", "AP50", "true", "predicted"], by_class),
    ]
    return "\n".join([*lines, "", f"{out}: cases.csv, detections.csv, summary.json"])


def annotated_images(manifest: Manifest, split: str, classes: tuple[str, ...], config: Config) -> tuple[BoxLabels, int]:
    """The annotated images of a split, and how many records are of views that the model was not trained on."""
    rows = manifest.split(split)
    kept = [row for row in rows if config.data.views is None or row.view in config.data.views]
    labels = box_labels(kept, classes, config)
    if not labels.records:
        raise InputError.empty(
            f"no image of the {split} split is annotated",
            file=manifest.path,
            expected="boxes, or none where they were looked for (see detect.empty_means_absent)",
        )
    return labels, len(rows) - len(kept)


@torch.no_grad()
def _detect(
    module: Detector, dataset: BoxDataset, labels: BoxLabels, config: Config, device: torch.device
) -> list[ImageBoxes]:
    """True and detected boxes of every image, on its native grid."""
    module.eval().to(device)
    loader: Any = DataLoader(
        dataset,
        batch_size=BATCH,
        collate_fn=collate,
        num_workers=usable_workers(config.data.num_workers),
        generator=torch.Generator().manual_seed(0),  # the loader draws from its own, not the global one
    )
    images: list[ImageBoxes] = []
    for batch in track(loader, "detect", len(loader)):
        size = (batch.image.shape[2], batch.image.shape[3])
        answers = detections(module.network, module(batch.image.to(device)), size, config.detect.nms_iou)
        for answer, affine in zip(answers, batch.affines, strict=True):
            record, boxes = labels.records[len(images)], labels.boxes[len(images)]
            true, kinds = box_arrays(boxes, labels.classes)
            native = affine.invert_boxes(answer.boxes)
            images.append(ImageBoxes(record.id, record.patient, true, kinds, native, answer.scores, answer.classes))
    return images


def _guesses(
    images: Sequence[ImageBoxes], labels: BoxLabels, mean_boxes: Mapping[str, Sequence[float]]
) -> list[ImageBoxes]:
    """The same images with the fixed box of each class as their detections."""
    known = [name for name in labels.classes if name in mean_boxes]
    shares = np.array([mean_boxes[name] for name in known], dtype=np.float64).reshape(-1, 4)
    kinds = np.array([labels.classes.index(name) for name in known], dtype=np.int64)
    result = []
    for image, row, size in zip(images, labels.records, labels.sizes(), strict=True):
        turn = image_orientation(row.image).turn
        height, width = turn.size(size)
        shown = shares * (width, height, width, height)
        boxes = np.array([turn.undo_box(corners, size) for corners in shown]).reshape(-1, 4)
        result.append(
            ImageBoxes(image.id, image.patient, image.true_boxes, image.true_classes, boxes, np.ones(len(boxes)), kinds)
        )
    return result


def box_arrays(boxes: Sequence[Box], classes: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Boxes -> (m, 4) corners and (m,) classes."""
    corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], dtype=np.float64).reshape(-1, 4)
    return corners, np.array([classes.index(box.label) for box in boxes], dtype=np.int64)


def _case_table(images: Sequence[ImageBoxes], guesses: Sequence[ImageBoxes], split: str, threshold: float) -> str:
    """One row per image, the model's and the fixed guess's; an empty cell is undefined (no true box)."""
    rows = []
    for image, guess in zip(images, guesses, strict=True):
        row: dict[str, Any] = {"id": image.id, "patient": image.patient, "split": split}
        row |= image_row(image, threshold)
        fixed = image_row(guess, threshold)
        rows.append(row | {f"mean_box_{key}": fixed[key] for key in ("matched50", "recall50", "ap")})
    return csv_text(list(rows[0]), [list(row.values()) for row in rows], decimals=6)


def _detection_table(images: Sequence[ImageBoxes], classes: Sequence[str]) -> str:
    """One row per detection of any score, in native pixels; `iou` is the highest with a true box of its class."""
    rows = [
        [image.id, classes[kind], float(value), *box.round(2).tolist(), float(iou)]
        for image in images
        for box, value, kind, iou in zip(image.boxes, image.scores, image.classes, match(image, (0.5,))[1], strict=True)
    ]
    return csv_text(("id", "class", "score", "x0", "y0", "x1", "y1", "iou"), rows, decimals=6)
