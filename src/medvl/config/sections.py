"""Sections of a recipe (`detect`, `pretrain.mask`) without what they steer, so that a recipe is read before torch is
loaded."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from medvl.config.ranges import SECTION, AtLeastOne, Positive, Share, Weight


@dataclass(config=SECTION)
class DetectConfig:
    """Boxes of images, on the image encoder. Used by `task: detect`."""

    classes: list[str] | None = None  # None = every label of the train split's boxes
    empty_means_absent: bool = False  # images without a box cell were looked at and have none (foreign manifests)
    min_component_px: AtLeastOne = 1  # data.boxes_from: masks: smaller components are no box
    # scaled to the image; by k-means; or nine [w, h] in pixels
    anchors: Literal["published", "fit"] | list[tuple[Positive, Positive]] = "published"
    assign: Literal["each_scale", "best"] = "each_scale"  # a box's anchor: the best of each map (MGCA), or of all nine
    lambda_xy: Weight = 2.5
    lambda_wh: Weight = 2.5
    lambda_conf: Weight = 1.0
    lambda_noobj: Weight = 0.5  # of the places without a box, within conf; from MGCA's program
    lambda_cls: Weight = 1.0
    ignore_iou: Share = 0.5  # anchors at a box's cell that fit it better than this carry no no-object loss
    score_threshold: Share = 0.5  # a box is a prediction from here on (published protocol)
    nms_iou: Share = 0.5


@dataclass(config=SECTION)
class PseudoMaskConfig:
    """How attention becomes a mask. The released program: nearest, strict, no body mask, no smoothing."""

    source: Literal["attention", "evidence"] = "attention"  # evidence: the cells' parts of the pair's similarity (ours)
    aggregate: bool = True  # mean over the heads; False: one mask per head
    upsample: Literal["bilinear", "nearest"] = "bilinear"
    threshold: Literal["p95", "p85", "p75", "median", "mean", "gmm"] = "p85"
    strict: bool = False  # > threshold instead of >= (gmm: its posterior is > 0.5 in either case)
    body_mask: bool = True
    domain: Literal["body", "image"] = "body"  # threshold over the body's pixels, or over the image with 0 outside it
    smooth: Literal["bilateral", "none"] = "bilateral"
    sigma_cells: Positive = 0.5  # spatial sigma in attention cells (the paper gives none)
    sigma_value: Positive = 1.0  # range sigma; well below 1 all that is left is `smooth_mask`'s resizing
    soft: bool = False  # keep the filter's values instead of cutting them at 0.5
