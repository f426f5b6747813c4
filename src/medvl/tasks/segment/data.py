"""From a configuration and a manifest to what the loop takes: task, loaders, records of each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from medvl.config import WEIGHTS_PREFIX, Config, as_read
from medvl.core.errors import InputError, warn
from medvl.core.learner import Task
from medvl.data.class_labels import FeatureDataset
from medvl.data.context import ContextRules
from medvl.data.dataset import Sample, SegmentDataset, collate
from medvl.data.labels import training_records
from medvl.data.record import Manifest, Record
from medvl.data.sampler import BatchSampler, EpochSampler, MixedSampler
from medvl.data.text_input import TextInput, check_readable, check_told_apart, images_with_other_masks, text_coverage
from medvl.data.workers import usable_workers
from medvl.inference.model_folder import load_model
from medvl.models.batch_norm import convert_batch_norm
from medvl.models.g2d import G2D
from medvl.tasks.classify.data import classification
from medvl.tasks.context import (
    context_differences,
    context_plan,
    context_rules,
    feature_cache,
    written_texts,
)
from medvl.tasks.detect.data import detection
from medvl.tasks.pretrain.data import pretraining
from medvl.tasks.segment.semi import SemiSegmentTask
from medvl.tasks.segment.task import SegmentTask, TextGuidedSegmenter, build_segmenter
from medvl.text.base import TextEncoder
from medvl.train.loop import check_patience
from medvl.weights.init import init_of, load_pretrained
from medvl.weights.transfer import load_foreign, start_from_g2d


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run consists of. `plan` is what must be said of its data beside the counts of `train/estimate.py`."""

    task: Task
    encoder: TextEncoder | None
    classes: tuple[str, ...]
    splits: dict[str, Sequence[Record]]
    loaders: dict[str, DataLoader[Sample]]
    plan: dict[str, Any] = field(default_factory=dict)


def prepare(config: Config, manifest: Manifest, fabric: Fabric, out: Path) -> Prepared:
    """Everything that can be wrong with recipe and data is found here, before the run folder is made."""
    splits: dict[str, Sequence[Record]] = {}
    num_other_views = 0
    for name in ("train", "val"):
        rows = manifest.split(name)
        splits[name] = [row for row in rows if config.data.views is None or row.view in config.data.views]
        num_other_views += len(rows) - len(splits[name])
        if not splits[name]:
            counts = Counter(row.view or "(no view)" for row in rows)
            raise InputError.empty(
                f"no record of the {name} split has a view of data.views: {', '.join(config.data.views or ())}",
                file=manifest.path,
                expected=f"some of {', '.join(f'{view} ({number})' for view, number in sorted(counts.items()))}",
                remedy="data.views=null takes every image",
            )
    context = context_rules(config, manifest, splits)
    makers = {"segment": _segment, "pretrain": _pretrain, "classify": _classify, "detect": _detect}
    ready = makers[config.task](config, manifest, splits, context, fabric, out)
    check_patience(config.train, ready.task)
    ready.plan.update(context_plan(config, context, ready.splits))
    _check_texts(ready, context)
    if config.data.views is not None:
        ready.plan["other_views"] = num_other_views
    if fabric.world_size > 1:
        convert_batch_norm(ready.task.module)  # statistics of the whole batch, as one process has them
    return ready


def _check_texts(ready: Prepared, context: ContextRules | None) -> None:
    """Count what the text encoder makes of the texts, for the plan.

    Raises:
        InputError: the encoder knows too few of the words, or confuses texts whose answers differ.
    """
    if ready.encoder is None or not ready.task.text.uses_text:
        return
    texts = {name: written_texts(rows, context) for name, rows in ready.splits.items()}
    coverage = {name: text_coverage(ready.encoder, rows) for name, rows in texts.items()}
    check_readable(coverage["train"])
    check_told_apart(ready.encoder, ready.splits["train"], texts["train"])
    ready.plan["texts"] = {name: part.as_dict() for name, part in coverage.items()}
    lines = [f"  text   {part.line(name)}" for name, part in coverage.items()]
    ready.plan["lines"] = [*ready.plan.get("lines", ()), *lines]


def _segment(
    config: Config,
    manifest: Manifest,
    splits: dict[str, Sequence[Record]],
    context: ContextRules | None,
    fabric: Fabric,
    out: Path,
) -> Prepared:
    for name, rows in splits.items():
        if all(mask is None for row in rows for mask in row.masks.values()):
            raise InputError.empty(
                f"no record of the {name} split has a mask",
                file=manifest.path,
                expected="annotated records; an empty cell is not annotated, the word none an empty mask",
                remedy="medvl data split gives every split patients with masks, where there are enough",
            )
    rows = splits["train"]  # the texts of unlabelled records too: a text is no label
    with_text = any(row.text.strip() for row in splits["train"])
    splits["train"], hidden, label_plan = training_records(splits["train"], config)
    plan: dict[str, Any] = {"labels": label_plan}
    module, encoder, taken = _build(config, manifest, rows, context)
    if taken is not None:
        plan["init"] = taken
    if not module.uses_text and (num_images := images_with_other_masks(splits["train"])):
        warn(
            f"{num_images} training images have rows with different masks, and the model reads no text: it can only "
            "learn their mean (text.encoder: none, or a network without text)"
        )
    if config.train.freeze_encoder:
        module.freeze("encoder")
    if encoder is not None and module.uses_text and not with_text:
        raise InputError.empty(
            "no record of the train split has a text",
            file=manifest.path,
            expected=f"texts in the column {config.data.text_column}",
            remedy="set data.text_column, or text.encoder=none for a model without text",
        )
    text = TextInput(encoder, feature_cache(config, encoder, out), module.uses_text, context=module.context)
    task = SegmentTask(config, module, text)
    if config.semi.on:
        if config.init is None:
            warn("semi without init: EPI and the LV loss are to start from a labelled-only model (init=RUN)")
        task = SemiSegmentTask(
            config,
            module,
            text,
            records=splits["train"],
            classes=manifest.classes,
            hidden=hidden,
            folder=out / "semi",
            encoder=encoder,
        )
        label_plan["unlabelled_without_text"] = task.num_without_text
    loaders = {name: _loader(fabric, splits[name], manifest, config, hidden, train=name == "train") for name in splits}
    return Prepared(task, encoder, manifest.classes, splits, loaders, plan)


