"""From a configuration and a manifest to what the loop takes: task, loaders, records of each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, Dataset

from medvl.config import WEIGHTS_PREFIX, Config, as_read, split_init
from medvl.data.class_labels import FeatureDataset
from medvl.data.context import ContextRules
from medvl.data.dataset import Sample, SegmentDataset, collate
from medvl.data.labels import training_records
from medvl.data.records import Manifest, Record
from medvl.data.sampler import BatchSampler, EpochSampler, LengthSampler, MixedSampler, mean_negatives
from medvl.errors import InputError, warn
from medvl.model_folder import load_model
from medvl.models.batch_norm import convert_batch_norm
from medvl.models.bridge import continue_from, load_foreign, start_from_g2d
from medvl.models.g2d import G2D
from medvl.objectives.contrastive import plain_text
from medvl.tasks.pretrain import Pretrainer, PretrainTask, build_pretrainer
from medvl.tasks.segment import SegmentTask, TextGuidedSegmenter, build_segmenter
from medvl.tasks.semi_segment import SemiSegmentTask
from medvl.tasks.task import Task
from medvl.tasks.text_input import TextInput
from medvl.text.cache import FeatureCache
from medvl.text.encoder import TextEncoder
from medvl.train.loop import check_patience, planned_steps
from medvl.train.prepare_classify import classification
from medvl.train.prepare_context import context_differences, context_plan, context_rules
from medvl.train.prepare_detect import detection
from medvl.train.start_image import init_of, load_pretrained

KEPT_NEGATIVES = 0.5  # share of the negatives that bucketing by length must leave


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run consists of. `plan` is what must be said of its data beside the counts of `train/plan.py`."""

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
            views = sorted({str(row.view) for row in rows})
            raise InputError(
                f"no record of the {name} split has a view of data.views",
                file=manifest.path,
                expected=f"some of {', '.join(views)}",
            )
    context = context_rules(config, manifest, splits)
    makers = {"segment": _segment, "pretrain": _pretrain, "classify": _classify, "detect": _detect}
    ready = makers[config.task](config, manifest, splits, context, fabric, out)
    check_patience(config.train, ready.task)
    ready.plan.update(context_plan(config, context, ready.splits))
    if config.data.views is not None:
        ready.plan["other_views"] = num_other_views
    if fabric.world_size > 1:
        convert_batch_norm(ready.task.module)  # statistics of the whole batch, as one process has them
    return ready


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
            raise InputError(
                f"no record of the {name} split has a mask", file=manifest.path, expected="annotated records"
            )
    texts = _written(splits["train"], context)  # those of unlabelled records too: a text is no label
    with_text = any(row.text.strip() for row in splits["train"])
    splits["train"], hidden, label_plan = training_records(splits["train"], config)
    plan: dict[str, Any] = {"labels": label_plan}
    module, encoder, taken = _build(config, manifest, texts, context)
    if taken is not None:
        plan["init"] = taken
    if config.train.freeze_encoder:
        module.freeze("encoder")
    if encoder is not None and module.uses_text and not with_text:
        raise InputError(
            "no record of the train split has a text",
            file=manifest.path,
            expected=f"texts in the column {config.data.text_column}",
            remedy="set data.text_column, or text.encoder=none for a model without text",
        )
    text = TextInput(encoder, _cache(config, encoder, out), module.uses_text, context=module.context)
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
    unused = [
        name
        for name, value, default in (
            ("semi.epi", config.semi.epi, "none"),
            ("semi.lv_bank", config.semi.lv_bank, "none"),
            ("data.label_fraction", config.data.label_fraction, 1.0),
            ("data.balance", config.data.balance, "none"),
            ("data.phrases_per_image", config.data.phrases_per_image, 1),
            ("data.p_empty_text", config.data.p_empty_text, 0.0),
            ("data.normalize", config.data.normalize, "none"),
            ("train.steps_per_epoch", config.train.steps_per_epoch, None),
            ("train.freeze_encoder", config.train.freeze_encoder, False),
            ("train.choose_by", config.train.choose_by, "metric"),
        )
        if value != default
    ]
    if config.pretrain.shuffle_masks and config.pretrain.decoder != "pseudo_mask":
        unused.append(f"pretrain.shuffle_masks with decoder: {config.pretrain.decoder}")
    if config.pretrain.mask.soft and config.pretrain.mask.smooth == "none":
        unused.append("pretrain.mask.soft with smooth: none")
    if unused or config.model.name != "g2d":
        what = ", ".join(unused) if unused else f"model.name: {config.model.name}"
        raise InputError(f"task: pretrain does not take {what}", expected="the default there, and model.name: g2d")
    num_without = {name: sum(not row.text.strip() for row in rows) for name, rows in splits.items()}
    for name, rows in splits.items():
        splits[name] = [row for row in rows if row.text.strip()]
        if len(splits[name]) < 2:
            raise InputError(
                f"{len(splits[name])} records of the {name} split have a text",
                file=manifest.path,
                expected=f"pairs of image and text (column {config.data.text_column})",
            )
    _check_contrast(config, splits["train"], fabric.world_size, manifest.path)
    texts = _written(splits["train"], context)
    module, encoder = build_pretrainer(config, texts, context)
    taken: dict[str, Any] = {}
    prefix, path = split_init(config.init or "")
    if prefix == WEIGHTS_PREFIX:
        taken["init"] = load_foreign(module.network.unet, path)
    elif path:
        other, other_encoder, own, _ = load_model(path)
        if not isinstance(other, Pretrainer) or other_encoder is None or own.text != config.text:
            raise InputError(
                "init is another network", file=path, expected="a run of task: pretrain with the same text encoder"
            )
        if others := context_differences(own, config):
            raise InputError(f"init has another context ({'; '.join(others)})", file=path, expected="the same")
        encoder = other_encoder
        taken["init"] = continue_from(module.network, other.network, path)
        module = Pretrainer(module.network, encoder, context)
        if other.context_tokens is not None and module.context_tokens is not None:
            module.context_tokens.load_state_dict(other.context_tokens.state_dict())
    text = TextInput(encoder, _cache(config, encoder, out), True, context=context)
    task = PretrainTask(config, module, text)
    data = replace(config.data, val_phrases_per_image=1)
    # Without a decoder that learns pseudo masks, they are drawn (in validation's panels) all the same.
    body = {"val": config.pretrain.mask.body_mask}
    body["train"] = body["val"] and config.pretrain.decoder == "pseudo_mask"
    datasets = {
        name: SegmentDataset(rows, (), data, seed=config.train.seed, train=name == "train", body=body[name])
        for name, rows in splits.items()
    }
    lengths = [0] * len(datasets["train"])
    if config.pretrain.bucket_texts:
        counts = encoder.tokenize(texts).mask.sum(dim=1).tolist()
        length_of = dict(zip(texts, counts, strict=True))
        words = [
            text.written([row.text for row in rows], [row.context for row in rows]) for rows in datasets["train"].groups
        ]
        lengths = [max(length_of[one] for one in own) for own in words]
    size, seed = config.train.batch_size, config.train.seed
    place = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    lengths, negatives = _spread(config, datasets["train"], lengths, fabric.world_size)
    samplers: dict[str, BatchSampler] = {
        "train": LengthSampler(lengths, size, seed=seed, **place),
        "val": EpochSampler(len(datasets["val"]), size, seed=seed, shuffle=False, **place),
    }
    steps, warmup = planned_steps(config.train, len(samplers["train"])), config.pretrain.warmup_steps
    if config.pretrain.decoder != "none" and warmup >= steps:
        warn(
            f"the decoder is never trained: pretrain.warmup_steps is {warmup}, of {steps} steps; lower it, or train "
            "for more epochs"
        )
    loaders = {name: _data_loader(datasets[name], samplers[name], config, fabric) for name in splits}
    pairs = {
        "without_text": num_without,
        "distinct_texts": {name: len({row.text for row in rows}) for name, rows in splits.items()},
        "negatives": _negatives(config, fabric.world_size) + negatives,
    }
    return Prepared(task, encoder, (), splits, loaders, {"pairs": pairs, **taken})


