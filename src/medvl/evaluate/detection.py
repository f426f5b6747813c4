"""Average precision of boxes, with intervals by patient.

AP as COCO defines it: detections in the order of their scores over all images; each takes the true box of its class
that it overlaps most among those not yet taken, if the IoU is at least the threshold; precision is made falling and
averaged over the recalls 0, 0.01, ... 1. mAP is the mean over IoU thresholds, then over the classes that have true
boxes. `coco_ap` of faster-coco-eval gives the same numbers (tests/evaluate/test_detection.py).

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
import torch
from numpy.typing import NDArray

from medvl.evaluate.classification import resampled
from medvl.evaluate.statistics import NUM_DRAWS, Interval, ratio_intervals
from medvl.models.boxes import box_iou

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PUBLISHED_IOUS = tuple(round(0.40 + 0.05 * i, 2) for i in range(8))  # MGCA, G2D: .40 to .75
COCO_IOUS = tuple(round(0.50 + 0.05 * i, 2) for i in range(10))
RECALLS = np.linspace(0, 1, 101)
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
    overlap = box_iou(torch.from_numpy(image.boxes), torch.from_numpy(image.true_boxes)).numpy()  # (d, m)
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
        found = [match(image, ious)[0] for image in images]
        right = np.concatenate([np.zeros((len(ious), 0), dtype=np.bool_), *found], axis=1)  # (T, D)
        scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
        classes = np.concatenate([np.zeros(0, dtype=np.int64), *(image.classes for image in images)])
        owner = np.repeat(np.arange(len(images)), [len(image.scores) for image in images])
        order = np.argsort(-scores, kind="stable")
        self.num_ious = len(ious)
        self.parts: list[tuple[NDArray[np.bool_], IntArray, FloatArray]] = []
        for k in range(num_classes):
            own = order[classes[order] == k]
            true = np.array([(image.true_classes == k).sum() for image in images], dtype=np.float64)  # (n,)
            self.parts.append((right[:, own], owner[own], true))

    def ap(self, weights: FloatArray) -> FloatArray:
        """Weights of the images (n,) -> (K, T); NaN of a class without true boxes."""
        result = np.full((len(self.parts), self.num_ious), math.nan)
        for k, (right, owner, true) in enumerate(self.parts):
            num_true = float(weights @ true)
            if not num_true:
                continue
            weight = weights[owner]  # (D_k,)
            tp = np.cumsum(right * weight, axis=1)  # (T, D_k)
            seen = np.cumsum(weight)
            precision = np.divide(tp, seen, out=np.zeros_like(tp), where=seen > 0)
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = tp / num_true
            padded = np.concatenate([precision, np.zeros((self.num_ious, 1))], axis=1)  # beyond the last recall: 0
            for t in range(self.num_ious):
                result[k, t] = padded[t, np.searchsorted(recall[t] + 1e-12, RECALLS, side="left")].mean()
        return result

    def mean_over(self, weights: FloatArray) -> float:
        """Mean over thresholds and over the classes with true boxes; NaN where there are none."""
        return mean_ap(self.ap(weights))


def average_precision(images: Sequence[ImageBoxes], ious: Sequence[float], num_classes: int) -> FloatArray:
    """AP of each class and threshold, (K, T), every image counted once."""
    return Ranking(images, ious, num_classes).ap(np.ones(len(images)))


def detection_metrics(
    images: Sequence[ImageBoxes],
    classes: Sequence[str],
    threshold: float,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """`metrics` {name: {mean, lo, hi, num}} (see `WHAT`; `num` is the images, or boxes, that count) and `by_class`.

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
    coco = dict(zip(("coco_ap", "coco_ap50"), coco_ap(images, num_classes), strict=True))
    metrics = {}
    for name, (chosen, ious) in sets.items():
        ranking = Ranking(chosen, ious, num_classes)
        estimate = coco.get(name, ranking.mean_over(np.ones(len(chosen))))
        metrics[name] = _interval(ranking, chosen, estimate, num_draws, seed).to_dict()
    hits = np.array([match(image, (0.5,))[0].sum() for image in sure], dtype=np.float64)
    true = np.array([len(image.true_classes) for image in sure], dtype=np.float64)
    predicted = np.array([len(image.scores) for image in sure], dtype=np.float64)
    patients = [image.patient for image in images]
    pair = ratio_intervals(
        np.stack([hits, hits], axis=1),
        np.stack([true, predicted], axis=1),
        patients,
        num=[int(true.sum()), int(predicted.sum())],
        num_draws=num_draws,
        seed=seed,
    )
    metrics |= {name: one.to_dict() for name, one in zip(("recall50", "precision50"), pair, strict=True)}
    ap = {
        "map": average_precision(sure, PUBLISHED_IOUS, num_classes).mean(axis=1),
        "coco_ap": average_precision(images, COCO_IOUS, num_classes).mean(axis=1),
        "coco_ap50": average_precision(images, COCO_IOUS[:1], num_classes).mean(axis=1),
    }
    by_class = {
        name: {
            "num_true": sum(int((image.true_classes == k).sum()) for image in images),
            "num_predicted": sum(int((image.classes == k).sum()) for image in sure),
            **{key: float(values[k]) for key, values in ap.items()},
        }
        for k, name in enumerate(classes)
    }
    return {"metrics": metrics, "by_class": by_class}


