"""Tables of the results page for cells that are neither of segmentation nor of pre-training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from result_cells import About, grid_titles, machines, mean, over_seeds, rows_of

TITLES = {
    "classify": "Classification",
    "detect": "Detection",
    "zero-shot classify": "Zero-shot classification by prompts",
    "ground": "Zero-shot grounding of phrases",
}
# title -> names of the metric in a summary, of which it has one at most; the first column comes with its interval
METRICS: dict[str, dict[str, tuple[str, ...]]] = {
    "classify": {
        "macro AUC [95 %]": ("macro_auc",),
        "average precision": ("macro_average_precision",),
        "F1": ("macro_f1",),
        "accuracy": ("macro_accuracy", "accuracy"),
        "MCC": ("macro_mcc",),
        "calibration error": ("macro_ece",),
    },
    "zero-shot classify": {
        "macro AUC [95 %]": ("auc",),
        "average precision": ("average_precision",),
        "calibration error": ("ece",),
    },
    "ground": {
        "Dice per case [95 %]": ("dice",),
        "IoU": ("iou",),
        "recall": ("recall",),
        "pointing game": ("pointing",),
    },
}
DECIDED = ("f1", "accuracy", "mcc")  # of zero-shot classification, at the threshold that the cell says


def task_table(task: str, about: About, names: Sequence[str], cells: list[dict[str, Any]]) -> list[str]:
    """A row for each variant at each grid point; cells that have not been run are left empty."""
    metrics = METRICS.get(task) or {
        f"{name} [95 %]" if i == 0 else name: (name,)
        for i, name in enumerate(dict.fromkeys(key for cell in cells for key in cell["metrics"]))
    }
    learned = task in ("classify", "detect")
    columns = ["variant", *grid_titles(about, names), "seeds done / planned"]
    columns += [*(["labelled images"] if learned else []), "scored", *metrics]
    columns += ["F1 / accuracy / MCC"] if task == "zero-shot classify" else []
    columns += ["shuffled phrase, Dice", "chance, Dice"] if task == "ground" else []
    columns += ["fixed mean box: map, coco_ap", "lead in coco_ap [95 %]"] if task == "detect" else []
    columns += ["minutes"]
    lines = [f"**{TITLES[task]}**", "", "| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for head, group in rows_of(about, names, cells):
        row = [""] * (len(columns) - len(head))
        if group:
            row = [_labelled(group)] if learned else []
            row.append(_range([cell["num_cases"] for cell in group]))
            row += [_metric(group, keys, i == 0) for i, keys in enumerate(metrics.values())]
            row += [_decided(group)] if task == "zero-shot classify" else []
            if task == "ground":
                row += [mean([_method(cell, name) for cell in group], "dice", False) for name in _CONTROLS]
            if task == "detect":
                fixed = [cell["baseline"]["metrics"] for cell in group]
                row.append(", ".join(mean(fixed, name, False) for name in ("map", "coco_ap")))
                row.append(mean([cell["baseline"]["lead"] for cell in group], "coco_ap"))
            row.append(f"{statistics.mean(cell['minutes'] for cell in group):.2f}")
        lines.append("| " + " | ".join([*head, *row]) + " |")
    return lines


def task_footer(task: str, cells: list[dict[str, Any]]) -> list[str]:
    """How the rows were scored, where, the number of each class, and the notes of the evaluations (each once)."""
    if not cells:
        return ["No cell has been run yet."]
    splits = " and ".join(dict.fromkeys(f"`{cell['split']}`" for cell in cells))
    sources = dict.fromkeys(_source(cell) for cell in cells)
    lines = [
        "One seed: value with its bootstrap interval by patient; several seeds: mean ± sd over seeds. Minutes are of "
        f"training, or of asking. Split {splits}; threshold: {'; '.join(sources)}. Machine: "
        f"{'; '.join(machines(cells))}; torch {cells[0]['versions']['torch']}.",
        "",
    ]
    notes = [note for cell in cells for note in (*_classes(cell), *cell.get("notes", []))]
    return lines + [f"- {note}" for note in dict.fromkeys(notes)]


_CONTROLS = ("shuffled phrase", "chance")


def _metric(group: Sequence[Mapping[str, Any]], keys: Sequence[str], with_interval: bool) -> str:
    found = [{"value": cell["metrics"][key]} for cell in group for key in keys if key in cell["metrics"]]
    return mean(found, "value", with_interval)


def _method(cell: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = cell["methods"].get(name, {})
    return found


def _decided(group: Sequence[Mapping[str, Any]]) -> str:
    """F1, accuracy and MCC at the cell's own threshold, its first rule; not at that of published tables."""
    told = []
    for name in DECIDED:
        values = []
        for cell in group:
            rules = next(iter(cell.get("decisions", {}).values()), {})
            macro = next(iter(rules.values()), {}).get("macro", {})
            values += [macro[name]["mean"]] if macro.get(name, {}).get("mean") is not None else []
        told.append(over_seeds(values))
    return " / ".join(told) if all(told) else ""


def _labelled(group: Sequence[Mapping[str, Any]]) -> str:
    found = [cell["labels"]["labelled_images"] for cell in group if "labelled_images" in (cell.get("labels") or {})]
    return _range(found)


def _range(values: Sequence[int]) -> str:
    """`3`, or `3 - 5` where seeds differ."""
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} - {high:,}"


def _source(cell: Mapping[str, Any]) -> str:
    threshold, source = cell.get("threshold"), str(cell.get("threshold_source"))
    start, halves, _ = source.partition(": each half")  # of its patients at the best of the other, X and Y
    source = f"{start}, each half of its patients at the best of the other" if halves else source
    return f"{threshold:g} ({source})" if isinstance(threshold, (int, float)) else source


def _classes(cell: Mapping[str, Any]) -> list[str]:
    """How many positives each class has among the scored images, and which AUCs are undefined."""
    rows = cell.get("by_class") or {}
    if not any("num_positive" in row for row in rows.values()):
        return []
    counted = ", ".join(f"{name} {row['num_positive']}" for name, row in rows.items())
    manifest = str(cell["manifest"]).removesuffix("/manifest.csv").rpartition("/")[2]
    lines = [f"{manifest}, `{cell['split']}`, positives of {cell['num_cases']} images: {counted}"]
    names = {**cell.get("undefined", {})}
    left = names.get("auc") or names.get("macro_auc")
    return lines + ([f"{manifest}: no AUC, not in the mean: {', '.join(left)}"] if left else [])
