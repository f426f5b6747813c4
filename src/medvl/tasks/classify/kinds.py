"""Classification as a kind of evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any

from medvl.evaluation.cache import requested_record, stored_record
from medvl.evaluation.case_drawing import manifest_as_trained
from medvl.evaluation.comparison_metrics import SAME_SET, area_measures
from medvl.evaluation.kind import EvaluationKind
from medvl.evaluation.labelled import TRAINED_AND_PROMPTED, label_cells, read_labelled
from medvl.evaluation.request import EvaluationRequest
from medvl.tasks.classify.evaluate import as_text, defaults, evaluate_classifier


def requested(request: EvaluationRequest) -> tuple[dict[str, Any], str]:
    """What `medvl evaluate` does with a classifier: summary and text."""
    request.takes("a classifier")
    request.one_slice("a classifier")
    record = requested_record("classify", evaluate_classifier, request.number(None), request)
    return record.summary, as_text(record.summary, request.out)


stored = partial(stored_record, "classify", evaluate_classifier, defaults)
CLASSIFICATION = EvaluationKind(
    name="classify",
    task="classify",
    title="classification",
    unit="image",
    truth="set of labels",
    quality="mean |score - label|",
    same_keys=(*SAME_SET, "classes", "labels"),
    read=read_labelled,
    measures=area_measures,
    threshold="none",
    is_poolable=False,
    joined=TRAINED_AND_PROMPTED,
    manifest=manifest_as_trained,
    draw=label_cells,
    stored=stored,
)
KINDS = (CLASSIFICATION,)
