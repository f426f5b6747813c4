"""Images -> boxes of a trained detector.

Shapes: C channels, h w the model's grid, d detections of an image.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medvl.core.errors import InputError
from medvl.data.dataset import load_image
from medvl.data.image import Image
from medvl.inference.inputs import InputImage
from medvl.inference.predictor import ImagePredictor
from medvl.inference.writers import write_boxes
from medvl.tasks.detect.learner import Detections, detections

COLUMNS: tuple[str, ...] = ("id", "image", "slice", "class", "score", "x0", "y0", "x1", "y1", "overlay")


class BoxPredictor(ImagePredictor):
    """A trained detector that is applied to one image at a time."""

    task = "detect"

    def detect(self, image: str | Path | NDArray[Any] | Image, threshold: float | None = None) -> Detections:
        """The boxes of an image with a score of at least `threshold` (None: `detect.score_threshold`).

        Args:
            image: a file, or an array (H, W) or (H, W, 3), uint8, uint16 or float in [0, 1].

        Returns:
            Boxes (d, 4) x0, y0, x1, y1 in native pixels, scores and class indices, by falling score.

        Raises:
            InputError: an image that cannot be read, a threshold outside [0, 1].
        """
        threshold = self.config.detect.score_threshold if threshold is None else threshold
        if not 0.0 <= threshold <= 1.0:
            raise InputError.out_of_range(f"threshold {threshold}", expected="a probability from 0 to 1")
        logits, affine = self.outputs(image)
        answer = detections(self.module.network, logits, self.config.data.image_size, self.config.detect.nms_iou)[0]
        keep = answer.scores >= threshold
        return Detections(affine.invert_boxes(answer.boxes[keep]), answer.scores[keep], answer.classes[keep])


class BoxFiles:
    """A row per box, and `<id>_overlay.png` of every image, of all slices of a volume `<id>_slice<n>_overlay.png`."""

    table, columns = "detections.csv", COLUMNS

    def __init__(self, predictor: BoxPredictor, out: Path, threshold: float) -> None:
        self.predictor, self.out, self.threshold = predictor, out, threshold

    def answer(self, image: InputImage) -> list[dict[str, Any]]:
        """Write the pictures of one image; a row per box. InputError where it cannot be read."""
        return [row for index in image.slices for row in self._of_slice(image, index)]

    def _of_slice(self, image: InputImage, index: int | None) -> list[dict[str, Any]]:
        native = load_image(image.path, replace(self.predictor.config.data, slice_index=index))
        answer = self.predictor.detect(native, self.threshold)
        overlay = f"{image.name}_slice{index}_overlay.png" if image.is_volume else f"{image.name}_overlay.png"
        rows: list[dict[str, Any]] = []
        shown = []
        for box, score, kind in zip(answer.boxes, answer.scores, answer.classes, strict=True):
            corners = tuple(round(float(value), 2) for value in box)
            shown.append((corners, f"{self.predictor.classes[kind]} {score:.2f}"))
            row: dict[str, Any] = {"id": image.name, "image": str(image.path), "slice": "" if index is None else index}
            row |= {"class": self.predictor.classes[kind], "score": round(float(score), 4)}
            rows.append(row | dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True)) | {"overlay": overlay})
        self.out.mkdir(parents=True, exist_ok=True)
        write_boxes(self.out / overlay, native, shown)
        return rows