def _check_contrast(config: Config, rows: Sequence[Record], world_size: int, path: Path) -> None:
    """InputError where a step holds one pair, or nothing tells the training pairs apart."""
    size, parts = config.train.batch_size, config.pretrain.accumulate
    smallest = size // min(parts, size)  # of the parts of a batch
    if smallest * world_size < 2:
        what = "train.batch_size: 1" if size == 1 else f"a batch of {size} pairs in {parts} parts"
        raise InputError(
            f"task: pretrain with {what}",
            expected="at least 2 pairs in each: BatchNorm and the alignment compare them",
            remedy="a larger train.batch_size" + ("" if size == 1 else f", or pretrain.accumulate: {size // 2}"),
        )
    if config.pretrain.decoder == "reconstruction":
        return  # learns from the pixels alone, too
    if len({plain_text(row.text) for row in rows}) < 2:
        raise InputError(
            f"all {len(rows)} pairs of the train split have the same text",
            file=path,
            expected=f"texts that differ (column {config.data.text_column})",
        )
    if config.pretrain.same_is_no_negative and len({row.patient for row in rows}) < 2:
        raise InputError(
            "all pairs of the train split are of one patient, and so no negatives of each other",
            file=path,
            expected="several patients",
            remedy="pretrain.same_is_no_negative: false",
        )


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


