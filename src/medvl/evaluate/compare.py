"""`medvl compare`: methods (runs that differ in nothing but their seeds) on the same cases.

Each metric is the mean over a method's seeds, with its sd over seeds and a 95 % interval by patient. Differences to a
reference are paired: the same patients are resampled for both, and the tests swap the two methods within patients.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.errors import InputError, nearest
from medvl.evaluate.evaluator import POOLED_NOTE
from medvl.evaluate.methods import Method, ScoredRun, check_comparable, group_methods, open_runs, setting_table
from medvl.evaluate.statistics import (
    NUM_DRAWS,
    NUM_PERMUTATIONS,
    SeedMeans,
    holm,
    patient_sums,
    seed_means,
    sign_flip_test,
    swap_test,
)
from medvl.evaluate.summary import OVERLAP, CaseRow, without_nan
from medvl.files import write_json, write_text
from medvl.provenance import machine, versions

FloatArray = NDArray[np.float64]

FORMAT = "medvl-compare/1"
TESTED = ("dice_per_image", "dice_pooled")
TITLES = {
    "dice_per_image": "Dice per image (mean over cases)",
    "dice_pooled": "Dice pooled (over all pixels of the set)",
    "iou_per_image": "IoU per image (mean over cases)",
    "iou_pooled": "IoU pooled (over all pixels of the set)",
}
TEST_TEXT = {
    "dice_per_image": "sign-flip permutation of the mean differences per patient",
    "dice_pooled": "the two methods swapped within patients, pooled Dice computed anew",
}


def compare(
    targets: Sequence[str],
    *,
    split: str = "val",
    manifest_path: Path | None = None,
    names: Sequence[str] = (),
    reference: str | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    num_permutations: int = NUM_PERMUTATIONS,
) -> dict[str, Any]:
    """Compare runs; with `out` write compare.csv, compare.json and compare.html there. Returns compare.json's object.

    Args:
        targets, manifest_path, overrides: see `open_runs`.
        names: see `group_methods`.
        reference: the method that the others are compared with; default the first.
        seed: of the bootstrap and of the permutations.

    Raises:
        InputError: runs that were not scored alike on the same cases, naming what differs or is missing.
    """
    if len(targets) < 2:
        raise InputError("one run cannot be compared", expected="two runs or more")
    runs = open_runs(targets, split=split, manifest_path=manifest_path, overrides=overrides, device=device)
    notes = check_comparable(runs, split)
    methods = group_methods(runs, names)
    known = [method.name for method in methods]
    base = 0 if reference is None else known.index(reference) if reference in known else None
    if base is None:
        like = nearest(str(reference), known)
        remedy = f"did you mean {like}?" if like else None
        raise InputError(f"no method {reference}", expected="; ".join(known), remedy=remedy)
    keys = sorted(runs[0].cases)
    patients = [runs[0].cases[key].patient for key in keys]
    sums = [_ratios(method, keys) for method in methods]  # per method (2, S, n, 4)
    found = [seed_means(one[0], one[1], patients, num_draws=num_draws, seed=seed) for one in sums]
    tests = {i: _tests(one, sums[base], patients, num_permutations, seed) for i, one in enumerate(sums) if i != base}
    adjusted = iter(holm([p for by_metric in tests.values() for p in by_metric.values()]))
    holm_p = {i: {metric: next(adjusted) for metric in by_metric} for i, by_metric in tests.items()}
    first = runs[0].summary
    num_patients = len(set(patients))
    result = {
        "format": FORMAT,
        "split": split,
        "manifest": first["manifest"],
        **{key: first[key] for key in ("manifest_hash", "split_hash", "grid", "empty_mask", "text")},
        "threshold": _threshold(runs),
        "num_cases": len(keys),
        "num_patients": num_patients,
        "reference": known[base],
        "methods": [
            {
                "name": method.name,
                "num_seeds": len(method.runs),
                "seeds": [run.seed for run in method.runs],
                "runs": [run.target for run in method.runs],
                "metrics": _metrics(found[i], None if i == base else found[base], tests.get(i, {}), holm_p.get(i, {})),
            }
            for i, method in enumerate(methods)
        ],
        "settings": setting_table(methods),
        "bootstrap": {"unit": "patient", "draws": num_draws, "seed": seed, "confidence": 0.95},
        "test": {
            **TEST_TEXT,
            "unit": "patient",
            "two_sided": True,
            "exact": 2**num_patients <= num_permutations,
            "permutations": min(2**num_patients, num_permutations),
            "seed": seed,
            "correction": "Holm",
            "family": len(TESTED) * (len(methods) - 1),
        },
        "versions": versions(),
        "machine": machine(),
        "notes": [*notes, *_notes(methods, num_patients, num_permutations)],
    }
    result = without_nan(result)
    assert isinstance(result, dict)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "compare.json", result)
        write_text(out / "compare.csv", as_csv(result))
        write_text(out / "compare.html", as_html(result))
    return result


def as_csv(result: Mapping[str, Any]) -> str:
    """One row per method; every metric and convention has columns of its own."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    parts = ("", "_sd", "_lo", "_hi", "_difference", "_difference_lo", "_difference_hi")
    tests = ("_p", "_p_holm")
    head = [f"{metric}{part}" for metric in OVERLAP for part in (*parts, *(tests if metric in TESTED else ()))]
    writer.writerow(["method", "reference", "seeds", "cases", "patients", *head])
    for method in result["methods"]:
        row = [method["name"], result["reference"], method["num_seeds"], result["num_cases"], result["num_patients"]]
        for metric in OVERLAP:
            value = method["metrics"][metric]
            change = value["difference"] or {}
            row += [value["mean"], value["sd"], value["lo"], value["hi"]]
            row += [change.get("mean"), change.get("lo"), change.get("hi")]
            row += [value["p"], value["p_holm"]] if metric in TESTED else []
        writer.writerow(["" if cell is None else cell for cell in row])
    return file.getvalue()


