"""`medvl report` of a detector: one self-contained HTML page of its evaluation in RUN/report/SPLIT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.config import DataConfig, make_config
from medvl.config.differences import flat
from medvl.core.csv_cells import read_dicts
from medvl.data.box_labels import BoxLabels
from medvl.data.images import image_orientation, read_image
from medvl.data.record import Record
from medvl.evaluation.case_metrics import worst_median_best
from medvl.evaluation.model_inputs import read_as_trained
from medvl.evaluation.record import CASES, EvaluationRecord
from medvl.evaluation.report.figures import FAINT, FIRST, INK, SECOND, image_data_uri, new_figure, to_svg
from medvl.evaluation.report.page import PageRequest, closing, image_facts
from medvl.metrics.detection import METRICS, WHAT, ImageBoxes, match
from medvl.tasks.detect.evaluate import DETECTIONS, annotated_images, box_arrays
from medvl.tasks.detect.kinds import stored

FloatArray = NDArray[np.float64]
CASES_EACH = 3  # worst, median, best
TITLES = {
    "map": "mAP, IoU .40 to .75",
    "map_published": "mAP, published protocol",
    "coco_ap": "COCO AP",
    "coco_ap50": "COCO AP at IoU .50",
    "recall50": "recall at IoU .50",
    "precision50": "precision at IoU .50",
}


def page(request: PageRequest) -> tuple[Path, dict[str, Any]]:
    """Write the page of a detector and return its path and the summary that it shows.

    It has images of the data set, with true and detected boxes, and no text but the names of the classes.
    """
    request.refuse(("group_by", "probe_rows", "threshold"), "for a detector", "leave it out: it is of masks")
    folder, record = stored(
        request.target, request.manifest, split=request.split, overrides=request.overrides, device=request.device
    )
    config = make_config(dict(record.config or {}))
    manifest, data = read_as_trained(config, record.manifest, record.overrides)
    classes = tuple(record.extras["classes"])
    labels, _ = annotated_images(manifest, record.split, classes, replace(config, data=data))
    images = read_boxes(folder / DETECTIONS, labels)
    threshold = record.threshold
    assert isinstance(threshold, float)
    with (folder / CASES).open(encoding="utf-8", newline="") as file:
        ap = {row["id"]: float(row["ap"]) for row in read_dicts(file) if row["ap"]}
    cases = _panels(images, labels, ap, threshold, data)
    context = {
        "title": f"Detector: {flat(record.config or {})['model.encoder']}",
        "split": record.split,
        "has_images": bool(cases),
        "facts": [
            *image_facts(request.target, record),
            ("images with boxes", record.counts["num_with_boxes"]),
            ("score threshold", f"{threshold:g} ({record.threshold_source})"),
        ],
        "metrics": [
            (TITLES[name], WHAT[name], record.metrics[name], record.extras["baseline"]["metrics"][name])
            for name in METRICS
        ],
        "leads": [(TITLES[name], value) for name, value in record.extras["baseline"]["lead"].items()],
        "baseline": record.extras["baseline"]["what"],
        "classes": _class_rows(record),
        "curves": precision_recall_svg(images, classes, threshold),
        "cases": cases,
        "notes": record.notes,
        **closing(record),
    }
    return request.write(folder, "detector.html.j2", context), record.summary


def read_boxes(path: Path, labels: BoxLabels) -> list[ImageBoxes]:
    """The annotated images with their true boxes and those of a detections.csv, in native pixels."""
    rows: dict[str, list[Mapping[str, str]]] = {record.id: [] for record in labels.records}
    with path.open(encoding="utf-8", newline="") as file:
        for row in read_dicts(file):
            rows[row["id"]].append(row)
    result = []
    for record, boxes in zip(labels.records, labels.boxes, strict=True):
        true, true_classes = box_arrays(boxes, labels.classes)
        detected = rows[record.id]
        corners = [[float(row[name]) for name in ("x0", "y0", "x1", "y1")] for row in detected]
        result.append(
            ImageBoxes(
                record.id,
                record.patient,
                true,
                true_classes,
                np.array(corners, dtype=np.float64).reshape(-1, 4),
                np.array([float(row["score"]) for row in detected]),
                np.array([labels.classes.index(row["class"]) for row in detected], dtype=np.int64),
            )
        )
    return result


def precision_recall(images: Sequence[ImageBoxes], k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(D,) scores of the detections of class k in falling order, recall and precision (IoU .50) from each on.

    Recall is 0 where there is no true box.
    """
    right = np.concatenate([match(image, (0.5,))[0][0][image.classes == k] for image in images])
    scores = np.concatenate([image.scores[image.classes == k] for image in images])
    order = np.argsort(-scores, kind="stable")
    hits = right[order].cumsum()
    num_true = sum(int((image.true_classes == k).sum()) for image in images)
    return scores[order], hits / max(num_true, 1), hits / np.arange(1, len(hits) + 1)


