"""Run cells of the experiments of docs/results.md: train a recipe, ask it, write one JSON per cell.

    python benchmarks/experiments.py list
    python benchmarks/experiments.py run regions                   # every planned cell that results/ does not hold
    python benchmarks/experiments.py run btxrd text 1 --data DATA  # one variant, one seed

DATA is the folder that holds the sets by name (btxrd-lvit, monuseg-lvit); they may not be redistributed. A cell scored
on test opens the test split of its own model once. A finished cell is never run again; an interrupted one continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvl.config import load_config
from medvl.data.records import Manifest, load_manifest
from medvl.evaluate.evaluator import evaluate, log_test
from medvl.evaluate.inputs import open_inputs
from medvl.evaluate.summary import CaseRow, metrics_of
from medvl.evaluate.text_probe import probe
from medvl.train.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RUNS = ROOT / "results", ROOT / "runs" / "experiments"
SHORT = ["train.epochs=4", "train.val_every=4", "train.ema_decay=0.99"]  # the equal budget of merges and encoders

# experiment -> variant -> (recipe, overrides)
EXPERIMENTS: dict[str, dict[str, tuple[str, list[str]]]] = {
    "regions": {
        "attention, 4 epochs": ("lvit_regions.yaml", SHORT),
        "slots, 4 epochs": (
            "lvit_regions.yaml",
            [*SHORT, "model.options.text_merge=slots", "model.options.num_slots=16", "text.max_tokens=16"],
        ),
        "fixed-class U-Net": ("unet_regions.yaml", []),
    },
    "btxrd": {
        "text": ("lvit_btxrd.yaml", []),
        "no text (LViT-TW)": ("lvit_btxrd.yaml", ["text.encoder=none"]),
    },
    "monuseg": {
        "LViT-T released": ("lvit_monuseg.yaml", []),
        "mini, same wall time": ("lvit_monuseg_mini.yaml", []),
    },
}
ASKED = {"true": "true text", "empty": "empty", "shuffled": "another patient's", "side_swapped": "sides swapped"}
METRICS = ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["list", "run"])
    parser.add_argument("experiment", nargs="?", choices=sorted(EXPERIMENTS))
    parser.add_argument("variant", nargs="?")
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--data", type=Path)
    words = parser.parse_args()
    if words.verb == "list":
        for name in sorted(EXPERIMENTS):
            for variant, seed in planned(name):
                state = "done" if cell_path(name, variant, seed).exists() else "open"
                print(f"{state}  {name}  {variant}  seed {seed}")
        return
    if words.experiment is None:
        parser.error("run needs an experiment")
    for variant, seed in planned(words.experiment):
        if (words.variant or variant) == variant and (seed if words.seed is None else words.seed) == seed:
            run_cell(words.experiment, variant, seed, words.data)


def about(experiment: str) -> dict[str, Any]:
    """What is planned and said of an experiment."""
    result: dict[str, Any] = json.loads((RESULTS / experiment / "about.json").read_text(encoding="utf-8"))
    return result


def planned(experiment: str) -> list[tuple[str, int]]:
    """(variant, seed) in the order in which they are run: all variants of a seed before the next seed."""
    seeds = about(experiment)["planned_seeds"]
    return [(v, seed) for seed in range(max(seeds.values())) for v in EXPERIMENTS[experiment] if seed < seeds[v]]


def cell_path(experiment: str, variant: str, seed: int) -> Path:
    """The result file of a cell."""
    name = "".join(c if c.isalnum() else "_" for c in variant).strip("_")
    return RESULTS / experiment / f"{name}-seed{seed}.json"


def run_cell(experiment: str, variant: str, seed: int, data: Path | None) -> None:
    """Train, evaluate, ask, write the cell."""
    path = cell_path(experiment, variant, seed)
    if path.exists():
        print(f"{path.name} is there already", file=sys.stderr)
        return
    recipe, overrides = EXPERIMENTS[experiment][variant]
    plan = about(experiment)
    words = [f"train.seed={seed}", *overrides]
    if not plan["set"].startswith("medvl:"):
        if data is None:
            sys.exit(f"{experiment} needs --data, the folder that holds {plan['set']}")
        words.append(f"data.manifest={(data / plan['set'] / 'manifest.csv').resolve()}")
    run = RUNS / experiment / path.stem
    resume = (run / "checkpoints" / "last" / "state.pt").exists()
    config = None if resume else load_config(ROOT / "recipes" / recipe, words)
    train(config, run, resume=resume, command=f"{recipe} {' '.join(overrides)}")
    path.write_text(json.dumps(score(run, plan, variant, seed, recipe), indent=1) + "\n", encoding="utf-8")
    print(path.name, "written")


def score(run: Path, plan: dict[str, Any], variant: str, seed: int, recipe: str) -> dict[str, Any]:
    """Evaluate a finished run as `plan` says; the content of its cell."""
    inputs = open_inputs(str(run))
    split = plan["split"]
    records = load_manifest(plan["set"]) if plan["set"].startswith("medvl:") else inputs.manifest(None)
    result = evaluate(inputs.source, records, split=split, out=run / split, surface=False)
    if split == "test":
        log_test(run, result.summary)
    rows = [{"name": "all", **row_of(result.summary["metrics"], result.summary["num_cases"])}]
    if plan.get("rows_by"):
        rows += grouped_rows(result.cases, records, split, plan["rows_by"])
    elif inputs.source.uses_text:  # type: ignore[attr-defined]  # a model, not a folder of masks
        rows = []
        asked = probe(inputs.source, records, split=split, laterality=inputs.data.laterality, out=run / split).result
        for name, label in ASKED.items():
            found = asked["conditions"][name]
            rows.append({"name": label, "num": found["num"], "dice_per_image": found["dice"]})
        rows[0] |= row_of(result.summary["metrics"], result.summary["num_cases"])
    summary = {key: value for key, value in result.summary.items() if key not in ("by_class", "by_phrase", "model")}
    summary["manifest"] = plan["set"]
    summary["config"]["data"]["manifest"] = plan["set"]
    training = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    elapsed_s = next(row["elapsed_s"] for row in reversed(training) if row["kind"] == "val")
    cell = {"variant": variant, "seed": seed, "recipe": recipe, "minutes": round(elapsed_s / 60, 1), "rows": rows}
    return {**summary, **cell}


def grouped_rows(
    cases: Sequence[CaseRow], manifest: Manifest, split: str, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per combination of values of `columns`."""
    extra = {record.id: record.extra for record in manifest.split(split)}
    groups: dict[str, list[CaseRow]] = {}
    for case in cases:
        groups.setdefault(", ".join(extra[case.id][column] for column in columns), []).append(case)
    return [{"name": name, **row_of(metrics_of(rows), len(rows))} for name, rows in sorted(groups.items())]


def row_of(metrics: dict[str, Any], num: int) -> dict[str, Any]:
    """The table row of some metrics."""
    return {"num": num, **{name: metrics[name] for name in METRICS}}


if __name__ == "__main__":
    main()
