"""What to train on a table: its facts -> the task, the network and its settings, each with a reason in plain words.

The rules are few, and every value is a starting point that `key=value` changes. Masks come first, for they say most
about an image; then boxes; texts of many kinds are reports to pre-train on; labels are left.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from medvl.core.errors import InputError
from medvl.data.audit.reports import looks_like_reports
from medvl.data.columns import image_stem
from medvl.data.images import image_size, num_slices, read_image
from medvl.data.record import Manifest, Record
from medvl.data.reports import names_side
from medvl.text.huggingface import MINILM_PACKAGE

MIN_TEXTS = 8  # different training texts, below which there is nothing to align images with
NUM_LOOKED_AT = 32  # images whose size and colours are looked at
COLOURED = 0.02  # difference of two channels from which an image has colours
STEPS = {False: 600, True: 6000}  # of a run, on a CPU and on a GPU


@dataclass(frozen=True, slots=True)
class TableFacts:
    """Counts of the training records of a table, in images where nothing else is stated."""

    path: Path
    num_images: int
    num_annotated: int = 0  # with a mask in some row
    classes: tuple[str, ...] = ()  # mask classes that are annotated
    rows_per_image: int = 1  # the median
    num_rows: int = 0
    num_texts: int = 0  # rows with a text
    num_distinct_texts: int = 0
    are_reports: bool = False  # the texts look like radiology reports
    name_sides: bool = False
    num_boxed: int = 0
    num_labelled: int = 0
    one_label_each: bool = False  # every labelled image has exactly one, of at least two
    side_px: int = 128  # the median of the longest sides
    in_channels: int = 1

    @property
    def have_texts(self) -> bool:
        """Whether most rows have a text, and not all the same one."""
        return 2 * self.num_texts >= max(1, self.num_rows) and self.num_distinct_texts > 1

    @property
    def few_masks(self) -> bool:
        """Whether most images have no mask."""
        return 2 * self.num_annotated < self.num_images


@dataclass(frozen=True, slots=True)
class FitPlan:
    """What is trained. `labelled_only` are the settings that a semi-supervised run's first stage has instead."""

    task: str
    lines: tuple[str, ...]
    settings: dict[str, Any]
    labelled_only: dict[str, Any] = field(default_factory=dict)


