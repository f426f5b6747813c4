"""Boxes of images: manifest -> classes, boxes of each image, one sample per image.

An image is annotated if any of its records has a box or says `none`; its boxes are those of all of its records. With
`data.boxes_from: masks` they are the bounding boxes of the 8-connected components of each class's mask, and an image is
annotated if a record has a mask (or `none`) of every class.

Shapes: m boxes of an image, H W the model's grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import Fault, InputError, nearest
from medvl.data.box_table import Box
from medvl.data.class_flips import ClassFlips
from medvl.data.class_labels import warn_spellings
from medvl.data.dataset import MOVED_OUT, Sample, SegmentDataset, fit_image
from medvl.data.geometry import Affine
from medvl.data.images import image_orientation, image_size
from medvl.data.masks import read_mask
from medvl.data.record import Manifest, MaskRef, Record

if TYPE_CHECKING:
    from medvl.config import Config, DataConfig

FloatArray = NDArray[np.float32]
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class BoxLabels:
    """Annotated images, one record each, and their boxes of the classes in native pixels.

    `counts`: `same_image` (further records of an image), `not_annotated`, `other_names` (label -> boxes of no class,
    which are ignored), `small_components` (with masks).
    """

    classes: tuple[str, ...]
    records: tuple[Record, ...]
    boxes: tuple[tuple[Box, ...], ...]
    counts: dict[str, Any]

    def per_class(self) -> dict[str, dict[str, int]]:
        """{class: {boxes, images}}."""
        return {
            name: {
                "boxes": sum(box.label == name for boxes in self.boxes for box in boxes),
                "images": sum(any(box.label == name for box in boxes) for boxes in self.boxes),
            }
            for name in self.classes
        }

    def take(self, keep: NDArray[np.bool_]) -> BoxLabels:
        """The images where `keep` (n,) is true."""
        pairs = [pair for pair, kept in zip(zip(self.records, self.boxes, strict=True), keep, strict=True) if kept]
        return replace(self, records=tuple(p[0] for p in pairs), boxes=tuple(p[1] for p in pairs))

    def sizes(self) -> list[tuple[int, int]]:
        """Native (H, W) of each image, from its header."""
        return [image_size(row.image) for row in self.records]


def find_box_classes(manifest: Manifest, records: Sequence[Record], config: Config) -> tuple[str, ...]:
    """The classes of a training split: `detect.classes`, or every label of its boxes, by name; of masks, their classes.

    Raises:
        InputError: no boxes (or masks), or a class that none has.
    """
    wanted = config.detect.classes
    if config.data.boxes_from == "masks":
        seen = Counter(name for row in records for name, mask in row.masks.items() if mask and mask.path)
        known, remedy = manifest.classes, "data.classes chooses mask columns"
    else:
        seen = Counter(box.label for row in records for box in row.boxes)
        known, remedy = tuple(sorted(seen)), "data.boxes_from: masks takes the bounding boxes of masks"
    if not seen:
        what = "mask" if config.data.boxes_from == "masks" else "box"
        raise InputError.empty(
            f"no record of the train split has a {what}",
            file=manifest.path,
            expected="a column boxes, or a boxes.csv beside the manifest",
            remedy=remedy,
        )
    faults = []
    for name in wanted or ():
        if name not in seen:
            like = nearest(name, seen)
            advice = f"did you mean {like}?" if like else f"there are: {', '.join(sorted(seen)[:MAX_LISTED])}"
            faults.append(Fault.unknown(f"detect.classes: no box of the train split is called {name}", remedy=advice))
    if wanted is not None and (not wanted or len(set(wanted)) < len(wanted)):
        faults.append(Fault.malformed(f"detect.classes is {wanted}", expected="one class or more, each once"))
    if faults:
        raise InputError(faults)
    classes = tuple(wanted) if wanted is not None else tuple(name for name in known if seen[name])
    warn_spellings(classes, "detect.classes")
    return classes


def box_labels(records: Sequence[Record], classes: Sequence[str], config: Config) -> BoxLabels:
    """The annotated images of some records with their boxes. Of masks every file is opened."""
    groups: dict[Path, list[Record]] = {}
    for record in records:
        groups.setdefault(record.image, []).append(record)
    kept: list[Record] = []
    labelled: list[tuple[Box, ...]] = []
    others: Counter[str] = Counter()
    num_small = 0
    for rows in groups.values():
        if config.data.boxes_from == "masks":
            whole = [row for row in rows if all(row.masks.get(name) is not None for name in classes)]
            annotated, boxes = bool(whole), []
            for row in whole:
                for name in classes:
                    more, small = mask_boxes(row.masks[name], name, config)
                    boxes += more
                    num_small += small
        else:
            boxes = [box for row in rows for box in row.boxes]
            annotated = config.detect.empty_means_absent or any(row.boxes or row.boxes_absent for row in rows)
        if not annotated:
            continue
        distinct = dict.fromkeys(boxes)  # records of one image may repeat a box
        others.update(box.label for box in distinct if box.label not in classes)
        kept.append(rows[0])
        labelled.append(tuple(box for box in distinct if box.label in classes))
    counts = {
        "same_image": len(records) - len(groups),
        "not_annotated": len(groups) - len(kept),
        "other_names": dict(sorted(others.items())),
        "small_components": num_small,
    }
    return BoxLabels(tuple(classes), tuple(kept), tuple(labelled), counts)


def mask_boxes(reference: MaskRef | None, label: str, config: Config) -> tuple[list[Box], int]:
    """Bounding boxes of a mask's 8-connected components of `detect.min_component_px` or more; how many are smaller."""
    if reference is None or reference.path is None:
        return [], 0
    mask = read_mask(reference.path, reference.values, slice_index=config.data.slice_index)
    num, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes, small = [], 0
    for x, y, width, height, area in stats[1:num].tolist():
        if area < config.detect.min_component_px:
            small += 1
        else:
            boxes.append(Box(label, float(x), float(y), float(x + width), float(y + height)))
    return boxes, small