def precision_recall_svg(images: Sequence[ImageBoxes], classes: Sequence[str], threshold: float) -> str:
    """Of each class precision over recall, and both over the score; the threshold is marked. An SVG's text."""
    figure, axes = new_figure(len(classes), 2, (9.2, 2.6 * len(classes)))
    for k, name in enumerate(classes):
        left, right = axes[2 * k], axes[2 * k + 1]
        scores, recall, precision = precision_recall(images, k)
        title = name.replace("$", r"\$")
        left.plot(recall, precision, color=FIRST, linewidth=1.4)
        if num := int((scores >= threshold).sum()):
            left.plot(recall[num - 1], precision[num - 1], "o", color=SECOND, markersize=5)
        left.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
        left.set_title(f"{title}: precision over recall, IoU .50", loc="left", fontsize=9, color=INK)
        left.set_xlabel("recall", fontsize=8, color=INK)
        right.plot(scores, recall, color=FIRST, linewidth=1.4, label="recall")
        right.plot(scores, precision, color=SECOND, linewidth=1.4, label="precision")
        right.axvline(threshold, color=FAINT, linewidth=1.2, linestyle="--")
        right.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
        right.set_title("by score, the threshold dashed", loc="left", fontsize=9, color=INK)
        right.set_xlabel("score", fontsize=8, color=INK)
        right.legend(frameon=False, fontsize=8)
    return to_svg(figure, "Precision and recall")


def _class_rows(record: EvaluationRecord) -> list[dict[str, Any]]:
    fixed = record.extras["baseline"]["by_class"]
    return [{"name": name, **row, "fixed_map": fixed[name]["map"]} for name, row in record.by_class.items()]


def _panels(
    images: Sequence[ImageBoxes], labels: BoxLabels, ap: Mapping[str, float], threshold: float, data: DataConfig
) -> list[tuple[str, list[dict[str, Any]]]]:
    """(heading, panels) of the worst, the median and the best images by AP, among those with true boxes."""
    boxes = {image.id: image for image in images}
    records = {record.id: record for record in labels.records}
    ranked = sorted(ap, key=lambda ident: (ap[ident], ident))
    return [
        (name.capitalize(), [_panel(records[i], boxes[i].above(threshold), ap[i], labels.classes, data) for i in group])
        for name, group in worst_median_best(ranked, CASES_EACH)
    ]


def _panel(record: Record, boxes: ImageBoxes, ap: float, classes: Sequence[str], data: DataConfig) -> dict[str, Any]:
    """An image with the rectangles of its boxes, x y width height in the pixels of the panel."""
    slice_index = data.slice_index if isinstance(data.slice_index, int) else None
    image = read_image(record.image, window=data.window, slice_index=slice_index)
    uri, scale = image_data_uri(image.displayed().pixels)
    turn = image_orientation(record.image).turn
    height, width = turn.size(image.size)

    def rectangle(corners: FloatArray, label: str) -> dict[str, Any]:
        x0, y0, x1, y1 = (scale * value for value in turn.apply_box(tuple(corners.tolist()), image.size))
        return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "label": label}

    detected = zip(boxes.boxes, boxes.scores, boxes.classes, strict=True)
    true = zip(boxes.true_boxes, boxes.true_classes, strict=True)
    return {
        "image": uri,
        "width": max(1, round(width * scale)),
        "height": max(1, round(height * scale)),
        "true": [rectangle(corners, classes[k]) for corners, k in true],
        "detected": [rectangle(corners, f"{classes[k]} {value:.2f}") for corners, value, k in detected],
        "caption": record.id,
        "ap": ap,
    }
