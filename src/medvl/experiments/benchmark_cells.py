"""Cells of a published table that train nothing: a given run is asked, and scored as the table's paper does.

The kind of a column's `ask`: `classify` by prompts and `ground` phrases, of a pre-training; `segment`, Dice and IoU of
a segmentation run; `size`, its parameters and operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from medvl.core.errors import InputError
from medvl.data.dataset import SegmentDataset, collate
from medvl.data.record import Manifest
from medvl.data.text_input import TextInput
from medvl.evaluation.model_inputs import Inputs, open_inputs
from medvl.evaluation.prediction_sources import PredictorSource
from medvl.experiments.published_tables import Path_
from medvl.experiments.sweep_score import device_of
from medvl.experiments.zero_shot_cells import ClassQuery, PhraseQuery, Query, score_query
from medvl.inference.model_folder import find_model
from medvl.inference.predictor import Predictor
from medvl.metrics.segmentation import count_pixels, dice, iou
from medvl.models.masks import class_masks, probs_from_logits
from medvl.tasks.segment.kinds import stored_evaluation
from medvl.tasks.segment.learner import SegmentLearner
from medvl.text.cache import FeatureCache

OF_SEGMENTATION = ("segment", "size")  # kinds that ask runs of task: segment; the others ask pre-trainings
NUM_WORDS = 10  # of the text that operations are counted with, as in LViT


def ask(options: Mapping[str, Any], run: Path, manifest: Path | None, split: str, folder: Path) -> dict[str, Any]:
    """The result of one cell; the evaluation stays in `folder` and is taken from there if it is the same.

    Args:
        options: the `ask` of the column.
        manifest: of the column's set; None where it needs none.
    """
    kind, others = options["kind"], {key: value for key, value in options.items() if key != "kind"}
    device = device_of(find_model(run))
    if kind == "size":
        return {"size": network_size(Predictor.load(run))}
    assert manifest is not None
    if kind == "segment":
        return segmentation(run, manifest, split, folder, device)
    kinds: dict[str, type[ClassQuery] | type[PhraseQuery]] = {"classify": ClassQuery, "ground": PhraseQuery}
    query: Query = kinds[kind](run="@", manifest=str(manifest), split=split, **others)
    return score_query(query, run, folder, device)


def segmentation(run: Path, manifest: Path, split: str, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """The summary of medvl's evaluation, and in `released` Dice and IoU by LViT's released program.

    InputError where the set has other classes than the run.
    """
    inputs = open_inputs(str(run), device=device)
    rows = inputs.manifest(manifest)
    record = stored_evaluation(inputs, rows, split, folder)
    return {**record.summary, "released": released_scores(inputs, rows, split)}


def released_scores(inputs: Inputs, manifest: Manifest, split: str) -> dict[str, Any]:
    """Dice and IoU (0 to 1) as LViT's released program computes them, means over the annotated masks of a split.

    On the network's grid: the true mask resized by OpenCV's bilinear rule and then > 0, the prediction above 0.5. Two
    empty masks count 0.
    """
    assert isinstance(inputs.source, PredictorSource)
    predictor = inputs.source.predictor
    if manifest.classes != predictor.classes:
        raise InputError.mismatch(
            f"the set's classes are {', '.join(manifest.classes)}",
            file=manifest.path,
            expected=f"those of the run: {', '.join(predictor.classes)}",
        )
    config = replace(predictor.config, data=replace(predictor.config.data, mask_rule="any"))
    learner = SegmentLearner(config, predictor.module, text_input(predictor))
    dataset = SegmentDataset(manifest.split(split), manifest.classes, config.data, seed=0, train=False, all_rows=True)
    mode = config.objective.mode
    values = []
    for i in range(len(dataset)):
        batch = collate([dataset[i]]).to(predictor.device)
        with torch.no_grad():
            masks = class_masks(probs_from_logits(learner.logits(batch), mode), mode).cpu().numpy()  # (N, K, H, W)
        true_masks = (batch.target > 0.5).cpu().numpy()
        for n, k in batch.annotated.nonzero().tolist():
            counts = count_pixels(masks[n, k], true_masks[n, k])
            values.append((dice(counts, "zero"), iou(counts, "zero")))
    means = torch.tensor(values, dtype=torch.float64).mean(dim=0).tolist()
    return {
        "dice": {"mean": means[0], "num": len(values)},
        "iou": {"mean": means[1], "num": len(values)},
        "grid": list(config.data.image_size),
    }


def network_size(predictor: Predictor) -> dict[str, float]:
    """Parameters in millions and GFLOPs of one image, of the network without its text encoder.

    Two operations a multiply-add, of convolutions and matrix products alone.
    """
    module, data = predictor.module, predictor.config.data
    text, mask = text_input(predictor)([" ".join(["lung"] * NUM_WORDS)], predictor.device)
    rules = predictor.context
    context = None if rules is None else torch.full((1, len(rules.columns)), torch.nan, device=predictor.device)
    with torch.no_grad():
        features, keep = module.text_features(text, mask, context)
    network = deepcopy(module.network).to("meta")  # nothing is computed: the operations are counted by their shapes
    call = (torch.empty(1, data.in_channels, *data.image_size), features, keep, torch.zeros(1, dtype=torch.int64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*(None if x is None else x.to("meta") for x in call))
    num = sum(parameter.numel() for parameter in module.network.parameters())
    return {"parameters_m": num / 1e6, "gflops": counter.get_total_flops() / 1e9}


def text_input(predictor: Predictor) -> TextInput:
    """Texts -> what the predictor's network is fed."""
    encoder = predictor.encoder
    cache = FeatureCache(encoder) if encoder is not None and encoder.frozen else None
    return TextInput(encoder, cache, predictor.uses_text, context=predictor.context)


def values_at(results: list[dict[str, Any]], path: Path_) -> list[float | None]:
    """The value at `path` of each result, None where undefined.

    A key `part*` or `*part` is the first one that begins with or holds `part`, `!part` the first one that does not.
    """
    values: list[float | None] = []
    for content in results:
        node: Any = content
        for key in path:
            node = _child(node, key)
        values.append(None if node is None else float(node))
    return values


def _child(node: Any, key: str) -> Any:
    if not isinstance(node, Mapping):
        return None
    if key.startswith("!"):
        return next((node[name] for name in node if key[1:] not in name), None)
    if "*" not in key:
        return node.get(key)
    text, anywhere = key.strip("*"), key.startswith("*")
    return next((node[name] for name in node if (text in name if anywhere else name.startswith(text))), None)
