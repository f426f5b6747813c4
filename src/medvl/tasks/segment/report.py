"""One self-contained HTML page of an evaluation: no script, no link, nothing fetched.

`page_context` takes what is measured (record, text sensitivity) and a source for the pictures; `page` makes both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvl.core.errors import InputError
from medvl.data.image import Turn
from medvl.data.images import read_image
from medvl.data.record import Manifest, Record
from medvl.evaluation.case_metrics import CaseRow, worst_median_best
from medvl.evaluation.cases import load_true_mask
from medvl.evaluation.model_inputs import Inputs, open_inputs
from medvl.evaluation.prediction_sources import MaskSource, PredictorSource, predicted_masks
from medvl.evaluation.record import EvaluationRecord, log_folder, results_folder
from medvl.evaluation.report.figures import contour_path, curves_svg, histogram_svg, image_data_uri, read_curves
from medvl.evaluation.report.page import PageRequest, closing
from medvl.evaluation.text_sensitivity import CONDITIONS, OTHER_CONTEXT, SensitivityRow
from medvl.inference.model_folder import times_test_opened
from medvl.tasks.segment.kinds import group_columns, stored_evaluation, stored_sensitivity

CASES_EACH = 3  # best, median, worst
SENSITIVITY_CASES = 3
_MEDIAN_NOTE = "The cases below are those nearest to the median Dice, each of another patient."
COLLAPSE_OVER = 14  # rows of a table

CONDITION_NAMES = {
    "true": "its own text",
    "empty": "empty",
    "shuffled": "another patient's",
    "side_swapped": "left and right swapped",
    "negated": "negated",
    OTHER_CONTEXT: "its own, another patient's clinical variables",
}


class Pictures:
    """Panels of images with true and predicted contours. An image is embedded once and reused by reference."""

    def __init__(
        self,
        source: MaskSource,
        manifest: Manifest,
        threshold: float | None,
        window: tuple[float, float] | None = None,
        slice_index: int | None = None,
    ) -> None:
        self.source, self.threshold, self.window, self.slice_index = source, threshold, window, slice_index
        self.records: Mapping[str, Record] = {record.id: record for record in manifest.records}
        self._embedded: dict[Path, tuple[str, float, tuple[int, int], Turn]] = {}

    def panels(self, record_id: str, class_name: str, texts: Sequence[str]) -> list[dict[str, Any]]:
        """One panel per text of the record."""
        record = self.records[record_id]
        answers = predicted_masks(self.source, [record] * len(texts), texts, self.threshold)
        return [self._panel(record, class_name, answer[class_name]) for answer in answers]

    def _panel(self, record: Record, class_name: str, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
        first = record.image not in self._embedded
        uri = ""
        if first:
            image = read_image(record.image, window=self.window, slice_index=self.slice_index)
            uri, scale = image_data_uri(image.displayed().pixels)
            self._embedded[record.image] = (f"image-{len(self._embedded)}", scale, image.size, image.orientation.turn)
        image_id, scale, size, turn = self._embedded[record.image]
        reference = record.masks[class_name]
        assert reference is not None  # only scored cases are shown
        height, width = turn.size(size)
        true_mask = load_true_mask(reference, size, record, self.slice_index)
        return {
            "image": uri,
            "image_id": image_id,
            "width": max(1, round(width * scale)),
            "height": max(1, round(height * scale)),
            "true_path": contour_path(turn.apply(true_mask), scale),
            "pred_path": contour_path(turn.apply(mask), scale),
            "label": f"case {record.id} with contours of the true and the predicted mask",
        }


def page(request: PageRequest) -> tuple[Path, dict[str, Any]]:
    """Write the page of a segmenter and return its path and the summary that it shows.

    Evaluation and text sensitivity are kept in RUN/report/SPLIT/ and used again while weights, manifest and options are
    the same. Test is opened, and logged, only when the split is "test".
    """
    inputs = open_inputs(request.target, request.overrides, device=request.device)
    if inputs.model_folder is None or not isinstance(inputs.source, PredictorSource):
        raise InputError.unsupported(
            "not a model", file=request.target, expected="a run or model folder; masks are for medvl evaluate"
        )
    manifest = inputs.manifest(request.manifest)
    records = manifest.split(request.split)
    columns = tuple(request.group_by) or group_columns(records)
    folder = results_folder(request.target, request.split)
    threshold = request.threshold
    record = stored_evaluation(inputs, manifest, request.split, folder, threshold=threshold, columns=columns)
    sensitivity = None
    missing = "This model takes no text."
    if inputs.source.uses_text:
        missing = "" if any(record.text.strip() for record in records) else "No record of this split has a text."
        if not missing:
            sensitivity = stored_sensitivity(
                inputs, manifest, request.split, folder, threshold=threshold, max_rows=request.probe_rows
            )
    context = page_context(
        record,
        pictures=Pictures(
            inputs.source, manifest, threshold, window=inputs.data.window, slice_index=inputs.data.slice_index
        ),
        sensitivity=sensitivity,
        sensitivity_missing=missing,
        metrics_file=log_folder(request.target) / "metrics.jsonl",
        title=str(inputs.source.predictor.card.get("name") or "medvl model"),
        facts=_model_facts(inputs, records),
        include_text=request.include_text,
    )
    return request.write(folder, "report.html.j2", context), record.summary


def page_context(
    record: EvaluationRecord,
    *,
    pictures: Pictures | None,
    sensitivity: EvaluationRecord | None = None,
    sensitivity_missing: str = "",
    metrics_file: Path | None = None,
    title: str = "Evaluation",
    facts: Sequence[tuple[str, Any]] = (),
    include_text: bool = True,
) -> dict[str, Any]:
    """What the template shows of a record and its cases.

    Args:
        pictures: None leaves all images out.
        sensitivity: the record of the text sensitivity, with its cases.
        metrics_file: metrics.jsonl of the run, for the curves.
        facts: further (name, value) pairs for the head of the page.
        include_text: False leaves every text of the manifest out.
    """
    summary, cases, metrics = record.summary, record.cases, record.metrics
    contains_text = include_text and bool(summary.get("contains_text"))
    several = len(record.by_class) > 1
    shown = _case_panels(cases, pictures, contains_text, several) if pictures else []
    return {
        "title": title,
        "split": record.split,
        "lead": _lead(summary),
        "facts": [*_facts(summary), *facts],
        "contains_text": contains_text,
        "has_images": pictures is not None,
        "headline": [
            ("Dice per image", metrics["dice_per_image"], f"mean over {metrics['dice_per_image']['num']} cases"),
            ("Dice pooled", metrics["dice_pooled"], "over all pixels of the set"),
        ],
        "histogram": histogram_svg([row.dice for row in cases]),
        "overlap": [
            ("Dice", metrics["dice_per_image"], metrics["dice_pooled"]),
            ("IoU", metrics["iou_per_image"], metrics["iou_pooled"]),
        ],
        "other": _other_metrics(summary),
        "undefined": _undefined(summary),
        "groups": _groups(summary, contains_text),
        "sensitivity": _sensitivity(sensitivity, pictures, include_text, several) if sensitivity else None,
        "sensitivity_missing": sensitivity_missing,
        "cases": shown,
        "curves": curves_svg(read_curves(metrics_file)) if metrics_file else "",
        **closing(record),
    }


def pick_cases(cases: Sequence[CaseRow], each: int = CASES_EACH) -> list[tuple[str, list[CaseRow]]]:
    """(heading, rows) for the worst, the median and the best cases by Dice, of whatever patients; no best or median
    case with an empty true mask."""
    scored = sorted((row for row in cases if row.dice == row.dice), key=lambda row: (row.dice, row.id, row.class_name))
    solid = [row for row in scored if row.true_px] or scored
    return [(name.capitalize(), rows) for name, rows in worst_median_best(scored, each, solid=solid)]


def _case_panels(
    cases: Sequence[CaseRow], pictures: Pictures, contains_text: bool, several: bool
) -> list[tuple[str, list[dict[str, Any]]]]:
    result = []
    for name, rows in pick_cases(cases):
        panels = []
        for row in rows:
            panel = pictures.panels(row.id, row.class_name, [row.text])[0]
            caption = f"{row.id}, {row.class_name}" if several else row.id
            panels.append({**panel, "dice": row.dice, "caption": caption, "text": row.text if contains_text else ""})
        result.append((name, panels))
    return result


def _sensitivity(
    record: EvaluationRecord, pictures: Pictures | None, include_text: bool, several: bool
) -> dict[str, Any]:
    shown = record.extras["conditions"]
    conditions = [(CONDITION_NAMES[name], shown[name]) for name in CONDITIONS if name in shown]
    swap, lines = record.extras["side_swap"], []
    if swap["num"]:
        share = swap["share_changing_side"]
        lines.append(
            f"With left and right swapped, the predicted mask changes side in {100 * share['mean']:.1f} % of "
            f"{swap['num']} cases whose text names one side" + _range_percent(share) + "."
        )
        if swap["num_empty"]:
            lines.append(f"In {swap['num_empty']} of them a mask is empty, which counts as no change.")
    empty = shown["empty"]
    if empty["num"]:
        fraction, none = empty["pred_fraction"]["mean"], empty["share_empty"]["mean"]
        lines.append(
            f"Without any text the model marks {100 * fraction:.1f} % of the image on average, and nothing at all in "
            f"{100 * none:.0f} % of cases."
        )
    panels = _sensitivity_panels(record.cases, pictures, include_text, several) if pictures else []
    # How many rows a condition applies to stands in the table.
    general = [note for note in record.notes if note.partition(":")[0] not in CONDITIONS]
    return {
        "conditions": [(name, c) for name, c in conditions if c["num"]],
        "lines": lines,
        "notes": [*general, *([_MEDIAN_NOTE] if panels else [])],
        "panels": panels,
    }


def _sensitivity_panels(
    rows: Sequence[SensitivityRow], pictures: Pictures, include_text: bool, several: bool
) -> list[list[dict[str, Any]]]:
    """Strips of the rows nearest to the median Dice of those with most conditions, each of another patient."""
    strips: dict[tuple[str, str], dict[str, SensitivityRow]] = {}
    for row in rows:
        strips.setdefault((row.id, row.class_name), {})[row.condition] = row
    most = max((len(strip) for strip in strips.values()), default=0)
    full = [strip for strip in strips.values() if len(strip) == most and strip["true"].dice == strip["true"].dice]
    if not full:
        return []
    median = float(np.median([strip["true"].dice for strip in full]))
    result: list[list[dict[str, Any]]] = []
    patients: set[str] = set()
    for strip in sorted(full, key=lambda item: (abs(item["true"].dice - median), item["true"].id)):
        true = strip["true"]
        if true.patient in patients or len(result) == SENSITIVITY_CASES:
            continue
        patients.add(true.patient)
        # The pictures are drawn with a text, not with a context.
        ordered = [strip[name] for name in CONDITIONS if name in strip and name != OTHER_CONTEXT]
        panels = pictures.panels(true.id, true.class_name, [row.text for row in ordered])
        result.append(
            [
                {
                    **panel,
                    "caption": CONDITION_NAMES[row.condition] + (f", {row.class_name}" if several else ""),
                    "dice": row.dice,
                    "text": row.text if include_text else "",
                }
                for panel, row in zip(panels, ordered, strict=True)
            ]
        )
    return result


def _groups(summary: Mapping[str, Any], contains_text: bool) -> list[dict[str, Any]]:
    tables = []
    if len(summary["by_class"]) > 1:
        tables.append(("By class", "class", summary["by_class"], ""))
    for column, groups in summary["by_group"].items():
        if len(groups) > 1 and (contains_text or column != "text"):
            tables.append((f"By {column}", column, groups, ""))
    if contains_text and len(summary["by_phrase"]) > 1:
        tables.append(("By phrase", "phrase", summary["by_phrase"], ""))
    result = []
    for title, column, groups, note in tables:
        rows = [{"key": key, **value} for key, value in groups.items()]
        collapsed = len(rows) > COLLAPSE_OVER
        if collapsed:
            rows.sort(key=lambda row: row["metrics"]["dice_per_image"]["mean"] or 0.0)
        result.append({"title": title, "column": column, "rows": rows, "note": note, "collapsed": collapsed})
    return result


def _lead(summary: Mapping[str, Any]) -> str:
    texts = f", {len(summary['by_phrase'])} distinct texts" if len(summary["by_phrase"]) > 1 else ""
    return (
        f"{summary['num_cases']} cases ({summary['num_images']} images of {summary['num_patients']} patients{texts}) "
        f"of the {summary['split']} split, scored on the native grid of each image."
    )


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    threshold = summary["threshold"]
    rule = {"one": "counts as 1", "zero": "counts as 0", "skip": "is not counted"}[summary["empty_mask"]]
    return [
        ("model", summary["model"]),
        ("data", summary["manifest"]),
        ("split", summary["split"]),
        (
            "threshold",
            summary["threshold_source"] if threshold is None else f"{threshold} ({summary['threshold_source']})",
        ),
        ("both masks empty", f"{rule}; {summary['num_both_empty']} cases"),
        ("not annotated, not scored", summary["num_not_annotated"]),
    ]


def _other_metrics(summary: Mapping[str, Any]) -> list[tuple[str, Any, int, str]]:
    metrics = summary["metrics"]
    batch = f"as MGCA's program counts: mean of batches of {summary.get('mgca_batch', '?')} cases, then over batches"
    table = [
        ("Dice, MGCA's", "dice_mgca", 3, batch),
        ("Dice, positives", "dice_positives", 3, "cases whose true mask has pixels"),
        ("HD95, px", "hd95_px", 2, "95th percentile Hausdorff distance; cases where both masks have pixels"),
        ("HD95, mm", "hd95_mm", 2, "where the pixel spacing is known"),
        ("ASSD, px", "assd_px", 2, "average symmetric surface distance"),
        ("ASSD, mm", "assd_mm", 2, "where the pixel spacing is known"),
        ("Lesion sensitivity", "lesion_sensitivity", 3, "true components found; n true components"),
        ("Lesion precision", "lesion_precision", 3, "predicted components that are true; n predicted components"),
    ]
    return [(name, metrics[key], digits, note) for name, key, digits, note in table if metrics.get(key, {}).get("num")]


def _undefined(summary: Mapping[str, Any]) -> str:
    names = {"prediction_empty": "the prediction", "truth_empty": "the true mask", "both_empty": "both masks"}
    parts = [f"{names[key]} in {num}" for key, num in summary["surface_undefined"].items()]
    if not parts:
        return f"Components: {summary['lesion_match']}."
    return (
        f"Components: {summary['lesion_match']}. Distances leave out cases with an empty side ({', '.join(parts)}), "
        "so they flatter a model that misses."
    )


def _range_percent(share: Mapping[str, Any]) -> str:
    if share["lo"] is None:
        return ""
    return f" (95 % interval {100 * share['lo']:.1f} – {100 * share['hi']:.1f})"


def _model_facts(inputs: Inputs, records: Sequence[Record]) -> list[tuple[str, Any]]:
    assert inputs.model_folder is not None
    card = inputs.source.predictor.card if isinstance(inputs.source, PredictorSource) else {}
    facts: list[tuple[str, Any]] = [("test split opened", f"{times_test_opened(inputs.model_folder)} time(s)")]
    if card.get("parameters") is not None:
        facts.append(
            ("parameters", f"{card['parameters']:,}" if isinstance(card["parameters"], int) else card["parameters"])
        )
    if card.get("text_encoder"):
        facts.append(("text encoder", card["text_encoder"]))
    if inputs.data.laterality:
        facts.append(("left means the left of", f"the {inputs.data.laterality}"))
    licences = sorted({record.licence for record in records if record.licence})
    if licences:
        facts.append(("licence of the data", "; ".join(licences)))
    return facts
