"""Zero-shot grounding: similarity maps of phrases against masks, on the native grid of each image.

Only records whose mask has pixels are scored (positives; reference: G2D, A.4.2). Of a map M and a mask G:

- dice, iou, recall of M > threshold; recall is pixel recall, |M > threshold and G| / |G| (no code defines it);
- pointing: is the highest place inside G? CNR: |mu_in - mu_out| / sqrt(var_in + var_out) (MS-CXR), and `cnr_signed`
  without the bars, which is negative where the map is lower inside.

Controls: `shuffled phrase` asks the same image with another phrase of the set; `chance` is what as many pixels as the
phrase got would score if they were drawn at random; `everything` is the whole image as the mask.

Shapes: H W native pixels, T thresholds (`medvl.metrics.grounding`).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvl.config import config_dict
from medvl.core.errors import InputError, warn
from medvl.core.progress import track
from medvl.data.record import Manifest, Record
from medvl.evaluation.cases import by_image, load_true_mask, relative_image
from medvl.evaluation.record import CASES, EvaluationRecord, log_test
from medvl.evaluation.seen_images import say_seen, seen_images
from medvl.evaluation.tables import csv_text, interval_text, text_table
from medvl.inference.model_folder import weights_hash
from medvl.metrics.classification import published_practice
from medvl.metrics.grounding import LEVELS, Asked, BoolArray, FloatArray, measure
from medvl.metrics.statistics import mean_interval, paired_difference
from medvl.tasks.pretrain.zero_shot import SIGMA, How, ZeroShot

METRICS = ("dice", "iou", "recall", "pointing", "cnr", "cnr_signed")
RECALL = "recall: the share of the true mask's pixels that are above the threshold, mean over positive cases"
PHRASE, SHUFFLED, CHANCE, EVERYTHING = "phrase", "shuffled phrase", "chance", "everything"
COLUMNS = ("id", "image", "patient", "split", "method", "text", "threshold", *METRICS, "true_px", "pred_px")


@dataclass(frozen=True, slots=True)
class GroundingCase:
    """One record: its phrase, and another one as control (None where the set has no other)."""

    record: Record
    phrase: str
    measured: Asked
    other_phrase: str | None
    control: Asked | None


def grounding(
    model: str,
    manifest: Manifest,
    *,
    target: str,
    split: str = "val",
    phrase: str | None = None,
    threshold: float | None = None,
    sigma: float = SIGMA,
    how: How = "value",
    out: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    slice_index: int | None = None,
) -> EvaluationRecord:
    """Ground the phrases of a split and score them; writes cases.csv and summary.json into `out`.

    Args:
        model: RUN or MODEL folder of `task: pretrain`.
        manifest: read so that `target` is among its classes; its texts are the phrases.
        phrase: used for every record instead of its own text.
        threshold: None chooses it by Dice per case: on the val split, and where val itself is scored each half of its
            patients gets the one that is best on the other half.
        sigma, how: see `ZeroShot.ground`.
        seed: of the shuffled phrases, the halves and the bootstrap by patient.
        slice_index: of volumes; None = that of the model's training.

    A threshold is withheld where the phrase is not better than chance at it (`_withheld`): whoever used it would mark
    the whole image.

    Records where `target` is not annotated, is empty, or that have no phrase are left out and counted.

    Raises:
        InputError: not a pre-trained model, no such class, nothing to score or to choose a threshold on.
    """
    if target not in manifest.classes:
        raise InputError.unknown(f"no class {target}", file=manifest.path, expected=", ".join(manifest.classes))
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise InputError.out_of_range(f"threshold {threshold}", expected="a cosine from -1 to 1")
    reader = ZeroShot.load(model, device)
    if slice_index is not None:
        reader.config = replace(reader.config, data=replace(reader.config.data, slice_index=slice_index))
    levels = LEVELS if threshold is None else np.array([threshold], dtype=np.float32)
    ask = _Asker(reader, target, phrase, sigma, how, seed, levels)
    cases, left_out = ask.cases(manifest.split(split), f"ground {split}")
    if not cases:
        counts = ", ".join(f"{num} {name.removeprefix('num_').replace('_', ' ')}" for name, num in left_out.items())
        raise InputError.empty(
            f"no record of split {split} has a mask of {target} and a phrase ({counts})",
            file=manifest.path,
            expected="at least one",
        )
    at, source, used = [0] * len(cases), "fixed", threshold
    if threshold is None and split == "val":
        first = patient_halves([case.record.patient for case in cases], seed)
        halves = [[c for c, is_first in zip(cases, first, strict=True) if is_first == side] for side in (True, False)]
        best = [best_level(half) for half in halves]
        at = [best[1] if is_first else best[0] for is_first in first]
        source = f"val: each half of its patients at the best of the other, {_level(best[1])} and {_level(best[0])}"
    elif threshold is None:
        chosen_on, _ = ask.cases(manifest.split("val"), "choose threshold on val", controls=False)
        if not chosen_on:
            raise InputError.empty(
                f"no record of split val has a mask of {target} and a phrase to choose the threshold on",
                file=manifest.path,
                remedy="--threshold X",
            )
        at = [best_level(chosen_on)] * len(cases)
        used, source = _level(at[0]), f"val: best Dice per case on {len(chosen_on)} cases"
    rows = [row for case, level in zip(cases, at, strict=True) for row in _rows(case, level, levels, manifest)]
    withheld = None if threshold is not None else _withheld(cases, at, seed)
    if withheld is not None:
        used, source = None, f"withheld: {withheld}"
    methods = list(dict.fromkeys(row["method"] for row in rows))
    notes = [RECALL]
    if SHUFFLED not in methods:
        notes.append("all cases have the same phrase: there is no control with shuffled phrases")
    if how == "value" and reader.module.network.attention_pool is None:
        notes.append("the model has average pooling, hence no path of values: how is projector")
    unknown = reader.encoder.unknown_words(sorted({case.phrase for case in cases}))
    if unknown:
        notes.append(f"words of the phrases that the model has never seen: {', '.join(sorted(unknown)[:20])}")
    cut = reader.encoder.tokenize(sorted({case.phrase for case in cases})).num_truncated
    if cut:
        notes.append(f"{cut} distinct phrases were cut to {reader.encoder.max_tokens} tokens")
    for note in notes[1:]:
        warn(note)
    overlap = seen_images(model, [case.record for case in cases])
    notes += say_seen(overlap, split)
    by_method = {name: _intervals([row for row in rows if row["method"] == name], seed) for name in methods}
    record = EvaluationRecord.of(
        "ground",
        model=model,
        model_hash=weights_hash(model),
        config=config_dict(reader.config),
        manifest=manifest,
        split=split,
        seed=seed,
        bootstrap_seed=seed,
        overlap=overlap,
        threshold=used,
        threshold_source=source,
        grid="native",
        counts={
            "num_cases": len(cases),
            "num_patients": len({case.record.patient for case in cases}),
            **left_out,
        },
        metrics=by_method[PHRASE],
        extras={
            "target": target,
            "phrase": phrase if phrase is not None else "the record's text",
            "contains_text": True,
            "laterality": reader.config.data.laterality,
            "sigma_cells": sigma,
            "how": how,
            "threshold_withheld": withheld,
            "published_practice": None if threshold is not None else _published(cases, split, seed),
            "methods": by_method,
            "differences": _differences(rows, methods, seed),
        },
        notes=notes,
    )
    if out is not None:
        record.write(out, {CASES: csv_text(COLUMNS, ([row[name] for name in COLUMNS] for row in rows))})
    if split == "test":
        log_test(model, record)
    return record


def as_text(summary: Mapping[str, Any], out: Path | None = None) -> str:
    """The summary for a terminal."""
    threshold = "" if summary["threshold"] is None else f" {summary['threshold']:g}"
    rows = [
        [name, *(interval_text(metrics[metric], missing="") for metric in METRICS)]
        for name, metrics in summary["methods"].items()
    ]
    lines = [
        f"{summary['target']} of {summary['num_cases']} cases, {summary['num_patients']} patients, split "
        f"{summary['split']}, native grid; {summary['num_not_annotated']} records without that mask, "
        f"{summary['num_empty']} with an empty one and {summary['num_without_phrase']} without a phrase are left out",
        f"threshold{threshold} ({summary['threshold_source']})",
        *text_table(["", *(f"{name} [95 %]" for name in METRICS)], rows, indent=""),
    ]
    practice = summary["published_practice"]
    if practice is not None:
        cells = ", ".join(f"{name} {interval_text(practice['metrics'][name])}" for name in ("dice", "iou", "recall"))
        level = "withheld" if practice["threshold"] is None else f"{practice['threshold']:g}"
        lines.append(f"{practice['what']} ({level}, optimistic): {cells}")
        if practice["threshold"] is None:
            lines.append(f"no threshold is given for images: {practice['threshold_withheld']}")
    lines += [f"note: {note}" for note in summary["notes"]]
    if out is not None:
        lines.append(f"written: {out / 'cases.csv'}, {out / 'summary.json'}")
    return "\n".join(lines)


def best_level(cases: Sequence[GroundingCase]) -> int:
    """Index of the level with the highest mean Dice; of equally good ones the middle one."""
    mean = np.mean([case.measured.overlap(slice(None))[0] for case in cases], axis=0)  # (T,)
    best = np.flatnonzero(mean >= mean.max() - 1e-12)
    return int(best[len(best) // 2])


def _published(cases: Sequence[GroundingCase], split: str, seed: int) -> dict[str, Any]:
    """Dice, IoU and recall at the threshold that is best on the scored cases themselves."""
    at = best_level(cases)
    withheld = _withheld(cases, [at] * len(cases), seed)
    values = np.array([[float(value) for value in case.measured.overlap(at)] for case in cases])  # (n, 3)
    patients = [case.record.patient for case in cases]
    return {
        "what": published_practice(split),
        "threshold": _level(at) if withheld is None else None,
        "threshold_withheld": withheld,
        "metrics": {
            name: mean_interval(column, patients, seed=seed).to_dict()
            for name, column in zip(("dice", "iou", "recall"), values.T, strict=True)
        },
    }


def _withheld(cases: Sequence[GroundingCase], at: Sequence[int], seed: int) -> str | None:
    """Why the threshold of each case is of no use: the phrase is not better than chance, or None where it is.

    Dice is compared, paired by patient, with that of as many pixels drawn at random and with that of the whole image:
    a threshold that marks everything often has the best Dice of all.
    """
    patients = [case.record.patient for case in cases]
    dice = np.array([float(case.measured.overlap(level)[0]) for case, level in zip(cases, at, strict=True)])
    true = np.array([case.measured.true_px for case in cases], dtype=np.float64)
    whole = np.array([case.measured.num_px for case in cases], dtype=np.float64)
    pred = np.array([case.measured.pred_px[level] for case, level in zip(cases, at, strict=True)], dtype=np.float64)
    for name, control in (
        ("the whole image as the mask", 2 * true / (whole + true)),
        ("as many pixels at random", 2 * pred * true / whole / (pred + true)),
    ):
        difference = paired_difference(dice, control, patients, seed=seed)
        low = difference.mean if math.isnan(difference.lo) else difference.lo
        if not low > 0:
            return (
                f"the phrase is not better than {name} (Dice {dice.mean():.3f} against {control.mean():.3f}, the "
                f"interval of the difference begins at {low:.3f}; it marks {(pred / whole).mean():.0%} of the image)"
            )
    return None


def patient_halves(patients: Sequence[str], seed: int, remedy: str = "--threshold X") -> BoolArray:
    """(n,) bool: whether a case is of the first half of the patients, a seeded choice.

    Raises:
        InputError: fewer than two patients.
    """
    names = sorted(set(patients))
    if len(names) < 2:
        raise InputError.empty(
            "a threshold cannot be chosen on the only patient that is scored",
            expected="at least two patients",
            remedy=remedy,
        )
    order = np.random.default_rng(seed).permutation(len(names))
    first = {names[i] for i in order[: (len(names) + 1) // 2]}
    return np.array([patient in first for patient in patients])


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks a model about records, image by image."""

    reader: ZeroShot
    target: str
    phrase: str | None
    sigma: float
    how: How
    seed: int
    levels: FloatArray

    def cases(
        self, records: Sequence[Record], label: str, *, controls: bool = True
    ) -> tuple[list[GroundingCase], dict[str, int]]:
        """The cases, and how many records were left out for which reason."""
        num = {"num_not_annotated": 0, "num_empty": 0, "num_without_phrase": 0}
        rows: list[Record] = []
        for record in records:
            reference = record.masks.get(self.target)
            if reference is None:
                num["num_not_annotated"] += 1
            elif reference.path is None:
                num["num_empty"] += 1
            elif not self._phrase(record).strip():
                num["num_without_phrase"] += 1
            else:
                rows.append(record)
        others = other_phrases([self._phrase(record) for record in rows], self.seed) if controls else [None] * len(rows)
        other_of = dict(zip((record.id for record in rows), others, strict=True))
        slice_index = self.reader.config.data.slice_index
        cases: list[GroundingCase] = []
        groups = by_image(rows)
        for group in track(groups, label, len(groups)):
            image = self.reader.set_image(group[0].image).image
            size = (image.pixels.shape[0], image.pixels.shape[1])
            for record in group:
                reference = record.masks[self.target]
                assert reference is not None
                mask = load_true_mask(reference, size, record, slice_index)
                if not mask.any():
                    num["num_empty"] += 1
                    continue
                phrase, other = self._phrase(record), other_of[record.id]
                measured = self._ask(phrase, mask)
                control = None if other is None else self._ask(other, mask)
                cases.append(GroundingCase(record, phrase, measured, other, control))
        return cases, num

    def _phrase(self, record: Record) -> str:
        return record.text if self.phrase is None else self.phrase

    def _ask(self, phrase: str, mask: BoolArray) -> Asked:
        return measure(self.reader.similarity(phrase, self.sigma, self.how), mask, self.levels)


