"""Detection as a kind of evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any

from medvl.config import make_config
from medvl.core.csv_cells import read_dicts
from medvl.core.errors import InputError
from medvl.data.box_labels import box_labels
from medvl.data.record import Record
from medvl.evaluation.cache import requested_record, stored_record
from medvl.evaluation.case_drawing import PRED, TRUE, draw_box, manifest_as_trained, plain_text
from medvl.evaluation.comparison_metrics import SAME_SET, RatioTable
from medvl.evaluation.kind import Cell, EvaluationKind, Key, TrueCell
from medvl.evaluation.request import EvaluationRequest
from medvl.evaluation.scored_runs import ScoredRun
from medvl.tasks.detect.evaluate import as_text, defaults, evaluate_detector

TABLE = RatioTable(
    {
        "ap": ("AP per image (IoU .40 to .75, mean over images with boxes)", "ap", ""),
        "recall50": ("Recall of boxes at IoU .50 (pooled)", "matched50", "num_true"),
        "precision50": ("Precision of boxes at IoU .50 (pooled)", "matched50", "num_pred"),
    },
    tested=("ap", "recall50"),
    truth="num_true",
    quality="ap",
)


def true_boxes(run: ScoredRun) -> TrueCell:
    """Draws the true boxes."""
    config = make_config(run.summary["config"])

    def draw(axes: Any, record: Record, key: Key) -> None:
        for box in box_labels([record], run.summary["classes"], config).boxes[0]:
            draw_box(axes, record, (box.x0, box.y0, box.x1, box.y1), TRUE)

    return draw


def box_cells(run: ScoredRun, device: str) -> Cell:
    """Detections from the score threshold on."""
    records = {record.id: record for record in manifest_as_trained(run).records}
    with (run.folder / "detections.csv").open(encoding="utf-8", newline="") as file:
        detections = [row for row in read_dicts(file) if float(row["score"]) >= run.summary["threshold"]]

    def cell(axes: Any, key: Key) -> str:
        for row in detections:
            if row["id"] == key[0]:
                corners = (float(row["x0"]), float(row["y0"]), float(row["x1"]), float(row["y1"]))
                label = f"{plain_text(row['class'])} {float(row['score']):.2f}"
                draw_box(axes, records[key[0]], corners, PRED, label)
        return f"AP {run.cases[key].quality:.3f}"

    return cell


def requested(request: EvaluationRequest) -> tuple[dict[str, Any], str]:
    """What `medvl evaluate` does with a detector: summary and text."""
    request.takes("a detector")
    request.one_slice("a detector")
    if request.threshold == "val":
        raise InputError.conflict("--threshold val for a detector", file=request.source, expected="a score from 0 to 1")
    record = requested_record("detect", evaluate_detector, request.number(None), request)
    return record.summary, as_text(record.summary, request.out)


stored = partial(stored_record, "detect", evaluate_detector, defaults)
DETECTION = EvaluationKind(
    name="detect",
    task="detect",
    title="detection",
    unit="image",
    truth="number of true boxes",
    quality="AP of the image",
    same_keys=(*SAME_SET, "grid", "classes", "threshold"),
    read=TABLE.read,
    measures=TABLE.measures,
    manifest=manifest_as_trained,
    draw=box_cells,
    draw_truth=true_boxes,
    stored=stored,
)
KINDS = (DETECTION,)
