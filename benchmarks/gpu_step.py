"""What a training step costs on a GPU, and whether the host waits for the device inside it.

    python benchmarks/gpu_step.py [--out FILE.json] [--only NAME] [--steps 20]

Every workload is a shipped recipe on shipped radiographs or on phantoms made on the spot, stepped as the training loop
steps it. Printed for each: milliseconds per step with its data ready on the device (`step_ms`, the median over the
steps, timed by CUDA events) and with the loader (`loop_ms`), images per second, peak memory, and every host
synchronisation inside the step (`torch.cuda.set_sync_debug_mode`), with the line of medvl that asked for it. For
pre-training also the share of the step that making the pseudo mask takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from medvl.config import load_config
from medvl.core.provenance import machine, versions
from medvl.phantom.dataset import make_phantoms
from medvl.tasks.pretrain.learner import PretrainLearner
from medvl.train.loop import make_optimizer
from medvl.train.run import open_manifest, prepare

RECIPES = Path(__file__).parents[1] / "recipes"
WARM = 5
PHANTOMS = "PHANTOMS"
FULL_LVIT = [
    "semi.epi=none",
    "semi.lv_bank=none",
    "data.label_fraction=1.0",
    "data.image_size=[224,224]",
    "model.size=B",
]
FULL_G2D = [PHANTOMS, "text.encoder=builtin", "text.train_layers=0", "pretrain.warmup_steps=0", "data.num_workers=8"]
# name: recipe, precision, overrides. The text encoder of G2D is the built-in one: no weights are needed.
WORKLOADS: dict[str, tuple[str, str, list[str]]] = {
    "lvit nano": ("lvit_semi", "32-true", ["semi.epi=none", "semi.lv_bank=none", "data.label_fraction=1.0"]),
    "lvit nano, EPI and LV": ("lvit_semi", "32-true", ["data.label_fraction=0.1"]),
    "lvit B 224 px": ("lvit_semi", "32-true", [*FULL_LVIT, "train.batch_size=24", "data.num_workers=8"]),
    "lvit B 224 px bf16": ("lvit_semi", "bf16-mixed", [*FULL_LVIT, "train.batch_size=24", "data.num_workers=8"]),
    "g2d nano 96 px": ("g2d_phantom", "32-true", [PHANTOMS, "pretrain.warmup_steps=0"]),
    "g2d resnet50 224 px": ("g2d", "32-true", FULL_G2D),
    "g2d resnet50 224 px bf16": ("g2d", "bf16-mixed", FULL_G2D),
}


def syncs_of(caught: list[warnings.WarningMessage]) -> Counter[str]:
    """How often which line asked the host to wait."""
    return Counter(str(one.message) for one in caught)


def measure(name: str, num_steps: int, folder: Path) -> dict[str, Any]:
    """One workload's figures."""
    recipe, precision, overrides = WORKLOADS[name]
    given = [f"data.manifest={folder / 'manifest.csv'}" if one == PHANTOMS else one for one in overrides]
    config = load_config(RECIPES / f"{recipe}.yaml", [*given, "train.accelerator=cuda", f"train.precision={precision}"])
    fabric = Fabric(accelerator="cuda", devices=1, precision=precision)  # type: ignore[arg-type]  # one of its names
    with tempfile.TemporaryDirectory() as out:
        ready = prepare(config, open_manifest(config), fabric, Path(out) / "run")
        (Path(out) / "run").mkdir(exist_ok=True)
        task, loader = ready.learner, ready.loaders["train"]
        module, optimizer = fabric.setup(task.module, make_optimizer(config.train, task.module))
        task.begin(None, 0)
        module.train()
        batch = None

        def step(batch: Any) -> None:
            optimizer.zero_grad()
            task.step = 10**6  # past every warm-up
            task.progress = 0.5
            task.backward(batch.to(fabric.device), module, fabric.backward)
            if config.train.clip_norm is not None:
                fabric.clip_gradients(module, optimizer, max_norm=config.train.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            task.after_step(0)

        def batches() -> Any:
            epoch = 0
            while True:
                loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]  # medvl's sampler
                yield from loader
                epoch += 1

        source = batches()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM):
            batch = next(source)
            step(batch)
        torch.cuda.synchronize()

        found: Counter[str] = Counter()
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            seen: list[str] = []

            def show(message: Any, *_: Any) -> None:
                if "synchronizing operation" in str(message) and "prototype" not in str(message):
                    own = [f for f in traceback.extract_stack() if "medvl" in f.filename or "lightning" in f.filename]
                    seen.append(
                        f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].line}" if own else "elsewhere"
                    )

            warnings.showwarning = show  # type: ignore[assignment]
            waiting = [next(source) for _ in range(4)]
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("warn")
            for one in waiting:
                step(one)
            torch.cuda.set_sync_debug_mode("default")
            found.update(seen)

        marks = [torch.cuda.Event(enable_timing=True) for _ in range(num_steps + 1)]  # type: ignore[no-untyped-call]
        device_batch = waiting[-1].to(fabric.device)
        marks[0].record()
        for n in range(num_steps):
            step(device_batch)
            marks[n + 1].record()
        torch.cuda.synchronize()
        step_ms = statistics.median(marks[n].elapsed_time(marks[n + 1]) for n in range(num_steps))
        start = time.monotonic()
        for _ in range(num_steps):
            step(next(source))
        torch.cuda.synchronize()
        loop_ms = (time.monotonic() - start) / num_steps * 1000
        result: dict[str, Any] = {
            "recipe": recipe,
            "overrides": overrides,
            "precision": precision,
            "rows": len(device_batch.texts),
            "step_ms": round(step_ms, 2),
            "loop_ms": round(loop_ms, 2),
            "images_per_s": round(len(device_batch.image) / loop_ms * 1000, 1),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "syncs_in_4_steps": dict(found),
        }
        if isinstance(task, PretrainLearner):
            result |= pseudo_mask_share(task, device_batch, num_steps, step_ms)
    return result


def pseudo_mask_share(task: PretrainLearner, batch: Any, num_steps: int, step_ms: float) -> dict[str, float]:
    """Milliseconds of making the pseudo masks of a batch, alone, and their share of the step."""
    with torch.no_grad():
        output, vectors = task.forward(batch, decode=False)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(num_steps + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for n in range(num_steps):
        task.mask_of(output, vectors, batch)
        marks[n + 1].record()
    torch.cuda.synchronize()
    mask_ms = statistics.median(marks[n].elapsed_time(marks[n + 1]) for n in range(num_steps))
    return {"pseudo_mask_ms": round(mask_ms, 3), "pseudo_mask_share": round(mask_ms / step_ms, 4)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", action="append", choices=list(WORKLOADS))
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here")
    results: dict[str, Any] = {
        "format": "medvl-steps/1",
        "machine": machine(),
        "versions": versions(),
        "steps": arguments.steps,
        "workloads": {},
    }
    with tempfile.TemporaryDirectory() as name:
        make_phantoms(Path(name), num=320, size=224)
        for workload in arguments.only or WORKLOADS:
            results["workloads"][workload] = measure(workload, arguments.steps, Path(name))
            print(workload, json.dumps(results["workloads"][workload]), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
