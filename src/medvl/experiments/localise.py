"""Where a pre-trained G2D looks: attention (or evidence), pseudo mask and decoder against masks it never saw.

Every case is scored on the model's grid. Measured for each method: overlap (Dice, IoU), the pointing game (is the
highest place inside the mask?) and the area under the ROC curve of the map over the pixels of the image. Beside them:
`shuffled`, the pseudo mask of another image (the next one in a seeded order), which has the same size and habits and
only lacks this image; `lungs`, the lung field where the manifest has one; and `chance`, what a map without knowledge
scores: area of the mask within the body for pointing, 0.5 for the curve.

Shapes: B images, H W the model's grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from medvl.config import Config, config_dict
from medvl.core.errors import InputError
from medvl.data.dataset import SegmentDataset, collate
from medvl.data.record import Manifest, Record
from medvl.data.text_input import TextInput
from medvl.evaluation.record import CASES, EvaluationRecord
from medvl.evaluation.seen_images import say_seen, seen_images
from medvl.evaluation.tables import csv_text, interval_text, text_table
from medvl.inference.model_folder import load_model, weights_hash
from medvl.metrics.statistics import mean_interval, paired_difference
from medvl.tasks.pretrain.learner import PretrainLearner
from medvl.tasks.pretrain.model import G2DModel
from medvl.text.cache import FeatureCache

METRICS = ("dice", "iou", "pointing", "auroc")
BATCH = 16
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


def localisation(
    model: str,
    manifest: Manifest,
    *,
    split: str,
    target: str,
    lungs: str | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> EvaluationRecord:
    """Score one split; writes cases.csv and summary.json into `out`.

    Args:
        model: RUN or MODEL folder of `task: pretrain`.
        manifest: read so that `target` (and `lungs`) are among its classes.
        split: of the manifest; "all" = every record with that mask (the summary's `by_split` has each split apart).
        target: class whose mask is looked for. Records where it is not annotated, or empty, are left out and counted.
        lungs: class of the lung field, for the method `lungs`.

    Raises:
        InputError: not a pre-trained model, one without attention, no such class, nothing to score.
    """
    learner, card = _learner(model)
    config = learner.config
    _check_classes(manifest, target, lungs)
    records: Sequence[Record] = manifest.records if split == "all" else manifest.split(split)
    rows = [r for r in records if (mask := r.masks.get(target)) is not None and mask.path is not None]
    num_left = len(records) - len(rows)
    if config.pretrain.mask.source == "evidence" and (silent := [row.id for row in rows if not row.text.strip()]):
        raise InputError.missing(
            f"no text of {len(silent)} records, but the pseudo mask is the evidence for it (pretrain.mask.source)",
            file=manifest.path, record=silent[0], expected="the report of every record", remedy="--text-column",
        )  # fmt: skip
    cases: list[dict[str, Any]] = []
    num_empty = 0
    if rows:
        names = [target] + ([lungs] if lungs else [])
        dataset = SegmentDataset(rows, names, config.data, seed=seed, train=False, body=True)
        cases, num_empty = _scored(_maps(learner, dataset), config, seed)
    if not cases:
        raise InputError.empty(
            f"no record of split {split} has a mask of {target}", file=manifest.path, expected="at least one"
        )
    splits = sorted({case["split"] for case in cases})
    overlap = seen_images(model, rows)
    scores = _summary(cases)
    record = EvaluationRecord.of(
        "localise",
        model=model,
        model_hash=weights_hash(model),
        config=config_dict(config),
        manifest=manifest,
        split=split,
        seed=seed,
        overlap=overlap,
        threshold=0.5,
        grid=f"model {config.data.image_size[0]}x{config.data.image_size[1]}",
        counts={
            "num_cases": scores.pop("num_cases"),
            "num_patients": scores.pop("num_patients"),
            "num_without_mask": num_left,
            "num_empty": num_empty,
        },
        extras={
            "target": target,
            "trained_on": {key: card[key] for key in ("manifest_hash", "split_hash", "data")},
            **scores,
            "by_split": {name: _summary([case for case in cases if case["split"] == name]) for name in splits},
        },
        notes=say_seen(overlap, split),
    )
    if out is not None:
        columns = ["id", "patient", "split", "method", *METRICS, "true_px", "pred_px"]
        cells = [[str(case[name]) for name in columns] for case in cases]  # "nan" is written out
        record.write(out, {CASES: csv_text(columns, cells)})
    return record


def as_text(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal; where several splits were scored, each of them too."""
    lines = [
        f"{summary['target']} of {summary['num_cases']} cases, {summary['num_patients']} patients, split "
        f"{summary['split']}, {summary['grid']}; {summary['num_without_mask']} records without that mask and "
        f"{summary['num_empty']} with an empty one are left out",
        *_table(summary["methods"]),
        *(f"note: {note}" for note in summary["notes"]),
    ]
    if len(summary["by_split"]) > 1:
        for name, part in summary["by_split"].items():
            lines += ["", f"split {name}: {part['num_cases']} cases, {part['num_patients']} patients"]
            lines += _table(part["methods"])
    return "\n".join(lines)


def _table(methods: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, *(interval_text(metrics[metric], missing="") for metric in METRICS)] for name, metrics in methods.items()
    ]
    return text_table(["method", *(f"{name} [95 %]" for name in METRICS)], rows, indent="")