def mean_boxes(labels: BoxLabels) -> dict[str, list[float]]:
    """The fixed guess of each class that has boxes: the median of x0, y0, x1, y1, each as a share of its picture in
    standard display."""
    shares: dict[str, list[list[float]]] = {}
    for boxes, row, size in zip(labels.boxes, labels.records, labels.sizes(), strict=True):
        turn = image_orientation(row.image).turn
        height, width = turn.size(size)
        for box in boxes:
            x0, y0, x1, y1 = turn.apply_box((box.x0, box.y0, box.x1, box.y1), size)
            shares.setdefault(box.label, []).append([x0 / width, y0 / height, x1 / width, y1 / height])
    return {name: np.median(shares[name], axis=0).tolist() for name in labels.classes if name in shares}


def fit_anchors(labels: BoxLabels, config: Config, num: int = 9) -> list[list[float]]:
    """`detect.anchors: fit`: k-means of the boxes' sides on the model's grid, distance 1 - IoU on one corner; `num`
    pairs [w, h]. The first centres are drawn by `train.seed`, each far from those before (k-means++).

    Reference: Redmon & Farhadi, YOLO9000 (arXiv 1612.08242), section 2; centres are the medians of their boxes.

    Raises:
        InputError: fewer different sizes than anchors.
    """
    sides = []
    for boxes, row, size in zip(labels.boxes, labels.records, labels.sizes(), strict=True):
        turn = image_orientation(row.image).turn
        for box in fit_image(size, turn, config.data).apply_boxes(boxes):
            sides.append((box.x1 - box.x0, box.y1 - box.y0))
    points = np.array(sides, dtype=np.float64).reshape(-1, 2)  # (n, 2)
    if len(np.unique(points.round(6), axis=0)) < num:
        raise InputError.empty(
            f"detect.anchors: fit with boxes of {len(np.unique(points.round(6), axis=0))} different sizes",
            expected=f"at least {num} in the training boxes",
            remedy="detect.anchors: published, or nine pairs [w, h]",
        )
    rng = np.random.default_rng(config.train.seed)
    centres = points[rng.integers(len(points))][None]
    while len(centres) < num:
        distance = (1 - _size_iou(points, centres)).min(axis=1) ** 2
        centres = np.concatenate([centres, points[rng.choice(len(points), p=distance / distance.sum())][None]])
    for _ in range(300):
        nearest_one = _size_iou(points, centres).argmax(axis=1)
        # A centre that no box is nearest to stays where it is.
        clusters = [points[nearest_one == k] for k in range(num)]
        moved = np.array([np.median(few, axis=0) if len(few) else centres[k] for k, few in enumerate(clusters)])
        if np.array_equal(moved, centres):
            break
        centres = moved
    order = np.lexsort((centres[:, 0], -centres.prod(axis=1)))
    return [[float(w), float(h)] for w, h in centres[order].round(3)]


def _size_iou(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    common = np.minimum(points[:, None], centres[None]).prod(axis=2)  # (n, k)
    union = points.prod(axis=1)[:, None] + centres.prod(axis=1)[None] - common
    return np.asarray(common / union, dtype=np.float64)


class BoxDataset(SegmentDataset):
    """One sample per image with its boxes on the model's grid; texts and masks are not read.

    A flip exchanges the classes that name sides (`ClassFlips`). Augmentation is drawn so that 98 % of the boxes'
    area stays in the picture where it can be (`geometry.draw`).
    """

    def __init__(self, labels: BoxLabels, config: DataConfig, *, seed: int, train: bool) -> None:
        """`train`: augmented (`data.augment`), anew in every epoch."""
        rows = [replace(row, text="", masks={"boxes": MaskRef(None)}) for row in labels.records]
        config = replace(config, phrases_per_image=1, val_phrases_per_image=None, p_empty_text=0.0, draw_by=None)
        super().__init__(rows, ("boxes",), config, seed=seed, train=train)
        self.labels, self.names = labels, labels.classes
        self._of = {row.image: boxes for row, boxes in zip(labels.records, labels.boxes, strict=True)}
        self._box_flips = ClassFlips(labels.classes, config.augment) if train else None

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        index = item[1] if isinstance(item, tuple) else item
        sample = super().__getitem__(item)
        boxes = self._on_grid(sample.affine, self._of[self.groups[index][0].image])
        return replace(sample, target=np.zeros((1, 0, 1, 1), dtype=np.float32), boxes=boxes)

    def _mask(self, record: Record, name: str) -> NDArray[np.bool_] | None:
        """What should stay in the picture: the union of the boxes."""
        mask = np.zeros(self._image(record).pixels.shape[:2], dtype=np.bool_)
        for box in self._of[record.image]:
            mask[int(box.y0) : int(np.ceil(box.y1)), int(box.x0) : int(np.ceil(box.x1))] = True
        return mask

    def _on_grid(self, affine: Affine, boxes: Sequence[Box]) -> FloatArray:
        """(m, 5) class, x0, y0, x1, y1; MOVED_OUT in place of the class of a box outside the picture."""
        result = np.zeros((len(boxes), 5), dtype=np.float32)
        for i, box in enumerate(boxes):
            moved = affine.apply_boxes([box])
            if not moved:
                result[i, 0] = MOVED_OUT
                continue
            kind = self.names.index(box.label)
            if self._box_flips is not None:
                kind = int(self._box_flips.order(affine)[kind])
            result[i] = (kind, moved[0].x0, moved[0].y0, moved[0].x1, moved[0].y1)
        return result
