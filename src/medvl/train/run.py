"""One training run: recipe -> RUN folder (config, plan, metrics, checkpoints, model)."""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from medvl.config import Config, TrainConfig, config_dict, load_config, manifest_path, save_config
from medvl.core.files import write_json
from medvl.data.context import add_context
from medvl.data.hashes import image_hashes
from medvl.data.records import Manifest, load_manifest
from medvl.data.trained_images import count_seen, stage_of
from medvl.device import usable_device
from medvl.errors import InputError
from medvl.evaluate.seen_images import say_seen
from medvl.model_folder import save_model
from medvl.protocols import protocol_plan
from medvl.provenance import machine, versions
from medvl.train.checkpoint import NOTHING_SAVED, Progress
from medvl.train.loop import chosen_by, fit
from medvl.train.monitor import Monitor
from medvl.train.plan import make_plan, plan_text
from medvl.train.prepare import prepare
from medvl.train.start_image import stages_of_init


def train(config: Config | None, out: Path, *, resume: bool = False, dry_run: bool = False, command: str = "") -> Path:
    """Train a configuration into `out` (a RUN folder) and return it. With `dry_run` only the plan is made and printed.

    Args:
        config: the recipe; None with `resume` takes the run's own config.yaml.
        resume: continue an interrupted run, to the same weights as if it had not been interrupted.
        command: the command line, for the card.
    """
    config = _open_run(config, out, resume, dry_run)
    manifest = open_manifest(config)
    fabric = _fabric(config)
    fabric.launch()
    ready = prepare(config, manifest, fabric, out)
    if fabric.is_global_zero and not (resume or dry_run):
        # What can be wrong with recipe and data was found before the folder is made.
        out.mkdir(parents=True, exist_ok=True)
        save_config(config, out / "config.yaml")
    monitor = Monitor(out, enabled=fabric.is_global_zero)
    task, loaders, encoder = ready.task, ready.loaders, ready.encoder
    plan = make_plan(config, task, ready.splits, loaders["train"], loaders["val"], fabric.device)
    plan |= ready.plan | protocol_plan(config_dict(config)) | {"precision": precision_of(config.train)}
    earlier = stages_of_init(config)
    if earlier:
        overlap = count_seen(earlier, image_hashes(ready.splits["val"]).values())
        plan["seen_images"] = overlap.as_dict()
        say_seen(overlap, "validation")
    monitor.say(plan_text(plan, config))
    if dry_run:
        return out
    if fabric.is_global_zero:
        write_json(out / "plan.json", plan)

    own = stage_of(config.task, config.data.manifest, image_hashes(ready.splits["train"]).values())

    def save_best(best: nn.Module, progress: Progress) -> None:
        if fabric.is_global_zero:
            card = _card(config, manifest, plan, progress, command)
            save_model(out / "checkpoints" / "best", config, ready.classes, best, encoder, card, (*earlier, own))  # type: ignore[arg-type]  # the loop sees nn.Module

    progress = fit(
        fabric, task, loaders["train"], loaders["val"], config.train, monitor, save_best=save_best, resume=resume
    )
    if fabric.is_global_zero:
        _publish(out)
        name = chosen_by(config.train, task)
        which = "the last step" if name is None else f"best val {name} {progress.best:.4f}"
        if math.isnan(progress.best):
            monitor.say(f"no val {name} was a number: the model is the last one, of no use if its weights diverged")
            which = "the last step"
        monitor.say(
            f"done: {which} (epoch {progress.best_epoch}) after {progress.elapsed_s / 60:.1f} min; "
            f"the model is in {out / 'model'}"
        )
    return out


def open_manifest(config: Config, path: Path | None = None) -> Manifest:
    """Load the manifest of a configuration (or another one, read the same way)."""
    if path is None and not config.data.manifest:
        raise InputError("no manifest", expected="data.manifest in the recipe or data.manifest=FILE")
    manifest = load_manifest(
        path or manifest_path(config),
        text_column=config.data.text_column,
        classes=config.data.classes,
        empty_means_absent=config.data.empty_means_absent,
        constant_text=config.data.constant_text,
    )
    return add_context(manifest, config.data, config.train.seed, needed=True)