def _pretrain(
    config: Config,
    manifest: Manifest,
    splits: dict[str, Sequence[Record]],
    context: ContextRules | None,
    fabric: Fabric,
    out: Path,
) -> Prepared:
    return Prepared(*pretraining(config, manifest, splits, context, fabric, out, _data_loader))


def _classify(
    config: Config,
    manifest: Manifest,
    splits: dict[str, Sequence[Record]],
    _context: ContextRules | None,  # an image classifier takes no text: `context_rules` refuses it
    fabric: Fabric,
    out: Path,
) -> Prepared:
    return Prepared(*classification(config, manifest, splits, fabric, _data_loader))


def _detect(
    config: Config,
    manifest: Manifest,
    splits: dict[str, Sequence[Record]],
    _context: ContextRules | None,  # as above
    fabric: Fabric,
    out: Path,
) -> Prepared:
    return Prepared(*detection(config, manifest, splits, fabric, _data_loader))


def _check_fed(config: Config, source: G2D, path: str) -> None:
    """InputError where LViT's own contracting path would be fed otherwise than in the pre-training of `source`."""
    if config.model.name != "lvit" or not str(config.model.encoder).startswith("ucnn"):
        return  # the network normalises by itself: `start_from_g2d`
    wanted = "zscore" if source.unet.input_norm == "image" else "none"
    if config.data.normalize != wanted:
        raise InputError.mismatch(
            f"init was pre-trained with input_norm {source.unet.input_norm}, data.normalize is {config.data.normalize}",
            file=path, expected="images as in the pre-training", remedy=f"data.normalize={wanted}",
        )  # fmt: skip


def _build(
    config: Config, manifest: Manifest, rows: Sequence[Record], context: ContextRules | None
) -> tuple[TextGuidedSegmenter, TextEncoder | None, str | None]:
    """Network and text encoder, new ones or those of `init`; and what was taken over from a pre-trained one."""
    prefix, path = init_of(config)

    def build() -> tuple[TextGuidedSegmenter, TextEncoder | None]:
        patients = [row.patient for row in rows]
        return build_segmenter(config, len(manifest.classes), written_texts(rows, context), context, patients)

    if not path:
        return (*build(), None)
    if prefix == WEIGHTS_PREFIX:
        fresh, encoder = build()
        return fresh, encoder, load_foreign(fresh.network, path)
    if prefix:
        source = load_pretrained(path)
        _check_fed(config, source, path)
        fresh, encoder = build()
        return fresh, encoder, str(start_from_g2d(fresh.network, source, config.init_parts, path))
    module, encoder, own, card = load_model(path)
    differences = [
        f"{name}: {getattr(own, name)} there, {getattr(config, name)} here"
        for name in ("task", "model", "text")
        if getattr(own, name) != getattr(config, name)
    ]
    differences += context_differences(own, config)
    if tuple(card["classes"]) != manifest.classes:
        differences.append(f"classes: {', '.join(card['classes'])} there, {', '.join(manifest.classes)} here")
    if differences:
        raise InputError.mismatch(
            f"init is another network ({'; '.join(differences)})",
            file=path,
            expected="the same model and text, or a pre-trained run, whose image encoder is taken",
        )
    return module, encoder, None


def _loader(
    fabric: Fabric,
    records: Sequence[Record],
    manifest: Manifest,
    config: Config,
    hidden: frozenset[str],
    *,
    train: bool,
) -> DataLoader[Sample]:
    seed = config.train.seed
    dataset = SegmentDataset(records, manifest.classes, as_read(config), seed=seed, train=train, hidden=hidden)
    sampler: BatchSampler
    if train and (config.semi.on or config.train.steps_per_epoch is not None):
        if fabric.world_size > 1:
            raise InputError.unsupported(
                "semi and train.steps_per_epoch run on one device", expected="train.devices: 1",
            )  # fmt: skip
        labelled = dataset.labelled()
        known = set(labelled)
        others = [i for i in range(len(dataset)) if i not in known] if config.semi.on else []
        sampler = MixedSampler(
            labelled, others, config.train.batch_size, seed=seed, num_batches=config.train.steps_per_epoch
        )
    else:
        sampler = EpochSampler(
            len(dataset),
            config.train.batch_size,
            seed=seed,
            shuffle=train,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
    return _data_loader(dataset, sampler, config, fabric)


def _data_loader(dataset: Dataset[Sample], sampler: BatchSampler, config: Config, fabric: Fabric) -> DataLoader[Sample]:
    in_memory = isinstance(dataset, FeatureDataset)
    num_workers = 0 if in_memory else usable_workers(config.data.num_workers)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,  # they keep what they decoded; an item names its epoch itself
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(config.train.seed),  # the loader draws from its own, not the global one
    )