def lead(
    first: Sequence[ImageBoxes],
    second: Sequence[ImageBoxes],
    num_classes: int,
    threshold: float,
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """`map` and `coco_ap` of `first` less those of `second`, on the same images, with intervals by patient.

    Both are computed in the same draws of patients: that interval, not two overlapping ones, says whether one is ahead.
    """
    result = {}
    for name, ious, cut in (("map", PUBLISHED_IOUS, threshold), ("coco_ap", COCO_IOUS, 0.0)):
        pair = [Ranking([one.above(cut) for one in images], ious, num_classes) for images in (first, second)]
        one = np.ones(len(first))
        difference = pair[0].mean_over(one) - pair[1].mean_over(one)
        draws = [_draws(ranking, first, num_draws, seed) for ranking in pair]
        result[name] = _percentiles(difference, draws[0] - draws[1], len(first)).to_dict()
    return result


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
        "ap": mean_ap(average_precision([sure], PUBLISHED_IOUS, num_classes)),
    }


def coco_ap(images: Sequence[ImageBoxes], num_classes: int) -> tuple[float, float]:
    """AP over IoU .50 to .95 and at .50 by faster-coco-eval; NaN where there is no true box."""
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
    found = []
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
            found.append(
                {"image_id": i + 1, "category_id": int(k) + 1, "bbox": _xywh(box), "score": float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        own = COCO(truth)
        evaluation = COCOeval_faster(own, own.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _xywh(box: FloatArray) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, x1 - x0, y1 - y0]


def _interval(
    ranking: Ranking, images: Sequence[ImageBoxes], estimate: float, num_draws: int, seed: int
) -> Interval:
    return _percentiles(estimate, _draws(ranking, images, num_draws, seed), len(images))


def _draws(ranking: Ranking, images: Sequence[ImageBoxes], num_draws: int, seed: int) -> FloatArray:
    """(num_draws,) mAP of resampled patients; none where fewer than two patients have true boxes."""
    if len({image.patient for image in images if len(image.true_classes)}) < 2:
        return np.zeros(0)
    names, code = np.unique([image.patient for image in images], return_inverse=True)
    times = (one for part in resampled(len(names), num_draws, seed) for one in part)  # (P,) each
    return np.array([ranking.mean_over(one[code]) for one in times])


def _percentiles(estimate: float, draws: FloatArray, num: int) -> Interval:
    low, high = np.nanpercentile(draws, [2.5, 97.5]) if len(draws) else (math.nan, math.nan)
    return Interval(estimate, float(low), float(high), num)


def mean_ap(ap: FloatArray) -> float:
    """(K, T) -> the mean over thresholds, then classes with true boxes."""
    known = ap[~np.isnan(ap).any(axis=1)]
    return float(known.mean()) if len(known) else math.nan
