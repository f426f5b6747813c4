"""`medvl compare`: methods (runs that differ in nothing but their seeds) on the same cases.

Each metric is the mean over a method's seeds, with its sd over seeds and a 95 % interval: over patients of a single
run, over patients and seeds of several (two-level bootstrap). Differences to a reference are paired: the same patients
are resampled for both, and the same seeds where both have the same. The tests swap the two methods within patients and
take the seeds as they are (of AUC see `comparison_metrics`). Runs of several tasks give one comparison a task, and
nothing is averaged over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError, nearest
from medvl.core.files import write_json, write_text
from medvl.core.provenance import machine, versions
from medvl.evaluation.comparison_metrics import BOOTSTRAP, Measures
from medvl.evaluation.comparison_tables import as_csv, as_html
from medvl.evaluation.grouping import (
    Method,
    check_comparable,
    group_methods,
    join_kinds,
    pool_folds,
    setting_table,
)
from medvl.evaluation.record import without_nan
from medvl.evaluation.scored_runs import ScoredRun, open_runs
from medvl.metrics.statistics import ENOUGH_DRAWS, FEW_PATIENTS, NUM_DRAWS, NUM_PERMUTATIONS, SeedMeans, holm

FORMAT = "medvl-compare/1"
TASKS_FORMAT = "medvl-compare-tasks/1"
FEW_SEEDS = 5  # below, the bootstrap over them takes less than 4/5 of their variance


def compare(
    targets: Sequence[str],
    *,
    split: str = "val",
    manifest_path: Path | None = None,
    names: Sequence[str] = (),
    reference: str | None = None,
    overrides: Sequence[str] = (),
    folds: bool = False,
    out: Path | None = None,
    device: str = "cpu",
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    num_permutations: int = NUM_PERMUTATIONS,
    pictures: bool = False,
    include_text: bool = True,
) -> dict[str, Any]:
    """Compare runs; with `out` write compare.csv, compare.json and compare.html there. Returns compare.json's object.

    Trained and prompted classifiers are of one task where they fit each other (see `join_kinds`). Runs of several
    tasks: {format, tasks: {task: that object}}, and files in a folder of `out` for each task. The only run of its task
    has its row, without differences.

    Args:
        targets, manifest_path, overrides: see `open_runs`.
        names: see `group_methods`; with several tasks one for each run.
        folds: pool runs that differ in their manifest alone (see `pool_folds`); names are then of the pooled ones.
        reference: the method that the others are compared with; default the first (of each task that has not this one).
        pictures: draw cases.png (see `side_by_side`) where images and predictions are at hand; not of pooled folds.
        include_text: False leaves prompts out of the pictures.
        seed: of the bootstrap and of the permutations.

    Raises:
        InputError: runs that were not scored alike on the same cases, naming what differs or is missing.
    """
    if len(targets) < 2:
        raise InputError.empty("one run cannot be compared", expected="two runs or more")
    runs = open_runs(targets, split=split, manifest_path=manifest_path, overrides=overrides, device=device)
    if folds:
        runs = pool_folds(runs)
    runs = join_kinds(runs)
    by_task: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        by_task.setdefault(run.kind.name, []).append(i)
    if len(by_task) > 1 and names and len(names) != len(runs):
        raise InputError.mismatch(
            f"{len(names)} names for {len(runs)} runs of {len(by_task)} tasks", expected="one for each run"
        )
    options = {"num_draws": num_draws, "num_permutations": num_permutations, "seed": seed}
    drawn = {"pictures": pictures and not folds, "include_text": include_text, "device": device}
    tables = {}
    for task, places in by_task.items():
        members = [runs[i] for i in places]
        notes = check_comparable(members)  # first: runs of the same settings may be scored on different cases
        methods = group_methods(members, [names[i] for i in places] if names and len(by_task) > 1 else names)
        tables[task] = (methods, notes)
    known = [method.name for methods, _ in tables.values() for method in methods]
    if reference is not None and reference not in known:
        like = nearest(reference, known)
        remedy = f"did you mean {like}?" if like else None
        raise InputError.unknown(f"no method {reference}", expected="; ".join(known), remedy=remedy)
    results = {}
    for task, (methods, notes) in tables.items():
        base = next((i for i, method in enumerate(methods) if method.name == reference), 0)
        folder = out if out is None or len(tables) == 1 else out / task.replace(" ", "_")
        results[task] = _compare(methods, notes, split, base, folder, options, drawn)
    if len(results) == 1:
        return results.popitem()[1]
    result = {"format": TASKS_FORMAT, "tasks": results}
    if out is not None:
        write_json(out / "compare.json", result)
    return result


def _compare(
    methods: Sequence[Method],
    notes: Sequence[str],
    split: str,
    base: int,
    out: Path | None,
    options: Mapping[str, int],
    drawn: Mapping[str, Any],
) -> dict[str, Any]:
    """Methods of one task; `base`: the reference, `notes`: of `check_comparable`."""
    runs = [run for method in methods for run in method.runs]
    num_draws, num_permutations, seed = (options[name] for name in ("num_draws", "num_permutations", "seed"))
    kind = runs[0].kind
    known = [method.name for method in methods]
    keys = sorted(runs[0].cases)
    patients = [runs[0].cases[key].patient for key in keys]
    measures = kind.measures(runs[0].summary, [runs[0].cases[key].truth for key in keys], patients)
    rows = [[[run.cases[key] for key in keys] for run in method.runs] for method in methods]  # per method (S, n)
    seeds = [[run.seed or run.target for run in method.runs] for method in methods]  # of unknown ones each by itself
    means = [measures.means(one, names, patients, num_draws, seed) for one, names in zip(rows, seeds, strict=True)]
    tests = {
        i: measures.p_values(one, rows[base], (means[i], means[base]), patients, num_permutations, seed)
        for i, one in enumerate(rows)
        if i != base
    }
    family = sum(not math.isnan(p) for by_metric in tests.values() for p in by_metric.values())
    adjusted = iter(holm([p for by_metric in tests.values() for p in by_metric.values()]))
    holm_p = {i: {metric: next(adjusted) for metric in by_metric} for i, by_metric in tests.items()}
    first = runs[0].summary
    num_patients = len(set(patients))
    result = {
        "format": FORMAT,
        "task": kind.name,
        "title": kind.title,
        "titles": measures.titles,
        "tested": list(measures.tested),
        "split": split,
        "manifest": first["manifest"],
        **{key: first[key] for key in kind.same_keys if key != "threshold"},
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
                "interval_over": _interval_over(seeds[i]),
                "difference_over": None if i == base else _difference_over(seeds[i], seeds[base]),
                "metrics": _metrics(
                    list(measures.titles),
                    means[i],
                    None if i == base else means[base],
                    tests.get(i, {}),
                    holm_p.get(i, {}),
                ),
            }
            for i, method in enumerate(methods)
        ],
        "settings": setting_table(methods),
        "bootstrap": {
            "unit": "patient and seed" if any(len(names) > 1 for names in seeds) else "patient",
            "draws": num_draws,
            "seed": seed,
            "confidence": 0.95,
        },
        "test": {
            **measures.tests,
            "unit": "patient",
            "two_sided": True,
            "exact": 2**num_patients <= num_permutations,
            "permutations": min(2**num_patients, num_permutations),
            "seed": seed,
            "correction": "Holm",
            "family": family,
        },
        "versions": versions(),
        "machine": machine(),
        "notes": [*notes, *measures.notes(), *_notes(methods, base, measures, family, num_patients, num_permutations)],
    }
    result = without_nan(result)
    assert isinstance(result, dict)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        if drawn["pictures"]:
            from medvl.evaluation.side_by_side import draw_cases

            shown_cases = draw_cases(methods, base, out / "cases.png", drawn["include_text"], drawn["device"], seed)
            result["pictures"] = shown_cases
        write_json(out / "compare.json", result)
        write_text(out / "compare.csv", as_csv(result))
        shown = out / "cases.png" if (result.get("pictures") or {}).get("num_cases") else None
        write_text(out / "compare.html", as_html(result, shown))
    return result


def _metrics(
    metrics: Sequence[str],
    means: SeedMeans,
    base: SeedMeans | None,
    p: Mapping[str, float],
    p_holm: Mapping[str, float],
) -> dict[str, dict[str, Any]]:
    changes = [None] * len(metrics) if base is None else [change.to_dict() for change in means.minus(base)]
    return {
        metric: {
            **interval.to_dict(),
            "sd": float(means.sds[i]),
            "by_seed": [float(value) for value in means.by_seed[:, i]],
            "difference": changes[i],
            "p": p.get(metric),
            "p_holm": p_holm.get(metric),
        }
        for i, (metric, interval) in enumerate(zip(metrics, means.intervals(), strict=True))
    }


def _interval_over(seeds: Sequence[str]) -> str:
    return "patients" if len(seeds) == 1 else "patients and seeds"


def _difference_over(seeds: Sequence[str], base: Sequence[str]) -> str:
    """What is resampled for a difference, and whether the two methods are paired in it."""
    if len(seeds) == len(base) == 1:
        return "patients"
    return "patients and seeds" if sorted(seeds) == sorted(base) else "patients, and the seeds of each method apart"


def _intervals(methods: Sequence[Method], base: int, same_tests: bool) -> list[str]:
    """What the intervals are over, in words."""
    counts = [len(method.runs) for method in methods]
    if max(counts) == 1:
        return ["intervals and tests are over patients"]
    tests = "tests likewise" if same_tests else "tests are over patients and take the seeds as they are"
    notes = [
        "intervals are over patients and seeds (two-level bootstrap: each draw takes patients, the same under every "
        f"seed and method, and seeds), of a single run over patients; {tests}; the sd is over the seeds alone"
    ]
    seeds = [sorted(run.seed or run.target for run in method.runs) for method in methods]
    apart = [method.name for method, names in zip(methods, seeds, strict=True) if names != seeds[base]]
    if apart:
        notes.append(f"other seeds than {methods[base].name}, hence drawn apart in the difference: {'; '.join(apart)}")
    few = sorted({count for count in counts if 1 < count < FEW_SEEDS})
    if few:
        notes.append(f"{' or '.join(map(str, few))} seeds are few: the interval over them is too narrow")
    return notes


def _notes(
    methods: Sequence[Method], base: int, measures: Measures, family: int, num_patients: int, num_permutations: int
) -> list[str]:
    by_text: dict[str, list[str]] = {}
    for metric in measures.tested:
        by_text.setdefault(measures.tests[metric], []).append(measures.titles[metric].partition(" (")[0])
    tests = "; ".join(f"p of {', '.join(names)}: {text}" for text, names in by_text.items())
    notes = _intervals(methods, base, BOOTSTRAP in measures.tests.values())
    if len(methods) > 1:
        notes.append(
            f"{tests}; two-sided; Holm over {family} tests ({len(methods) - 1} comparisons in {len(measures.tested)} "
            "metrics)"
        )
    else:
        notes.insert(0, f"{methods[0].name} is the only method of this task: no differences and no tests")
    single = [method.name for method in methods if len(method.runs) == 1]
    if single:
        notes.append(f"one run only, so no sd, and a difference may be its seed's: {'; '.join(single)}")
    few = {
        method.name: min(counts)
        for method in methods
        if len(method.runs) < ENOUGH_DRAWS
        and (counts := [num for run in method.runs if (num := run.labelled_patients) is not None])
        and min(counts) < FEW_PATIENTS
    }
    if few:
        methods_text = "; ".join(f"{name} ({num})" for name, num in few.items())
        notes.append(f"few labelled patients and fewer than {ENOUGH_DRAWS} draws, hence no result: {methods_text}")
    num_folds = {len(run.folds) for method in methods for run in method.runs} - {0}
    if num_folds:
        number = " or ".join(map(str, sorted(num_folds)))
        notes.append(f"cases of {number} folds pooled, each scored once, by the model of its fold")
    if len({len(method.runs) for method in methods}) > 1:
        notes.append("the methods have different numbers of seeds")
    if num_patients < 2:
        notes.append("a single patient: there are no intervals, and p is 1 whatever the difference")
    elif 2**num_patients <= num_permutations and BOOTSTRAP not in measures.tests.values():
        notes.append(f"{num_patients} patients: tests are exact, and p cannot be below {2 / 2**num_patients:.3g}")
    return notes


def _threshold(runs: Sequence[ScoredRun]) -> str:
    if runs[0].kind.threshold == "none":
        return "no threshold"
    used = {
        run.summary["threshold_source"]
        if run.summary["threshold"] is None
        else f"threshold {run.summary['threshold']} (fixed)"
        if run.summary["threshold_source"] == "fixed"
        else f"each its own threshold ({run.summary['threshold_source']})"
        for run in runs
    }
    return ", ".join(sorted(used, reverse=True))
