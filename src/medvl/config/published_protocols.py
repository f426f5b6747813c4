"""The table of the published downstream protocols: what each one sets, after whom, and where medvl still differs.

`medvl.config.protocols` applies it; docs/protocols.md and the lines of the plan are made of it.

Sources: G2D's paper (arXiv 2312.01522, A.4 and A.5), which names the protocols of others, and the programs of MGCA
(HKU-MedAI/MGCA at 4075a69), MedKLIP (MediaBrain-SJTU/MedKLIP at af43105), KAD (xiaoman-zhang/KAD at 592de62) and
CheXzero (rajpurkarlab/CheXzero at 493a491). Evidence: `read` there, `second-hand` from descriptions, `medvl` where they
are silent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ZERO_SHOT = "zero-shot classification"  # of `medvl classify`, which has no recipe; its keys are that command's options
Evidence = Literal["read", "second-hand", "medvl"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the configuration and its value; a later one of the same key wins where its condition holds."""

    key: str
    value: Any
    source: str
    evidence: Evidence = "read"
    note: str = ""
    only: str | None = None  # the set that it is for
    up_to: float | None = None  # the largest data.label_fraction that it is for


@dataclass(frozen=True, slots=True)
class Protocol:
    """A published protocol of one task. `sets`: the data sets for which it has settings of their own."""

    name: str
    title: str
    task: str
    settings: tuple[Setting, ...]
    scored: str  # what of medvl's output is the published number
    differs: tuple[str, ...] = field(default=())
    sets: tuple[str, ...] = ()

    def values(self, which: str | None = None, label_fraction: float = 1.0) -> dict[str, Any]:
        """{key: value} for one of `sets` (None: what holds for all) at a label fraction."""
        return {
            row.key: row.value
            for row in self.settings
            if row.only in (None, which) and (row.up_to is None or label_fraction <= row.up_to)
        }


