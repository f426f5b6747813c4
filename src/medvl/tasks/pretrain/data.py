"""`task: pretrain`: pairs of image and text, G2D and what it begins from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from medvl.config import WEIGHTS_PREFIX, Config, split_init
from medvl.core.errors import InputError, warn
from medvl.core.task import Prepared
from medvl.data.context import ContextRules
from medvl.data.dataset import SegmentDataset, make_loader
from medvl.data.record import Manifest, Record
from medvl.data.sampler import BatchSampler, EpochSampler, LengthSampler, mean_negatives
from medvl.data.text_input import TextInput
from medvl.inference.model_folder import load_model
from medvl.losses.contrastive import plain_text
from medvl.models.g2d import G2D
from medvl.tasks.context import context_differences, feature_cache, written_texts
from medvl.tasks.pretrain.learner import PretrainLearner
from medvl.tasks.pretrain.model import G2DModel, build_g2d_model
from medvl.weights.transfer import continue_from, load_foreign

FEWEST_CELLS = 6  # a side of the attention grid; the paper has 7, or 8 at 256 px
KEPT_NEGATIVES = 0.5  # share of the negatives that bucketing by length must leave


def pretraining(
    config: Config,
    manifest: Manifest,
    splits: dict[str, Sequence[Record]],
    context: ContextRules | None,
    fabric: Fabric,
    out: Path,
) -> Prepared:
    """Model, learner and loaders of `task: pretrain`.

    Raises:
        InputError: pairs that cannot be distinguished, or an `init` that does not fit.
    """
    num_without = {name: sum(not row.text.strip() for row in rows) for name, rows in splits.items()}
    for name, rows in splits.items():
        splits[name] = [row for row in rows if row.text.strip()]
        if len(splits[name]) < 2:
            raise InputError.empty(
                f"{len(splits[name])} records of the {name} split have a text",
                file=manifest.path,
                expected=f"pairs of image and text (column {config.data.text_column})",
            )
    _check_contrast(config, splits["train"], fabric.world_size, manifest.path)
    texts = written_texts(splits["train"], context)
    module, encoder = build_g2d_model(config, texts, context, [row.patient for row in splits["train"]])
    grid_line = _grid_line(module.network)
    taken: dict[str, Any] = {}
    prefix, path = split_init(config.init or "")
    if prefix == WEIGHTS_PREFIX:
        taken["init"] = load_foreign(module.network.unet, path)
    elif path:
        other, other_encoder, other_config, _ = load_model(path)
        if not isinstance(other, G2DModel) or other_encoder is None or other_config.text != config.text:
            raise InputError.mismatch(
                "init is another network", file=path, expected="a run of task: pretrain with the same text encoder"
            )
        if others := context_differences(other_config, config):
            raise InputError.mismatch(f"init has another context ({'; '.join(others)})", file=path, expected="the same")
        encoder = other_encoder
        taken["init"] = continue_from(module.network, other.network, path)
        module = G2DModel(module.network, encoder, context)
        if other.context_tokens is not None and module.context_tokens is not None:
            module.context_tokens.load_state_dict(other.context_tokens.state_dict())
    text = TextInput(encoder, feature_cache(config, encoder, out), True, context=context)
    learner = PretrainLearner(config, module, text)
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
        distinct = sorted(set(texts))
        length_of = dict(zip(distinct, encoder.tokenize(distinct).mask.sum(dim=1).tolist(), strict=True))
        words = [
            text.written([row.text for row in rows], [row.context for row in rows]) for rows in datasets["train"].groups
        ]
        lengths = [max(length_of[word] for word in text_words) for text_words in words]
    size, seed = config.train.batch_size, config.train.seed
    place = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    lengths, negatives = _spread(config, datasets["train"], lengths, fabric.world_size)
    samplers: dict[str, BatchSampler] = {
        "train": LengthSampler(lengths, size, seed=seed, **place),
        "val": EpochSampler(len(datasets["val"]), size, seed=seed, shuffle=False, **place),
    }
    steps, warmup = config.train.num_steps(len(samplers["train"])), config.pretrain.warmup_steps
    if config.pretrain.decoder != "none" and warmup >= steps:
        warn(
            f"the decoder is never trained: pretrain.warmup_steps is {warmup}, of {steps} steps; lower it, or train "
            "for more epochs"
        )
    loaders = {name: make_loader(datasets[name], samplers[name], config, fabric) for name in splits}
    pairs = {
        "without_text": num_without,
        "distinct_texts": {name: len({row.text for row in rows}) for name, rows in splits.items()},
        "negatives": _negatives(config, fabric.world_size) + negatives,
    }
    lines = [] if grid_line is None else [grid_line]
    return Prepared(learner, encoder, (), splits, loaders, {"pairs": pairs, "lines": lines, **taken})


def _grid_line(network: G2D) -> str | None:
    """The grid of attention and pseudo mask, for the plan; a warning where it is too coarse to point anywhere."""
    pool = network.attention_pool
    if pool is None:
        return None
    rows, columns = pool.grid
    if min(rows, columns) < FEWEST_CELLS:
        warn(
            f"the attention has only {rows} x {columns} cells for these images: a pseudo mask can hardly follow a "
            "finding; set model.options.pool_stride to a smaller stride, or data.image_size to a larger size (paper: "
            "7 x 7 cells)"
        )
    return f"  grid   {rows} x {columns} cells of attention"


def _check_contrast(config: Config, rows: Sequence[Record], world_size: int, path: Path) -> None:
    """InputError where a step holds one pair, or the training pairs are all the same."""
    size, parts = config.train.batch_size, config.pretrain.accumulate
    smallest = size // min(parts, size)  # of the parts of a batch
    if smallest * world_size < 2:
        what = "train.batch_size: 1" if size == 1 else f"a batch of {size} pairs in {parts} parts"
        raise InputError.empty(
            f"task: pretrain with {what}",
            expected="at least 2 pairs in each: BatchNorm and the alignment compare them",
            remedy="a larger train.batch_size" + ("" if size == 1 else f", or pretrain.accumulate: {size // 2}"),
        )
    if config.pretrain.decoder == "reconstruction":
        return  # learns from the pixels alone, too
    if len({plain_text(row.text) for row in rows}) < 2:
        raise InputError.empty(
            f"all {len(rows)} pairs of the train split have the same text",
            file=path,
            expected=f"texts that differ (column {config.data.text_column})",
        )
    if config.pretrain.same_is_no_negative and len({row.patient for row in rows}) < 2:
        raise InputError.empty(
            "all pairs of the train split are of one patient, and so no negatives of each other",
            file=path,
            expected="several patients",
            remedy="pretrain.same_is_no_negative: false",
        )


def _spread(config: Config, dataset: SegmentDataset, lengths: list[int], world_size: int) -> tuple[list[int], str]:
    """The lengths that batches are bucketed by, all 0 where that brings equal texts together; and what the plan says.

    Texts of equal length are often the same text, and pairs of the same text are no negatives of each other.
    """
    if not config.pretrain.same_is_no_negative:
        return lengths, ""
    rows = [group[0] for group in dataset.groups]
    codes: dict[str, int] = {}
    keys = np.array(
        [[codes.setdefault(name, len(codes)) for name in (f"t {plain_text(r.text)}", f"p {r.patient}")] for r in rows]
    )
    whole = config.train.batch_size * world_size

    def mean(by: list[int]) -> float:
        return mean_negatives(LengthSampler(by, whole, seed=config.train.seed), keys)

    none = [0] * len(lengths)
    bucketed = mean(lengths)
    mixed = mean(none) if config.pretrain.bucket_texts else bucketed
    if bucketed < KEPT_NEGATIVES * mixed:
        warn(
            f"in batches of texts of similar length a pair would have {bucketed:.1f} negatives instead of {mixed:.1f}, "
            "as equal texts are none of each other: not bucketed, as with pretrain.bucket_texts: false"
        )
        lengths, bucketed = none, mixed
    return lengths, f"; on average {bucketed:.1f} of them are of another text and patient"


def _negatives(config: Config, world_size: int) -> str:
    """Among how many pairs each pair is distinguished, in words."""
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
