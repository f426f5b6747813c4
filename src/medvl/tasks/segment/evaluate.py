"""Evaluation: predictions against a manifest, one row per case (one class of one record), on the native grid.

record = evaluate(FolderSource(Path("masks")), manifest, split="val", out=Path("results"))
record.metrics["dice_per_image"]        # {"mean": ..., "lo": ..., "hi": ..., "num": ...}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.core.progress import track
from medvl.data.hashes import count_seen, image_hashes
from medvl.data.images import SliceChoice
from medvl.data.record import Manifest, Record
from medvl.evaluation.case_metrics import MAX_PHRASES, MGCA_BATCH, POOLED_NOTE, CaseRow, case_table, grouped, metrics_of
from medvl.evaluation.cases import (
    RECORDS_AT_ONCE,
    BoolArray,
    check_columns,
    check_slices,
    column_of,
    image_chunks,
    load_truth,
    relative_image,
    size_text,
)
from medvl.evaluation.prediction_sources import (
    MaskSource,
    PredictorSource,
    ProbSource,
    predicted_masks,
    takes_threshold,
)
from medvl.evaluation.record import CASES, EvaluationRecord
from medvl.evaluation.seen_images import say_seen
from medvl.evaluation.tables import interval_text, text_table
from medvl.evaluation.volumes import native_shape
from medvl.metrics.segmentation import (
    LESION_MIN_IOU,
    EmptyMask,
    SurfaceDistances,
    count_lesions,
    count_pixels,
    dice,
    iou,
    surface_distances,
)
from medvl.metrics.statistics import NUM_DRAWS
from medvl.models.masks import exclusive_threshold

THRESHOLDS = np.round(np.arange(0.05, 0.951, 0.05), 2)
MGCA_NOTE = (
    "dice_mgca is the Dice of MGCA's program (an empty truth scores 1 or 0; mean of batches of {} cases, then over "
    "batches), dice_positives the mean over cases whose truth has pixels; both on the native grid"
)


def evaluate(
    source: MaskSource,
    manifest: Manifest,
    *,
    split: str = "val",
    threshold: float = 0.5,
    threshold_source: str = "fixed",
    empty_mask: EmptyMask = "one",
    seed: int = 0,
    out: Path | None = None,
    surface: bool = True,
    group_by: Sequence[str] = (),
    text_of: Callable[[Record], str] | None = None,
    text_name: str = "the record's text",
    slice_index: SliceChoice = None,
    num_draws: int = NUM_DRAWS,
    mgca_batch: int = MGCA_BATCH,
) -> EvaluationRecord:
    """Score a source on one split; with `out` write cases.csv and summary.json there (atomically).

    Args:
        threshold: for sources that give probabilities; a folder of masks has its own, and of exclusive classes the most
            probable is taken (None in the summary).
        threshold_source: how the threshold came about: "fixed", or "val" when `choose_threshold` chose it on val.
        empty_mask: Dice and IoU of a case whose two masks are empty: 1, 0, or not counted.
        seed: of the bootstrap by patient.
        surface: whether to compute HD95 and ASSD (most of the time on large masks).
        group_by: further manifest columns to tabulate by.
        slice_index: of volumes: the slice that is scored, or "all", where a source of `volumes_of` gives all slices and
            a case is a volume.
        mgca_batch: cases of a batch of `dice_mgca` (see `summary.metrics_of`).
        text_of: the text of a record, if not its own; `text_name` says so in the summary.

    A mask that is not annotated is not scored, and counted; one that is absent (`none`) is an empty mask.
    """
    records = manifest.split(split)
    check_columns(records, group_by)
    source.check(records, manifest.classes)
    used_threshold = threshold if takes_threshold(source) else None
    if used_threshold is None:
        threshold_source = "the most probable class" if isinstance(source, ProbSource) else "masks as given"
        if isinstance(source, ProbSource) and threshold != 0.5:
            raise exclusive_threshold(threshold)
    ask = text_of or (lambda record: record.text)
    rows: list[CaseRow] = []
    groups: list[Record] = []
    volumes = slice_index == "all"
    num_skipped = sum(record.masks.get(name) is None for record in records for name in manifest.classes)
    with_mask = [record for record in records if any(ref is not None for ref in record.masks.values())]
    if not with_mask:
        raise InputError.empty(
            f"no record of the {split} split is annotated", file=manifest.path, expected="masks to score"
        )
    check_slices(with_mask, slice_index)
    for record, predicted in track(
        _predictions(source, with_mask, ask, used_threshold, 1 if volumes else RECORDS_AT_ONCE),
        f"evaluate {split}",
        len(with_mask),
    ):
        size = native_shape(record.image, volumes=volumes)
        spacing_mm = source.spacing_mm(record) if surface else None
        for name in manifest.classes:
            reference = record.masks.get(name)
            if reference is None:
                continue
            if name not in predicted:
                raise InputError.missing(f"no prediction of class {name}", record=record.id, line=record.line)
            true_mask, void = load_truth(reference, size, record, slice_index)
            if predicted[name].shape != size:
                raise InputError.mismatch(
                    f"the predicted mask is {size_text(predicted[name].shape)} pixels",
                    record=record.id,
                    expected=f"{size_text(size)}, as the image {record.image}",
                )
            pred_mask = predicted[name] & ~void
            rows.append(
                _score(
                    record,
                    name,
                    pred_mask,
                    true_mask,
                    spacing_mm,
                    empty_mask,
                    surface,
                    image=relative_image(record, manifest),
                    split=split,
                    text=ask(record),
                )
            )
            groups.append(record)
    notes = [POOLED_NOTE, MGCA_NOTE.format(mgca_batch)]
    stages = source.stages if isinstance(source, PredictorSource) and text_of is None else None
    overlap = None if stages is None else count_seen(stages, image_hashes(with_mask).values())
    seen_notes = say_seen(overlap, split)
    num_patients = len({row.patient for row in rows})
    if num_patients < 2:
        notes.append("a single patient: there are no intervals")
    num_texts = len({row.text for row in rows})
    by_phrase: dict[str, Any] = {}
    if num_texts <= MAX_PHRASES:
        by_phrase = grouped(rows, [row.text for row in rows], seed=seed, mgca_batch=mgca_batch)
    else:
        notes.append(
            f"{num_texts} distinct texts are not tabulated one by one (limit {MAX_PHRASES}); group by a column"
        )
    for note in notes[2:]:
        warn(note)
    notes += seen_notes
    if used_threshold not in (None, 0.5):
        notes.append(f"dice_mgca is at the threshold {used_threshold}, MGCA's at 0.5")
    undefined = [reason for row in rows if (reason := row.surface_undefined)] if surface else []
    described = source.describe()
    result = EvaluationRecord.of(
        "segment",
        model=described.pop("model"),
        model_hash=described.pop("model_hash", None),
        config=described.pop("config"),
        seed=described.pop("seed"),
        overrides=described.pop("overrides", ()),
        manifest=manifest,
        split=split,
        bootstrap_seed=seed,
        num_draws=num_draws,
        overlap=overlap,
        threshold=used_threshold,
        threshold_source=threshold_source,
        grid="native",
        empty_mask=empty_mask,
        counts={
            "num_cases": len(rows),
            "num_patients": num_patients,
            "num_images": len({row.image for row in rows}),
            "num_not_annotated": num_skipped,
            "num_both_empty": sum(row.true_px == row.pred_px == 0 for row in rows),
        },
        metrics=metrics_of(rows, seed=seed, num_draws=num_draws, mgca_batch=mgca_batch),
        by_class=grouped(rows, [row.class_name for row in rows], seed=seed, mgca_batch=mgca_batch),
        by_phrase=by_phrase,
        extras={
            **described,
            "mgca_batch": mgca_batch,
            "text": text_name,
            "contains_text": any(row.text for row in rows),
            "surface_undefined": {reason: undefined.count(reason) for reason in sorted(set(undefined))},
            "slice": slice_index,
            "lesion_match": f"{'26' if volumes else '8'}-connected components, one to one, IoU >= {LESION_MIN_IOU}",
            "by_group": {
                column: grouped(rows, [column_of(row, column) for row in groups], seed=seed, mgca_batch=mgca_batch)
                for column in group_by
            },
        },
        notes=notes,
        cases=tuple(rows),
    )
    if out is not None:
        result.write(out, {CASES: case_table(rows)})
    return result


def choose_threshold(
    source: MaskSource,
    records: Sequence[Record],
    classes: Sequence[str],
    *,
    empty_mask: EmptyMask = "one",
    slice_index: SliceChoice = None,
) -> tuple[float, float]:
    """The threshold of 0.05, 0.10 ... 0.95 with the best mean per-image Dice on `records` (of val), and that Dice.

    Of equal ones the one nearest to 0.5 is taken.
    """
    if not isinstance(source, ProbSource):
        raise InputError.conflict(
            "a folder of masks has no probabilities to choose a threshold on", remedy="leave it out"
        )
    if not takes_threshold(source):
        raise exclusive_threshold("val")
    source.check(records, classes)
    total, num = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    levels = THRESHOLDS.astype(np.float32)
    volumes = slice_index == "all"
    with_mask = [record for record in records if any(ref is not None for ref in record.masks.values())]
    check_slices(with_mask, slice_index)
    chunks = list(image_chunks(with_mask, 1 if volumes else RECORDS_AT_ONCE))
    for chunk in track(chunks, "choose threshold", len(chunks)):
        for record, probs in zip(chunk, source.probs(chunk, [record.text for record in chunk]), strict=True):
            for name in classes:
                reference = record.masks.get(name)
                if reference is None:
                    continue
                size = native_shape(record.image, volumes=volumes)
                true_mask, void = load_truth(reference, size, record, slice_index)
                # The number of thresholds below a probability; a pixel is predicted at all of those.
                level = np.searchsorted(levels, np.where(void, 0, probs[name]).ravel(), side="left")
                pred = _count_above(level)
                both = _count_above(level[true_mask.ravel()])
                sums = pred + int(true_mask.sum())
                if_empty = 1.0 if empty_mask == "one" else 0.0
                total += np.where(sums > 0, 2 * both / np.maximum(sums, 1), if_empty)
                num += (sums > 0) | (empty_mask != "skip")
    if not num.any():
        raise InputError.empty("no annotated record to choose a threshold on")
    mean = total / np.maximum(num, 1)
    best = np.flatnonzero(mean >= mean.max() - 1e-12)
    pick = best[np.argmin(np.abs(THRESHOLDS[best] - 0.5))]
    return float(THRESHOLDS[pick]), float(mean[pick])


def as_text(summary: Mapping[str, Any], out: Path) -> str:
    """Metrics with their intervals, the groups that were asked for, the probe if there is one, and where it stands."""
    threshold, source = summary["threshold"], summary["threshold_source"]
    lines = [
        f"{summary['model']} on {summary['split']} of {summary['manifest']}: {summary['num_cases']} cases, "
        f"{summary['num_patients']} patients, "
        + (source if threshold is None else f"threshold {threshold} ({source})")
        + ", native grid",
        "",
        *_metric_table("metric", {name: metric for name, metric in summary["metrics"].items() if metric["num"]}),
    ]
    for column, groups in summary["by_group"].items():
        dice_of = {key: group["metrics"]["dice_per_image"] for key, group in groups.items()}
        lines += ["", f"  Dice per image by {column}", *_metric_table(column, dice_of)]
    if "probe" in summary:
        probe = summary["probe"]
        shown = {name: condition["dice"] for name, condition in probe["conditions"].items() if condition["num"]}
        if probe["side_swap"]["num"]:
            shown["changes side"] = probe["side_swap"]["share_changing_side"]
        lines += ["", "  Dice per image against the true mask, by the text given", *_metric_table("text", shown)]
        lines += [f"  {note}" for note in probe["notes"]]
    lines += ["", *[f"  note: {note}" for note in summary["notes"]]]
    if summary["num_not_annotated"]:
        lines.append(f"  not annotated, hence not scored: {summary['num_not_annotated']}")
    lines.append(f"  written: {out / 'cases.csv'}, {out / 'summary.json'}")
    return "\n".join(lines)


def _metric_table(title: str, metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [[name, interval_text(metric, 4), metric["num"]] for name, metric in metrics.items()]
    return text_table([title, "mean [95 % interval]", "n"], rows)


def _predictions(
    source: MaskSource,
    records: Sequence[Record],
    ask: Callable[[Record], str],
    threshold: float | None,
    at_once: int,
) -> Iterator[tuple[Record, dict[str, BoolArray]]]:
    for chunk in image_chunks(records, at_once):
        yield from zip(chunk, predicted_masks(source, chunk, [ask(record) for record in chunk], threshold), strict=True)


def _count_above(level: NDArray[np.int_]) -> NDArray[np.int_]:
    """How many of `level` lie above each threshold's index: (n,) -> (len(THRESHOLDS),)."""
    counts = np.bincount(level, minlength=len(THRESHOLDS) + 1)
    return counts[::-1].cumsum()[::-1][1:]


def _score(
    record: Record,
    name: str,
    pred_mask: BoolArray,
    true_mask: BoolArray,
    spacing_mm: tuple[float, ...] | None,
    empty_mask: EmptyMask,
    surface: bool,
    *,
    image: str,
    split: str,
    text: str,
) -> CaseRow:
    counts = count_pixels(pred_mask, true_mask)
    lesions = count_lesions(pred_mask, true_mask)
    distances = surface_distances(pred_mask, true_mask, spacing_mm) if surface else SurfaceDistances()
    return CaseRow(
        id=record.id,
        image=image,
        patient=record.patient,
        split=split,
        class_name=name,
        text=text,
        dice=dice(counts, empty_mask),
        iou=iou(counts, empty_mask),
        hd95_px=distances.hd95_px,
        hd95_mm=distances.hd95_mm,
        assd_px=distances.assd_px,
        assd_mm=distances.assd_mm,
        true_px=counts.true_px,
        pred_px=counts.pred_px,
        true_lesions=lesions.true_lesions,
        pred_lesions=lesions.pred_lesions,
        matched_lesions=lesions.matched_lesions,
        tp_px=counts.tp_px,
    )