def as_text(result: Mapping[str, Any], out: Path) -> str:
    """A table per metric and convention, for a terminal."""
    width = max(len("method"), *(len(method["name"]) for method in result["methods"]))
    lines = [
        f"{result['split']} of {result['manifest']}: {result['num_cases']} cases, {result['num_patients']} patients, "
        f"{result['threshold']}, {result['grid']} grid, both masks empty: {result['empty_mask']}",
        f"differences are to {result['reference']}",
    ]
    for metric in OVERLAP:
        tested = f"  {'p':>7} {'Holm':>7}" if metric in TESTED else ""
        lines += ["", f"  {TITLES[metric]}"]
        interval, change_head = "95 % interval", "difference and 95 % interval"
        lines.append(f"  {'method':<{width}} seeds   mean     sd  {interval:<17}  {change_head:<28}{tested}")
        for method in result["methods"]:
            value = method["metrics"][metric]
            change = value["difference"]
            line = (
                f"  {method['name']:<{width}} {method['num_seeds']:>5}  {_number(value['mean'])} {_number(value['sd'])}"
            )
            line += f"  {_range(value):<17}  "
            line += f"{_number(change['mean'], '+')}  {_range(change, '+'):<20}" if change else f"{'(reference)':<28}"
            if change and metric in TESTED:
                line += f"  {_p(value['p']):>7} {_p(value['p_holm']):>7}"
            lines.append(line.rstrip())
    lines += ["", *[f"  note: {note}" for note in result["notes"]]]
    lines.append(f"  written: {', '.join(str(out / f'compare.{kind}') for kind in ('csv', 'json', 'html'))}")
    return "\n".join(lines)


def as_html(result: Mapping[str, Any]) -> str:
    """One self-contained page: no script, nothing fetched, no image and no text of the data set."""
    from medvl.evaluate.html import fill_template

    changes = [m["metrics"][metric]["difference"] for m in result["methods"] for metric in OVERLAP]
    ends = [abs(c[end]) for c in changes if c for end in ("mean", "lo", "hi") if c[end] is not None]
    return fill_template(
        "compare.html.j2",
        {
            "result": result,
            "titles": TITLES,
            "tested": TESTED,
            "span": max([*ends, 0.01]),
            "p_text": _p,
            "columns": [method["name"] for method in result["methods"]],
        },
    )