def table_facts(manifest: Manifest) -> TableFacts:
    """The facts of the training records; of all records where the table has no splits."""
    rows = [row for row in manifest.records if row.split == "train"] or list(manifest.records)
    images = list(dict.fromkeys(row.image for row in rows))
    annotated = [row for row in rows if any(mask is not None for mask in row.masks.values())]
    labels = {row.image: row.labels for row in rows if row.labels or row.labels_absent}
    texts = [row.text.strip() for row in rows if row.text.strip()]
    looked_at = images[:: max(1, len(images) // NUM_LOOKED_AT)]
    _refuse_paths_as_labels(manifest, rows)
    return TableFacts(
        path=manifest.path,
        num_images=len(images),
        num_annotated=len({row.image for row in annotated}),
        classes=tuple(name for name in manifest.classes if any(row.masks[name] is not None for row in annotated)),
        rows_per_image=int(median(Counter(row.image for row in rows).values())),
        num_rows=len(rows),
        num_texts=len(texts),
        num_distinct_texts=len(set(texts)),
        are_reports=looks_like_reports(texts),
        name_sides=any(names_side(text) for text in set(texts)),
        num_boxed=len({row.image for row in rows if row.boxes}),
        num_labelled=len(labels),
        one_label_each=len(set(labels.values())) > 1 and all(len(names) == 1 for names in labels.values()),
        side_px=int(median(max(image_size(path)) for path in looked_at)),
        in_channels=3 if any(_has_colours(path) for path in looked_at[:8]) else 1,
    )


def choose_plan(facts: TableFacts, *, on_gpu: bool = False, task: str | None = None) -> FitPlan:
    """The plan that fits the table, or the one of `task`.

    Raises:
        InputError: nothing to learn from, or texts that name a side where it is not known whose side is meant.
    """
    return _PLANS[task or _task_of(facts)](facts, on_gpu)


def _task_of(facts: TableFacts) -> str:
    if facts.num_annotated:
        return "segment"
    if facts.num_boxed:
        return "detect"
    if facts.num_distinct_texts >= MIN_TEXTS:
        return "pretrain"
    if facts.num_labelled:
        return "classify"
    raise InputError.empty(
        "nothing to learn from: no masks, no boxes, no labels and fewer than "
        f"{MIN_TEXTS} different texts among {facts.num_images} training images",
        file=facts.path,
        expected="a column mask, mask_NAME, boxes, labels or text",
        remedy="data.columns={mask: COLUMN} names a column that is called otherwise",
    )


def _segment(facts: TableFacts, on_gpu: bool) -> FitPlan:
    lines = [f"masks of {facts.num_annotated} of {facts.num_images} training images: segmentation"]
    batch = 16 if on_gpu else 4
    data: dict[str, Any] = {"augment": {"max_rotate_deg": 5}}
    train: dict[str, Any] = {"lr": 1e-3 if on_gpu else 2e-3, "ema_decay": 0.99}
    if facts.have_texts:
        lines.append(f"{facts.num_distinct_texts} different texts: LViT, which is guided by them")
        several = facts.rows_per_image > 1
        data |= _laterality(facts, lines)
        data |= {"phrases_per_image": min(4, facts.rows_per_image), "p_empty_text": 0.03 if several else 0.0}
        data |= {"val_phrases_per_image": 4} if facts.rows_per_image > 4 else {}
        network = {"name": "lvit", "size": "T" if on_gpu else "nano", "options": {"text_merge": "attention"}}
        text = {"encoder": "builtin", "dim": 128 if on_gpu else 64}
    else:
        lines.append("no texts, or one for all: a U-Net on a ResNet, which is not guided by text")
        network = {"name": "encoder_unet", "encoder": _encoder(on_gpu)}
        text = {"encoder": "none"}
        data |= {"normalize": "none"}  # the encoder brings each image to mean 0, deviation 1
    settings = {"data": data, "text": text, "model": network, "train": train}
    if len(facts.classes) > 1:
        lines.append(f"several classes ({', '.join(facts.classes)}), each with a mask of its own")
        settings["objective"] = {"mode": "multilabel"}
    plan = _finished("segment", facts, on_gpu, batch, lines, settings)
    return _with_unlabelled(plan, facts) if facts.few_masks else plan


def _with_unlabelled(plan: FitPlan, facts: TableFacts) -> FitPlan:
    """The same in two stages: the labelled images alone, then all of them with pseudo labels."""
    train = plan.settings["train"]
    epochs, batch = 4, 2 * train["batch_size"]  # half of a batch is unlabelled
    num_steps = max(1, train["epochs"] * -(-facts.num_images // train["batch_size"]) // (2 * epochs))
    train = {**train, "epochs": epochs, "steps_per_epoch": num_steps, "batch_size": batch, "val_every": 2}
    semi: dict[str, Any] = {"epi": "labels"}
    if facts.have_texts:
        semi |= {"lv_bank": "labelled", "lv_similarity": "findings"}
    line = (
        f"few masks: semi-supervised in two stages of {epochs} epochs of {num_steps} steps, the labelled images alone, "
        f"then also the {facts.num_images - facts.num_annotated} without a mask"
    )
    settings = {**plan.settings, "semi": semi, "train": train}
    return FitPlan("segment", (*plan.lines, line), settings, {"semi": {"epi": "none", "lv_bank": "none"}})


def _pretrain(facts: TableFacts, on_gpu: bool) -> FitPlan:
    lines = [
        f"no masks, {facts.num_distinct_texts} different texts of {facts.num_images} training images: G2D pre-training "
        "on pairs of image and report"
    ]
    batch = min(64 if on_gpu else 32, max(2, facts.num_images))
    # Few pairs are too few to learn a language from.
    has_minilm = importlib.util.find_spec(MINILM_PACKAGE) is not None
    text: dict[str, Any] = {"encoder": "minilm"} if has_minilm else {"encoder": "builtin", "dim": 64}
    model: dict[str, Any] = {"encoder": _encoder(on_gpu)}
    if not on_gpu:
        model["options"] = {"pool_stride": 8, "pool_deeper": False}  # enough cells for attention at this image size
    settings: dict[str, Any] = {"data": {**_laterality(facts, lines), "augment": {"max_rotate_deg": 5}}}
    settings |= {"text": text, "model": model, "train": {"lr": 2e-4 if on_gpu else 1e-3}}
    plan = _finished("pretrain", facts, on_gpu, batch, lines, settings)
    num_steps = plan.settings["train"]["epochs"] * -(-facts.num_images // batch)
    plan.settings["pretrain"] = {"warmup_steps": num_steps // 5}  # the decoder joins once the pairs are known a little
    return plan


def _classify(facts: TableFacts, on_gpu: bool) -> FitPlan:
    lines = [f"labels of {facts.num_labelled} of {facts.num_images} training images: a classifier"]
    kind = "multiclass" if facts.one_label_each else "multilabel"
    lines.append(
        "every image has exactly one label: classes that exclude each other"
        if facts.one_label_each
        else "any number of labels an image: each class is predicted for itself"
    )
    settings: dict[str, Any] = {
        "data": {"normalize": "none", "augment": {"max_rotate_deg": 5}},
        "model": {"encoder": _encoder(on_gpu)},
        "classify": {"mode": "finetune", "labels": kind},
        "train": {"lr": 1e-4 if on_gpu else 1e-3},
    }
    return _finished("classify", facts, on_gpu, 32 if on_gpu else 8, lines, settings)


def _detect(facts: TableFacts, on_gpu: bool) -> FitPlan:
    lines = [f"boxes on {facts.num_boxed} of {facts.num_images} training images, no masks: a detector (YOLOv3)"]
    settings: dict[str, Any] = {
        "data": {"normalize": "none", "augment": {"max_rotate_deg": 5}},
        "model": {"encoder": _encoder(on_gpu)},
        "detect": {"anchors": "fit"},
        "train": {"lr": 5e-4 if on_gpu else 2e-3, "freeze_encoder": False},
    }
    return _finished("detect", facts, on_gpu, 16 if on_gpu else 8, lines, settings)


def _encoder(on_gpu: bool) -> str:
    return "resnet50" if on_gpu else "resnet18_nano"


_PLANS = {"segment": _segment, "pretrain": _pretrain, "classify": _classify, "detect": _detect}


def _finished(
    task: str, facts: TableFacts, on_gpu: bool, batch: int, lines: Sequence[str], settings: dict[str, Any]
) -> FitPlan:
    """The plan with what depends on the machine and the number of images alone: sizes, epochs, validations."""
    largest = 224 if on_gpu else 128
    side = min(largest, max(64, 32 * round(facts.side_px / 32)))
    steps_per_epoch = -(-facts.num_images // batch)
    epochs = min(200, max(1, round(STEPS[on_gpu] / steps_per_epoch)))
    settings["task"] = task
    settings["data"] |= {"image_size": [side, side], "in_channels": facts.in_channels}
    settings["train"] |= {"epochs": epochs, "batch_size": batch, "val_every": max(1, epochs // 4)}
    settings["train"] |= {"warmup_steps": min(100, max(1, epochs * steps_per_epoch // 20))}
    if on_gpu:
        settings["train"] |= {"precision": "auto"}
        settings["data"] |= {"num_workers": 4}
    machine = "a GPU" if on_gpu else "a CPU: a small network"
    size = settings["model"].get("encoder") or settings["model"]["size"]
    length = f"{epochs} epochs of {steps_per_epoch} steps (train.epochs)"
    return FitPlan(task, (*lines, f"for {machine} ({size}), images of {side} px, {length}"), settings)


def _laterality(facts: TableFacts, lines: list[str]) -> dict[str, str]:
    """Whose left the texts mean, where they name a side: reports mean the patient's; else only the user knows."""
    if not facts.name_sides:
        return {}
    if facts.are_reports:
        lines.append("left and right in the reports are the patient's (data.laterality)")
        return {"laterality": "patient"}
    return {}


def _has_colours(path: Path) -> bool:
    if num_slices(path) > 1:
        return False
    pixels = read_image(path).pixels
    return pixels.ndim == 3 and float(abs(pixels[..., :1] - pixels[..., 1:]).max()) > COLOURED


def _refuse_paths_as_labels(manifest: Manifest, rows: Sequence[Record]) -> None:
    """InputError where a column `label` holds masks, as some programs write them."""
    names = [name for row in rows[:50] for name in row.labels]
    if names and all(image_stem(Path(name)) != Path(name).name for name in names):
        raise InputError.mismatch(
            f"the labels are files, e.g. {names[0]}",
            file=manifest.path,
            expected="names of classes",
            remedy="data.columns={mask: label}, if they are masks",
        )