def other_phrases(phrases: Sequence[str], seed: int) -> list[str | None]:
    """For each phrase a different one, drawn from the set as often as it occurs there; None where there is no other."""
    rng = np.random.default_rng(seed)
    order = sorted(phrases)
    others: list[str | None] = []
    for phrase in phrases:
        start, end = bisect_left(order, phrase), bisect_right(order, phrase)  # its own block is stepped over
        num = len(order) - (end - start)
        place = int(rng.integers(num)) if num else -1
        others.append(order[place if place < start else place + end - start] if num else None)
    return others


def _level(index: int) -> float:
    return round(float(LEVELS[index]), 3)


def _rows(case: GroundingCase, at: int, levels: FloatArray, manifest: Manifest) -> list[dict[str, Any]]:
    """The lines of cases.csv of one record, one per method."""
    record, measured = case.record, case.measured
    head = {"id": record.id, "image": relative_image(record, manifest), "patient": record.patient}
    head |= {"split": record.split or ""}
    threshold = round(float(levels[at]), 6)
    rows: list[dict[str, Any]] = []
    for method, phrase, answer in ((PHRASE, case.phrase, measured), (SHUFFLED, case.other_phrase, case.control)):
        if answer is None:
            continue
        dice, iou, recall = (float(value) for value in answer.overlap(at))
        rows.append(
            {**head, "method": method, "text": phrase, "threshold": threshold, "dice": dice, "iou": iou}
            | {"recall": recall, "pointing": answer.pointing, "cnr": abs(answer.cnr), "cnr_signed": answer.cnr}
            | {"true_px": answer.true_px, "pred_px": int(answer.pred_px[at])}
        )
    share = measured.true_px / measured.num_px
    for method, pred_px in ((CHANCE, int(measured.pred_px[at])), (EVERYTHING, measured.num_px)):
        both = pred_px * share  # expected
        total = pred_px + measured.true_px
        row = {**head, "method": method, "text": "", "threshold": threshold, "dice": 2 * both / total}
        row |= {"iou": both / (total - both), "recall": both / measured.true_px}
        row |= {"true_px": measured.true_px, "pred_px": pred_px}
        row |= {"pointing": share, "cnr": math.nan, "cnr_signed": 0.0 if method == CHANCE else math.nan}
        rows.append(row)
    return rows


def _intervals(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    patients = [row["patient"] for row in rows]
    return {name: mean_interval([row[name] for row in rows], patients, seed=seed).to_dict() for name in METRICS}


def _differences(rows: Sequence[dict[str, Any]], methods: Sequence[str], seed: int) -> dict[str, Any]:
    """Paired differences of the phrase's own map to each control, by patient."""
    by_method = {name: [row for row in rows if row["method"] == name] for name in methods}
    phrase_rows = by_method[PHRASE]
    patients = [row["patient"] for row in phrase_rows]
    return {
        f"{PHRASE} - {name}": {
            metric: paired_difference(
                [row[metric] for row in phrase_rows], [row[metric] for row in by_method[name]], patients, seed=seed
            ).to_dict()
            for metric in METRICS
        }
        for name in methods
        if name != PHRASE
    }
