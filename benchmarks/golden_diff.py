"""Do HEAD and its parent compute the same 20 training steps, to the bit?

Run by `make golden-diff`. Both commits are checked out into temporary work trees and trained by this interpreter on
this machine, one after the other, on the same seeded data. A difference is an error unless HEAD's commit message says
`numerics:`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 20
ROOT = Path(__file__).resolve().parent.parent

# Written against the public command line, so that it runs on both commits: train, then hash the weights.
PROGRAM = """
import hashlib, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
torch.set_num_threads(2)
work = Path(sys.argv[1])
rng = np.random.default_rng(0)
rows = ["id,image,text,mask,patient,split"]
for i in range(8):
    y, x = np.mgrid[:64, :64]
    mask = (y - 20 - 3 * i) ** 2 + (x - (16 if i % 2 else 48)) ** 2 < 120
    Image.fromarray((rng.random((64, 64)) * 80 + 120 * mask).astype(np.uint8)).save(work / f"{i}.png")
    Image.fromarray((mask * 255).astype(np.uint8)).save(work / f"{i}_m.png")
    rows.append(f"c{i},{i}.png,{'left' if i % 2 else 'right'} lung,{i}_m.png,p{i},{'val' if i > 5 else 'train'}")
(work / "manifest.csv").write_text("\\n".join(rows) + "\\n")
(work / "r.yaml").write_text(
    "data: {manifest: manifest.csv, laterality: patient, image_size: [64, 64], in_channels: 1}\\n"
    "model: {size: nano}\\ntrain: {epochs: 1000, max_steps: STEPS, batch_size: 2, val_every: 1000, accelerator: cpu}\\n"
)
from medvl.cli import main
sys.argv = ["medvl", "train", str(work / "r.yaml"), "--out", str(work / "run")]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
state = torch.load(work / "run/checkpoints/last/state.pt", weights_only=False)
digest = hashlib.sha256()
for name, tensor in sorted(state["parts"]["module"].items()):
    digest.update(name.encode() + tensor.numpy().tobytes())
print("WEIGHTS", digest.hexdigest())
""".replace("STEPS", str(STEPS))


def git(*words: str) -> str:
    """The output of a git command in the checkout."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def weights_of(commit: str, folder: Path) -> str:
    """Train `STEPS` steps of a commit and return the hash of its weights."""
    tree, work = folder / f"tree-{commit[:8]}", folder / f"work-{commit[:8]}"
    git("worktree", "add", "--detach", "--force", str(tree), commit)
    try:
        work.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(work)], env=environment, cwd=work, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{commit[:8]} does not train:\n{done.stdout}{done.stderr}")
        return next(line for line in done.stdout.splitlines() if line.startswith("WEIGHTS")).split()[1]
    finally:
        git("worktree", "remove", "--force", str(tree))


def main() -> None:
    """Compare; exit 1 on an unannounced difference."""
    head = git("rev-parse", "HEAD")
    parents = git("rev-list", "--parents", "-n", "1", "HEAD").split()[1:]
    if not parents:
        print("golden-diff: HEAD has no parent, nothing to compare")
        return
    with tempfile.TemporaryDirectory() as name:
        new, old = weights_of(head, Path(name)), weights_of(parents[0], Path(name))
    if new == old:
        print(f"golden-diff: {STEPS} steps of {head[:8]} and {parents[0][:8]} are bit-identical")
    elif "numerics:" in git("log", "-1", "--format=%B"):
        print(f"golden-diff: {head[:8]} and {parents[0][:8]} differ, and the commit message says so (numerics:)")
    else:
        sys.exit(f"golden-diff: {STEPS} steps of {head[:8]} and {parents[0][:8]} differ; say `numerics:` if intended")


if __name__ == "__main__":
    main()
