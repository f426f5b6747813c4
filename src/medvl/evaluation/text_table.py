"""The summary as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def as_text(summary: Mapping[str, Any], out: Path) -> str:
    """Metrics with their intervals, the groups that were asked for, the probe if there is one, and where it stands."""
    threshold = summary["threshold"]
    lines = [
        f"{summary['model']} on {summary['split']} of {summary['manifest']}: {summary['num_cases']} cases, "
        f"{summary['num_patients']} patients, "
        + (
            summary["threshold_source"]
            if threshold is None
            else f"threshold {threshold} ({summary['threshold_source']})"
        )
        + ", native grid",
        "",
        f"  {'metric':<20} {'mean':>8}  {'95 % interval':<17} {'n':>6}",
    ]
    lines += [f"  {name:<20} {_cells(metric)}" for name, metric in summary["metrics"].items() if metric["num"]]
    for column, groups in summary["by_group"].items():
        lines += ["", f"  Dice per image by {column}"]
        lines += [f"  {key:<20} {_cells(group['metrics']['dice_per_image'])}" for key, group in groups.items()]
    if "probe" in summary:
        probe = summary["probe"]
        lines += ["", "  Dice per image against the true mask, by the text asked with"]
        lines += [f"  {name:<20} {_cells(c['dice'])}" for name, c in probe["conditions"].items() if c["num"]]
        if probe["side_swap"]["num"]:
            lines.append(f"  {'changes side':<20} {_cells(probe['side_swap']['share_changing_side'])}")
        lines += [f"  {note}" for note in probe["notes"]]
    lines += ["", *[f"  note: {note}" for note in summary["notes"]]]
    if summary["num_not_annotated"]:
        lines.append(f"  not annotated, hence not scored: {summary['num_not_annotated']}")
    lines.append(f"  written: {out / 'cases.csv'}, {out / 'summary.json'}")
    return "\n".join(lines)


def _cells(metric: Mapping[str, Any]) -> str:
    if metric["mean"] is None:
        return f"{'n/a':>8}  {'':<17} {metric['num']:>6}"
    interval = "" if metric["lo"] is None else f"{metric['lo']:.4f} - {metric['hi']:.4f}"
    return f"{metric['mean']:>8.4f}  {interval:<17} {metric['num']:>6}"
