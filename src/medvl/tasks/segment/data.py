"""From a configuration and a manifest to what the loop takes: task, loaders, records of each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from medvl.config import WEIGHTS_PREFIX, Config, as_read
from medvl.core.errors import InputError, warn
from medvl.core.task import Prepared
from medvl.data.context import ContextRules
from medvl.data.dataset import Sample, SegmentDataset, epoch_loader, make_loader
from medvl.data.labels import training_records
from medvl.data.record import Manifest, Record
from medvl.data.sampler import MixedSampler
from medvl.data.text_input import TextInput, images_with_other_masks
from medvl.inference.model_folder import load_model
from medvl.models.encoder_unet import EncoderNetwork
from medvl.models.module import SegmentModel
from medvl.tasks.context import (
    context_differences,
    feature_cache,
    written_texts,
)
from medvl.tasks.segment.learner import SegmentLearner
from medvl.tasks.segment.model import build_segmenter
from medvl.tasks.segment.semi import SemiLearner
from medvl.text.base import TextEncoder
from medvl.weights.init import init_of, load_pretrained
from medvl.weights.transfer import load_foreign, start_from_encoder


def segmentation(
    config: Config,
    manifest: Manifest,
    splits: dict[str, Sequence[Record]],
    context: ContextRules | None,
    fabric: Fabric,
    out: Path,
) -> Prepared:
    """Model, learner and loaders of `task: segment`. InputError where recipe or data cannot be used."""
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
    learner = SegmentLearner(config, module, text)
    if config.semi.on:
        if config.init is None:
            warn("semi without init: EPI and the LV loss are to start from a labelled-only model (init=RUN)")
        learner = SemiLearner(
            config,
            module,
            text,
            records=splits["train"],
            classes=manifest.classes,
            hidden=hidden,
            folder=out / "semi",
            encoder=encoder,
        )
        label_plan["unlabelled_without_text"] = learner.num_without_text
    loaders = {name: _loader(fabric, splits[name], manifest, config, hidden, train=name == "train") for name in splits}
    return Prepared(learner, encoder, manifest.classes, splits, loaders, plan)


def _check_fed(config: Config, source: EncoderNetwork, path: str) -> None:
    """InputError where LViT's own contracting path would be fed otherwise than in the pre-training of `source`."""
    if config.model.name != "lvit" or not str(config.model.encoder).startswith("ucnn"):
        return  # the network normalises by itself: `start_from_encoder`
    wanted = "zscore" if source.input_norm == "image" else "none"
    if config.data.normalize != wanted:
        raise InputError.mismatch(
            f"init was pre-trained with input_norm {source.input_norm}, data.normalize is {config.data.normalize}",
            file=path, expected="images as in the pre-training", remedy=f"data.normalize={wanted}",
        )  # fmt: skip


def _build(
    config: Config, manifest: Manifest, rows: Sequence[Record], context: ContextRules | None
) -> tuple[SegmentModel, TextEncoder | None, str | None]:
    """Network and text encoder, new ones or those of `init`; and what was taken over from a pre-trained one."""
    prefix, path = init_of(config)

    def build() -> tuple[SegmentModel, TextEncoder | None]:
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
        return fresh, encoder, str(start_from_encoder(fresh.network, source, config.init_parts, path))
    module, encoder, saved, card = load_model(path)
    differences = [
        f"{name}: {getattr(saved, name)} in the saved run, {getattr(config, name)} in this one"
        for name in ("task", "model", "text")
        if getattr(saved, name) != getattr(config, name)
    ]
    differences += context_differences(saved, config)
    if tuple(card["classes"]) != manifest.classes:
        differences.append(
            f"classes: {', '.join(card['classes'])} in the saved run, {', '.join(manifest.classes)} in this one"
        )
    if differences or not isinstance(module, SegmentModel):
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
    strong = config.semi.strong if train and config.semi.view == "strong" else None
    data = as_read(config)
    dataset = SegmentDataset(records, manifest.classes, data, seed=seed, train=train, hidden=hidden, strong=strong)
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
        return make_loader(dataset, sampler, config, fabric)
    return epoch_loader(dataset, config, fabric, train=train)