def _ratios(method: Method, keys: Sequence[tuple[str, str]]) -> FloatArray:
    """Numerators and denominators of the four metrics of `OVERLAP`: (2, S, n, 4)."""

    def terms(row: CaseRow) -> tuple[list[float], list[float]]:
        # Dice and IoU anew from the pixels: cases.csv rounds them, which would break ties of the tests.
        both, total = row.tp_px, row.true_px + row.pred_px
        dice, iou = (2 * both / total, both / (total - both)) if total else (row.dice, row.iou)
        return [dice, 2 * both, iou, both], [1, total, 1, total - both]

    values = np.array(
        [[terms(run.cases[key]) for key in keys] for run in method.runs], dtype=np.float64
    )  # (S, n, 2, 4)
    if np.isnan(values).any():
        raise InputError(
            "cases whose two masks are empty have no Dice, and they differ from run to run",
            file=method.runs[0].target,
            remedy="evaluate with --empty-mask one or zero",
        )
    return np.moveaxis(values, 2, 0)


def _tests(
    first: FloatArray, second: FloatArray, patients: Sequence[str], num_permutations: int, seed: int
) -> dict[str, float]:
    """p of both Dice conventions; a case counts with the mean of its numerators and denominators over the seeds."""
    a, b = (patient_sums(one.mean(axis=1), patients) for one in (first, second))  # (2, P, 4)
    image, pooled = OVERLAP.index("dice_per_image"), OVERLAP.index("dice_pooled")
    per_patient = a[0, :, image] / a[1, :, image] - b[0, :, image] / b[1, :, image]
    return {
        "dice_per_image": sign_flip_test(per_patient, num_draws=num_permutations, seed=seed),
        "dice_pooled": swap_test(a[:, :, pooled], b[:, :, pooled], num_draws=num_permutations, seed=seed),
    }


def _metrics(
    found: SeedMeans, base: SeedMeans | None, p: Mapping[str, float], p_holm: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    changes = [None] * len(OVERLAP) if base is None else [change.to_dict() for change in found.minus(base)]
    return {
        metric: {
            **interval.to_dict(),
            "sd": float(found.sds[i]),
            "by_seed": [float(value) for value in found.by_seed[:, i]],
            "difference": changes[i],
            "p": p.get(metric),
            "p_holm": p_holm.get(metric),
        }
        for i, (metric, interval) in enumerate(zip(OVERLAP, found.intervals(), strict=True))
    }


def _notes(methods: Sequence[Method], num_patients: int, num_permutations: int) -> list[str]:
    family = len(TESTED) * (len(methods) - 1)
    notes = [
        POOLED_NOTE,
        "intervals and tests are over patients and take the seeds as they are; the sd is over the seeds alone",
        f"p per image: {TEST_TEXT['dice_per_image']}; p pooled: {TEST_TEXT['dice_pooled']}; two-sided; Holm over "
        f"{family} tests ({len(methods) - 1} comparisons in both Dice conventions)",
    ]
    single = [method.name for method in methods if len(method.runs) == 1]
    if single:
        notes.append(f"one run only, so no sd, and a difference may be its seed's: {'; '.join(single)}")
    if len({len(method.runs) for method in methods}) > 1:
        notes.append("the methods have different numbers of seeds")
    if num_patients < 2:
        notes.append("a single patient: there are no intervals, and p is 1 whatever the difference")
    elif 2**num_patients <= num_permutations:
        notes.append(f"{num_patients} patients: tests are exact, and p cannot be below {2 / 2**num_patients:.3g}")
    return notes


def _threshold(runs: Sequence[ScoredRun]) -> str:
    used = {
        run.summary["threshold_source"]
        if run.summary["threshold"] is None
        else f"threshold {run.summary['threshold']} (fixed)"
        if run.summary["threshold_source"] == "fixed"
        else f"each its own threshold ({run.summary['threshold_source']})"
        for run in runs
    }
    return ", ".join(sorted(used, reverse=True))


def _number(value: float | None, sign: str = "") -> str:
    return "   n/a" if value is None else f"{value:{sign}.4f}"


def _range(value: Mapping[str, Any], sign: str = "") -> str:
    return "" if value["lo"] is None else f"{value['lo']:{sign}.4f} to {value['hi']:{sign}.4f}"


def _p(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "n/a"
    return f"{value:.4f}" if value >= 0.0001 else "<0.0001"
