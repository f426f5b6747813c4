"""Average precision of boxes, with intervals by patient.

AP as COCO defines it: detections in the order of their scores over all images; each takes the true box of its class
that it overlaps most among those not yet taken, if the IoU is at least the threshold; precision is made falling and
averaged over the recalls 0, 0.01, ... 1. mAP is the mean over IoU thresholds, then over the classes that have true
boxes.

COCO's own numbers are faster-coco-eval's (`coco_ap`). `Ranking` is for what that library cannot do: 2,000 resampled
sets of patients at once, for the intervals, and the AP of every image by itself. With every image once it gives the
library's numbers, to rounding (tests/metrics/test_detection_metrics.py).

Shapes: n images, K classes, T thresholds, m true boxes, d detections of an image, D of all, P patients.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.metrics.statistics import NUM_DRAWS, Interval, interval_of, ratio_intervals, resampled

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PUBLISHED_IOUS = tuple(round(0.40 + 0.05 * i, 2) for i in range(8))  # MGCA, G2D: .40 to .75
COCO_IOUS = tuple(round(0.50 + 0.05 * i, 2) for i in range(10))
RECALLS = np.linspace(0, 1, 101)
MAX_NUMBERS = 4_000_000  # of a batch of weightings; bounds memory
METRICS = ("map", "map_published", "coco_ap", "coco_ap50", "recall50", "precision50")
WHAT = {
    "map": "IoU .40 to .75, predictions from the score threshold on, all images count",
    "map_published": "the same, images without a prediction or without a true box left out (MGCA's and G2D's protocol)",
    "coco_ap": "COCO: IoU .50 to .95, all scores, all images",
    "coco_ap50": "COCO: IoU .50, all scores, all images",
    "recall50": "share of the true boxes found, IoU .50, predictions from the score threshold on",
    "precision50": "share of the predictions that are right, IoU .50",
}


@dataclass(frozen=True, slots=True)
class ImageBoxes:
    """True and detected boxes of one image. Boxes are (., 4) x0, y0, x1, y1, classes their index in 0 .. K - 1."""

    id: str
    patient: str
    true_boxes: FloatArray  # (m, 4)
    true_classes: IntArray  # (m,)
    boxes: FloatArray  # (d, 4)
    scores: FloatArray  # (d,)
    classes: IntArray  # (d,)

    def to_json(self) -> str:
        """All of it as text, for other processes; numbers keep every bit."""
        return json.dumps({key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> ImageBoxes:
        """What `to_json` wrote."""
        tree = json.loads(text)
        for name in ("true_boxes", "boxes"):
            tree[name] = np.array(tree[name], dtype=np.float64).reshape(-1, 4)
        for name in ("true_classes", "classes"):
            tree[name] = np.array(tree[name], dtype=np.int64)
        return cls(**{**tree, "scores": np.array(tree["scores"], dtype=np.float64)})

    def above(self, threshold: float) -> ImageBoxes:
        """Only the detections whose score is at least `threshold`."""
        keep = self.scores >= threshold
        return replace(self, boxes=self.boxes[keep], scores=self.scores[keep], classes=self.classes[keep])


def match(image: ImageBoxes, ious: Sequence[float]) -> tuple[NDArray[np.bool_], FloatArray]:
    """Which detections are right at each IoU threshold (T, d), and each one's highest IoU with a box of its class (d,).

    Detections choose in the order of falling scores, of equal scores the first first.
    """
    num = len(image.scores)
    right = np.zeros((len(ious), num), dtype=np.bool_)
    overlap = _box_iou(image.boxes, image.true_boxes)  # (d, m)
    overlap = np.where(image.classes[:, None] == image.true_classes[None, :], overlap, -1.0)
    if not num or not len(image.true_classes):
        return right, np.zeros(num)
    order = np.argsort(-image.scores, kind="stable")
    for t, threshold in enumerate(ious):
        free = np.ones(overlap.shape[1], dtype=np.bool_)
        for i in order:
            best = np.where(free, overlap[i], -1.0)
            j = int(best.argmax())
            if best[j] >= threshold - 1e-10:
                right[t, i], free[j] = True, False
    return right, overlap.max(axis=1).clip(min=0)


class Ranking:
    """The detections of all images in the order of their scores, so that AP under other weights of the images is quick.

    An image of weight w counts as w images of the same boxes.
    """

    def __init__(self, images: Sequence[ImageBoxes], ious: Sequence[float], num_classes: int) -> None:
        matched = [match(image, ious)[0] for image in images]
        right = np.concatenate([np.zeros((len(ious), 0), dtype=np.bool_), *matched], axis=1)  # (T, D)
        scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
        classes = np.concatenate([np.zeros(0, dtype=np.int64), *(image.classes for image in images)])
        owner = np.repeat(np.arange(len(images)), [len(image.scores) for image in images])
        order = np.argsort(-scores, kind="stable")
        self.num_ious = len(ious)
        self.parts: list[tuple[NDArray[np.bool_], IntArray, FloatArray]] = []
        for k in range(num_classes):
            of_class = order[classes[order] == k]
            true = np.array([(image.true_classes == k).sum() for image in images], dtype=np.float64)  # (n,)
            self.parts.append((right[:, of_class], owner[of_class], true))

    def ap(self, weights: FloatArray) -> FloatArray:
        """Weights of the images (S, n), S weightings at once -> (S, K, T); NaN of a class without true boxes."""
        num = len(weights)
        result = np.full((num, len(self.parts), self.num_ious), math.nan)
        for k, (right, owner, true) in enumerate(self.parts):
            num_true = weights @ true  # (S,)
            weight = weights[:, owner]  # (S, D)
            tp = (weight[:, None] * right).cumsum(axis=2)  # (S, T, D)
            precision = tp / np.maximum(weight.cumsum(axis=1), 1e-12)[:, None]
            falling = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
            padded = np.pad(falling, ((0, 0), (0, 0), (0, 1)))  # beyond the last recall: 0
            recall = tp / np.maximum(num_true, 1e-12)[:, None, None] + 1e-12
            rows = zip(np.concatenate(padded), np.concatenate(recall), strict=True)  # S * T of them
            means = [values[np.searchsorted(levels, RECALLS)].mean() for values, levels in rows]
            result[:, k] = np.reshape(means, (num, self.num_ious))
            result[num_true <= 0, k] = math.nan
        return result

    def mean_over(self, weights: FloatArray) -> FloatArray:
        """Weights (S, n) -> (S,) means over thresholds and over the classes with true boxes; NaN where there are none.

        So many weightings at once as need some 100 MB.
        """
        most = max(1, MAX_NUMBERS // (self.num_ious * max([1, *(len(owner) for _, owner, _ in self.parts)])))
        parts = [mean_ap(self.ap(weights[start : start + most])) for start in range(0, len(weights), most)]
        return np.concatenate(parts)


def average_precision(images: Sequence[ImageBoxes], ious: Sequence[float], num_classes: int) -> FloatArray:
    """AP of each class and threshold, (K, T), every image counted once."""
    return np.asarray(Ranking(images, ious, num_classes).ap(np.ones((1, len(images))))[0])


def mean_ap(ap: FloatArray) -> FloatArray:
    """AP (..., K, T) -> (...), the mean over thresholds, then over the classes with true boxes; NaN without any."""
    over_thresholds = ap.mean(axis=-1)  # (..., K)
    known = ~np.isnan(over_thresholds)
    total = np.where(known, over_thresholds, 0).sum(axis=-1)
    num = known.sum(axis=-1)
    return np.asarray(np.divide(total, num, out=np.full(num.shape, math.nan), where=num > 0))


@dataclass(frozen=True, slots=True)
class Scored:
    """Metrics of some images: estimates, how many images or boxes they are of, draws of patients (none where fewer than
    two patients have true boxes); and the classes one by one."""

    estimates: dict[str, float]
    nums: dict[str, int]
    draws: dict[str, FloatArray]
    ratios: dict[str, Interval]
    by_class: dict[str, dict[str, float | int]]

    def metrics(self) -> dict[str, dict[str, Any]]:
        """{name: {mean, lo, hi, num}}, see `WHAT`."""
        intervals = {
            name: interval_of(value, self.draws[name], self.nums[name]) for name, value in self.estimates.items()
        }
        return {name: interval.to_dict() for name, interval in (intervals | self.ratios).items()}

    def lead(self, other: Scored) -> dict[str, dict[str, Any]]:
        """`map` and `coco_ap` less those of `other`, scored on the same images with the same seed.

        The draws of patients are the same for both: this interval, not two that overlap, says whether one is ahead.
        """
        return {
            name: interval_of(
                self.estimates[name] - other.estimates[name], self.draws[name] - other.draws[name], self.nums[name]
            ).to_dict()
            for name in ("map", "coco_ap")
        }


def score(
    images: Sequence[ImageBoxes],
    classes: Sequence[str],
    threshold: float,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Scored:
    """All metrics of some images (see `WHAT`).

    Args:
        threshold: score from which on a box is a prediction, for all but the two COCO metrics.

    The COCO estimates are faster-coco-eval's; all intervals are percentile bootstraps by patient.
    """
    num_classes = len(classes)
    sure = [image.above(threshold) for image in images]
    both = [image for image in sure if len(image.scores) and len(image.true_classes)]
    sets = {
        "map": (sure, PUBLISHED_IOUS),
        "map_published": (both, PUBLISHED_IOUS),
        "coco_ap": (images, COCO_IOUS),
        "coco_ap50": (images, COCO_IOUS[:1]),
    }
    estimates = {}
    draws = {}
    by_class: dict[str, dict[str, float | int]] = {
        name: {
            "num_true": sum(int((image.true_classes == k).sum()) for image in images),
            "num_predicted": sum(int((image.classes == k).sum()) for image in sure),
        }
        for k, name in enumerate(classes)
    }
    for name, (chosen, ious) in sets.items():
        ranking = Ranking(chosen, ious, num_classes)
        ap = ranking.ap(np.ones((1, len(chosen))))[0]  # (K, T)
        estimates[name] = float(mean_ap(ap))
        draws[name] = _draws(ranking, chosen, num_draws, seed)
        for k, kind in enumerate(classes):
            by_class[kind][name] = float(ap[k].mean())
    estimates |= dict(zip(("coco_ap", "coco_ap50"), coco_ap(images, num_classes), strict=True))
    hits = np.array([match(image, (0.5,))[0].sum() for image in sure], dtype=np.float64)
    true = np.array([len(image.true_classes) for image in sure], dtype=np.float64)
    predicted = np.array([len(image.scores) for image in sure], dtype=np.float64)
    pair = ratio_intervals(
        np.stack([hits, hits], axis=1),
        np.stack([true, predicted], axis=1),
        [image.patient for image in images],
        num=[int(true.sum()), int(predicted.sum())],
        num_draws=num_draws,
        seed=seed,
    )
    nums = {name: len(chosen) for name, (chosen, _) in sets.items()}
    return Scored(estimates, nums, draws, dict(zip(("recall50", "precision50"), pair, strict=True)), by_class)


def image_row(image: ImageBoxes, threshold: float) -> dict[str, float | int]:
    """What cases.csv says of one image: num_true, num_pred, matched50 and recall50 at IoU .5, and ap.

    `ap` is `map` of this image by itself; it and recall50 are NaN without true boxes.
    """
    sure = image.above(threshold)
    num_true = len(image.true_classes)
    matched = int(match(sure, (0.5,))[0].sum())
    num_classes = int(max(sure.classes.max(initial=0), sure.true_classes.max(initial=0))) + 1
    return {
        "num_true": num_true,
        "num_pred": len(sure.scores),
        "matched50": matched,
        "recall50": matched / num_true if num_true else math.nan,
        "ap": float(mean_ap(average_precision([sure], PUBLISHED_IOUS, num_classes))),
    }


def coco_ap(images: Sequence[ImageBoxes], num_classes: int, ious: Sequence[float] | None = None) -> tuple[float, float]:
    """AP over `ious` (None: .50 to .95) and at .50 by faster-coco-eval; NaN where there is no true box."""
    from faster_coco_eval import COCO, COCOeval_faster

    if not any(len(image.true_classes) for image in images):
        return math.nan, math.nan
    if not any(len(image.scores) for image in images):
        return 0.0, 0.0
    truth: dict[str, Any] = {
        "images": [{"id": i + 1} for i in range(len(images))],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(num_classes)],
        "annotations": [],
    }
    detections = []
    for i, image in enumerate(images):
        for box, k in zip(image.true_boxes, image.true_classes, strict=True):
            sides = _xywh(box)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": i + 1,
                    "category_id": int(k) + 1,
                    "bbox": sides,
                    "area": sides[2] * sides[3],
                    "iscrowd": 0,
                }
            )
        for box, score, k in zip(image.boxes, image.scores, image.classes, strict=True):
            detections.append({"image_id": i + 1, "category_id": int(k) + 1, "bbox": _xywh(box), "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(truth)
        evaluation = COCOeval_faster(reference, reference.loadRes(detections), "bbox")
        if ious is not None:
            evaluation.params.iouThrs = np.asarray(ious)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _box_iou(first: FloatArray, second: FloatArray) -> FloatArray:
    """Intersection over union of each pair: (d, 4), (m, 4) -> (d, m) in [0, 1]; boxes without area overlap nothing."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])  # (d, m, 2)
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2)  # (d, m)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(union), where=union > 0))


def _xywh(box: FloatArray) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, x1 - x0, y1 - y0]


def _draws(ranking: Ranking, images: Sequence[ImageBoxes], num_draws: int, seed: int) -> FloatArray:
    """(num_draws,) mAP of resampled patients; none where fewer than two patients have true boxes."""
    if len({image.patient for image in images if len(image.true_classes)}) < 2:
        return np.zeros(0)
    names, code = np.unique([image.patient for image in images], return_inverse=True)
    return np.concatenate([ranking.mean_over(times[:, code]) for times in resampled(len(names), num_draws, seed)])
