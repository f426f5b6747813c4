"""From a configuration and a manifest with class labels to what the loop takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.data import Dataset, Subset

from medvl.config import Config
from medvl.core.errors import InputError, warn
from medvl.core.task import Prepared
from medvl.data.class_labels import ClassDataset, FeatureDataset, class_labels, find_classes, labelled_part, with_labels
from medvl.data.dataset import Sample, epoch_loader
from medvl.data.record import Manifest, Record
from medvl.tasks.classify.feature_store import FeatureStore
from medvl.tasks.classify.learner import (
    ClassifyLearner,
    FloatArray,
    class_weights,
    classify_lines,
    pooled_features,
)
from medvl.tasks.classify.model import Classifier, build_classifier
from medvl.weights.init import start_image_network


def classification(
    config: Config,
    manifest: Manifest,
    splits: Mapping[str, Sequence[Record]],
    fabric: Fabric,
) -> Prepared:
    """Model, learner and loaders of `task: classify`.

    With `classify.mode: linear` the features of all images are computed when they are first read; with
    `classify.cache_dir` only those that are not there.

    Raises:
        InputError: what is wrong with the labels, or with `init`.
    """
    settings = config.classify
    splits = {name: with_labels(rows, settings) for name, rows in splits.items()}
    classes = find_classes(splits["train"], settings)
    labels = {name: class_labels(rows, classes, settings, manifest.path) for name, rows in splits.items()}
    labels["train"], fraction = labelled_part(labels["train"], config)
    for name, part in labels.items():
        if not part.records:
            raise InputError.empty(
                f"no record of the {name} split has a known label",
                file=manifest.path,
                expected="labels; an empty cell is not annotated, the word none looked for and absent",
                remedy="write none where nothing was found; medvl data split makes other splits",
            )
    counts = labels["train"].counts
    if settings.labels == "multilabel" and counts["empty_cells"] and not counts["without_any_class"]:
        warn(
            f"{counts['empty_cells']} training images with an empty label cell are not annotated and take no part, and "
            "no image is free of all classes; write none where nothing was found"
        )
    both = [name for name, count in labels["val"].per_class().items() if count["positive"] and count["negative"]]
    if not both and settings.labels == "multilabel" and config.train.choose_by == "metric":
        raise InputError.empty(
            "no class has positives and negatives in the val split, so that there is no AUC to choose by",
            file=manifest.path,
            remedy="a larger val split, other classify.classes, or train.choose_by=loss",
        )
    module, taken = start_image_network(config, build_classifier(config, len(classes)), classes)
    multiclass, linear = settings.labels == "multiclass", settings.mode == "linear"
    if linear:
        module.freeze("encoder")
    weight = class_weights(labels["train"], multiclass) if settings.pos_weight == "balanced" else None
    learner = ClassifyLearner(config, module, classes, weight, pooled=linear)
    seed, size = config.train.seed, config.train.batch_size
    store = None
    if linear and settings.cache_dir:
        store = FeatureStore(Path(settings.cache_dir), module, config, config.data)
    loaders = {}
    for name, part in labels.items():
        train = name == "train"
        images = ClassDataset(part, config.data, seed=seed, train=train and not linear)
        dataset: Dataset[Sample] = images
        if linear:
            how: dict[str, Any] = {"batch_size": size, "num_workers": config.data.num_workers}
            how |= {"label": f"features {name}", "store": store}
            dataset = FeatureDataset(images, partial(_features, module, images, fabric.device, how))
        loaders[name] = epoch_loader(dataset, config, fabric, train=train, in_memory=linear)
    plan: dict[str, Any] = {
        "class_labels": {name: {**part.counts, "per_class": part.per_class()} for name, part in labels.items()}
        | {"labelled": fraction},
        "lines": classify_lines(config, labels, fraction),
        "not_annotated": {name: part.counts["not_labelled"] for name, part in labels.items()},
    }
    if taken is not None:
        plan["init"] = taken
    used: dict[str, Sequence[Record]] = {name: part.records for name, part in labels.items()}
    return Prepared(learner, None, classes, used, loaders, plan)


def _features(
    module: Classifier, images: ClassDataset, device: torch.device, how: dict[str, Any], indices: Sequence[int] | None
) -> FloatArray:
    """The features of all images, or of those of `indices`, which are not kept in the store."""
    return pooled_features(module, images if indices is None else Subset(images, indices), device, **how)
