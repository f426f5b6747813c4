"""From a configuration and a manifest with boxes to what the loop takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_fabric import Fabric

from medvl.config import Config
from medvl.core.errors import InputError
from medvl.core.task import Prepared
from medvl.data.box_labels import BoxDataset, box_labels, find_box_classes, fit_anchors, mean_boxes
from medvl.data.class_labels import labelled_part
from medvl.data.dataset import epoch_loader, make_loader
from medvl.data.record import Manifest, Record
from medvl.data.sampler import MixedSampler
from medvl.models.yolo import published_anchors
from medvl.tasks.detect.learner import DetectLearner, detect_lines
from medvl.tasks.detect.model import build_detector
from medvl.weights.init import start_image_network


def detection(
    config: Config,
    manifest: Manifest,
    splits: Mapping[str, Sequence[Record]],
    fabric: Fabric,
) -> Prepared:
    """Model, learner and loaders of `task: detect`.

    Raises:
        InputError: what is wrong with the boxes, or with `init`.
    """
    classes = find_box_classes(manifest, splits["train"], config)
    labels = {name: box_labels(rows, classes, config) for name, rows in splits.items()}
    labels["train"], fraction = labelled_part(labels["train"], config)
    for name, part in labels.items():
        if not any(part.boxes):
            hidden = name == "train" and fraction["left_out_images"]
            within = f" within data.label_fraction={config.data.label_fraction:g}" if hidden else ""
            raise InputError.empty(
                f"no annotated image of the {name} split{within} has a box of {', '.join(classes)}",
                file=manifest.path,
                remedy="a larger data.label_fraction, or another data.label_seed" if hidden else None,
            )
    module, taken = start_image_network(config, build_detector(config, len(classes)), classes)
    # Always, for the network of `init` brings its own.
    if config.detect.anchors == "fit":
        module.network.set_anchors(fit_anchors(labels["train"], config))
    elif config.detect.anchors == "published":
        module.network.anchors.copy_(published_anchors(config.data.image_size))
    else:
        module.network.set_anchors(config.detect.anchors)
    if config.train.freeze_encoder:
        module.freeze("encoder")
    steps = config.train.steps_per_epoch
    if steps is not None and fabric.world_size > 1:
        raise InputError.unsupported("train.steps_per_epoch runs on one device", expected="train.devices: 1")
    loaders = {}
    for name, part in labels.items():
        train = name == "train"
        dataset = BoxDataset(part, config.data, seed=config.train.seed, train=train)
        if train and steps is not None:
            batch_size, seed = config.train.batch_size, config.train.seed
            sampler = MixedSampler(range(len(dataset)), [], batch_size, seed=seed, num_batches=steps)
            loaders[name] = make_loader(dataset, sampler, config, fabric)
        else:
            loaders[name] = epoch_loader(dataset, config, fabric, train=train)
    anchors = module.network.anchors.flatten(0, 1).tolist()
    plan: dict[str, Any] = {
        "boxes": {name: {**part.counts, "per_class": part.per_class()} for name, part in labels.items()}
        | {"labelled": fraction},
        "anchors": anchors,
        "mean_boxes": mean_boxes(labels["train"]),
        "lines": detect_lines(config, labels, fraction, anchors),
        "not_annotated": {name: part.counts["not_annotated"] for name, part in labels.items()},
    }
    if taken is not None:
        plan["init"] = taken
    used: dict[str, Sequence[Record]] = {name: part.records for name, part in labels.items()}
    return Prepared(DetectLearner(config, module, classes), None, classes, used, loaders, plan)
