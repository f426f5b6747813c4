"""Object detection: YOLOv3's head on a frozen or updated image encoder.

Shapes: B images, C channels, H W pixels, P places, K classes, d detections of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medvl.config import Config
from medvl.core.distributed import gather_objects
from medvl.core.learner import Learner
from medvl.data.box_labels import BoxLabels
from medvl.data.dataset import MOVED_OUT, Batch
from medvl.data.text_input import TextInput
from medvl.losses.detection import detection_loss, nms
from medvl.metrics.detection import COCO_IOUS, PUBLISHED_IOUS, ImageBoxes, average_precision, mean_ap
from medvl.models.yolo import YOLO
from medvl.tasks.detect.model import Detector

SCORE_FLOOR = 0.01  # what scores less is no detection
MAX_CANDIDATES = 1000  # of an image, by score, before suppression
MAX_DETECTIONS = 100  # of an image, by score, after it (COCO's number)


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes of one image, (d, 4) x0, y0, x1, y1, with scores and class indices, by falling score."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]


@torch.no_grad()
def detections(network: YOLO, logits: Tensor, size: tuple[int, int], nms_iou: float) -> list[Detections]:
    """Logits (B, P, 5 + K) of pictures of (H, W) -> the detections of each, suppressed, in pixels of that picture."""
    boxes, scores = network.decode_boxes(logits.float(), *size)
    result = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        place, kind = torch.nonzero(image_scores >= SCORE_FLOOR, as_tuple=True)  # (c,)
        score = image_scores[place, kind]
        order = torch.sort(score, descending=True, stable=True).indices[:MAX_CANDIDATES]
        place, kind, score = place[order], kind[order], score[order]
        kept = nms(image_boxes[place], score, kind, nms_iou)[:MAX_DETECTIONS]
        result.append(
            Detections(
                image_boxes[place[kept]].cpu().double().numpy(),
                score[kept].cpu().double().numpy(),
                kind[kept].cpu().numpy(),
            )
        )
    return result


class DetectLearner(Learner):
    """YOLOv3's loss; validation is mAP, over all scores, for a cut at 0.5 would be 0 throughout the first epochs."""

    metric = "map_all_scores"
    module: Detector

    def __init__(self, config: Config, module: Detector, classes: Sequence[str]) -> None:
        self.config, self.module, self.classes = config, module, tuple(classes)
        self.text = TextInput()
        self._images: list[ImageBoxes] = []
        self._counts: dict[str, Any] = {}  # whole numbers, scalars of the steps since the last save

    def training_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """`loss` (scalar, with graph) and its parts (see `detection_loss`)."""
        assert batch.boxes is not None
        size = (batch.image.shape[2], batch.image.shape[3])
        terms = self._loss((module or self.module)(batch.image), batch.boxes, size)
        kinds = batch.boxes[..., 0]
        counts = {
            "boxes": (kinds >= 0).sum(),
            "boxes_out_of_picture": (kinds == MOVED_OUT).sum(),
            "boxes_at_taken_places": terms.pop("num_taken"),
        }
        self._counts = {name: self._counts.get(name, 0) + value for name, value in counts.items()}
        return terms

    def begin(self, state: dict[str, Any] | None, number: int) -> None:
        """Go on with the counts of an epoch that was interrupted."""
        self._counts = {} if state is None else dict(state.get("counts", {}))

    def state_dict(self) -> dict[str, Any]:
        """The counts of this epoch so far."""
        return {"counts": {name: int(value) for name, value in self._counts.items()}}

    def after_epoch(self) -> dict[str, float]:
        """How many boxes were trained on, were moved out of the picture, and found their places taken, on this rank."""
        values = {name: float(value) for name, value in self._counts.items()}
        self._counts = {}
        return values

    def validation_step(self, batch: Batch, module: nn.Module | None = None) -> dict[str, Tensor]:
        """Keeps the boxes, for mAP is of all images; -> sums `loss_sum` and `num`."""
        logits = (module or self.module)(batch.image)
        size = (batch.image.shape[2], batch.image.shape[3])
        predictions = detections(self.module.network, logits, size, self.config.detect.nms_iou)
        assert batch.boxes is not None
        truth = batch.boxes.cpu().double().numpy()
        for i, prediction in enumerate(predictions):
            true = truth[i][truth[i, :, 0] >= 0]
            self._images.append(
                ImageBoxes(
                    batch.ids[i],
                    batch.patients[i],
                    true[:, 1:],
                    true[:, 0].astype(np.int64),
                    prediction.boxes,
                    prediction.scores,
                    prediction.classes,
                )
            )
        boxes, keep = batch.boxes, slice(None) if batch.repeated is None else ~batch.repeated
        num = len(boxes[keep])
        loss = self._loss(logits[keep], boxes[keep], size)["loss"] if num else logits.new_zeros(())
        return {"loss_sum": loss.double() * num, "num": loss.new_tensor(num, dtype=torch.double)}

    def validation_values(self, totals: Mapping[str, Tensor]) -> dict[str, float]:
        """`map_all_scores` and `map` over IoU .40 to .75 (of scores from `detect.score_threshold` on), COCO's AP50,
        `loss`; each image counts once, however often ranks repeat it."""
        gathered = map(ImageBoxes.from_json, gather_objects([image.to_json() for image in self._images]))
        first = {image.id: image for image in gathered}
        images = [first[name] for name in sorted(first)]
        self._images = []
        num = len(self.classes)
        sure = [image.above(self.config.detect.score_threshold) for image in images]
        return {
            self.metric: float(mean_ap(average_precision(images, PUBLISHED_IOUS, num))),
            "map": float(mean_ap(average_precision(sure, PUBLISHED_IOUS, num))),
            "ap50": float(mean_ap(average_precision(images, COCO_IOUS[:1], num))),
            "loss": float(totals["loss_sum"]) / max(float(totals["num"]), 1.0),
        }

    def twin(self, module: nn.Module) -> DetectLearner:
        """A learner of this kind round `module`, to time steps with; what it does leaves no trace in this one."""
        return DetectLearner(self.config, module, self.classes)  # type: ignore[arg-type]  # of the same class

    def _loss(self, logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        network = self.module.network
        grids = network.grids(*size)
        return detection_loss(logits, boxes, network.anchors, grids, self.config.detect)


def detect_lines(
    config: Config, labels: Mapping[str, BoxLabels], fraction: Mapping[str, Any], anchors: Sequence[Sequence[float]]
) -> list[str]:
    """What the plan says of the boxes of train and val, what was left out, the anchors and what is trained."""
    train, val = labels["train"], labels["val"]
    source = "round the components of masks" if config.data.boxes_from == "masks" else "of the manifest"
    lines = [f"  boxes  {source}, in train and val:"]
    counts, val_counts = train.per_class(), val.per_class()
    width = max(map(len, train.classes))
    for name in train.classes:
        counts_text = [f"{part['boxes']} on {part['images']} images" for part in (counts[name], val_counts[name])]
        lines.append(f"         {name:<{width}}  {counts_text[0]}, {counts_text[1]}")
    for name, split in labels.items():
        left = []
        for key, reason in (
            ("same_image", "further records of an image, whose boxes count for it"),
            ("not_annotated", "images without annotation, not used"),
            ("small_components", f"components below {config.detect.min_component_px} px, no boxes"),
        ):
            left += [f"{split.counts[key]} {reason}"] if split.counts[key] else []
        if split.counts["other_names"]:
            others = ", ".join(f"{key} {num}" for key, num in split.counts["other_names"].items())
            left.append(f"boxes that are no class: {others}")
        if left:
            lines.append(f"         {name}: {'; '.join(left)}")
    empty = sum(not boxes for boxes in train.boxes)
    lines += [f"         {empty} training images have no box of these classes"] if empty else []
    if fraction["label_fraction"] < 1:
        lines.append(
            f"         {100 * fraction['label_fraction']:.3g}%: {fraction['labelled_images']} images of "
            f"{fraction['labelled_patients']} patients (draw {fraction['label_seed']}), "
            f"{fraction['left_out_images']} images left out"
        )
    sizes = " ".join(f"{w:.0f}x{h:.0f}" for w, h in anchors)
    kind = config.detect.anchors if isinstance(config.detect.anchors, str) else "of the recipe"
    lines.append(f"  anchors {kind}: {sizes}")
    frozen = "frozen (eval mode, no gradient)" if config.train.freeze_encoder else "trained too"
    lines.append(f"  encoder {frozen}; augmentation {config.data.augment.scheme}")
    return lines
