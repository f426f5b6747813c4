"""`medvl report` of a classifier: one self-contained HTML page of its evaluation in RUN/report/SPLIT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.config.differences import flat
from medvl.core.files import write_text
from medvl.core.plain_yaml import yaml_text
from medvl.evaluation.cache import stored_kind
from medvl.evaluation.labelled import LabelCases, read_label_cases
from medvl.evaluation.report.classification_figures import STYLE, confusion_svg, pr_svg, reliability_svg, roc_svg
from medvl.evaluation.report.segmentation import fill_template
from medvl.evaluation.seen_images import seen_fact
from medvl.inference.model_folder import find_model, times_test_opened
from medvl.metrics.classification import confusion_at

FloatArray = NDArray[np.float64]


def classifier_report(
    target: str | Path,
    manifest: Path | None = None,
    *,
    split: str = "val",
    out: Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
) -> tuple[Path, dict[str, Any]]:
    """Write the page of a classifier and return its path and the summary that it shows.

    The page has no image and no text of the data set. Arguments as for `cache.stored_record`; `out` is the HTML
    file, default RUN/report/SPLIT/report.html.
    """
    stored = stored_kind("classify", target).stored
    assert stored is not None
    folder, record = stored(target, manifest, split=split, overrides=overrides, device=device)
    summary = record.summary
    cases = read_label_cases(folder / "cases.csv")
    probs, labels, classes = cases.probs, cases.labels, cases.classes
    context = {
        "title": f"Classifier: {flat(summary['config'])['model.encoder']}, {summary['config']['classify']['mode']}",
        "summary": summary,
        "facts": _facts(target, summary),
        "curves": [draw(probs, labels, classes).replace(STYLE, "") for draw in (roc_svg, pr_svg, reliability_svg)],
        "confusion": _confusion(summary),
        "decisions": _decisions(summary, cases),
        "practice": summary.get("published_practice"),
        "undefined": summary["undefined"],
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        "config": yaml_text(summary["config"]),
    }
    out = out or folder / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, fill_template("classifier.html.j2", context))
    return out, summary


def _facts(target: str | Path, summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    config, machine = summary["config"], summary["machine"]
    left = ", ".join(f"{num} {name.replace('_', ' ')}" for name, num in summary["num_left_out"].items() if num)
    return [
        ("data", summary["manifest"]),
        ("split", f"{summary['split']}, {summary['num_cases']} images of {summary['num_patients']} patients"),
        ("left out", left or "nothing"),
        ("labels", "exactly one of the classes" if summary["labels"] == "multiclass" else "any of the classes"),
        ("threshold", summary["threshold_source"]),
        ("started from", config["init"] or "scratch"),
        ("images it was trained on", seen_fact(summary.get("seen_images"))),
        ("test split opened", f"{times_test_opened(find_model(target))} time(s)"),
        ("weights hash", summary["model_hash"][:16]),
        ("manifest and split hash", f"{summary['manifest_hash'][:16]}, {summary['split_hash'][:16]}"),
        ("bootstrap", f"{summary['bootstrap']['draws']} draws by patient, seed {summary['bootstrap']['seed']}"),
        ("machine", f"{machine['processor']}, {machine['cores']} cores"),
    ]


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
