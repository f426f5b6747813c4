"""Every public loss on half precision gives the value of the same numbers in float32, and a finite gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from medvl.config import make_config
from medvl.config.sections import DetectConfig
from medvl.losses.contrastive import info_nce
from medvl.losses.detection import detection_loss
from medvl.losses.language_vision import lv_loss
from medvl.losses.pixel_alignment import pixel_alignment_loss, reconstruction_loss, released_pixel_alignment_loss
from medvl.losses.segmentation import segmentation_loss, weighted_terms
from medvl.models.yolo import published_anchors
from medvl.tasks.classify.learner import label_loss

SIDE = 384  # 147,456 pixels: their sum is beyond float16, whose largest number is 65,504
ANNOTATED = torch.tensor([[True, False], [True, True]])


def normal(*shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def halves(channels: int) -> Tensor:
    """(2, K, H, W) in {0, 1}: one class above, the other below."""
    target = torch.zeros(2, channels, SIDE, SIDE)
    target[:, 0, : SIDE // 2] = 1
    target[:, -1, SIDE // 2 + 20 :] = 1
    return target


def segmentation(mode: Any, form: str, balance: str, gamma: float) -> Callable[[Tensor], Tensor]:
    terms = [{"name": "dice", "form": form}, {"name": "cross_entropy", "balance": balance, "focal_gamma": gamma}]
    objective = make_config({"objective": {"mode": mode, "terms": terms}}).objective

    def loss(logits: Tensor) -> Tensor:
        target = halves(2).to(logits.dtype)
        return segmentation_loss(logits, target, ANNOTATED, mode=mode, terms=weighted_terms(objective))["loss"]

    return loss


def detection(logits: Tensor) -> Tensor:
    grids = [(8, 12, 12), (16, 6, 6), (32, 3, 3)]
    boxes = torch.tensor([[[0.0, 4, 4, 60, 70], [1, 30, 20, 90, 90]]] * 2)
    return detection_loss(logits, boxes, published_anchors((96, 96)), grids, DetectConfig())["loss"]


def labels(logits: Tensor, multiclass: bool) -> Tensor:
    target = torch.eye(3)[torch.arange(len(logits)) % 3].to(logits.dtype)
    top, bottom = label_loss(logits, target, multiclass=multiclass, weight=torch.tensor([1.0, 2.0, 3.0]))
    return top / bottom


FORMS = [("binary", "squared", "balanced", 0), ("multilabel", "batch", "plain", 2), ("binary", "log_batch", "plain", 0),
         ("multiclass", "squared", "balanced", 0), ("multiclass", "log_batch", "plain", 2)]  # fmt: skip
LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    **{
        f"{mode}-{form}": (segmentation(mode, form, balance, gamma), normal(2, 2 + (mode == "multiclass"), SIDE, SIDE))
        for mode, form, balance, gamma in FORMS
    },
    "lv": (lambda x: lv_loss(x.sigmoid(), halves(2).to(x.dtype), ANNOTATED), normal(2, 2, SIDE, SIDE)),
    **{
        loss.__name__: (lambda x, loss=loss: loss(x, halves(1).to(x.dtype))["loss"], normal(2, 1, SIDE, SIDE))
        for loss in (pixel_alignment_loss, released_pixel_alignment_loss, reconstruction_loss)
    },
    "contrastive": (lambda x: info_nce(x[:, 0], x[:, 1])["loss"], normal(16, 2, 512)),
    "detection": (detection, normal(2, 3 * (144 + 36 + 9), 7)),
    "multilabel": (partial(labels, multiclass=False), normal(3000, 3)),
    "multiclass": (partial(labels, multiclass=True), normal(3000, 3)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_gives_the_value_of_float32(name: str, dtype: torch.dtype) -> None:
    loss, inputs = LOSSES[name]
    half = inputs.to(dtype).requires_grad_()
    value = loss(half)
    same = half.detach()
    # the loss of the same numbers; lv is given probabilities, which are rounded before it
    expected = lv_loss(same.sigmoid().float(), halves(2), ANNOTATED) if name == "lv" else loss(same.float())
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    assert half.grad.isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(half).item() == pytest.approx(expected.item(), rel=1e-6)
