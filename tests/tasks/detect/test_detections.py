"""From places to the detections of an image: what is left out, suppressed and cut off."""

from __future__ import annotations

import torch
from torch import Tensor

from medvl.tasks.detect.learner import detections


class Decoded:
    """Stands in for the network: boxes (P, 4) and scores (P, K) that are given."""

    def __init__(self, boxes: Tensor, scores: Tensor) -> None:
        self.boxes, self.scores = boxes, scores

    def decode_boxes(self, logits: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        return self.boxes[None], self.scores[None]


def apart(num: int) -> Tensor:
    """Boxes that overlap nowhere."""
    left = torch.arange(num, dtype=torch.float32) * 10
    return torch.stack([left, torch.zeros(num), left + 8, torch.full((num,), 8.0)], dim=1)


def found(boxes: Tensor, scores: Tensor, nms_iou: float = 0.5) -> list[float]:
    (one,) = detections(Decoded(boxes, scores), torch.zeros(1, len(boxes), 6), (8, 8), nms_iou)  # type: ignore[arg-type]
    return torch.from_numpy(one.scores).float().tolist()


def test_scores_below_a_hundredth_are_no_detections() -> None:
    scores = torch.tensor([[0.0099], [0.01], [0.3]])
    assert found(apart(3), scores) == [scores[2, 0].item(), scores[1, 0].item()]


def test_the_hundred_surest_of_an_image_stay() -> None:
    scores = torch.linspace(0.02, 0.9, 120)[:, None]
    assert found(apart(120), scores) == scores[20:, 0].flip(0).tolist()


def test_suppression_is_that_of_the_configuration() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])  # IoU 0.6
    scores = torch.tensor([[0.9], [0.5]])
    assert len(found(boxes, scores, 0.5)) == 1 and len(found(boxes, scores, 0.7)) == 2
