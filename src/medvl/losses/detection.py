"""YOLOv3's loss on logits, as MGCA and G2D train detection (reference: G2D, section 5.2), and what boxes need.

    L = sum over the three maps of  l_xy BCE(x, y) + l_wh MSE(w, h) + l_conf (BCE(objects) + l_noobj BCE(no objects))
        + l_cls BCE(classes)

each a mean over all places of the map in the batch, of which those without a box count as zero (except in the last
but one term). So a coarse map's places weigh more than a fine one's, as in that program.

A box is (x0, y0, x1, y1), edges in pixels. torchvision is no part of it.

Shapes: B images, M boxes at most, A = 3 anchors a map, K classes, P places (see `models/yolo.py`); n m boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor

from medvl.config.sections import DetectConfig
from medvl.core.device import full_floats, to_device


@dataclass(frozen=True, slots=True)
class Targets:
    """What each place should say. `object` and `no_object` (B, P) bool; a place that is neither is ignored.

    `box` (B, P, 4): x, y in the cell (0 to 1), log of w and h over the anchor's. `class_index` (B, P) int64.
    `num_taken` (): boxes that found all of their places taken by earlier boxes and carry no loss.
    """

    object: Tensor
    no_object: Tensor
    box: Tensor
    class_index: Tensor
    num_taken: Tensor


def assign(
    boxes: Tensor,
    anchors: Tensor,
    grids: Sequence[tuple[int, int, int]],
    *,
    ignore_iou: float = 0.5,
    how: Literal["each_scale", "best"] = "each_scale",
) -> Targets:
    """Give each box the anchor whose sides fit it best, at the cell that its centre lies in.

    The best of each map, or the best of all nine (`how`); of equally good ones the first. A place belongs to the first
    of the boxes that want it. The other anchors at the box's cell whose fit is above `ignore_iou` are ignored.

    Args:
        boxes: (B, M, 5) class, x0, y0, x1, y1 in pixels; a class below 0 is no box.
        anchors: (3, A, 2) in pixels, of the maps in the order of `grids`.
        grids: (stride, h, w) of each map.
    """
    num_images, num_maps, per_map = len(boxes), len(grids), anchors.shape[1]
    is_box = boxes[..., 0] >= 0  # (B, M)
    centre, sides = (boxes[..., 1:3] + boxes[..., 3:5]) / 2, (boxes[..., 3:5] - boxes[..., 1:3]).clamp(min=1e-6)
    fit = size_iou(sides, anchors.reshape(-1, 2)).reshape(*boxes.shape[:2], num_maps, per_map)  # (B, M, 3, A)
    best = fit.argmax(dim=3) if how == "each_scale" else fit.flatten(2).argmax(dim=2)
    if how == "each_scale":
        chosen = F.one_hot(best, per_map).bool()
    else:
        chosen = F.one_hot(best, num_maps * per_map).bool().reshape(fit.shape)
    chosen = chosen & is_box[:, :, None, None]  # (B, M, 3, A)
    places, within, offset = [], [], 0
    for stride, h, w in grids:
        limit = to_device(torch.tensor([w - 1, h - 1]), boxes.device)
        cell = torch.minimum((centre / stride).floor().long().clamp(min=0), limit)  # (B, M, 2) column, row
        first = offset + (cell[..., 1] * w + cell[..., 0]) * per_map
        places.append(first[..., None] + torch.arange(per_map, device=boxes.device))  # (B, M, A)
        within.append((centre / stride - cell).clamp(0, 1))  # (B, M, 2)
        offset += h * w * per_map
    place = torch.stack(places, dim=2)  # (B, M, 3, A)
    same = (place[:, :, None] == place[:, None, :]) & chosen[:, :, None] & chosen[:, None, :]  # (B, M, M, 3, A)
    earlier = torch.ones(same.shape[1:3], dtype=torch.bool, device=boxes.device).tril(-1)  # row after column
    kept = chosen & ~(same & earlier[None, :, :, None, None]).any(dim=2)  # (B, M, 3, A)

    def spread(where: Tensor, values: Tensor) -> Tensor:
        """Values (B, M, 3, A, ...) at their places -> (B, P, ...); where not `where` they go to one that is cut off."""
        index = torch.where(where, place, offset).flatten(1)  # (B, J)
        flat = values.flatten(1, 3)  # (B, J, ...)
        dense = flat.new_zeros(num_images, offset + 1, *flat.shape[2:])
        expanded = index.reshape(*index.shape, *(1,) * (flat.ndim - 2)).expand_as(flat)
        return dense.scatter(1, expanded, flat)[:, :offset]

    ignored = ((fit > ignore_iou) & is_box[:, :, None, None]) | chosen
    sizes = (sides[:, :, None, None] / anchors).log()  # (B, M, 3, A, 2)
    offsets = torch.stack(within, dim=2)[:, :, :, None].expand_as(sizes)  # (B, M, 3, A, 2)
    classes = boxes[..., 0].long().clamp(min=0)[:, :, None, None].expand(place.shape)
    return Targets(
        object=spread(kept, kept),
        no_object=~spread(ignored, ignored),
        box=spread(kept, torch.cat([offsets, sizes], dim=-1)),
        class_index=spread(kept, classes),
        num_taken=(is_box & ~kept.flatten(2).any(dim=2)).sum(),
    )


def detection_loss(
    logits: Tensor, boxes: Tensor, anchors: Tensor, grids: Sequence[tuple[int, int, int]], config: DetectConfig
) -> dict[str, Tensor]:
    """Logits (B, P, 5 + K), boxes (B, M, 5) as in `assign` -> `loss` and its parts xy, wh, conf, cls, unweighted; all
    scalars. `num_taken`: see `Targets`.
    """
    logits = full_floats(logits)
    target = assign(boxes, anchors, grids, ignore_iou=config.ignore_iou, how=config.assign)
    is_object, no_object = target.object.to(logits.dtype), target.no_object.to(logits.dtype)  # (B, P)
    num_classes = logits.shape[2] - 5
    one_hot = F.one_hot(target.class_index, num_classes).to(logits.dtype)  # (B, P, K)
    bce = F.binary_cross_entropy_with_logits
    confidence = logits[..., 4]
    terms = {  # (B, P) each
        "xy": bce(logits[..., :2], target.box[..., :2].to(logits.dtype), reduction="none").sum(dim=2) * is_object,
        "wh": (logits[..., 2:4] - target.box[..., 2:].to(logits.dtype)).square().sum(dim=2) * is_object,
        "conf": bce(confidence, is_object, reduction="none") * (is_object + config.lambda_noobj * no_object),
        "cls": bce(logits[..., 5:], one_hot, reduction="none").mean(dim=2) * is_object,
    }
    lengths = [h * w * anchors.shape[1] for _, h, w in grids]
    parts = {
        name: torch.stack([on_map.mean() for on_map in torch.split(term, lengths, dim=1)]).sum()
        for name, term in terms.items()
    }
    weights = {"xy": config.lambda_xy, "wh": config.lambda_wh, "conf": config.lambda_conf, "cls": config.lambda_cls}
    loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    return {"loss": loss, **{name: part.detach() for name, part in parts.items()}, "num_taken": target.num_taken}


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
