"""Tables of the results page for cells that are neither of segmentation nor of pre-training."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from result_cells import About, grid_titles, interval, machines, mean, over_seeds, rows_of

TITLES = {
    "classify": "Classification",
    "detect": "Detection",
    "zero-shot classify": "Zero-shot classification by prompts",
    "ground": "Zero-shot grounding of phrases",
}
# title -> names of the metric in a summary, of which it has one at most
METRICS: dict[str, dict[str, tuple[str, ...]]] = {
    "classify": {
        "macro AUC": ("macro_auc",),
        "average precision": ("macro_average_precision",),
        "F1": ("macro_f1",),
        "accuracy": ("macro_accuracy", "accuracy"),
        "MCC": ("macro_mcc", "mcc"),
        "calibration error": ("macro_ece", "ece"),
    },
    "zero-shot classify": {
        "macro AUC": ("auc",),
        "average precision": ("average_precision",),
        "calibration error": ("ece",),
    },
    "ground": {
        "Dice per case": ("dice",),
        "IoU": ("iou",),
        "recall": ("recall",),
        "pointing game": ("pointing",),
        "CNR": ("cnr",),
        "signed CNR": ("cnr_signed",),
    },
}
NAMED = 3  # classes whose AUCs are all told; of more the lowest and the highest
DECIDED = ("f1", "accuracy", "mcc")  # of zero-shot classification, at the threshold that the cell says


def task_table(task: str, about: About, names: Sequence[str], cells: list[dict[str, Any]]) -> list[str]:
    """A row for each variant at each grid point; cells that have not been run are left empty."""
    metrics = METRICS.get(task) or {
        name: (name,) for name in dict.fromkeys(key for cell in cells for key in cell["metrics"])
    }
    learned, labelled = task in ("classify", "detect"), task in ("classify", "zero-shot classify")
    columns = ["variant", *grid_titles(about, names), "seeds done / planned"]
    columns += [*(["labelled images"] if learned else []), "scored", *metrics]
    columns += ["AUC of classes (positives)"] if labelled else []
    columns += ["F1 / accuracy / MCC"] if task == "zero-shot classify" else []
    columns += ["shuffled phrase, Dice", "chance, Dice"] if task == "ground" else []
    columns += ["fixed mean box: map, coco_ap", "lead in map", "lead in coco_ap"] if task == "detect" else []
    columns += ["minutes"]
    lines = [f"**{TITLES[task]}**", "", "| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for head, group in rows_of(about, names, cells):
        row = [""] * (len(columns) - len(head))
        if group:
            row = [_labelled(group)] if learned else []
            row.append(_range([cell["num_cases"] for cell in group]))
            row += [_metric(group, keys) for keys in metrics.values()]
            row += [_areas(group)] if labelled else []
            row += [_decided(group)] if task == "zero-shot classify" else []
            if task == "ground":
                row += [mean([_method(cell, name) for cell in group], "dice", False) for name in _CONTROLS]
            if task == "detect":
                fixed = [cell["baseline"]["metrics"] for cell in group]
                row.append(", ".join(mean(fixed, name, False) for name in ("map", "coco_ap")))
                row += [mean([cell["baseline"]["lead"] for cell in group], name) for name in ("map", "coco_ap")]
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
    if any((cell.get("labels") or {}).get("kind") == "multiclass" for cell in cells):
        notes.append("of exclusive classes accuracy, MCC and calibration error are of the most probable class")
    return lines + [f"- {note}" for note in dict.fromkeys(notes)]


_CONTROLS = ("shuffled phrase", "chance")


def _metric(group: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    found = [{"value": cell["metrics"][key]} for cell in group for key in keys if key in cell["metrics"]]
    told = mean(found, "value")
    some = [value for key in keys for cell in group if (value := cell.get("macro_with_interval", {}).get(key))]
    if len(group) == 1 and some:
        told += f" ({some[0]['num']} of {found[0]['value']['num']} classes: {interval(some[0])})"
    return told


def _areas(group: Sequence[Mapping[str, Any]]) -> str:
    """The AUC of each class, or the lowest and the highest; with several seeds their means."""
    values: dict[str, list[float]] = {}
    for cell in group:
        for name, row in cell["by_class"].items():
            if row["auc"]["mean"] is not None:
                values.setdefault(name, []).append(row["auc"]["mean"])
    means = {name: statistics.mean(found) for name, found in values.items()}
    positive = {name: row["num_positive"] for name, row in group[0]["by_class"].items()}
    told = {name: f"{name} {value:.3f} ({positive[name]})" for name, value in means.items()}
    if len(means) <= NAMED:
        return ", ".join(told.values())
    low, high = (extreme(means, key=lambda name: means[name]) for extreme in (min, max))
    return f"lowest: {told[low]}, highest: {told[high]}"


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
    some = cell.get("macro_with_interval", {})
    area = some.get("auc") or some.get("macro_auc")
    lines += [f"{manifest}: no AUC, not in the mean: {', '.join(left)}"] if left else []
    return lines + ([f"{manifest}: macro AUC has an interval over {', '.join(area['classes'])}"] if area else [])
