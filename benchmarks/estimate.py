"""Is a run as long, and as large, as its plan says? One line a recipe: seconds and GiB as planned and as they were.

    python benchmarks/estimate.py [--cpu] "recipes/lvit_regions.yaml train.max_steps=60" ...

Each argument is a recipe and overrides. The time is from the plan to the end of `medvl train`. On a machine that is not
quiet, `--cpu` counts the CPU seconds of the process instead of the wall's, for the plan and the run alike, without
loader workers. Without an argument the shipped sample set is trained on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

RECIPES = (
    "recipes/lvit_regions.yaml train.max_steps=60",
    "recipes/lvit_regions.yaml model.size=mini train.max_steps=20",
    "recipes/lvit_regions.yaml model.name=unet model.options={} train.max_steps=60",
)
PROGRAM = """
import json, resource, sys, time
from pathlib import Path
from medvl.config import load_config
from medvl.train import estimate, run
from medvl.train.plan import plan_text
out, by_cpu, recipe, *words = sys.argv[1:]
if by_cpu == "cpu":
    estimate.clock = time.process_time
    words.append("data.num_workers=0")
marks = []
def marked(plan, config):
    marks.append((estimate.clock(), plan))
    return plan_text(plan, config)
run.plan_text = marked
run.train(load_config(Path(recipe), words), Path(out) / "run")
start, plan = marks[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print("RESULT", json.dumps([plan["expected_s"], estimate.clock() - start, plan["memory"]["process_gib"], peak]))
"""


def main() -> None:
    """Print the table."""
    words = [word for word in sys.argv[1:] if word != "--cpu"] or list(RECIPES)
    by = "cpu" if "--cpu" in sys.argv else "wall"
    print(f"{'planned s':>9} {'real s':>8} {'ratio':>6} {'planned GiB':>11} {'real GiB':>8}  recipe ({by})")
    for word in words:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", PROGRAM, folder, by, *word.split()]
            done = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if done.returncode or not lines:
            print(f"{'does not run':>45}  {word}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        planned, real, planned_gib, gib = json.loads(lines[0].removeprefix("RESULT "))
        print(f"{planned:9.1f} {real:8.1f} {planned / real:6.2f} {planned_gib:11.2f} {gib:8.2f}  {word}", flush=True)


if __name__ == "__main__":
    main()
