"""Sections of a recipe that one task uses. They stand apart from what they steer, so that a recipe is read before torch
is loaded; a task lists those that it uses (`Task.sections`)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic.dataclasses import dataclass

from medvl.config.augment import StrongViewConfig
from medvl.config.ranges import SECTION, AtLeastOne, Count, Fraction, Positive, Share, Weight


@dataclass(config=SECTION)
class DetectConfig:
    """Boxes of images, on the image encoder. Used by `task: detect`."""

    classes: list[str] | None = None  # None = every label of the train split's boxes
    empty_means_absent: bool = False  # images without a box cell were looked at and have none (foreign manifests)
    min_component_px: AtLeastOne = 1  # data.boxes_from: masks: smaller components are no box
    # scaled to the image; by k-means; or nine [w, h] in pixels
    anchors: Literal["published", "fit"] | list[tuple[Positive, Positive]] = "published"
    assign: Literal["each_scale", "best"] = "each_scale"  # a box's anchor: the best of each map (MGCA), or of all nine
    lambda_xy: Weight = 2.5  # of the loss of the centre
    lambda_wh: Weight = 2.5  # of width and height
    lambda_conf: Weight = 1.0  # of the objectness
    lambda_noobj: Weight = 0.5  # of the places without a box, within conf; from MGCA's program
    lambda_cls: Weight = 1.0  # of the classes
    ignore_iou: Share = 0.5  # anchors at a box's cell that fit it better than this carry no no-object loss
    score_threshold: Share = 0.5  # a box is a prediction from here on (published protocol)
    nms_iou: Share = 0.5  # of two boxes of a class that overlap more, the one of higher score is kept


@dataclass(config=SECTION)
class PseudoMaskConfig:
    """How attention becomes a mask. The released program: nearest, strict, no body mask, no smoothing."""

    # evidence (ours): the cells' parts of the pair's similarity. On phantoms it overlaps with lesions more than
    # attention does, and no better segmentation came of it (docs/results.md).
    source: Literal["attention", "evidence"] = "attention"
    aggregate: bool = True  # mean over the heads; False: one mask per head
    upsample: Literal["bilinear", "nearest"] = "bilinear"  # from the attention grid to the image
    threshold: Literal["p95", "p85", "p75", "median", "mean", "gmm"] = "p85"  # p85: the 85th percentile
    strict: bool = False  # > threshold instead of >= (gmm: its posterior is > 0.5 in either case)
    body_mask: bool = True  # nothing outside the body
    domain: Literal["body", "image"] = "body"  # threshold over the body's pixels, or over the image with 0 outside it
    smooth: Literal["bilateral", "none"] = "bilateral"  # the edges of the attention cells
    sigma_cells: Positive = 0.5  # spatial sigma in attention cells (the paper gives none)
    sigma_value: Positive = 1.0  # range sigma; well below 1 all that is left is `smooth_mask`'s resizing
    soft: bool = False  # keep the filter's values instead of cutting them at 0.5


@dataclass(config=SECTION)
class SemiConfig:
    """Training on unlabelled records: L = L_sup + ramp * (weight * (Dice + CE against P > 0.5) + lv_alpha * L_LV).

    Dice + CE stands for the terms of `objective`: their weights keep their ratios and have the mean `weight`.
    With `epi` and `lv_bank` none, records without a mask take no part.
    A plain EMA teacher is `epi: weights`. Weak-to-strong consistency (FixMatch, arXiv 2001.07685) is `epi: labels,
    beta: 0, view: strong, min_confidence: 0.95`.
    Measured: a gain with the masks of 5 % and 10 % of the shipped set's patients; none at 25 %, on bone tumours, or
    (EPI alone) on the lungs of adults; on breast lesions a loss, as with the plain controls (docs/results.md).
    """

    epi: Literal["none", "labels", "weights"] = "none"  # EMA of each pseudo label, or of the weights (teacher)
    beta: Annotated[float, Ge(0), Lt(1)] = 0.99  # weight of the past: P_t = beta P_{t-1} + (1 - beta) prediction
    beta_warmup: bool = True  # min(beta, 1 - 1 / (visits + 1)); else the first label keeps 60 % after 50 visits
    update: Literal["visit", "epoch"] = (
        "visit"  # by the training view's prediction, or by a plain one at each epoch's end
    )
    start: Literal["first_visit", "predict"] = (
        "first_visit"  # P_0: the first visit's prediction, or a pass before training
    )
    storage: Literal["float16", "uint8"] = "float16"  # of a pixel of a pseudo label: two bytes or one
    weight: Weight = 1.0  # of the loss against pseudo labels
    # what the network is trained on for them: the view that they are made of, or a harder one of the same image
    view: Literal["weak", "strong"] = "weak"
    strong: StrongViewConfig = field(default_factory=StrongViewConfig)
    # of a pixel, max(P, 1 - P) or the likeliest class: pixels below carry no loss
    min_confidence: Annotated[float, Ge(0.5), Lt(1)] = 0.5
    # Of the cross entropy against pseudo labels. `balanced` (LViT's own, for masks) calls foreground what is likelier
    # than its share: pseudo labels that are made of such predictions grow from visit to visit.
    ce_balance: Literal["plain", "balanced"] = "plain"
    lv_bank: Literal["none", "labelled", "captions"] = "none"  # the labelled records, or 14 drawn captions
    # of two texts: cosine of their features, or which sides, zones and terms they share
    lv_similarity: Literal["encoder", "findings"] = "encoder"
    lv_alpha: Weight = 1.0  # the paper: 0.1; chosen on validation, see medvl/config/presets/lvit.yaml
    ramp: Fraction = 0.1  # of the steps over which the unlabelled loss comes in

    @property
    def on(self) -> bool:
        """Whether unlabelled records take part."""
        return self.epi != "none" or self.lv_bank != "none"


@dataclass(config=SECTION)
class PretrainConfig:
    """G2D: L = L_VLA + decoder_weight * L_decoder (reference: G2D, equations 1 to 5). Used by `task: pretrain`."""

    decoder: Literal["pseudo_mask", "reconstruction", "none"] = "pseudo_mask"  # the paper's figure 1
    mask: PseudoMaskConfig = field(default_factory=PseudoMaskConfig)
    shuffle_masks: bool = False  # table 8: every image gets another one's pseudo mask
    decoder_weight: Weight = 1.0  # of the decoder's loss beside the alignment
    decoder_loss: Literal["paper", "released"] = "paper"  # (soft Dice + BCE) / 2, or Dice of raw logits + 0.2 BCE
    sigma: Positive = 0.07  # temperature of InfoNCE
    vla: Literal["mean", "sum"] = "mean"  # of the two directions
    same_is_no_negative: bool = True  # pairs of the same text or the same patient are no negatives of each other
    warmup_steps: Count = 200  # alignment alone; the decoder is not run
    accumulate: AtLeastOne = 1  # parts that a batch is cut into
    accumulate_mode: Literal["micro", "cached"] = "cached"  # negatives of the part only, or of the whole batch
    bucket_texts: bool = True  # batches of texts of similar length: less padding
    select: Literal["last", "mean_recall"] = "last"  # which checkpoint is the model
    num_panels: Count = 4  # validation pairs drawn at each validation


@dataclass(config=SECTION)
class ClassifyConfig:
    """Class labels of images, on the image encoder. Used by `task: classify`."""

    mode: Literal["linear", "finetune"] = "linear"  # the encoder frozen and its features computed once, or all trained
    labels: Literal["multilabel", "multiclass"] = "multilabel"  # any number of an image's classes, or exactly one
    # labels: the column. text: the findings that a report names and does not deny, by the rules of `medvl.findings`;
    # {consolidation: [consolidation, opacity]}: the same, and what counts as each class
    labels_from: Literal["labels", "text"] | dict[str, list[str]] = "labels"
    classes: list[str] | None = None  # None = every label of the train split
    negative_names: list[str] = field(default_factory=list)  # labels that say that there is none, e.g. [No Finding]
    pos_weight: Literal["none", "balanced"] = "none"  # balanced: both kinds of a class have the same weight
    cache_dir: str | None = None  # features of frozen encoders, shared between runs; None = computed by every run
