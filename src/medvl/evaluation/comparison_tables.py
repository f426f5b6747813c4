"""What `medvl compare` found (compare.json's object) as a table in the terminal, as CSV and as a page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvl.evaluation.tables import csv_text, interval_text, number_text, text_table


def as_csv(result: Mapping[str, Any]) -> str:
    """One row per method; every metric and convention has columns of its own."""
    metrics, tested = list(result["titles"]), result["tested"]
    parts = ("", "_sd", "_lo", "_hi", "_difference", "_difference_lo", "_difference_hi")
    tests = ("_p", "_p_holm")
    columns = [f"{metric}{part}" for metric in metrics for part in (*parts, *(tests if metric in tested else ()))]
    over = ["interval_over", "difference_over"]
    rows = []
    for method in result["methods"]:
        row = [method["name"], result["reference"], method["num_seeds"], result["num_cases"], result["num_patients"]]
        row += [method[name] for name in over]
        for metric in metrics:
            value = method["metrics"][metric]
            change = value["difference"] or {}
            row += [value["mean"], value["sd"], value["lo"], value["hi"]]
            row += [change.get("mean"), change.get("lo"), change.get("hi")]
            row += [value["p"], value["p_holm"]] if metric in tested else []
        rows.append(row)
    return csv_text(["method", "reference", "seeds", "cases", "patients", *over, *columns], rows)


def as_text(result: Mapping[str, Any], out: Path) -> str:
    """A table per metric and convention, for a terminal; of several tasks one after another."""
    if "tasks" in result:
        parts = [f"== {task}\n{as_text(one, out / task.replace(' ', '_'))}" for task, one in result["tasks"].items()]
        return "\n\n".join([*parts, "each task by itself: nothing is averaged over tasks"])
    lines = [
        f"{result['split']} of {result['manifest']}: {result['num_cases']} cases, {result['num_patients']} patients, "
        + ", ".join(_scored_how(result)),
        f"differences are to {result['reference']}",
    ]
    for metric, title in result["titles"].items():
        is_tested = metric in result["tested"]
        head = ["method", "seeds", "mean [95 % interval]", "sd", "difference [95 % interval]"]
        rows = [_text_row(method, metric, is_tested) for method in result["methods"]]
        lines += ["", f"  {title}", *text_table([*head, *(["p", "Holm"] if is_tested else [])], rows)]
    lines += ["", *[f"  note: {note}" for note in result["notes"]]]
    files = [f"compare.{kind}" for kind in ("csv", "json", "html")]
    files += ["cases.png"] if (result.get("pictures") or {}).get("num_cases") else []
    lines.append(f"  written: {', '.join(str(out / name) for name in files)}")
    return "\n".join(lines)


def _text_row(method: Mapping[str, Any], metric: str, is_tested: bool) -> list[Any]:
    value = method["metrics"][metric]
    change = value["difference"]
    row = [method["name"], method["num_seeds"], interval_text(value, 4), number_text(value["sd"], 4)]
    row.append("(reference)" if change is None else interval_text(change, 4, "+"))
    tests = ["", ""] if change is None else [_p(value["p"]), _p(value["p_holm"])]
    return [*row, *(tests if is_tested else [])]


def as_html(result: Mapping[str, Any], picture: Path | None = None) -> str:
    """One self-contained page: no script, nothing fetched; images of the data set only in `picture`, a PNG."""
    from medvl.evaluation.report.page import fill_template, versions_text

    changes = [m["metrics"][metric]["difference"] for m in result["methods"] for metric in result["titles"]]
    ends = [abs(c[end]) for c in changes if c for end in ("mean", "lo", "hi") if c[end] is not None]
    return fill_template(
        "compare.html.j2",
        {
            "title": f"Comparison of {len(result['methods'])} methods: {result['title']}",
            "split": result["split"],
            "lead": _lead(result),
            "facts": _facts(result),
            "provenance": _provenance(result),
            "versions": versions_text(result["versions"]),
            "result": result,
            "titles": result["titles"],
            "tested": result["tested"],
            "picture": "" if picture is None else base64.b64encode(picture.read_bytes()).decode(),
            "span": max([*ends, 0.01]),
            "p_text": _p,
            "columns": [method["name"] for method in result["methods"]],
        },
    )


def _lead(result: Mapping[str, Any]) -> str:
    grid = f", scored on the {result['grid']} grid of each image" if result.get("grid") else ""
    cases = f"{result['num_cases']} cases of {result['num_patients']} patients of the {result['split']} split"
    return f"{cases}, the same for every method{grid}."


def _facts(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    facts = [("reference", result["reference"]), ("data", result["manifest"])]
    facts.append(("scored with", ", ".join(_scored_how(result))))
    return [*facts, ("asked with", result["text"])] if result.get("text") else facts


def _provenance(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    bootstrap, test, machine = result["bootstrap"], result["test"], result["machine"]
    number = "all" if test["exact"] else "draws of"
    permutations = f"{number} {test['permutations']} permutations, seed {test['seed']}"
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return [
        ("manifest hash", result["manifest_hash"][:16]),
        ("split hash", result["split_hash"][:16]),
        ("bootstrap", f"{bootstrap['draws']} draws by {bootstrap['unit']}, seed {bootstrap['seed']}"),
        ("tests", f"{permutations}; Holm over {test['family']} tests"),
        ("machine", f"{machine['processor']}, {machine['cores']} cores{gpu}"),
    ]


def _scored_how(result: Mapping[str, Any]) -> list[str]:
    """Threshold, grid and what else the kind of evaluation has, in words."""
    parts = [result["threshold"]]
    parts += [f"{result['grid']} grid"] if "grid" in result else []
    parts += [f"both masks empty: {result['empty_mask']}"] if "empty_mask" in result else []
    parts += [f"target {result['target']}, phrase: {result['phrase']}"] if "target" in result else []
    return parts


def _p(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "n/a"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"
