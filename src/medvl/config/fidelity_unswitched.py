"""What of LViT's and G2D's training no preset sets: where paper and released program differ, what medvl does.

`fidelity.markdown` prints these tables below those of the switches.
"""

from __future__ import annotations

from dataclasses import dataclass


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
