"""Boxes as tensors: overlap and non-maximum suppression, without torchvision.

A box is (x0, y0, x1, y1), edges in pixels. Shapes: n m boxes, A anchors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each pair: (n, 4), (m, 4) -> (n, m) in [0, 1]; boxes without area overlap nothing."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])  # (n, m, 2)
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp(min=0).prod(dim=2)  # (n, m)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
    return torch.where(union > 0, common / union.clamp(min=1e-12), torch.zeros_like(union))


def size_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of boxes laid on one corner: sizes (..., 2), anchors (A, 2) -> (..., A)."""
    common = torch.minimum(sizes[..., None, :], anchors).prod(dim=-1)  # (..., A)
    return common / (sizes.prod(dim=-1)[..., None] + anchors.prod(dim=-1) - common)


def nms(boxes: Tensor, scores: Tensor, classes: Tensor, max_iou: float) -> Tensor:
    """Greedy non-maximum suppression of each class by itself; -> indices of the boxes that are kept.

    The highest score is kept, those of its class that overlap it by `max_iou` or more go, and so on with what is left.
    Of equal scores the one that stands first comes first; the result is in that order too.

    Args:
        boxes, scores, classes: (n, 4), (n,), (n,).
    """
    order = torch.sort(scores, descending=True, stable=True).indices  # (n,)
    boxes, classes = boxes[order], classes[order]
    beats = (box_iou(boxes, boxes) >= max_iou) & (classes[:, None] == classes[None, :])
    rows = torch.triu(beats, diagonal=1).cpu().numpy()  # (n, n): row i removes later boxes
    gone = np.zeros(len(rows), dtype=np.bool_)
    kept = []
    for i, row in enumerate(rows):
        if not gone[i]:
            kept.append(i)
            gone |= row
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