def _fabric(config: Config) -> Fabric:
    train = config.train
    if train.accelerator in ("cuda", "gpu", "mps"):
        usable_device(train.accelerator.replace("gpu", "cuda"), "train.accelerator:")
    on_gpu = train.accelerator in ("cuda", "gpu") or (train.accelerator == "auto" and torch.cuda.is_available())
    num_devices = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if train.devices > num_devices:  # on a CPU each is a process of its own
        what = f"train.devices: {train.devices} on a machine with {num_devices}"
        raise InputError(what, expected=f"at most {num_devices}")
    strategy: Any = "auto"
    if train.devices > 1:  # in its warm-up, pre-training does not run the decoder
        strategy = DDPStrategy(find_unused_parameters=config.task == "pretrain")
    return Fabric(
        accelerator=train.accelerator, devices=train.devices, precision=precision_of(train), strategy=strategy
    )


def precision_of(train: TrainConfig) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """`train.precision`, `auto` decided for this machine."""
    if train.precision != "auto":
        return train.precision
    if train.accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _open_run(config: Config | None, out: Path, resume: bool, dry_run: bool) -> Config:
    stored = out / "config.yaml"
    if resume:
        if not stored.is_file():
            raise InputError(
                "no run to resume",
                file=out,
                expected="a run folder with config.yaml",
                remedy="train anew with the recipe; a folder without config.yaml needs another --out",
            )
        own = load_config(stored)
        if config is not None and config_dict(config) != config_dict(own):
            raise InputError(
                "the recipe differs from the run's configuration", file=stored, remedy="resume without a recipe"
            )
        state = Monitor(out, enabled=False).state_path
        if not state.is_file():
            done = f"the run is finished, its model is in {out / 'model'}" if (out / "model").is_dir() else None
            raise InputError("nothing to resume: no step is saved here", file=state, remedy=done or NOTHING_SAVED)
        return own
    if config is None:
        raise InputError("no recipe", expected="medvl train RECIPE.yaml, or --resume --out RUN")
    if dry_run:
        return config
    if out.exists() and any(out.iterdir()):
        remedy = "choose another --out, or --resume to continue that run"
        if not stored.is_file():
            remedy = "choose another --out: it holds no run that could be resumed"
        elif not (Monitor(out, enabled=False).state_path.is_file() or (out / "model").is_dir()):
            remedy = NOTHING_SAVED
        raise InputError("the run folder exists", file=out, remedy=remedy)
    return config


def _card(config: Config, manifest: Manifest, plan: dict[str, Any], progress: Progress, command: str) -> dict[str, Any]:
    val = progress.last_val or {}
    return {
        "name": f"{config.model.name} {config.model.size}",
        "command": command or " ".join(sys.argv),
        "data": config.data.manifest,
        "licence": "; ".join(sorted({row.licence for row in manifest.records if row.licence})) or None,
        "manifest_hash": manifest.content_hash(),
        "split_hash": manifest.split_hash(),
        "model": {"name": config.model.name, "size": config.model.size, **config.model.options},
        "text_encoder": config.text.encoder,
        "context": plan.get("context"),
        "parameters": plan["parameters"],
        "laterality": config.data.laterality,
        "seed": config.train.seed,
        "epoch": progress.best_epoch,
        "step": progress.step,
        "versions": versions(),
        "machine": machine(),
        "metrics": {"val during training": {**val, "grid": "model"}},
        **({"mean_boxes": plan["mean_boxes"]} if "mean_boxes" in plan else {}),  # what a detector is compared with
    }


def _publish(run: Path) -> None:
    """RUN/model is the best checkpoint; it replaces an older one whole."""
    best, target, temporary = run / "checkpoints" / "best", run / "model", run / "model.new"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(best, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