_NO_INTENSITY = tuple(
    Setting(f"data.augment.{key}", 0.0, "MGCA and MedKLIP, programs", note="" if i else "Geometry is all they change.")
    for i, key in enumerate(("max_gamma", "max_contrast", "max_brightness", "max_noise"))
)
_KEEP = Setting(
    "data.augment.flip_text",
    "keep",
    "programs",
    note="No text is read, so what is cut off or flipped makes none untrue.",
)
_BY_IMAGE = Setting("data.label_by", "image", "MGCA, program", note="Fractions of the images, not of the patients.")
_CONSTANT = (
    Setting("train.schedule", "constant", "MGCA, program", note="Its cosine schedule is commented out."),
    Setting("train.warmup_steps", 0, "MGCA, program"),
    Setting("train.clip_norm", None, "MGCA, program"),
)
_BETAS = Setting("train.betas", (0.9, 0.999), "MGCA, program")
_STOP = (
    Setting("train.choose_by", "loss", "MGCA, program"),
    Setting("train.patience", 10, "G2D, paper; MGCA, program"),
)
_UNET = (
    Setting("model.name", "encoder_unet", "G2D, paper; MGCA, program", note="Layer for layer smp.Unet's decoder."),
    Setting("model.size", "resnet50", "G2D, paper; MGCA, program"),
    Setting("text.encoder", "none", "G2D, paper; MGCA, program"),
    Setting("data.image_size", (224, 224), "G2D, paper; MGCA and MedKLIP, programs"),
)
# RandomResizedCrop(0.2 to 1) and a flip, of MedKLIP's and KAD's programs
_CROP = (
    ("data.augment.crop_area", (0.2, 1.0), ""),
    ("data.augment.p_flip_lr", 0.5, "The heart is then on the right in half of the images."),
    ("data.augment.max_rotate_deg", 0.0, ""),
    ("data.augment.max_shift", 0.0, ""),
    ("data.augment.scale", (1.0, 1.0), ""),
)
_OWN_DECAY = "Weight decay leaves out biases and gains of normalisation; theirs takes all parameters."
_OWN_NORM = (
    "Images are brought to mean 0, deviation 1 each (the encoder's `input_norm`), as in medvl's pre-training; theirs "
    "subtract a fixed mean."
)
_OWN_DRAW = (
    "The members of a fraction are drawn by `data.label_seed`, nested, their number rounded; theirs by numpy's global "
    "generator, rounded down."
)
_OWN_SIZE = (
    "Images are brought to the run's `data.image_size` at once (`data.resize`) and normalised as it was trained; G2D "
    "resizes to 256, takes the centre 224 and scales to [0, 1]."
)

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "mgca_segmentation",
            "Segmentation of MGCA and G2D (tables 1, 5, 8): encoder frozen, decoder trained",
            "segment",
            (
                *_UNET,
                Setting("train.freeze_encoder", True, "G2D, paper; MGCA, program"),
                Setting(
                    "objective.dice", "log_batch", "MGCA, program", note="-log D, smooth 1, flattened over the batch."
                ),
                Setting("objective.dice_weight", 1.0, "MGCA, program"),
                Setting("objective.ce_weight", 10.0, "MGCA, program"),
                Setting("objective.ce_balance", "plain", "MGCA, program"),
                Setting("objective.focal_gamma", 2.0, "MGCA, program"),
                Setting("train.optimizer", "adamw", "G2D, paper; MGCA, program"),
                Setting("train.lr", 2e-4, "G2D, paper; MGCA, program", note="MGCA's shell script passes 5e-4."),
                Setting("train.weight_decay", 0.05, "G2D, paper; MGCA, program"),
                _BETAS,
                *_CONSTANT,
                Setting("train.batch_size", 8, "MGCA, program"),
                Setting("train.batch_size", 16, "MGCA, shell script", only="rsna"),
                Setting("train.epochs", 50, "G2D, paper; MGCA, program"),
                *_STOP,
                _BY_IMAGE,
                Setting(
                    "data.balance", "siim", "MGCA, program", only="siim", note="In train; val and test as they are."
                ),
                Setting("data.augment.p_affine", 0.5, "MGCA, program", note="ShiftScaleRotate, of half of the images."),
                Setting("data.augment.max_rotate_deg", 10.0, "MGCA, program"),
                Setting("data.augment.max_shift", 0.0, "MGCA, program"),
                Setting("data.augment.scale", (0.9, 1.1), "MGCA, program"),
                Setting("data.border", "zero", "MGCA, program"),
                *_NO_INTENSITY,
                _KEEP,
            ),
            "`dice_mgca` of `medvl evaluate` (threshold 0.5), whose batches have `train.batch_size` cases",
            (
                "What is taken over is `init_parts`: `encoder`, or `encoder_decoder` (G2D's second row).",
                "A frozen encoder stays in eval mode; in theirs its BatchNorm statistics go on moving.",
                _OWN_NORM,
                _OWN_DECAY,
                _OWN_DRAW,
                "Dice is counted on the native grid, theirs at 224 px.",
            ),
            ("siim", "rsna"),
        ),
        Protocol(
            "medklip_segmentation",
            "Segmentation of MedKLIP and of G2D's table 7: encoder and decoder trained",
            "segment",
            (
                *_UNET,
                Setting("train.freeze_encoder", False, "G2D, paper; MedKLIP, program"),
                Setting("objective.dice", "batch", "MedKLIP, program", note="1 - D, smooth 1, of the batch."),
                Setting("objective.dice_weight", 1.0, "MedKLIP, program"),
                Setting("objective.ce_weight", 1.0, "MedKLIP, program"),
                Setting("objective.ce_balance", "plain", "MedKLIP, program"),
                Setting("objective.focal_gamma", 0.0, "MedKLIP, program"),
                Setting("train.optimizer", "adamw", "MedKLIP, program"),
                Setting("train.lr", 1e-5, "MedKLIP, program"),
                Setting("train.weight_decay", 0.02, "MedKLIP, program"),
                Setting("train.schedule", "constant", "MedKLIP, program", note="A cosine from 1e-5 to 1e-5."),
                Setting("train.warmup_steps", 0, "MedKLIP, program", note="50 epochs of warm-up, from 1e-5 to 1e-5."),
                Setting("train.clip_norm", None, "MedKLIP, program"),
                Setting("train.batch_size", 64, "MedKLIP, program"),
                Setting("train.epochs", 1000, "MedKLIP, program"),
                Setting("train.choose_by", "loss", "MedKLIP, program"),
                Setting("train.patience", None, "MedKLIP, program"),
                Setting("data.label_by", "image", "MedKLIP, program"),
                *(Setting(key, value, "MedKLIP, program", note=note) for key, value, note in _CROP),
                *_NO_INTENSITY,
                _KEEP,
            ),
            "`dice_mgca` of `medvl evaluate` (MedKLIP's program scores the same way, in batches of 64)",
            (
                "Their network is a residual U-Net of their own on ResNet-50, here the U-Net of `mgca_segmentation`.",
                "Their last batch of an epoch is dropped if it is not full, in validation too.",
                _OWN_NORM,
                _OWN_DECAY,
                _OWN_DRAW,
            ),
        ),
        Protocol(
            "mgca_detection",
            "Detection of MGCA and G2D (tables 1, 5, 8): YOLOv3's head on the frozen encoder",
            "detect",
            (
                Setting("model.size", "resnet50", "G2D, paper; MGCA, program"),
                Setting("train.freeze_encoder", True, "G2D, paper; MGCA, program"),
                Setting("data.image_size", (224, 224), "G2D, paper; MGCA, program", note="Plain resize, no aspect."),
                Setting("data.augment.scheme", "none", "MGCA, program", "second-hand"),
                Setting("detect.anchors", "published", "MGCA, program", "second-hand", "YOLOv3's, scaled."),
                Setting("detect.assign", "each_scale", "MGCA, program", "second-hand"),
                Setting("detect.lambda_xy", 2.5, "MGCA, program", "second-hand"),
                Setting("detect.lambda_wh", 2.5, "MGCA, program", "second-hand"),
                Setting("detect.lambda_conf", 1.0, "MGCA, program", "second-hand"),
                Setting(
                    "detect.lambda_noobj", 0.5, "MGCA, program", "second-hand", "Places without a box, within conf."
                ),
                Setting("detect.lambda_cls", 1.0, "MGCA, program", "second-hand"),
                Setting("detect.ignore_iou", 0.5, "MGCA, program", "second-hand"),
                Setting("detect.score_threshold", 0.5, "MGCA, program", "second-hand", "Of `map_published`."),
                Setting("detect.nms_iou", 0.5, "MGCA, program", "second-hand"),
                Setting("train.optimizer", "adamw", "G2D, paper; MGCA, program"),
                Setting("train.lr", 5e-4, "G2D, paper; MGCA, program", "second-hand"),
                Setting(
                    "train.lr",
                    2e-4,
                    "G2D, paper; MGCA, program",
                    "second-hand",
                    "2.5e-4 for Object-CXR in MGCA's script.",
                    up_to=0.01,
                ),
                Setting("train.batch_size", 16, "G2D, paper; MGCA, program", "second-hand"),
                Setting("train.batch_size", 8, "G2D, paper; MGCA, program", "second-hand", up_to=0.01),
                Setting("train.weight_decay", 1e-6, "G2D, paper; MGCA, program", "second-hand"),
                *(Setting(row.key, row.value, row.source, "second-hand") for row in _CONSTANT),
                Setting("train.epochs", 50, "G2D, paper; MGCA, program"),
                Setting("train.choose_by", "metric", "G2D, paper; MGCA, program", "second-hand"),
                Setting("train.patience", 10, "G2D, paper; MGCA, program"),
                Setting("data.label_by", "image", "MGCA, program", "second-hand"),
            ),
            "`map_published` of `medvl evaluate`: images without a prediction or without a true box are left out",
            (
                "The checkpoint is chosen by mAP over all scores; theirs by that from 0.5 on, which is 0 at first.",
                "A place that holds a box has no loss of an empty one; in theirs it keeps it where its anchor's IoU is "
                "0.5 or less, so that their confidences are lower.",
                "Of two boxes at one place the first is learned, in theirs the last.",
                "A frozen encoder stays in eval mode; in theirs its BatchNorm statistics go on moving.",
                _OWN_NORM,
                _OWN_DECAY,
                _OWN_DRAW,
            ),
        ),
        Protocol(
            "mgca_linear",
            "Linear classification of MGCA and G2D (table 4)",
            "classify",
            (
                Setting("model.size", "resnet50", "G2D, paper; MGCA, program"),
                Setting("classify.mode", "linear", "G2D, paper; MGCA, program"),
                Setting("classify.labels", "multilabel", "MGCA, program"),
                Setting("classify.labels", "multiclass", "MGCA, program", only="covidx"),
                Setting(
                    "classify.classes",
                    ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"),
                    "MGCA, program",
                    only="chexpert",
                    note="Uncertain and missing labels are settled by the importer.",
                ),
                Setting("classify.pos_weight", "none", "MGCA, program"),
                Setting("data.image_size", (224, 224), "G2D, paper; MGCA, program"),
                Setting("train.optimizer", "adamw", "G2D, paper; MGCA, program"),
                Setting("train.lr", 5e-4, "G2D, paper; MGCA, program"),
                Setting("train.weight_decay", 1e-6, "G2D, paper; MGCA, program"),
                _BETAS,
                *_CONSTANT,
                Setting("train.batch_size", 8, "G2D, paper", note="48 in MGCA's program."),
                Setting("train.epochs", 50, "G2D, paper; MGCA, program"),
                *_STOP,
                _BY_IMAGE,
            ),
            "`macro_auc` of `medvl evaluate` (CheXpert, RSNA), `accuracy` (COVIDx)",
            (
                "Features are computed once, without augmentation; theirs of random crops of 224 from 256 (on CheXpert "
                "also colour jitter, blur and flips).",
                _OWN_NORM,
                _OWN_DRAW,
            ),
            ("chexpert", "rsna", "covidx"),
        ),
        Protocol(
            "kad_finetune",
            "Fine-tuned classification of KAD and G2D (ChestX-ray14, table 3)",
            "classify",
            (
                Setting("model.size", "resnet50", "G2D, paper"),
                Setting("classify.mode", "finetune", "G2D, paper"),
                Setting("classify.labels", "multilabel", "G2D, paper"),
                Setting("data.image_size", (256, 256), "G2D, paper"),
                Setting("train.optimizer", "adamw", "G2D, paper"),
                Setting("train.lr", 1e-4, "G2D, paper"),
                Setting("train.batch_size", 64, "G2D, paper"),
                Setting("train.epochs", 50, "G2D, paper"),
                Setting("train.choose_by", "metric", "-", "medvl", "G2D does not say how the checkpoint is chosen."),
                Setting("train.schedule", "cosine", "-", "medvl", "G2D does not say."),
                Setting("train.warmup_steps", 100, "-", "medvl", "G2D does not say."),
                *(Setting(key, value, "KAD, program (pre-training)", note=note) for key, value, note in _CROP),
                _KEEP,
            ),
            "`macro_auc` and the AUC of each class of `medvl evaluate`",
            (
                "KAD's program does not contain its fine-tuning: G2D says `as KAD`, hence the augmentation of its "
                "pre-training; of that the RandAugment is replaced by medvl's gamma, contrast, brightness and noise.",
                "Which images KAD validates on is not taken over; the importer's validation has their number.",
                _OWN_NORM,
                _OWN_DECAY,
            ),
        ),
        Protocol(
            "chexzero",
            "Zero-shot classification by CheXzero's pair of prompts, as G2D asks",
            ZERO_SHOT,
            (
                Setting(
                    "family", "chexzero", "G2D, paper; CheXzero", note="`{}` against `no {}`, softmax of the pair."
                ),
                Setting("temperature", "none", "CheXzero, program"),
                Setting("threshold_from", "fixed", "G2D, paper", note="Positive where the positive prompt is nearer."),
                Setting("rules", ("f1", "mcc"), "-", "medvl", "Columns of the published practice."),
            ),
            "`auc`; the row `threshold 0.5`",
            (_OWN_SIZE,),
        ),
        Protocol(
            "medklip",
            "Thresholds of MedKLIP's zero-shot tables (RSNA, SIIM): the highest F1 of each class, accuracy there",
            ZERO_SHOT,
            (
                Setting("family", "chexzero", "G2D, paper", note="MedKLIP asks a query network of its own."),
                Setting("threshold_from", "val", "-", "medvl", "The honest column; theirs stands beside it."),
                Setting("rules", ("f1",), "MedKLIP, program"),
            ),
            "the row `max f1 (MedKLIP)` of the column `threshold chosen on test, published practice`",
            (
                "Their accuracy counts scores above the threshold as positive, their F1 and medvl's those at it too.",
                _OWN_SIZE,
            ),
        ),
        Protocol(
            "kad",
            "Thresholds of KAD's zero-shot tables (ChestX-ray14, CheXpert): the highest MCC of each class",
            ZERO_SHOT,
            (
                Setting("family", "chexzero", "G2D, paper", note="KAD asks a query network of its own."),
                Setting("threshold_from", "val", "-", "medvl", "The honest column; theirs stands beside it."),
                Setting("rules", ("mcc",), "KAD, program"),
            ),
            "the row `max mcc (KAD)` of the column `threshold chosen on test, published practice`",
            ("Their last batch of the test set is dropped if it is not full.", _OWN_SIZE),
        ),
    )
}