def _learner(model: str) -> tuple[PretrainLearner, dict[str, Any]]:
    """A pre-training with attention, which draws one row of each image, and its card."""
    module, encoder, config, card = load_model(model, uses_text=False)
    if not isinstance(module, G2DModel) or encoder is None:
        raise InputError.unsupported("not a pre-trained model", file=model, expected="a run of task: pretrain")
    if module.network.attention_pool is None:  # nor has it a decoder of pseudo masks: nothing but chance to score
        raise InputError.unsupported(
            "the model looks nowhere: it has no attention (model.options.pool: average)",
            file=model,
            expected="a run with model.options.pool: attention",
        )
    config = replace(config, data=replace(config.data, val_phrases_per_image=1))
    cache = FeatureCache(encoder) if encoder.prefix_frozen else None
    return PretrainLearner(config, module, TextInput(encoder, cache, True, context=module.context)), card


def _check_classes(manifest: Manifest, *names: str | None) -> None:
    for name in names:
        if name is not None and name not in manifest.classes:
            classes = ", ".join(manifest.classes) or "a column mask, or mask_NAME for --target NAME: it has none"
            raise InputError.unknown(f"no class {name}", file=manifest.path, expected=classes)


def _scored(maps: Sequence[dict[str, Any]], config: Config, seed: int) -> tuple[list[dict[str, Any]], int]:
    """The cases of all images, each beside another one's mask (a seeded choice), and how many have an empty mask."""
    cases: list[dict[str, Any]] = []
    num_empty = 0
    order = np.random.default_rng(seed).permutation(len(maps))
    following = {int(a): int(b) for a, b in zip(order, np.roll(order, -1), strict=True)}
    for i, one in enumerate(maps):
        if one["target"].any():
            cases += _score(one, maps[following[i]] if len(maps) > 1 else None, config)
        else:
            num_empty += 1
    return cases, num_empty


@torch.no_grad()
def _maps(learner: PretrainLearner, dataset: SegmentDataset) -> list[dict[str, Any]]:
    """What there is of each image: target, body, attention, raw and smoothed mask, decoder, lungs."""
    maps: list[dict[str, Any]] = []
    split_of = {record.id: record.split or "" for rows in dataset.groups for record in rows}
    learner.module.eval()
    for start in range(0, len(dataset), BATCH):
        indices = range(start, min(start + BATCH, len(dataset)))
        batch = collate([dataset[i] for i in indices])
        assert batch.body is not None
        vectors = None
        if learner.config.pretrain.mask.source == "evidence":
            output, vectors = learner.forward(batch)
        else:
            output = learner.module.network.image_forward(batch.image)
        masks = learner.mask_of(output, vectors, batch) if output.attention is not None else None
        for k in range(len(batch.ids)):
            row: dict[str, Any] = {  # of the row that was drawn of the image, which need not be its first
                "id": batch.ids[k],
                "patient": batch.patients[k],
                "split": split_of[batch.ids[k]],
                "target": batch.target[k, 0].numpy() > 0.5,
                "body": batch.body[k].numpy(),
            }
            if batch.target.shape[1] > 1 and batch.annotated[k, 1]:
                row["lungs"] = batch.target[k, 1].numpy() > 0.5
            if masks is not None:
                row["looked"] = masks.attention_map[k].mean(dim=0).numpy()
                row["raw"] = masks.raw[k].amax(dim=0).numpy() > 0.5
                row["mask"] = masks.mask[k].amax(dim=0).numpy() > 0.5
            if output.mask_logits is not None and learner.config.pretrain.decoder == "pseudo_mask":
                row["decoder"] = output.mask_logits[k].sigmoid().amax(dim=0).numpy()
            maps.append(row)
    return maps


