"""Zero-shot classification by prompts: one row per image, and what the probabilities are worth against the labels.

AUC needs no threshold. F1, accuracy and MCC do, and two thresholds stand side by side: one chosen on val (or 0.5), and
that of the published tables, chosen on the very split that is scored (MedKLIP: highest F1, KAD: highest MCC).

Shapes: n images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvl.config import config_dict
from medvl.config.protocols import find_protocol
from medvl.core.errors import FaultKind, InputError, nearest, warn
from medvl.core.progress import track
from medvl.data.class_labels import has_labels
from medvl.data.record import Manifest, Record
from medvl.evaluation.cases import by_image, relative_image
from medvl.evaluation.record import CASES, EvaluationRecord, log_test
from medvl.evaluation.seen_images import say_seen, seen_images
from medvl.evaluation.tables import csv_text, interval_text, text_table
from medvl.inference.model_folder import weights_hash
from medvl.metrics.classification import RULES, By, best_threshold, multilabel_metrics, published_practice
from medvl.tasks.pretrain.grounding import patient_halves
from medvl.tasks.pretrain.zero_shot import Temperature, ZeroShot
from medvl.text.prompts import PromptFamily, PromptPair, is_denial

UNKNOWN = "labels_unknown"
ALL = "all"
SHOWN = ("f1", "accuracy", "mcc", "sensitivity", "specificity")
FloatArray = NDArray[np.float64]
ThresholdFrom = Literal["fixed", "val"]


def zero_shot_classification(
    model: str,
    manifest: Manifest,
    family: PromptFamily,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    threshold_from: ThresholdFrom = "val",
    temperature: Temperature = "model",
    rules: Sequence[By] = tuple(RULES),
    protocol: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    slice_index: int | None = None,
) -> EvaluationRecord:
    """Ask a pre-trained model for every class in every image of a split; writes cases.csv and summary.json into `out`.

    Args:
        model: RUN or MODEL folder of `task: pretrain`.
        split: None = `split_of` the manifest; "all" = every record, at the threshold 0.5.
        slice_index: of volumes; None = that of the model's training.
        classes: default: every label of the manifest (column labels and labels_unknown), or, where it has none, the
            classes that the family has pairs for.
        threshold_from: "fixed" is 0.5, where the positive prompt is as near as the negative one; "val" chooses on the
            val split, per class, once by each of `rules`. With split val each half of its patients gets the threshold
            of the other half.
        temperature: see `ZeroShot.classify`.
        rules: by what a threshold is chosen, on val and on the scored split.
        protocol: the name of the published protocol that these values come from, for the summary.
        seed: of the halves of val, and of the bootstrap by patient.

    Raises:
        InputError: not a pre-trained model, no classes, a class that no record names, no val split to choose on.
    """
    names = _classes(manifest, family, classes)
    prompts = family.prompts(names)
    split = split or split_of(manifest)
    groups = by_image(manifest.records if split == ALL else manifest.split(split))
    reader = ZeroShot.load(model, device)
    if slice_index is not None:
        reader.config = replace(reader.config, data=replace(reader.config.data, slice_index=slice_index))
    labelled = any(has_labels(record) or record.extra.get(UNKNOWN) for record in manifest.records)
    notes = _notes(prompts, reader, labelled)
    if split == ALL and threshold_from == "val":
        threshold_from = "fixed"
        notes += ["there are no splits to choose a threshold on: decisions are at 0.5"] if labelled else []
    overlap = seen_images(model, [group[0] for group in groups])
    notes += say_seen(overlap, split)
    patients = [group[0].patient for group in groups]
    labels = _labels(groups, names, labelled)  # (n, K)
    probs = _probs(reader, groups, prompts, temperature, f"classify {split}")  # (n, K)
    metrics: dict[str, Any] = {}
    by_class: dict[str, Any] = {}
    extras: dict[str, Any] = {"macro_with_interval": {}, "undefined": {}}
    if labelled:
        free = multilabel_metrics(probs, labels, patients, names, seed=seed)
        kept = ("auc", "average_precision", "ece", "brier")
        metrics = {name: free["macro"][name] for name in kept}
        counts = ("num", "num_positive", *kept)
        by_class = {name: {key: free["by_class"][name][key] for key in counts} for name in names}
        extras = {key: {name: v for name, v in free[key].items() if name in kept} for key in extras}
        extras["decisions"] = {
            **_chosen(
                manifest, reader, prompts, split, threshold_from, temperature, (probs, labels, patients), rules, seed
            ),
            published_practice(split): _published(probs, labels, patients, names, rules, seed),
        }
    record = EvaluationRecord.of(
        "zero-shot classify",
        model=model,
        model_hash=weights_hash(model),
        config=config_dict(reader.config),
        manifest=manifest,
        split=split,
        seed=seed,
        bootstrap_seed=seed,
        overlap=overlap,
        threshold=None if threshold_from == "val" else 0.5,
        threshold_source=threshold_from,
        counts={"num_cases": len(groups), "num_patients": len(set(patients))},
        metrics=metrics,
        by_class=by_class,
        extras={
            "protocol": protocol,
            "prompt_family": family.name,
            "prompts": {name: pair.to_dict() for name, pair in prompts.items()},
            "temperature": reader.config.pretrain.sigma if temperature == "model" else 1.0,
            "num_missing": {name: int(np.isnan(labels[:, k]).sum()) for k, name in enumerate(names)},
            **extras,
        },
        notes=notes,
    )
    if out is not None:
        record.write(out, {CASES: _case_table(manifest, groups, names, probs, labels)})
    if split == "test":
        log_test(model, record)
    return record


def split_of(manifest: Manifest) -> str:
    """What is scored where no split is named: val, or all records of a table without splits."""
    return "val" if any(record.split for record in manifest.records) else ALL


def options_of(
    protocol: str | None,
    *,
    has_custom_prompts: bool = False,
    family: str | None = None,
    threshold_from: ThresholdFrom | None = None,
    temperature: Temperature | None = None,
) -> tuple[str | None, dict[str, Any]]:
    """Family of prompts, and options of `zero_shot_classification`, of a published protocol (None = medvl's).

    What is given wins; with prompts of one's own the protocol's family is not taken.
    """
    values: dict[str, Any] = {"threshold_from": "val", "temperature": "model"}
    if protocol is not None:
        values |= find_protocol(protocol)[0].values()
    published = values.pop("family", None)
    values |= {"threshold_from": threshold_from} if threshold_from else {}
    values |= {"temperature": temperature} if temperature else {}
    return family if family or has_custom_prompts else published, {**values, "protocol": protocol}


def as_text(summary: Mapping[str, Any], out: Path | None = None) -> str:
    """The summary for a terminal."""
    lines = [
        f"{summary['model']} on {summary['split']} of {summary['manifest']}: {summary['num_cases']} images, "
        f"{summary['num_patients']} patients, prompts {summary['prompt_family']}, not trained on any label"
        + (f"; protocol {summary['protocol']}" if summary["protocol"] else "")
    ]
    if summary["by_class"]:
        rows = [
            [name, interval_text(row["auc"]), row["num_positive"], row["num"], ""]
            for name, row in summary["by_class"].items()
        ]
        macro = summary["metrics"]["auc"]
        rows.append([f"mean of {macro['num']} classes", interval_text(macro), "", "", ""])
        if some := summary["macro_with_interval"].get("auc"):
            rows.append([f"of {some['num']} with an interval", interval_text(some), "", "", ", ".join(some["classes"])])
        lines += ["", *text_table(["class", "AUC [95 %]", "positive", "known", ""], rows)]
        left = summary["undefined"].get("auc")
        if left:
            lines.append(f"  no AUC (positives or negatives are missing), not in the mean: {', '.join(left)}")
        for source, rules in summary["decisions"].items():
            rows = [
                [
                    f"mean of classes, {rule}",
                    *(interval_text(rule_metrics["macro"][name]) for name in ("f1", "accuracy", "mcc")),
                ]
                for rule, rule_metrics in rules.items()
            ]
            lines += ["", f"  {source}", *text_table(["", "F1 [95 %]", "accuracy [95 %]", "MCC [95 %]"], rows)]
    lines += ["", *[f"  note: {note}" for note in summary["notes"]]]
    if out is not None:
        lines.append(f"  written: {out / 'cases.csv'}, {out / 'summary.json'}")
    return "\n".join(lines)


def _classes(manifest: Manifest, family: PromptFamily, wanted: Sequence[str] | None) -> list[str]:
    labels = sorted({label for record in manifest.records for label in (*record.labels, *unknown_labels(record))})
    if wanted is None:
        names = [name for name in labels if not (is_denial(name) and not family.has_pair(name))]
        for name in sorted(set(labels) - set(names)):
            warn(f"class {name} is left out: its name is a denial, which templates cannot deny; give it a pair")
        names = names if labels else list(family.pairs)
        if not names:
            raise InputError.empty(
                "no classes: the manifest has no labels and the prompt family no pairs",
                file=manifest.path,
                expected="column labels",
                remedy="--classes a,b",
            )
        return names
    repeated = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if repeated or not wanted:
        raise InputError(
            f"classes named twice: {', '.join(repeated)}" if repeated else "no classes given",
            kind=FaultKind.DUPLICATE if repeated else FaultKind.EMPTY,
        )
    for name in wanted:
        if labels and name not in labels:
            by_case = {other.lower(): other for other in labels}
            like = by_case.get(name.lower()) or nearest(name, labels)
            raise InputError.unknown(
                f"no record has a label {name}",
                file=manifest.path,
                expected=", ".join(labels),
                remedy=f"did you mean {like}?" if like else None,
            )
    return list(wanted)


def unknown_labels(record: Record) -> tuple[str, ...]:
    """What is not known of a record: column `labels_unknown`, separated by |."""
    return tuple(label.strip() for label in record.extra.get(UNKNOWN, "").split("|") if label.strip())


def _labels(groups: Sequence[Sequence[Record]], classes: Sequence[str], labelled: bool) -> FloatArray:
    """(n, K) in {0, 1}, NaN = not known. Of several rows of an image a positive one counts before an unknown one.

    An image without a label cell is not annotated: NaN for every class.
    """
    labels = np.full((len(groups), len(classes)), math.nan)
    if not labelled:
        return labels
    num_differing = 0
    for i, group in enumerate(groups):
        if not any(has_labels(record) for record in group):
            continue
        positive = {label for record in group for label in record.labels}
        unknown = {label for record in group for label in unknown_labels(record)}
        num_differing += len({(frozenset(r.labels), frozenset(unknown_labels(r))) for r in group}) > 1
        for k, name in enumerate(classes):
            if name in positive or name not in unknown:
                labels[i, k] = float(name in positive)
    if num_differing:
        warn(f"{num_differing} images stand in rows of different labels: a label of any row counts")
    return labels


def _probs(
    reader: ZeroShot,
    groups: Sequence[Sequence[Record]],
    prompts: Mapping[str, PromptPair],
    temperature: Temperature,
    label: str,
) -> FloatArray:
    """(n, K)."""
    rows = []
    for group in track(groups, label, len(groups)):
        answers = reader.set_image(group[0].image).classify(prompts, temperature)
        rows.append([answers[name] for name in prompts])
    return np.array(rows, dtype=np.float64)


def _chosen(
    manifest: Manifest,
    reader: ZeroShot,
    prompts: Mapping[str, PromptPair],
    split: str,
    threshold_from: ThresholdFrom,
    temperature: Temperature,
    scored: tuple[FloatArray, FloatArray, list[str]],
    rules: Sequence[By],
    seed: int,
) -> dict[str, Any]:
    """Decisions at 0.5, or at thresholds that the scored cases had no part in."""
    probs, labels, patients = scored
    classes = list(prompts)
    if threshold_from == "fixed":
        return {"threshold 0.5": {"0.5": _decisions(probs, labels, patients, classes, [0.5] * len(classes), seed)}}
    rules_on_val = {}
    if split != "val":
        if not any(record.split == "val" for record in manifest.records):
            raise InputError.empty(
                "no val split to choose thresholds on", file=manifest.path, remedy="--threshold-from fixed: 0.5"
            )
        groups = by_image(manifest.split("val"))
        known = _labels(groups, classes, True)
        val_probs = _probs(reader, groups, prompts, temperature, "choose thresholds on val")
        for rule in rules:
            thresholds = [best_threshold(val_probs[:, k], known[:, k], rule) for k in range(len(classes))]
            rules_on_val[f"max {rule}"] = _decisions(probs, labels, patients, classes, thresholds, seed)
        return {f"threshold chosen on val ({len(groups)} images)": rules_on_val}
    first = patient_halves(patients, seed, remedy="--threshold-from fixed: 0.5")
    for rule in rules:
        pairs = [
            tuple(best_threshold(probs[half, k], labels[half, k], rule) for half in (~first, first))
            for k in range(len(classes))
        ]
        # Each case is decided by the other half's threshold: at 0.5, decisions of 0 and 1 are themselves.
        cut = np.array([np.where(first, a, b) for a, b in pairs]).T  # (n, K)
        usable = [0.5 if not any(map(math.isnan, pair)) else math.nan for pair in pairs]
        made = _decisions((probs >= cut).astype(np.float64), labels, patients, classes, usable, seed)
        for name, pair in zip(classes, pairs, strict=True):
            made["by_class"][name]["threshold"] = list(pair)
        rules_on_val[f"max {rule}"] = made
    return {"threshold chosen on the other half of the val patients": rules_on_val}


def _published(
    probs: FloatArray,
    labels: FloatArray,
    patients: Sequence[str],
    classes: Sequence[str],
    rules: Sequence[By],
    seed: int,
) -> dict[str, Any]:
    """The practice of the published tables: per class the threshold that is best on what is scored."""
    return {
        RULES[rule]: _decisions(
            probs,
            labels,
            patients,
            classes,
            [best_threshold(probs[:, k], labels[:, k], rule) for k in range(len(classes))],
            seed,
        )
        for rule in rules
    }


def _decisions(
    scores: FloatArray,
    labels: FloatArray,
    patients: Sequence[str],
    classes: Sequence[str],
    thresholds: Sequence[float],
    seed: int,
) -> dict[str, Any]:
    """by_class {threshold and metrics}, macro and undefined of the metrics that need a threshold."""
    metrics = multilabel_metrics(scores, labels, patients, classes, thresholds, seed=seed)
    return {
        "by_class": {
            name: {"threshold": row["threshold"], **{metric: row[metric] for metric in SHOWN}}
            for name, row in metrics["by_class"].items()
        },
        "macro": {metric: metrics["macro"][metric] for metric in SHOWN},
        "macro_with_interval": {m: value for m, value in metrics["macro_with_interval"].items() if m in SHOWN},
        "undefined": {metric: left for metric, left in metrics["undefined"].items() if metric in SHOWN},
    }


def _notes(prompts: Mapping[str, PromptPair], reader: ZeroShot, labelled: bool) -> list[str]:
    notes = []
    if not labelled:
        notes.append("the manifest has no labels: probabilities only, nothing is scored")
    texts = [text for pair in prompts.values() for text in (*pair.positive, *pair.negative)]
    unknown = reader.encoder.unknown_words(texts)
    if unknown:
        notes.append(f"words of the prompts that the model has never seen: {', '.join(sorted(unknown))}")
    cut = reader.encoder.tokenize(texts).num_truncated
    if cut:
        notes.append(f"{cut} prompts were cut to {reader.encoder.max_tokens} tokens")
    for name, pair in prompts.items():
        if np.allclose(reader.ensemble(pair.positive).cpu(), reader.ensemble(pair.negative).cpu(), atol=1e-6):
            notes.append(f"the prompts of {name} have the same vector: its probability is 0.5 whatever the image")
    for note in notes:
        warn(note)
    return notes


def _case_table(
    manifest: Manifest,
    groups: Sequence[Sequence[Record]],
    classes: Sequence[str],
    probs: FloatArray,
    labels: FloatArray,
) -> str:
    """cases.csv: a row per image, a probability and a label (empty = not known) per class."""
    columns = [column for name in classes for column in (f"prob_{name}", f"label_{name}")]
    rows = []
    for group, row, known in zip(groups, probs, labels, strict=True):
        record = group[0]
        head = [record.id, relative_image(record, manifest), record.patient, record.split or ""]
        pairs = zip(row, known, strict=True)
        cells = [cell for p, label in pairs for cell in (p, None if math.isnan(label) else int(label))]
        rows.append([*head, *cells])
    return csv_text(["id", "image", "patient", "split", *columns], rows)
