"""Images -> boxes: detections.csv and a picture of each image with its boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medvl.core.device import usable_device
from medvl.data.dataset import fit_image, load_image, prepare
from medvl.inference.inputs import InputImage
from medvl.inference.model_folder import load_model
from medvl.inference.writers import write_boxes
from medvl.tasks.detect.task import Detector, detections

COLUMNS: tuple[str, ...] = ("id", "image", "slice", "class", "score", "x0", "y0", "x1", "y1", "overlay")


class BoxFiles:
    """Boxes with a score of at least `threshold` (None: the run's), in native pixels; `Answerer` of `task: detect`.

    Every image gets `<id>_overlay.png`, of all slices of a volume each `<id>_slice<n>_overlay.png`.
    """

    table, columns = "detections.csv", COLUMNS

    def __init__(self, model: str | Path, out: Path, threshold: float | None, device: str) -> None:
        module, _, self.config, card = load_model(model)
        assert isinstance(module, Detector)  # its configuration says so
        self.module, self.classes, self.out = module, card["classes"], out
        self.threshold = self.config.detect.score_threshold if threshold is None else threshold
        self.device = usable_device(device)
        self.module.to(self.device)

    def answer(self, image: InputImage) -> list[dict[str, Any]]:
        """Write the pictures of one image; a row per box. InputError where it cannot be read."""
        return [row for index in image.slices for row in self._of_slice(image, index)]

    def _of_slice(self, image: InputImage, index: int | None) -> list[dict[str, Any]]:
        data = self.config.data
        native = load_image(image.path, replace(data, slice_index=index))
        affine = fit_image(native.size, native.orientation.turn, data)
        pixels = prepare(affine.apply_image(native.as_channels(data.in_channels)), data)  # (C, H, W)
        with torch.no_grad():
            logits = self.module(torch.from_numpy(pixels)[None].to(self.device))
        found = detections(self.module.network, logits, data.image_size, self.config.detect.nms_iou)[0]
        overlay = f"{image.name}_slice{index}_overlay.png" if image.is_volume else f"{image.name}_overlay.png"
        rows: list[dict[str, Any]] = []
        shown = []
        for box, score, kind in zip(affine.invert_boxes(found.boxes), found.scores, found.classes, strict=True):
            if score < self.threshold:
                continue
            corners = tuple(round(float(value), 2) for value in box)
            shown.append((corners, f"{self.classes[kind]} {score:.2f}"))
            row: dict[str, Any] = {"id": image.name, "image": str(image.path), "slice": "" if index is None else index}
            row |= {"class": self.classes[kind], "score": round(float(score), 4)}
            rows.append(row | dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True)) | {"overlay": overlay})
        self.out.mkdir(parents=True, exist_ok=True)
        write_boxes(self.out / overlay, native, shown)
        return rows
