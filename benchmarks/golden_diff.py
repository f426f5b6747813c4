"""Do HEAD and its parent compute the same 20 training steps of every task, to the bit, and the same evaluation?

Run by `make golden-diff`. Both commits are checked out into temporary work trees and run by this interpreter on this
machine, one after the other, on the same seeded data: loss and weights of each task (and of the semi-supervised one),
and the bytes of cases.csv of the shipped model. A difference is an error unless HEAD's commit message says `numerics:`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 20
ROOT = Path(__file__).resolve().parent.parent

# Written against the public command line, so that it runs on both commits: train, then hash losses and weights.
PROGRAM = """
import hashlib, json, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
torch.set_num_threads(2)
work = Path(sys.argv[1])
rng = np.random.default_rng(0)
rows, few = ["id,image,text,mask,labels,boxes,patient,split"], []
for i in range(16):
    y, x = np.mgrid[:64, :64]
    left, row = i % 2, 12 + 3 * (i % 12)
    column = 16 if left else 48
    mask = (y - row) ** 2 + (x - column) ** 2 < 120
    Image.fromarray((rng.random((64, 64)) * 80 + 120 * mask).astype(np.uint8)).save(work / f"{i}.png")
    Image.fromarray((mask * 255).astype(np.uint8)).save(work / f"{i}_m.png")
    text, label = f"{'left' if left else 'right'} lung opacity {i % 3}", "opacity" if i % 4 < 2 else "none"
    box = f"opacity {column - 10} {max(0, row - 10)} {column + 10} {row + 10}"
    rows.append(f"c{i},{i}.png,{text},{i}_m.png,{label},{box},p{i},{'val' if i > 11 else 'train'}")
    few.append(rows[-1] if i % 3 or i > 11 else rows[-1].replace(f"{i}_m.png", ""))
(work / "manifest.csv").write_text("\\n".join(rows) + "\\n")
(work / "few.csv").write_text("\\n".join([rows[0], *few]) + "\\n")
DATA = "data: {manifest: MANIFEST, laterality: patient, image_size: [64, 64], in_channels: 1}\\n"
TRAIN = "train: {epochs: 1000, max_steps: STEPS, batch_size: 4, val_every: 1000, accelerator: cpu, warmup_steps: 5}\\n"
TASKS = {
    "segment": "model: {size: nano}\\ntext: {dim: 32}\\n",
    "semi": "model: {size: nano}\\ntext: {dim: 32}\\n"
    "semi: {epi: labels, lv_bank: labelled, lv_similarity: findings}\\n",
    "pretrain": "task: pretrain\\nmodel: {size: nano, options: {projection_dim: 32, pool_stride: 8}}\\n"
    "text: {dim: 32}\\npretrain: {warmup_steps: 5}\\n",
    "classify": "task: classify\\nmodel: {size: nano}\\nclassify: {mode: finetune}\\n",
    "detect": "task: detect\\nmodel: {size: nano}\\n",
}
from medvl.cli import main

def medvl(*words):
    sys.argv = ["medvl", *map(str, words)]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (words, stop.code)

for name, recipe in TASKS.items():
    manifest = "few.csv" if name == "semi" else "manifest.csv"
    (work / f"{name}.yaml").write_text(DATA.replace("MANIFEST", manifest) + TRAIN + recipe)
    medvl("train", work / f"{name}.yaml", "--out", work / name)
    digest = hashlib.sha256()
    state = torch.load(work / name / "checkpoints/last/state.pt", weights_only=False)
    for key, tensor in sorted(state["parts"]["module"].items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    for row in map(json.loads, (work / name / "metrics.jsonl").open()):
        digest.update(repr(row.get("loss")).encode())
    print("DIGEST", name, digest.hexdigest())
medvl("predict", "medvl:lvit_regions", work / "0.png", "--text", "left lung", "--out", work / "masks")
medvl("evaluate", "medvl:lvit_regions", work / "manifest.csv", "--split", "val", "--out", work / "evaluation")
files = [work / "evaluation/cases.csv", *sorted((work / "masks").glob("*__left-lung.png"))]
print("DIGEST evaluate", hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest())
""".replace("STEPS", str(STEPS))


def git(*words: str) -> str:
    """The output of a git command in the checkout."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def digests_of(commit: str, folder: Path) -> dict[str, str]:
    """Run a commit: {task: hash of its losses and weights after `STEPS` steps}, and that of the evaluation."""
    tree, work = folder / f"tree-{commit[:8]}", folder / f"work-{commit[:8]}"
    git("worktree", "add", "--detach", "--force", str(tree), commit)
    try:
        work.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(work)], env=environment, cwd=work, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"{commit[:8]} does not run:\n{done.stdout}{done.stderr}")
        lines = [line.split() for line in done.stdout.splitlines() if line.startswith("DIGEST")]
        return {name: digest for _, name, digest in lines}
    finally:
        git("worktree", "remove", "--force", str(tree))


def main() -> None:
    """Compare HEAD with its parent, or with the commit that is named; exit 1 on an unannounced difference."""
    head = git("rev-parse", "HEAD")
    parents = sys.argv[1:2] or git("rev-list", "--parents", "-n", "1", "HEAD").split()[1:]
    if not parents:
        print("golden-diff: HEAD has no parent, nothing to compare")
        return
    parent = git("rev-parse", parents[0])
    with tempfile.TemporaryDirectory() as name:
        new, old = digests_of(head, Path(name)), digests_of(parent, Path(name))
    different = [task for task in new if new[task] != old.get(task)]
    both = f"{head[:8]} and {parent[:8]}"
    if not different:
        print(f"golden-diff: {STEPS} steps of {', '.join(new)} are bit-identical in {both}")
    elif "numerics:" in git("log", "-1", "--format=%B"):
        print(f"golden-diff: {', '.join(different)} differ in {both}, and the commit message says so (numerics:)")
    else:
        sys.exit(f"golden-diff: {', '.join(different)} differ in {both}; say `numerics:` if intended")


if __name__ == "__main__":
    main()
