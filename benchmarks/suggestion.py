"""Do the cases of `medvl x suggest` help more than random ones? One JSON per finished cell in runs/suggestion/results.

    python benchmarks/suggestion.py [SEED ...]

A finished cell is not run again; an interrupted one continues.
"""

from __future__ import annotations

import sys
from pathlib import Path

from medvl.config import load_config
from medvl.core.files import write_json
from medvl.experiments.suggest import suggest
from medvl.experiments.sweep import load_sweep
from medvl.experiments.sweep_run import without_machine_paths
from medvl.experiments.sweep_score import score_segmentation
from medvl.train.run import train

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "suggestion"
RESULTS = RUNS / "results"
RECIPE = ROOT / "recipes" / "lvit_semi.yaml"
NUM = 20
COMMON = ["semi.epi=none", "semi.lv_bank=none", "train.epochs=8", "data.label_fraction=0.05"]


def main() -> None:
    """All seeds, or those that are named."""
    for seed in [int(word) for word in sys.argv[1:]] or range(5):
        folder = RUNS / f"seed{seed}"
        cell("start", seed, folder / "start", [])
        for variant, random in (("20 suggested", None), ("20 at random", seed)):
            table = folder / f"{variant.replace(' ', '_')}.csv"
            if not table.exists():
                suggest(folder / "start", NUM, by="patient", out=table, random=random)
            cell(variant, seed, folder / variant.replace(" ", "_"), [f"data.also_labelled={table}"])


def cell(variant: str, seed: int, run: Path, words: list[str]) -> None:
    """Train (or resume) and score one run, unless its result is there."""
    path = RESULTS / f"{variant.replace(' ', '_')}-seed{seed}.json"
    if path.exists() and (run / "model").exists():
        return
    if not (run / "model").exists():
        resume = (run / "checkpoints" / "last" / "state.pt").exists()
        config = None if resume else load_config(RECIPE, [*COMMON, f"train.seed={seed}", *words])
        train(config, run, resume=resume, command="python benchmarks/suggestion.py")
    found = score_segmentation(run, load_sweep(ROOT / "recipes" / "sweep_lvit.yaml"), None)
    found |= {"variant": variant, "seed": seed, "recipe": RECIPE.name, "command": "python benchmarks/suggestion.py"}
    write_json(path, without_machine_paths(found, {ROOT: ".", Path.home(): "~"}))
    print(path.name, "written", file=sys.stderr)


if __name__ == "__main__":
    main()
