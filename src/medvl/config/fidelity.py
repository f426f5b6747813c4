"""Where the paper, the released program and medvl differ: one switch each, with its reason and evidence.

The three presets and docs/fidelity.md are generated from this table. LViT: the authors' program at
a9b0b41, arXiv 2206.14718; G2D: the authors' program at 30364bd, arXiv 2312.01522. Evidence: `read` in the released
program (or, for G2D, the paper) or measured on it, `second-hand` from descriptions of the paper, `guess`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from medvl.config.fidelity_unswitched import UNSWITCHED
from medvl.core.errors import InputError, nearest

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
