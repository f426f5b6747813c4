"""Run cells of the experiments of docs/results.md: train a recipe, ask it on the test split, write one JSON per cell.

    python benchmarks/experiments.py list
    python benchmarks/experiments.py run btxrd --data DATA        # every planned cell that results/ does not hold yet
    python benchmarks/experiments.py run btxrd text 1 --data DATA # one variant, one seed

DATA is the folder that holds the sets by name (btxrd-lvit, monuseg-lvit); they may not be redistributed. Each cell opens
the test split of its own model once. A finished cell is never run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from medvl.config import load_config
from medvl.evaluate.evaluator import evaluate, log_test
from medvl.evaluate.inputs import open_inputs
from medvl.evaluate.text_probe import probe
from medvl.train.run import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RUNS = ROOT / "results", ROOT / "runs" / "experiments"

# variant -> (recipe, overrides)
EXPERIMENTS: dict[str, dict[str, tuple[str, list[str]]]] = {
    "btxrd": {
        "text": ("lvit_btxrd.yaml", []),
        "no text (LViT-TW)": ("lvit_btxrd.yaml", ["text.encoder=none"]),
    },
    "monuseg": {
        "LViT-T released": ("lvit_monuseg.yaml", []),
        "mini, same wall time": ("lvit_monuseg_mini.yaml", []),
    },
}
ASKED = {"true": "true text", "empty": "empty text", "shuffled": "another patient's text", "side_swapped": "sides swapped"}


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
                print(f"{'done' if cell_path(name, variant, seed).exists() else 'open'}  {name}  {variant}  seed {seed}")
        return
    if words.experiment is None or words.data is None:
        parser.error("run needs an experiment and --data")
    for variant, seed in planned(words.experiment):
        if (words.variant or variant) == variant and (seed if words.seed is None else words.seed) == seed:
            run_cell(words.experiment, variant, seed, words.data)


def planned(experiment: str) -> list[tuple[str, int]]:
    """(variant, seed) in the order in which they are run: all variants of a seed before the next seed."""
    about = json.loads((RESULTS / experiment / "about.json").read_text(encoding="utf-8"))
    seeds = about["planned_seeds"]
    return [(v, seed) for seed in range(max(seeds.values())) for v in EXPERIMENTS[experiment] if seed < seeds[v]]


def cell_path(experiment: str, variant: str, seed: int) -> Path:
    """The result file of a cell."""
    name = "".join(c if c.isalnum() else "_" for c in variant).strip("_")
    return RESULTS / experiment / f"{name}-seed{seed}.json"


def run_cell(experiment: str, variant: str, seed: int, data: Path) -> None:
    """Train, evaluate on test, probe the text, write the cell."""
    path = cell_path(experiment, variant, seed)
    if path.exists():
        print(f"{path.name} is there already", file=sys.stderr)
        return
    recipe, overrides = EXPERIMENTS[experiment][variant]
    about = json.loads((RESULTS / experiment / "about.json").read_text(encoding="utf-8"))
    manifest = (data / about["set"] / "manifest.csv").resolve()
    words = [f"data.manifest={manifest}", f"train.seed={seed}", *overrides]
    run = RUNS / experiment / path.stem
    resume = (run / "checkpoints" / "last" / "state.pt").exists()
    train(None if resume else load_config(ROOT / "recipes" / recipe, words), run, resume=resume, command=f"{recipe} {words}")
    inputs = open_inputs(str(run))
    records = inputs.manifest(manifest)
    result = evaluate(inputs.source, records, split="test", out=run / "test", surface=False, slice_index=None)
    log_test(run, result.summary)
    rows: list[dict[str, Any]] = []
    if inputs.source.describe()["config"]["text"]["encoder"] == "none":
        rows.append({"name": "no text", **row_of(result.summary)})
    else:
        asked = probe(inputs.source, records, split="test", laterality=inputs.data.laterality, out=run / "test").result
        for name, label in ASKED.items():
            found = asked["conditions"][name]
            row: dict[str, Any] = {"name": label, "num": found["num"], "dice_per_image": found["dice"]}
            rows.append({**row, **row_of(result.summary)} if name == "true" else row)
    summary = {key: value for key, value in result.summary.items() if key not in ("by_class", "by_phrase", "model")}
    summary["manifest"] = f"{about['set']}/manifest.csv"
    summary["config"]["data"]["manifest"] = summary["manifest"]
    training = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    minutes = next(row["elapsed_s"] for row in reversed(training) if row["kind"] == "val") / 60
    cell = {"variant": variant, "seed": seed, "recipe": recipe, "minutes": round(minutes, 1), "rows": rows, **summary}
    cell["seed"] = seed
    path.write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")
    print(f"{path.name}: {', '.join(f'{row['name']} {row['dice_per_image']['mean']:.3f}' for row in rows)}")


def row_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The table row of a summary."""
    metrics = summary["metrics"]
    return {"num": summary["num_cases"], **{name: metrics[name] for name in METRICS}}


METRICS = ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")

if __name__ == "__main__":
    main()
