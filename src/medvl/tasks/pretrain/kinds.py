"""What a pre-trained model is evaluated by without training: grounding of phrases, classification by prompts."""

from __future__ import annotations

from typing import Any

from medvl.core.csv_cells import read_dicts
from medvl.evaluation.case_drawing import PRED, draw_mask, manifest_as_written, true_masks
from medvl.evaluation.comparison_metrics import SAME_SET, RatioTable, area_measures
from medvl.evaluation.kind import Cell, EvaluationKind, Key
from medvl.evaluation.labelled import TRAINED_AND_PROMPTED, label_cells, read_labelled
from medvl.evaluation.record import CASES
from medvl.evaluation.scored_runs import ScoredRun
from medvl.tasks.pretrain.grounding import PHRASE
from medvl.tasks.pretrain.zero_shot import ZeroShot

TABLE = RatioTable(
    {
        "dice": ("Dice per case", "dice", ""),
        "iou": ("IoU per case", "iou", ""),
        "recall": ("Recall of pixels per case", "recall", ""),
        "pointing": ("Pointing game (share of cases)", "pointing", ""),
    },
    tested=("dice", "pointing"),
    truth="true_px",
    quality="dice",
    method=PHRASE,
)


def phrase_cells(run: ScoredRun, device: str) -> Cell:
    """Contours of a pre-trained model asked for the phrase, at the threshold that the case was scored with."""
    reader = ZeroShot.load(run.summary["model"], device)
    records = {record.id: record for record in manifest_as_written(run).records}
    with (run.folder / CASES).open(encoding="utf-8", newline="") as file:
        rows = {row["id"]: row for row in read_dicts(file) if row["method"] == PHRASE}

    def cell(axes: Any, key: Key) -> str:
        row, record = rows[key[0]], records[key[0]]
        reader.set_image(record.image)
        sigma, how = run.summary["sigma_cells"], run.summary["how"]
        answer = reader.ground(row["text"], float(row["threshold"]), sigma, how)
        assert answer.mask is not None
        draw_mask(axes, record, answer.mask, PRED, 1.1, filled=True)
        return f"Dice {run.cases[key].quality:.3f}"

    return cell


GROUNDING = EvaluationKind(
    name="ground",
    task="pretrain",
    title="grounding of phrases",
    unit="record with a mask of the target",
    truth="true mask or phrase",
    quality="Dice",
    alike=(*SAME_SET, "grid", "target", "phrase"),
    queries=("sigma_cells", "how"),
    read=TABLE.read,
    measures=TABLE.measures,
    manifest=manifest_as_written,
    draw=phrase_cells,
    draw_truth=lambda run: true_masks(run, lambda key: str(run.summary["target"])),
)
PROMPTED = EvaluationKind(
    name="zero-shot classify",
    task="pretrain",
    title="zero-shot classification",
    unit="image",
    truth="set of labels",
    quality="mean |score - label|",
    alike=(*SAME_SET, "classes"),
    queries=("prompts", "temperature"),
    read=read_labelled,
    measures=area_measures,
    threshold="none",
    is_poolable=False,
    joined=TRAINED_AND_PROMPTED,
    manifest=manifest_as_written,
    draw=label_cells,
)
KINDS = (GROUNDING, PROMPTED)
