"""`medvl x label-budget`: from runs at several label fractions, how many more masks a target Dice would take.

The learning curve (`power_law.py`) is fitted by bounded least squares over the runs; the intervals resample the runs
within each label fraction. With few runs they are too narrow; how much is simulated, for the curve and the runs at
hand, and stands in the result (`coverage`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.csv_cells import DictWriter
from medvl.core.errors import InputError
from medvl.core.files import write_json, write_text
from medvl.core.provenance import machine, versions
from medvl.evaluation.record import without_nan
from medvl.experiments.curve_points import SPLIT, Point, Unit, read_points
from medvl.experiments.power_law import (
    CONFIDENCE,
    NUM_SIMULATIONS,
    Curve,
    bootstrap_curves,
    coverage,
    coverage_note,
    fit_curve,
    interval,
    run_sd,
)

FloatArray = NDArray[np.float64]

FORMAT = "medvl-learning-curve/1"
MIN_FRACTIONS = 3  # the curve has three unknowns
FAR = 4  # beyond so many times the largest n the estimate is an extrapolation, and says so
FEW_RUNS = 3  # per fraction; with fewer the interval is too narrow
MANY = 1e9  # no longer a number of masks
NUM_DRAWS = 1000


def label_budget(
    targets: Sequence[str],
    target_dice: float,
    *,
    unit: Unit = "images",
    variant: str | None = None,
    manifest: Path | None = None,
    out: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    num_simulations: int = NUM_SIMULATIONS,
) -> dict[str, Any]:
    """Fit the curve of some runs; with `out` write learning_curve.csv, .json and .png there. Returns the JSON object.

    Args:
        targets, variant, manifest, device: see `read_points`.
        target_dice: per image on val, between 0 and 1.
        unit: what n counts.
        seed: of the bootstrap and of the simulations.
        num_simulations: experiments of each kind that `coverage` is counted over; 0 = none.

    Raises:
        InputError: a target that is no Dice; fewer than three label fractions, or fewer than three different n.
    """
    if not 0 < target_dice < 1:
        raise InputError.out_of_range(f"--target-dice {target_dice:g}", expected="a Dice above 0 and below 1, e.g. 0.9")
    points = read_points(targets, variant=variant, manifest=manifest, device=device)
    _check_points(points, unit)
    n = np.array([point.count(unit) for point in points], dtype=np.float64)
    dice = np.array([point.dice for point in points])
    curve = fit_curve(n, dice)
    groups = [point.fraction for point in points]
    curves = bootstrap_curves(n, dice, groups, num_draws=num_draws, rng=np.random.default_rng(seed))
    result: dict[str, Any] = {
        "format": FORMAT,
        "target_dice": target_dice,
        "metric": "dice_per_image",
        "split": SPLIT,
        "unit": f"labelled {unit}",
        "num_runs": len(points),
        "largest_n": int(n.max()),
        "fractions": _table(points, unit, curve),
        "curve": {
            "form": "c - a n^(-b)",
            "a": _estimate(curve.a, [one.a for one in curves]),
            "b": _estimate(curve.b, [one.b for one in curves]),
            "c": _estimate(curve.c, [one.c for one in curves]),
            "rmse": float(np.sqrt(np.mean((dice - curve.at(n)) ** 2))),
        },
        **_needed(curve, curves, target_dice, int(n.max())),
        "bootstrap": {
            "unit": "run within label fraction",
            "draws": len(curves),
            "seed": seed,
            "confidence": CONFIDENCE,
        },
        "coverage": _coverage(curve, n, dice, groups, target_dice, num_simulations, seed),
        "runs": [_run(point, unit, curve) for point in points],
        "versions": versions(),
        "machine": machine(),
    }
    result["answer"] = _answer(result)
    result["notes"] = _notes(points, result, unit)
    result = _json(result)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "learning_curve.json", result)
        write_text(out / "learning_curve.csv", as_csv(result))
        _draw(out / "learning_curve.png", result, curve, curves)
    return result


def _check_points(points: Sequence[Point], unit: Unit) -> None:
    fractions = sorted({point.fraction for point in points})
    num_counts = len({point.count(unit) for point in points})
    if len(fractions) < MIN_FRACTIONS or num_counts < MIN_FRACTIONS:
        named = ", ".join(f"{fraction:g}" for fraction in fractions)
        raise InputError.empty(
            f"{len(points)} runs at {len(fractions)} label fractions ({named}) with {num_counts} different numbers of "
            f"labelled {unit}",
            expected=f"runs of one method at {MIN_FRACTIONS} label fractions or more: the curve has three unknowns",
            remedy="train with further data.label_fraction (medvl x sweep)",
        )


def _needed(curve: Curve, curves: Sequence[Curve], target_dice: float, largest: int) -> dict[str, Any]:
    """How many labels the target takes, how many more than the largest run has, and how far that is from it."""
    draws = [one.needed(target_dice) for one in curves]
    needed = _estimate(curve.needed(target_dice), draws)
    return {
        "reached": math.isfinite(needed["value"]),
        "needed": needed,
        "more": {key: _more(value, largest) for key, value in needed.items()},
        "share_of_draws_reaching": float(np.mean([math.isfinite(draw) for draw in draws])) if draws else None,
        "extrapolated": bool(needed["value"] > largest),
        "beyond_4x_largest": bool(needed["value"] > FAR * largest),
        "interval_beyond_4x_largest": bool(needed.get("hi", 0.0) > FAR * largest),
    }


def _run(point: Point, unit: Unit, curve: Curve) -> dict[str, Any]:
    return {
        "run": point.source,
        "fraction": point.fraction,
        "n": point.count(unit),
        "seed": point.seed,
        "dice_per_image": point.dice,
        "fitted": float(curve.at(point.count(unit))),
    }


def as_csv(result: Mapping[str, Any]) -> str:
    """One row per run."""
    file = io.StringIO()
    writer = DictWriter(file, list(result["runs"][0]))
    writer.writeheader()
    writer.writerows(result["runs"])
    return file.getvalue()


def as_text(result: Mapping[str, Any], out: Path) -> str:
    """Table, curve and estimate, for a terminal."""
    curve = result["curve"]
    lines = [
        f"{result['num_runs']} runs at {len(result['fractions'])} label fractions; Dice per image on "
        f"{result['split']}; n = {result['unit']}",
        f"  {'fraction':>8} {'n':>13} {'runs':>4}  {'mean':>6} {'sd':>6}  {'fitted':>6}",
    ]
    for row in result["fractions"]:
        sd = "   n/a" if row["sd"] is None else f"{row['sd']:.4f}"
        span = _number(row["n"]) if row["n_min"] == row["n_max"] else f"{row['n_min']:,} to {row['n_max']:,}"
        lines.append(
            f"  {row['fraction']:>8g} {span:>13} {row['num_runs']:>4}  {row['mean']:.4f} {sd}  {row['fitted']:.4f}"
        )
    ends = [f"{name} = {curve[name]['value']:.4g}{_range(curve[name], '.3g')}" for name in ("c", "a", "b")]
    lines += [f"  Dice(n) = c - a n^-b: {', '.join(ends)}", "", f"  {result['answer']}", ""]
    lines += [f"  note: {note}" for note in result["notes"]]
    lines.append(f"  written: {', '.join(str(out / f'learning_curve.{kind}') for kind in ('csv', 'json', 'png'))}")
    return "\n".join(lines)


def _estimate(value: float, draws: Sequence[float]) -> dict[str, float]:
    """value, and with draws lo and hi: order statistics, not interpolated, as a draw may be infinite."""
    if not draws:
        return {"value": value}
    lo, hi = interval(draws)
    return {"value": value, "lo": lo, "hi": hi}


def _coverage(
    curve: Curve, n: FloatArray, dice: FloatArray, groups: Sequence[float], target: float, number: int, seed: int
) -> dict[str, Any] | None:
    """The simulations of `power_law.coverage`; None where the runs do not show how much they vary."""
    sd = run_sd(dice, groups)
    if not number or not sd:
        return None
    rows = coverage(curve, sd, n, groups, target, num_simulations=number, seed=seed)
    return {"confidence": CONFIDENCE, "simulations": number, "sd": sd, "by_runs": rows}


def _more(needed: float, largest: int) -> float:
    return max(0.0, math.ceil(needed - 1e-6) - largest) if math.isfinite(needed) else math.inf


def _table(points: Sequence[Point], unit: Unit, curve: Curve) -> list[dict[str, Any]]:
    rows = []
    for fraction in dict.fromkeys(point.fraction for point in points):
        places = [i for i, point in enumerate(points) if point.fraction == fraction]
        counts = [points[i].count(unit) for i in places]
        dice = [points[i].dice for i in places]
        rows.append(
            {
                "fraction": fraction,
                "n": float(np.mean(counts)),
                "n_min": min(counts),
                "n_max": max(counts),
                "num_runs": len(places),
                "seeds": [points[i].seed for i in places],
                "mean": float(np.mean(dice)),
                "sd": float(np.std(dice, ddof=1)) if len(places) > 1 else None,
                "fitted": float(curve.at(np.array(counts, dtype=np.float64)).mean()),
            }
        )
    return rows


def _answer(result: Mapping[str, Any]) -> str:
    target, unit, largest = f"Dice {result['target_dice']:g}", result["unit"], result["largest_n"]
    needed, more, ceiling = result["needed"], result["more"], result["curve"]["c"]
    if not result["reached"]:
        text = f"{target} is not reached: the fitted ceiling is {ceiling['value']:.2f}{_range(ceiling, '.2f')}"
        share = result["share_of_draws_reaching"]
        return text + (f"; {share:.0%} of the resamples reach it" if share else "")
    about = "about " if needed["value"] < MANY else ""
    at = f"{about}{_number(needed['value'])} {unit}{_range(needed)}"
    if not result["extrapolated"]:
        return f"{target} is reached at {at}; the largest run has {_number(largest)}: no more masks are needed"
    text = (
        f"{target} takes {at}: {_number(more['value'])} more{_range(more)} than the largest run, of {_number(largest)}"
    )
    if result["beyond_4x_largest"]:
        text += f". EXTRAPOLATED beyond {FAR} x the largest n: do not plan by it, measure at more labels first"
    return text


def _notes(points: Sequence[Point], result: Mapping[str, Any], unit: Unit) -> list[str]:
    notes = [
        f"n is labelled_{unit} of each run's plan.json (labels)",
        "val also chose each run's checkpoint, so its Dice is a little high",
    ]
    runs = [row["num_runs"] for row in result["fractions"]]
    if max(runs) < 2:
        notes.append("one run per label fraction: there are no intervals; add seeds or label draws")
    else:
        notes.append(f"intervals are {CONFIDENCE:.0%}, over runs resampled within each label fraction")
        if min(runs) < FEW_RUNS:
            notes.append(f"fewer than {FEW_RUNS} runs at some label fraction: the intervals are too narrow")
    if result["coverage"] is not None:
        notes.append(coverage_note(result["coverage"]))
    if result["reached"] and result["interval_beyond_4x_largest"] and not result["beyond_4x_largest"]:
        notes.append(f"the interval ends beyond {FAR} x the largest n: that end is extrapolated")
    if result["curve"]["c"]["value"] >= 1 - 1e-9:
        notes.append("the ceiling is at its bound 1: these runs do not show where the curve bends")
    if result["curve"]["a"]["value"] == 0:
        notes.append("Dice does not rise with the labels: the fitted curve is flat")
    if unit != "records":
        masks = sum(point.count("records") for point in points) / sum(point.count(unit) for point in points)
        if masks > 1.01:
            notes.append(f"labelled {unit} have {masks:.1f} annotated records (rows of the manifest) each on average")
    return notes


def _json(result: dict[str, Any]) -> dict[str, Any]:
    """Infinite counts as None (`reached` and `share_of_draws_reaching` say so), whole counts as int."""
    content = without_nan(result)
    assert isinstance(content, dict)
    content["more"] = {key: value if value is None else int(value) for key, value in content["more"].items()}
    return content


def _range(value: Mapping[str, Any], spec: str = "") -> str:
    if "lo" not in value:
        return ""
    lo, hi = (format(value[key], spec) if spec else _number(value[key]) for key in ("lo", "hi"))
    return f" [{lo}, {hi}]"


def _number(count: float | None) -> str:
    if count is None or not math.isfinite(count):
        return "never"
    return f"{math.ceil(count - 1e-6):,}" if count < MANY else "more than a billion"


def _draw(path: Path, result: Mapping[str, Any], curve: Curve, curves: Sequence[Curve]) -> None:
    """Runs, fitted curve with its 95 % band, target; dashed beyond the largest n, which was not measured."""
    from matplotlib.figure import Figure

    n = [run["n"] for run in result["runs"]]
    largest, needed = result["largest_n"], result["needed"]["value"]
    end = max(2 * largest, min(1.2 * needed, FAR * largest) if needed is not None else FAR * largest)
    x = np.geomspace(max(1.0, 0.8 * min(n)), end, 200)
    inside = x <= largest
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    if curves:
        band = np.percentile([one.at(x) for one in curves], [2.5, 97.5], axis=0)
        axes.fill_between(x, band[0], band[1], color="#4477aa", alpha=0.2, linewidth=0, label="95 % of the resamples")
    axes.plot(x[inside], curve.at(x[inside]), color="#4477aa", label="c - a n^-b")
    axes.plot(x[~inside], curve.at(x[~inside]), "--", color="#4477aa", label="extrapolated")
    axes.plot(n, [run["dice_per_image"] for run in result["runs"]], "o", color="#222222", markersize=4, label="runs")
    axes.axhline(result["target_dice"], color="#cc6677", linewidth=1, label=f"target {result['target_dice']:g}")
    axes.set_xscale("log")
    ticks = [*dict.fromkeys(round(row["n"]) for row in result["fractions"]), round(end)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(result["unit"])
    axes.set_ylabel(f"Dice per image, {result['split']}")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
