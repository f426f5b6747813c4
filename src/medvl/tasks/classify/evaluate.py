"""Evaluation of a trained classifier on one split: cases.csv, summary.json, curves and confusion matrix as SVG files.

Thresholds are chosen on val (the highest F1 of each class) and then used on the split that is scored. Papers mostly
choose them on the scored split itself (MedKLIP by F1, KAD by MCC); what that gives stands apart, under
`published_practice`, to compare with their numbers. AUC and average precision need no threshold.

Shapes: n images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvl.config import Config, config_dict
from medvl.core.device import usable_device
from medvl.core.errors import InputError, warn
from medvl.data.class_labels import ClassDataset, ClassLabels, class_labels, with_labels
from medvl.data.record import Manifest
from medvl.evaluation.model_inputs import read_as_trained
from medvl.evaluation.record import CASES, EvaluationRecord
from medvl.evaluation.report.classification_figures import confusion_svg, pr_svg, reliability_svg, roc_svg
from medvl.evaluation.seen_images import say_seen, seen_images
from medvl.evaluation.tables import csv_text, interval_text, text_table
from medvl.inference.model_folder import load_model, weights_hash
from medvl.metrics.classification import (
    METRICS,
    NUM_BINS,
    RULES,
    THRESHOLD_METRICS,
    best_threshold,
    confusion_at,
    multilabel_metrics,
    published_practice,
)
from medvl.metrics.exclusive_classes import multiclass_metrics
from medvl.metrics.statistics import NUM_DRAWS
from medvl.tasks.classify.feature_store import FeatureStore
from medvl.tasks.classify.learner import pooled_features, predicted_logits
from medvl.tasks.classify.model import Classifier

BATCH = 32
FloatArray = NDArray[np.float64]
MOST_PROBABLE, CHOSEN_ON_VAL = "the most probable class", "val, the highest F1 of each class"
OPTIMISTIC = "val is scored with thresholds chosen on it: its threshold metrics are optimistic"


def evaluate_classifier(
    model: str | Path,
    manifest: str | Path,
    *,
    split: str = "val",
    threshold: float | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    num_draws: int = NUM_DRAWS,
    cache_dir: Path | None = None,
) -> EvaluationRecord:
    """Score a RUN or MODEL of `task: classify`; with `out` write the files there.

    Args:
        manifest: as for training; its val split is read too where thresholds are chosen there.
        threshold: None = chosen on val, for each class by F1; a number from 0 to 1 = that one for all classes. With
            `classify.labels: multiclass` the most probable class is taken, and a number is an InputError.
        overrides: `data.KEY=VALUE`, how pixels are read (window, slice_index).
        seed: of the bootstrap by patient.
        cache_dir: `classify.cache_dir` of the run, whose features of a frozen encoder are then not computed anew.

    Raises:
        InputError: not a classifier, no known label in the split (or in val), classes of other names.
    """
    module, _, config, card = load_model(model)
    if not isinstance(module, Classifier):
        raise InputError.unsupported("not a classifier", file=model, expected="a run of task: classify")
    multiclass = config.classify.labels == "multiclass"
    if multiclass and threshold is not None:
        raise InputError.conflict(
            "a threshold where the most probable class is taken", file=model, remedy="leave out --threshold"
        )
    where = usable_device(device)
    records, data = read_as_trained(config, manifest, overrides)
    classes = tuple(card["classes"])
    labels, num_other_views = _labels(records, split, classes, config)

    store = None
    if cache_dir is not None and config.classify.mode == "linear":
        store = FeatureStore(cache_dir, module, config, data)

    def probs_of(part: ClassLabels, name: str) -> FloatArray:
        dataset = ClassDataset(part, data, seed=config.train.seed, train=False)
        how: dict[str, Any] = {"batch_size": BATCH, "num_workers": data.num_workers, "label": f"classify {name}"}
        if store is not None:
            pooled = torch.from_numpy(pooled_features(module, dataset, where, store=store, **how))
            with torch.inference_mode():
                logits = module.network.classify(pooled.to(where)).cpu().double()
        else:
            logits = torch.from_numpy(predicted_logits(module, dataset, where, **how)).double()
        probs: FloatArray = (logits.softmax(dim=1) if multiclass else logits.sigmoid()).numpy()
        return probs

    probs = probs_of(labels, split)
    values = labels.values.astype(np.float64)
    patients = [row.patient for row in labels.records]
    notes: list[str] = []
    scores: dict[str, Any]
    extras: dict[str, Any]
    if multiclass:
        measured = multiclass_metrics(probs, values.argmax(axis=1), patients, classes, num_draws=num_draws, seed=seed)
        scores = {name: measured.pop(name) for name in ("metrics", "by_class")}
        scores |= {"threshold": None, "threshold_source": MOST_PROBABLE}
        extras = measured
    else:
        thresholds: list[float] = [math.nan if threshold is None else threshold] * len(classes)
        source = "fixed"
        if threshold is None:
            source = CHOSEN_ON_VAL
            val = labels if split == "val" else _labels(records, "val", classes, config)[0]
            val_probs = probs if split == "val" else probs_of(val, "val")
            thresholds = [best_threshold(val_probs[:, k], val.values[:, k]) for k in range(len(classes))]
            without = [name for name, value in zip(classes, thresholds, strict=True) if math.isnan(value)]
            if without:
                notes.append(f"no threshold, for val has not both kinds: {', '.join(without)}")
            if split == "val":
                notes.append(OPTIMISTIC)
        measured = multilabel_metrics(probs, values, patients, classes, thresholds, num_draws=num_draws, seed=seed)
        scores = {
            "threshold": dict(zip(classes, thresholds, strict=True)),
            "threshold_source": source,
            "metrics": {f"macro_{name}": measured["macro"][name] for name in METRICS},
            "by_class": measured["by_class"],
        }
        extras = {
            "macro_with_interval": {f"macro_{name}": value for name, value in measured["macro_with_interval"].items()},
            "undefined": measured["undefined"],
            "published_practice": _published_practice(
                probs, values, patients, classes, split, num_draws=num_draws, seed=seed
            ),
        }
    if labels.counts["other_names"]:
        others = ", ".join(f"{name} ({num})" for name, num in labels.counts["other_names"].items())
        notes.append(f"labels that are no class of the model are not scored: {others}")
    if len(set(patients)) < 2:
        notes.append("a single patient: there are no intervals")
    for note in notes:
        warn(note)
    overlap = seen_images(model, labels.records)
    notes += say_seen(overlap, split)
    record = EvaluationRecord.of(
        "classify",
        model=model,
        model_hash=weights_hash(model),
        config=config_dict(config),
        overrides=list(overrides),
        manifest=records,
        split=split,
        seed=seed,
        bootstrap_seed=seed,
        num_draws=num_draws,
        overlap=overlap,
        counts={"num_cases": len(labels.records), "num_patients": len(set(patients))},
        extras={
            "trained_on": {key: card.get(key) for key in ("manifest_hash", "split_hash", "data", "seed")},
            "labels": config.classify.labels,
            "classes": list(classes),
            "num_left_out": {
                "same_image": labels.counts["same_image"],
                "not_labelled": labels.counts["not_labelled"],
                "other_views": num_other_views,
            },
            "class_counts": labels.per_class(),
            "calibration_bins": NUM_BINS,
            **extras,
        },
        notes=notes,
        **scores,
    )
    if out is not None:
        files = {CASES: _case_table(labels, probs, split)}
        for file_name, draw in (("roc", roc_svg), ("pr", pr_svg), ("reliability", reliability_svg)):
            files[f"{file_name}.svg"] = draw(probs, values, classes)
        if _has_confusion(record.summary):
            files["confusion.svg"] = confusion_svg(_confusions(record.summary, probs, values, classes))
        record.write(out, files)
    return record


def defaults(config: Config) -> dict[str, Any]:
    """What the record of an evaluation without a threshold of the caller says."""
    return {"threshold_source": MOST_PROBABLE if config.classify.labels == "multiclass" else CHOSEN_ON_VAL}


def as_text(summary: Mapping[str, Any], out: Path) -> str:
    """The summary for a terminal."""
    rows = []
    for name, value in summary["metrics"].items():
        rows.append([name, interval_text(value), ""])
        if some := summary["macro_with_interval"].get(name):
            rows.append(["  of those with one", interval_text(some), ", ".join(some["classes"])])
    by_class = [[name, interval_text(row["auc"]), row["num_positive"]] for name, row in summary["by_class"].items()]
    lines = [
        f"{summary['model']} on {summary['split']} of {summary['manifest']}: {summary['num_cases']} images, "
        f"{summary['num_patients']} patients; threshold: {summary['threshold_source']}",
        "",
        *text_table(["metric", "mean [95 % interval]", ""], rows),
        "",
        *text_table(["AUC", "mean [95 % interval]", "positives"], by_class),
    ]
    practice = summary.get("published_practice")
    if practice is not None:
        lines += ["", f"  {practice['what']}: optimistic, only to compare with published numbers"]
        for by, rule in RULES.items():
            by_rule = practice[f"by_{by}"]
            parts = []
            for name, value in by_rule["macro"].items():
                parts.append(f"{name} {interval_text(value)}")
                if some := by_rule["macro_with_interval"].get(name):
                    parts[-1] += f" ({some['num']} of {value['num']} classes: {interval_text(some)})"
            lines.append(f"  {rule}: macro {', '.join(parts)}")
    figures = ["roc.svg", "pr.svg", "reliability.svg", *(["confusion.svg"] if _has_confusion(summary) else [])]
    return "\n".join([*lines, "", f"{out}: cases.csv, summary.json, {', '.join(figures)}"])


def _labels(manifest: Manifest, split: str, classes: tuple[str, ...], config: Config) -> tuple[ClassLabels, int]:
    """The labelled images of a split, and how many records are of views that the model was not trained on."""
    rows = manifest.split(split)
    kept = [row for row in rows if config.data.views is None or row.view in config.data.views]
    labels = class_labels(with_labels(kept, config.classify), classes, config.classify, manifest.path)
    if not labels.records:
        what = "a known label" if kept else f"a view of {', '.join(config.data.views or [])}"
        raise InputError.empty(
            f"no record of the {split} split has {what}",
            file=manifest.path,
            remedy="--threshold 0.5 needs no val split" if split == "val" else None,
        )
    if not any(name in row.labels for row in labels.records for name in classes):
        like = ", ".join(list(labels.counts["other_names"])[:5]) or "none"
        raise InputError.unknown(
            f"no record of the {split} split has a class of the model",
            file=manifest.path,
            expected=f"some of {', '.join(classes)} (labels there: {like})",
        )
    return labels, len(rows) - len(kept)


def _has_confusion(summary: Mapping[str, Any]) -> bool:
    return "confusion" in summary or any(value is not None for value in summary["threshold"].values())


def _confusions(
    summary: Mapping[str, Any], probs: FloatArray, values: FloatArray, classes: Sequence[str]
) -> list[tuple[str, Sequence[str], NDArray[np.int64]]]:
    """Title, names and cases of each confusion matrix: one of all classes, or one of each class with a threshold."""
    if "confusion" in summary:
        return [("", classes, np.array(summary["confusion"]))]
    return [
        (f"{name}, threshold {value:.3f}", ("no", "yes"), confusion_at(probs[:, k], values[:, k], value))
        for k, (name, value) in enumerate(summary["threshold"].items())
        if value is not None
    ]


def _published_practice(
    probs: FloatArray,
    values: FloatArray,
    patients: Sequence[str],
    classes: Sequence[str],
    split: str,
    *,
    num_draws: int,
    seed: int,
) -> dict[str, Any]:
    """The intervals are of the scored patients at these thresholds: that they were chosen on them is not in it."""
    result: dict[str, Any] = {"what": published_practice(split)}
    for by in RULES:
        chosen = [best_threshold(probs[:, k], values[:, k], by) for k in range(len(classes))]
        measured = multilabel_metrics(probs, values, patients, classes, chosen, num_draws=num_draws, seed=seed)
        result[f"by_{by}"] = {
            "macro": {name: measured["macro"][name] for name in THRESHOLD_METRICS},
            "macro_with_interval": {
                name: value for name, value in measured["macro_with_interval"].items() if name in THRESHOLD_METRICS
            },
            "by_class": {
                name: {"threshold": row["threshold"], **{m: row[m] for m in THRESHOLD_METRICS}}
                for name, row in measured["by_class"].items()
            },
        }
    return result


def _case_table(labels: ClassLabels, probs: FloatArray, split: str) -> str:
    """One row per image: id, patient, split, prob_CLASS ..., label_CLASS ... (1, 0, or empty where it is missing)."""
    columns = [f"{column}_{name}" for column in ("prob", "label") for name in labels.classes]
    rows = (
        [row.id, row.patient, split, *prob, *(None if math.isnan(value) else int(value) for value in label)]
        for row, prob, label in zip(labels.records, probs, labels.values, strict=True)
    )
    return csv_text(["id", "patient", "split", *columns], rows, decimals=8)
