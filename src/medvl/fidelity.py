"""Where the paper, the released program and medvl differ: one switch each, with its reason and evidence.

The three presets and docs/fidelity.md are generated from this table. LViT: the authors' program at
a9b0b41, arXiv 2206.14718; G2D: the authors' program at 30364bd, arXiv 2312.01522. Evidence: `read` in the released
program (or, for G2D, the paper) or measured on it, `second-hand` from descriptions of the paper, `guess`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from medvl.errors import InputError, nearest

Preset = Literal["medvl", "paper", "released"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: the configuration key that switches it and its value in each preset."""

    key: str
    paper: Any
    released: Any
    medvl: Any
    reason: str
    evidence: Literal["read", "second-hand", "guess"]


LVIT: tuple[Difference, ...] = (
    Difference(
        "model.options.text_merge",
        "slots",
        "slots",
        "attention",
        "Ten fixed token slots and a 14x14 grid fit one text length and one image size; masked attention fits any.",
        "read",
    ),
    Difference(
        "text.max_tokens",
        10,
        10,
        None,
        "Ten tokens cut the right lung off in 80.2 % of the QaTa training captions (benchmarks/truncation.py).",
        "read",
    ),
    Difference(
        "model.options.mlp_tail",
        "plain",
        "released",
        "plain",
        "The released block applies GELU once more after the second linear layer; the usual block does not.",
        "second-hand",
    ),
    Difference(
        "objective.ce_balance",
        "plain",
        "balanced",
        "plain",
        "Foreground and background weighing the same over the batch makes small masks bleed over their edge.",
        "read",
    ),
    Difference(
        "train.optimizer",
        "adam",
        "adam",
        "adamw",
        "Decoupled weight decay; the released Adam has none.",
        "read",
    ),
    Difference("train.weight_decay", 0.0, 0.0, 1e-4, "As above.", "read"),
    Difference(
        "train.schedule",
        "warm_restarts",
        "warm_restarts",
        "cosine",
        "Restarts cost 0.45 IoU and 3 to 4 times the spread over seeds on QaTa.",
        "read",
    ),
    Difference(
        "train.lr_min",
        1e-4,
        1e-4,
        0.0,
        "A floor of 1e-4 for a peak of 3e-4 never anneals.",
        "read",
    ),
    Difference("train.warmup_steps", 0, 0, 100, "Attention is unstable in the first steps at full rate.", "read"),
    Difference("train.clip_norm", None, None, 1.0, "One bad batch must not undo an epoch.", "read"),
    Difference(
        "train.batch_size",
        24,
        2,
        8,
        "Released: 'for LViT-T, 2 is better than 4'; the paper's default is 24.",
        "second-hand",
    ),
    Difference("train.patience", 50, 50, None, "The cosine schedule ends where it was planned to end.", "read"),
    Difference(
        "train.first_best_epoch",
        1,
        6,
        1,
        "The released program keeps no checkpoint before its sixth epoch.",
        "read",
    ),
    Difference(
        "data.mask_rule",
        "area",
        "any",
        "area",
        "`any`: OpenCV's bilinear resizing, then > 0, as released. It dilates: 36 MoNuSeg tiles of 512 px at 224 have "
        "a foreground of 0.325 instead of 0.268.",
        "read",
    ),
    Difference(
        "data.channel_order",
        "rgb",
        "bgr",
        "rgb",
        "The released program feeds OpenCV's channel order.",
        "read",
    ),
    Difference("data.normalize", "none", "none", "zscore", "Exposure differs between devices.", "read"),
    Difference(
        "data.augment.scheme",
        "released",
        "released",
        "medvl",
        "The released scheme turns by 90 degrees and flips half of the images; anatomy is not drawn that way.",
        "read",
    ),
    Difference(
        "data.augment.flip_text",
        "keep",
        "keep",
        "rewrite",
        "A flipped picture whose text still says 'left' is a false example.",
        "read",
    ),
    Difference(
        "semi.beta_warmup",
        False,
        False,
        True,
        "At beta 0.99 the first pseudo label still weighs 60 % after 50 visits. (The released program has no EPI.)",
        "second-hand",
    ),
    Difference(
        "semi.lv_alpha",
        0.1,
        0.1,
        1.0,
        "Chosen on the validation images of draw 0 of the region ladder, of 0.1, 0.3 and 1; no other set was tried.",
        "second-hand",
    ),
    Difference(
        "semi.lv_similarity",
        "encoder",
        "encoder",
        "encoder",
        "TextSim of the paper. `findings` compares the sides first, then zones and terms. Equally similar texts give "
        "the mean of their masks, whatever their order.",
        "second-hand",
    ),
    Difference(
        "semi.start",
        "predict",
        "predict",
        "first_visit",
        "The paper predicts all unlabelled images before training; with the warm-up the first visit does as well.",
        "second-hand",
    ),
)