def _score(maps: dict[str, Any], other: dict[str, Any] | None, config: Config) -> list[dict[str, Any]]:
    """The rows of one image, one per method."""
    target: BoolArray = maps["target"]
    head = {name: maps[name] for name in ("id", "patient", "split")}
    rows: list[dict[str, Any]] = []

    def add(method: str, mask: BoolArray | None, values: FloatArray | None) -> None:
        row: dict[str, Any] = {**head, "method": method, "true_px": int(target.sum())}
        row |= dict.fromkeys((*METRICS, "pred_px"), float("nan"))
        if mask is not None:
            both, total = float((mask & target).sum()), float(mask.sum() + target.sum())
            row |= {"dice": 2 * both / total, "iou": both / (total - both), "pred_px": int(mask.sum())}
        if values is not None:
            row |= {"pointing": _pointing(values, target), "auroc": _auroc(values, target)}
        rows.append(row)

    if "looked" in maps:
        inside = np.where(maps["body"], maps["looked"], maps["looked"].min())
        add(config.pretrain.mask.source, maps["raw"], inside)
        add("pseudo mask", maps["mask"], None)
    if "decoder" in maps:
        add("decoder", maps["decoder"] > 0.5, maps["decoder"])
    if other is not None and "mask" in other:
        add("shuffled", other["mask"], np.where(other["body"], other["looked"], other["looked"].min()))
    if "lungs" in maps:
        add("lungs", maps["lungs"], None)
    body = maps["body"] if (maps["body"] & target).any() else np.ones_like(target)
    share = float((target & body).sum() / body.sum())
    rows.append({**head, "method": "chance", "true_px": int(target.sum()), "pred_px": float("nan"),
                 "dice": float("nan"), "iou": float("nan"), "pointing": share, "auroc": 0.5})  # fmt: skip
    return rows


def _pointing(values: FloatArray, target: BoolArray) -> float:
    """Share of the highest places that lie in the mask: 0 or 1 unless several are equally high."""
    highest = values >= values.max()
    return float((highest & target).sum() / highest.sum())


def _auroc(values: FloatArray, target: BoolArray) -> float:
    """Area under the ROC curve of the pixels (Mann-Whitney, ties count half); NaN if the mask is everything."""
    num = int(target.sum())
    if num == 0 or num == target.size:
        return float("nan")
    ranks = rankdata(values.ravel())
    return float((ranks[target.ravel()].sum() - num * (num + 1) / 2) / (num * (target.size - num)))


def _summary(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts, each method's metrics and the paired differences of these cases."""
    methods = list(dict.fromkeys(case["method"] for case in cases))
    return {
        "num_cases": len({case["id"] for case in cases}),
        "num_patients": len({case["patient"] for case in cases}),
        "methods": {name: _intervals([case for case in cases if case["method"] == name]) for name in methods},
        "differences": _differences(cases, methods),
    }


def _intervals(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    patients = [case["patient"] for case in cases]
    return {name: mean_interval([case[name] for case in cases], patients).to_dict() for name in METRICS}


def _differences(cases: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """Paired differences by patient of each method to the shuffled control, and to chance for pointing."""
    by_method = {name: {case["id"]: case for case in cases if case["method"] == name} for name in methods}
    differences: dict[str, Any] = {}
    for name in methods:
        for control, metrics in (("shuffled", METRICS), ("chance", ("pointing", "auroc"))):
            if name in ("shuffled", "chance", "lungs") or control not in by_method:
                continue
            ids = [i for i in by_method[name] if i in by_method[control]]
            patients = [by_method[name][i]["patient"] for i in ids]
            differences[f"{name} - {control}"] = {
                metric: paired_difference(
                    [by_method[name][i][metric] for i in ids], [by_method[control][i][metric] for i in ids], patients
                ).to_dict()
                for metric in metrics
            }
    return differences