def _spread(
    config: Config, dataset: SegmentDataset, lengths: list[int], world_size: int
) -> tuple[list[int], str]:
    """The lengths that batches are bucketed by, all 0 where that brings equal texts together; and what the plan says.

    Texts of equal length are often the same text, and pairs of the same text are no negatives of each other.
    """
    if not config.pretrain.same_is_no_negative:
        return lengths, ""
    rows = [own[0] for own in dataset.groups]
    codes: dict[str, int] = {}
    keys = np.array(
        [[codes.setdefault(name, len(codes)) for name in (f"t {plain_text(r.text)}", f"p {r.patient}")] for r in rows]
    )
    whole = config.train.batch_size * world_size

    def mean(by: list[int]) -> float:
        return mean_negatives(LengthSampler(by, whole, seed=config.train.seed), keys)

    none = [0] * len(lengths)
    bucketed, mixed = mean(lengths), mean(none)
    if bucketed < KEPT_NEGATIVES * mixed:
        warn(
            f"in batches of texts of similar length a pair would have {bucketed:.1f} negatives instead of {mixed:.1f}, "
            "as equal texts are none of each other: not bucketed, as with pretrain.bucket_texts: false"
        )
        lengths, bucketed = none, mixed
    return lengths, f"; on average {bucketed:.1f} of them are of another text and patient"


def _negatives(config: Config, world_size: int) -> str:
    """Among how many pairs each pair is told apart, in words."""
    pretrain, whole = config.pretrain, config.train.batch_size * world_size
    if pretrain.accumulate > 1 and pretrain.accumulate_mode == "micro":
        part = -(-whole // pretrain.accumulate)
        return f"of the part only: {part} pairs, in {pretrain.accumulate} parts of a batch of {whole}"
    if pretrain.accumulate > 1:
        return (
            f"of the whole batch of {whole} pairs, computed in {pretrain.accumulate} parts (cached embeddings; "
            "BatchNorm normalises each part by itself)"
        )
    return f"of the whole batch of {whole} pairs"


def _check_fed(config: Config, source: G2D, path: str) -> None:
    """InputError where LViT's own contracting path would be fed otherwise than in the pre-training of `source`."""
    if config.model.name != "lvit" or config.model.options.get("cnn", "ucnn") != "ucnn":
        return  # the network normalises by itself: `start_from_g2d`
    wanted = "zscore" if source.unet.input_norm == "image" else "none"
    if config.data.normalize != wanted:
        raise InputError(
            f"init was pre-trained with input_norm {source.unet.input_norm}, data.normalize is {config.data.normalize}",
            file=path, expected="images as in the pre-training", remedy=f"data.normalize={wanted}",
        )  # fmt: skip


def _build(
    config: Config, manifest: Manifest, texts: list[str], context: ContextRules | None
) -> tuple[TextGuidedSegmenter, TextEncoder | None, str | None]:
    """Network and text encoder, new ones or those of `init`; and what was taken over from a pre-trained one."""
    prefix, path = init_of(config)
    if not path:
        return (*build_segmenter(config, len(manifest.classes), texts, context), None)
    if prefix == WEIGHTS_PREFIX:
        fresh, encoder = build_segmenter(config, len(manifest.classes), texts, context)
        return fresh, encoder, load_foreign(fresh.network, path)
    if prefix:
        source = load_pretrained(path)
        _check_fed(config, source, path)
        fresh, encoder = build_segmenter(config, len(manifest.classes), texts, context)
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
        raise InputError(
            f"init is another network ({'; '.join(differences)})",
            file=path,
            expected="the same model and text, or a pre-trained run, whose image encoder is taken",
        )
    return module, encoder, None


def _written(records: Sequence[Record], context: ContextRules | None) -> list[str]:
    """The distinct texts of records, as the text encoder reads them."""
    return sorted({row.text if context is None else context.written(row.text, row.context) for row in records})


def _cache(config: Config, encoder: TextEncoder | None, out: Path) -> FeatureCache | None:
    """What is computed once per distinct text: features, or those of an encoder's frozen layers."""
    if encoder is None or not encoder.prefix_frozen:
        return None
    return FeatureCache(encoder, Path(config.text.cache_dir) if config.text.cache_dir else out / "cache")


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
            raise InputError(
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
    num_workers = 0 if isinstance(dataset, FeatureDataset) else config.data.num_workers  # those are in memory
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,  # they keep what they decoded; an item names its epoch itself
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(config.train.seed),  # the loader draws from its own, not the global one
    )