G2D: tuple[Difference, ...] = (
    Difference(
        "model.options.heads",
        4,
        4,
        4,
        "The paper's best is 3 heads, which do not divide its joint width of 128; the released program has 4.",
        "read",
    ),
    Difference(
        "model.options.text_pool",
        "first",
        "first",
        "attention",
        "[CLS] needs a pretrained encoder that has one; learned weights of the tokens suit every encoder.",
        "read",
    ),
    Difference(
        "model.options.text_norm",
        "tokens",
        "tokens",
        "pooled",
        "The released text projector runs over all 256 padded tokens, so that its BatchNorm sees pads.",
        "read",
    ),
    Difference(
        "model.options.input_norm",
        "none",
        "none",
        "image",
        "Exposure differs between devices: each image is brought to mean 0 and deviation 1.",
        "read",
    ),
    Difference(
        "pretrain.mask.upsample",
        "nearest",
        "nearest",
        "bilinear",
        "The paper's `square-like boundary` means nearest, which its filter then repairs.",
        "read",
    ),
    Difference(
        "pretrain.mask.strict",
        False,
        True,
        False,
        "The paper has >=, the released program >: on an 8x8 grid 10 or 9 cells.",
        "read",
    ),
    Difference(
        "pretrain.mask.body_mask",
        True,
        False,
        True,
        "Attention outside the body is no finding; the released program has no body mask.",
        "read",
    ),
    Difference(
        "pretrain.mask.domain",
        "image",
        "image",
        "body",
        "The percentile of the whole map would turn on more of a small body than of a large one.",
        "read",
    ),
    Difference(
        "pretrain.mask.smooth",
        "bilateral",
        "none",
        "bilateral",
        "The released program has no edge smoothing; the paper gives no parameters for its own.",
        "read",
    ),
    Difference(
        "pretrain.decoder_loss",
        "paper",
        "released",
        "paper",
        "The released Dice is of raw logits: a perfect prediction scores worse than zeros, without bound.",
        "read",
    ),
    Difference(
        "pretrain.vla", "mean", "sum", "mean", "The paper prints one direction; released: the sum of two.", "read"
    ),
    Difference(
        "pretrain.same_is_no_negative",
        False,
        False,
        True,
        "Reports repeat: the same text of another study is a true pair, not a negative.",
        "read",
    ),
    Difference(
        "pretrain.bucket_texts",
        False,
        False,
        True,
        "A text is padded to the longest of its batch: batches of similar length pad less. (Released: all to 256.)",
        "read",
    ),
    Difference("train.optimizer", "adamw", "adamw", "adamw", "All agree.", "read"),
    Difference("train.lr", 2e-4, 2e-5, 2e-4, "The paper's rate goes with batches of 2,048.", "read"),
    Difference("train.weight_decay", 1e-8, 1e-8, 1e-8, "All agree.", "read"),
    Difference(
        "train.schedule",
        "cosine",
        "warm_restarts",
        "cosine",
        "Restarts throw the rate up again to the end; see the next row.",
        "read",
    ),
    Difference(
        "train.restart_steps",
        None,
        200,
        None,
        "Released: a restart every 200 iterations, about 108 in a run, the rate stepped at each.",
        "read",
    ),
    Difference("train.lr_min", 0.0, 1e-8, 0.0, "The paper gives no floor.", "read"),
    Difference(
        "train.warmup_steps",
        100,
        0,
        100,
        "The paper warms up linearly and does not say how long (100 is a guess); released: not at all.",
        "read",
    ),
    Difference("train.clip_norm", None, None, 1.0, "One bad batch must not undo an epoch.", "read"),
    Difference(
        "data.normalize",
        "none",
        "none",
        "none",
        "Images in [0, 1]; the network normalises (`input_norm`), and reconstruction needs them so.",
        "read",
    ),
)
METHODS: dict[str, tuple[Difference, ...]] = {"lvit": LVIT, "g2d": G2D}


@dataclass(frozen=True, slots=True)
class Unswitched:
    """One difference that no preset sets: all three begin from what the recipe says."""

    what: str
    paper: str
    released: str
    medvl: str


