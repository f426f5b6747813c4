"""Images -> boxes: detections.csv and a picture of each image with its boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medvl.data.dataset import fit_image, load_image, prepare
from medvl.data.records import write_manifest
from medvl.device import usable_device
from medvl.errors import InputError
from medvl.infer.batch import named_images
from medvl.infer.writers import write_boxes
from medvl.model_folder import load_model
from medvl.progress import track
from medvl.tasks.detect import Detector, detections

COLUMNS = ("id", "image", "class", "score", "x0", "y0", "x1", "y1", "overlay")


def detect_files(
    model: str | Path, images: Sequence[Path], out: Path, *, threshold: float | None = None, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Boxes of every image with a score of at least `threshold` (None: the run's), in native pixels.

    Writes detections.csv, of which the rows are returned, and `<id>_overlay.png` of every image. All unreadable images
    are reported together before anything is written.

    Raises:
        InputError: not a detector, images that cannot be read or share a name.
    """
    names = named_images(images)
    module, _, config, card = load_model(model)
    if not isinstance(module, Detector):
        raise InputError("not a detector", file=model, expected="a run of task: detect")
    threshold = config.detect.score_threshold if threshold is None else threshold
    where = usable_device(device)
    module.to(where)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, path in track(list(names.items()), "detect", len(names)):
        image = load_image(path, config.data)
        height, width = image.pixels.shape[:2]
        affine = fit_image((height, width), config.data)
        pixels = prepare(affine.apply_image(image.as_channels(config.data.in_channels)), config.data)  # (C, H, W)
        with torch.no_grad():
            logits = module(torch.from_numpy(pixels)[None].to(where))
        found = detections(module.network, logits, config.data.image_size, config.detect.nms_iou)[0]
        boxes = affine.invert_boxes(found.boxes)
        shown = []
        for box, score, kind in zip(boxes, found.scores, found.classes, strict=True):
            if score >= threshold:
                corners = tuple(round(float(value), 2) for value in box)
                shown.append((corners, f"{card['classes'][kind]} {score:.2f}"))
                row: dict[str, Any] = {"id": name, "image": str(path), "class": card["classes"][kind]}
                row |= {"score": round(float(score), 4), **dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))}
                rows.append(row | {"overlay": f"{name}_overlay.png"})
        write_boxes(out / f"{name}_overlay.png", image, shown)
    write_manifest(out / "detections.csv", [{k: str(v) for k, v in row.items()} for row in rows], list(COLUMNS))
    return rows
