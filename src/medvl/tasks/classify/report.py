"""`medvl report` of a classifier: one self-contained HTML page of its evaluation in RUN/report/SPLIT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.config.differences import flat
from medvl.evaluation.labelled import LabelCases, read_label_cases
from medvl.evaluation.record import CASES
from medvl.evaluation.report.classification_figures import STYLE, confusion_svg, pr_svg, reliability_svg, roc_svg
from medvl.evaluation.report.page import PageRequest, closing, image_facts
from medvl.metrics.classification import confusion_at
from medvl.tasks.classify.kinds import stored

FloatArray = NDArray[np.float64]


def page(request: PageRequest) -> tuple[Path, dict[str, Any]]:
    """Write the page of a classifier and return its path and the summary that it shows.

    It has no image and no text of the data set.
    """
    request.refuse(("group_by", "probe_rows", "threshold"), "for a classifier", "leave it out: it is of masks")
    folder, record = stored(
        request.target, request.manifest, split=request.split, overrides=request.overrides, device=request.device
    )
    summary, config = record.summary, record.config or {}
    cases = read_label_cases(folder / CASES)
    curves = [draw(cases.probs, cases.labels, cases.classes) for draw in (roc_svg, pr_svg, reliability_svg)]
    context = {
        "title": f"Classifier: {flat(config)['model.encoder']}, {config['classify']['mode']}",
        "split": record.split,
        "summary": summary,
        "facts": [
            *image_facts(request.target, record),
            ("labels", "exactly one of the classes" if summary["labels"] == "multiclass" else "any of the classes"),
            ("threshold", record.threshold_source),
        ],
        "curves": [svg.replace(STYLE, "") for svg in curves],
        "confusion": _confusion(summary),
        "decisions": _decisions(summary, cases),
        "practice": summary.get("published_practice"),
        "undefined": summary["undefined"],
        **closing(record),
    }
    return request.write(folder, "classifier.html.j2", context), summary


def _confusion(summary: Mapping[str, Any]) -> str:
    """The matrix of exclusive classes; "" of others."""
    if summary.get("confusion") is None:
        return ""
    return confusion_svg([("", summary["classes"], np.array(summary["confusion"]))]).replace(STYLE, "")


def _decisions(summary: Mapping[str, Any], cases: LabelCases) -> list[dict[str, Any]]:
    """Two by two tables at the threshold of each class; none where the most probable class is taken."""
    if summary.get("confusion") is not None:
        return []
    rows = []
    for k, name in enumerate(cases.classes):
        threshold = summary["threshold"][name]
        if threshold is None:
            continue
        (tn, fp), (fn, tp) = confusion_at(cases.probs[:, k], cases.labels[:, k], threshold).tolist()
        rows.append({"name": name, "threshold": threshold, "tp": tp, "fn": fn, "fp": fp, "tn": tn})
    return rows