LVIT_UNSWITCHED: tuple[Unswitched, ...] = (
    Unswitched(
        "text encoder",
        "an embedding layer (second-hand)",
        "bert-embedding: 12-layer BERT, frozen, contextual, no [CLS] and [SEP], the first line of a text",
        "`text.encoder`: built-in, MiniLM or any of transformers; frozen or trained",
    ),
    Unswitched(
        "padding words",
        "not said",
        "a text of fewer than 9 words gets ` EOF XXX` behind it, 9 less that many times",
        "none: a shorter text leaves its last slots empty; a longer one is cut at `text.max_tokens`, and counted",
    ),
    Unswitched(
        "shrinking an image",
        "to 224 x 224",
        "OpenCV's bilinear rule, which skips pixels (no anti-aliasing)",
        "the mean over the area of a pixel; `data.resize: stretch` or `letterbox`",
    ),
    Unswitched(
        "values of an image",
        "not said",
        "divided by 255; no mean, no deviation",
        "`data.normalize`; integers by the range of their type, DICOM by its window",
    ),
    Unswitched(
        "rotation (`augment.scheme: released`)",
        "not said",
        "-20 to 19 degrees after resizing, nearest pixel, corners 0 in image and mask",
        "the same angles, bilinear, in one step with the resizing; corners of the image as `data.border` says (edge: "
        "its edge repeated), of the mask 0; masks of `mask_rule: any` are resized first, then turned at half the area",
    ),
    Unswitched(
        "draws of augmentation",
        "not said",
        "workers begin every epoch with the same seed, and the draws repeat",
        "from seed, epoch and image",
    ),
    Unswitched(
        "epochs",
        "not said",
        "up to 2000, stopped after 50 without a better validation Dice",
        "`train.epochs` (recipes/lvit_monuseg.yaml: 6); `train.patience` as in the table above",
    ),
    Unswitched(
        "learning rate", "3e-4 (QaTa)", "1e-3 (MoNuSeg), 3e-4 (QaTa)", "`train.lr` (recipes/lvit_monuseg.yaml: 1e-3)"
    ),
    Unswitched(
        "pretraining",
        "not said",
        "a U-Net trained before, by key intersection: optional (+0.38 Dice on MoNuSeg)",
        "`init`, `init_parts`",
    ),
    Unswitched(
        "scoring grid",
        "not said",
        "224 x 224, against the dilated masks; both masks empty = 0; threshold 0.5",
        "the image's own pixels, against undilated masks; `--empty-mask` (one); threshold fixed or chosen on val",
    ),
    Unswitched(
        "Dice and IoU",
        "means over images (they do not satisfy IoU = D / (2 - D))",
        "means over images; IoU of the foreground alone is called mIoU",
        "means over images and pooled, in two columns",
    ),
    Unswitched(
        "unused weights",
        "29.7 M parameters",
        "39.9 M are stored, 10.0 M of them never used",
        "not built: 29.9 M",
    ),
)


G2D_UNSWITCHED: tuple[Unswitched, ...] = (
    Unswitched(
        "augmentation",
        "random grayscale, perspective, automatic contrast",
        "affine (15 degrees, shear 15), brightness and contrast by 0.2",
        "`data.augment`: rotation, shift, scale, gamma, contrast, brightness, noise; no shear, no perspective",
    ),
    Unswitched(
        "image",
        "resized to 256, the middle 224, in [0, 1]",
        "the middle 256 of a prepared array, mean and deviation of ImageNet",
        "`data.image_size`, no cropping; in [0, 1], then `input_norm` (its `none` feeds [0, 1] as the paper does)",
    ),
    Unswitched(
        "pairs",
        "213,384 of MIMIC-CXR; how its splits were used is not said",
        "all frontal studies, those of validation and test among them",
        "the manifest's training split; the importer keeps the official splits",
    ),
    Unswitched("batch", "2,048 on 16 GPUs", "512 on 8 GPUs", "`train.batch_size` (recipes/g2d.yaml: 64), any number"),
    Unswitched("epochs", "50", "52", "`train.epochs` (recipes/g2d.yaml: 50)"),
    Unswitched(
        "text",
        "ClinicalBERT",
        "Bio_ClinicalBERT, every text padded to 256 tokens, layers 0 to 8 frozen",
        "`text.encoder`, `text.train_layers`; padded to the longest of a batch",
    ),
    Unswitched(
        "negatives, BatchNorm", "not said", "of one GPU only", "of all processes, with gradient; statistics of all"
    ),
    Unswitched("order of the pairs", "not said", "the same in every epoch", "another in every epoch, from the seed"),
    Unswitched(
        "precision",
        "not said",
        "float16 autocast, backward within it",
        "`train.precision`; losses and masks in float32",
    ),
)


UNSWITCHED: dict[str, tuple[Unswitched, ...]] = {"lvit": LVIT_UNSWITCHED, "g2d": G2D_UNSWITCHED}


def preset_values(preset: str, source: str = "configuration", method: str = "lvit") -> dict[str, Any]:
    """The keys and values that a preset sets where a recipe says nothing."""
    names = get_args(Preset)
    if preset not in names:
        like = nearest(str(preset), names)
        raise InputError(
            f"unknown fidelity {preset!r}",
            file=source,
            expected=" | ".join(names),
            remedy=f"did you mean {like}?" if like else None,
        )
    return {row.key: getattr(row, preset) for row in METHODS[method]}


def markdown(method: str = "lvit") -> str:
    """The tables of a method in docs/fidelity.md."""
    lines = ["| switch | paper | released | medvl | why | evidence |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{row.key}` | {row.paper} | {row.released} | {row.medvl} | {row.reason} | {row.evidence} |"
        for row in METHODS[method]
    ]
    lines += ["", "No preset sets these:", "", "| what | paper | released | medvl |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.what} | {row.paper} | {row.released} | {row.medvl} |" for row in UNSWITCHED[method]]
    return "\n".join(lines) + "\n"
