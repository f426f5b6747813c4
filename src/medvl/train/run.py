"""One training run: recipe -> RUN folder (config, plan, metrics, checkpoints, model)."""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from medvl.config import Config, TrainConfig, config_dict, save_config
from medvl.config.protocols import protocol_plan
from medvl.core.device import usable_device
from medvl.core.errors import InputError
from medvl.core.files import read_json, whole_folder, write_json
from medvl.core.provenance import machine, versions
from medvl.core.task import Prepared, find_task
from medvl.data.class_labels import FeatureDataset
from medvl.data.context import ContextRules, add_context
from medvl.data.hashes import HashStore, count_seen, image_hashes, stage_of
from medvl.data.record import Manifest, Record
from medvl.data.records import configured_manifest
from medvl.data.text_input import check_distinguishable, check_readable, text_coverage
from medvl.data.workers import clear_worker_errors
from medvl.evaluation.seen_images import say_seen
from medvl.inference.model_folder import save_model
from medvl.models.batch_norm import convert_batch_norm
from medvl.tasks.context import context_plan, context_rules, written_texts
from medvl.train.checkpoint import Progress
from medvl.train.loop import check_patience, chosen_by, fit
from medvl.train.monitor import Monitor
from medvl.train.plan import make_plan, plan_text
from medvl.train.run_data import DATA, HASHES, check_data, describe_data
from medvl.train.run_folder import alone_in, is_first_rank, open_run
from medvl.train.stopping import stop_at_once
from medvl.weights.init import stages_of_init

FIRST_BATCHES = 4  # whose texts get their features before those of validation


def train(
    config: Config | None,
    out: Path,
    *,
    resume: bool = False,
    dry_run: bool = False,
    accept_changed_data: bool = False,
    command: str = "",
) -> Path:
    """Train a configuration into `out` (a RUN folder) and return it. With `dry_run` only the plan is made and printed.

    One process works in a run folder at a time. A start that ends before its first state is saved leaves nothing that
    keeps the same command from starting.

    Args:
        config: the recipe; None with `resume` takes the run's own config.yaml.
        resume: continue an interrupted run, to the same weights as if it had not been interrupted.
        accept_changed_data: resume although the manifest, its splits or the content of its images and masks differ
            from those that the run was started on.
        command: the command line, for the card.

    Raises:
        InputError: recipe, data or run folder cannot be used, or another process is at this run.
        DivergedError: a loss or the weights are not finite; nothing broken is saved.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the state is saved.
    """
    out = Path(out)
    with stop_at_once(), clear_worker_errors():
        config = open_run(config, out, resume, dry_run)
        if dry_run:
            with tempfile.TemporaryDirectory() as folder:  # text features are kept there: a dry run leaves nothing
                _plan(_without_caches(config), Path(folder))
            return out
        with alone_in(out, resume=resume):
            manifest = open_manifest(config)
            if resume and is_first_rank():
                check_data(manifest, config, out, accept=accept_changed_data)
            return _run(config, manifest, out, resume, command)


def _plan(config: Config, out: Path) -> None:
    fabric = _fabric(config)
    fabric.launch()
    ready = prepare(config, open_manifest(config), fabric, out)
    monitor = Monitor(out, enabled=fabric.is_global_zero)
    monitor.say(plan_text(_planned(config, ready, fabric, out), config))


def _planned(config: Config, ready: Prepared, fabric: Fabric, out: Path) -> dict[str, Any]:
    plan = make_plan(config, ready.learner, ready.splits, ready.loaders, fabric, out)
    plan |= ready.plan | protocol_plan(config_dict(config)) | {"precision": precision_of(config.train)}
    if earlier := stages_of_init(config):
        overlap = count_seen(earlier, image_hashes(ready.splits["val"], HashStore(out / HASHES)).values())
        plan["seen_images"] = overlap.as_dict()
        say_seen(overlap, "validation")
    return plan


def _run(config: Config, manifest: Manifest, out: Path, resume: bool, command: str) -> Path:
    fabric = _fabric(config)
    fabric.launch()
    ready = prepare(config, manifest, fabric, out)
    monitor = Monitor(out, enabled=fabric.is_global_zero)
    learner, loaders, encoder = ready.learner, ready.loaders, ready.encoder
    earlier = stages_of_init(config)
    plan = _planned(config, ready, fabric, out)
    monitor.say(plan_text(plan, config))
    _compute_first(ready, fabric)
    data: dict[str, Any] = {}
    if fabric.is_global_zero:
        if not resume:  # what can be wrong with recipe and data was found before
            save_config(config, out / "config.yaml")
            write_json(out / DATA, describe_data(manifest, config, out))
        data = read_json(out / DATA)
        write_json(out / "plan.json", plan)

    images = image_hashes(ready.splits["train"], HashStore(out / HASHES))
    stage = stage_of(config.task, config.data.manifest, images.values())

    def save_best(best: nn.Module, progress: Progress) -> None:
        if fabric.is_global_zero:
            card = _card(config, manifest, data, plan, progress, command)
            save_model(out / "checkpoints" / "best", config, ready.classes, best, encoder, card, (*earlier, stage))  # type: ignore[arg-type]  # the loop sees nn.Module

    progress = fit(
        fabric, learner, loaders["train"], loaders["val"], config.train, monitor, save_best=save_best, resume=resume
    )
    if fabric.is_global_zero:
        with whole_folder(out / "model") as model:  # the best checkpoint; it replaces an older one whole
            shutil.copytree(out / "checkpoints" / "best", model, dirs_exist_ok=True)
        name = chosen_by(config.train, learner)
        which = "the last step" if name is None else f"best val {name} {progress.best:.4f}"
        if math.isnan(progress.best):
            monitor.say(f"no val {name} was a number: the model is the last one")
            which = "the last step"
        monitor.say(
            f"done: {which} (epoch {progress.best_epoch}) after {progress.elapsed_s / 60:.1f} min; "
            f"the model is in {out / 'model'}"
        )
    return out


def prepare(config: Config, manifest: Manifest, fabric: Fabric, out: Path) -> Prepared:
    """Everything that can be wrong with recipe and data is found here, before the run folder is made."""
    splits: dict[str, Sequence[Record]] = {}
    num_other_views = 0
    for name in ("train", "val"):
        rows = manifest.split(name)
        splits[name] = [row for row in rows if config.data.views is None or row.view in config.data.views]
        num_other_views += len(rows) - len(splits[name])
        if not splits[name]:
            counts = Counter(row.view or "(no view)" for row in rows)
            raise InputError.empty(
                f"no record of the {name} split has a view of data.views: {', '.join(config.data.views or ())}",
                file=manifest.path,
                expected=f"some of {', '.join(f'{view} ({number})' for view, number in sorted(counts.items()))}",
                remedy="data.views=null takes every image",
            )
    context = context_rules(config, manifest, splits)
    ready = find_task(config.task).prepare(config, manifest, splits, context, fabric, out)
    check_patience(config.train, ready.learner)
    ready.plan.update(context_plan(config, context, ready.splits))
    _check_texts(ready, context)
    if config.data.views is not None:
        ready.plan["other_views"] = num_other_views
    if fabric.world_size > 1:
        convert_batch_norm(ready.learner.module, fabric.device)  # statistics of the whole batch, as of one process
    return ready


def _check_texts(ready: Prepared, context: ContextRules | None) -> None:
    """Count what the text encoder makes of the texts, for the plan.

    Raises:
        InputError: the encoder knows too few of the words, or confuses texts whose masks differ.
    """
    if ready.encoder is None or not ready.learner.text.uses_text:
        return
    texts = {name: written_texts(rows, context) for name, rows in ready.splits.items()}
    coverage = {name: text_coverage(ready.encoder, rows) for name, rows in texts.items()}
    check_readable(coverage["train"])
    check_distinguishable(ready.encoder, ready.splits["train"], texts["train"])
    ready.plan["texts"] = {name: part.as_dict() for name, part in coverage.items()}
    lines = [f"  text   {part.line(name)}" for name, part in coverage.items()]
    ready.plan["lines"] = [*ready.plan.get("lines", ()), *lines]


def _compute_first(ready: Prepared, fabric: Fabric) -> None:
    """Features that frozen encoders compute once, so far as what is wrong with them must be found before a run exists.

    A text's feature depends in its last digits on the texts that it is computed with: those of the first batches, and
    then those of the first of validation, are computed in this order.
    """
    for loader in ready.loaders.values():
        if isinstance(loader.dataset, FeatureDataset):
            loader.dataset.compute()
    if ready.learner.text.cache is not None:
        for name, num in (("train", FIRST_BATCHES), ("val", 1)):
            batches: Any = ready.loaders[name]
            for batch in islice(batches, num):
                ready.learner.text(batch.texts, fabric.device, batch.context)


def _without_caches(config: Config) -> Config:
    config = replace(config, text=replace(config.text, cache_dir=None))
    return find_task(config.task).cached_in(config, None)


def open_manifest(config: Config, path: Path | None = None) -> Manifest:
    """Load the manifest of a configuration (or another one, read the same way)."""
    manifest = configured_manifest(config.data, path)
    return add_context(manifest, config.data, config.train.seed, needed=True)


def _fabric(config: Config) -> Fabric:
    train = config.train
    if train.accelerator in ("cuda", "gpu", "mps"):
        usable_device(train.accelerator.replace("gpu", "cuda"), "train.accelerator:")
    on_gpu = train.accelerator in ("cuda", "gpu") or (train.accelerator == "auto" and torch.cuda.is_available())
    num_devices = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if train.devices > num_devices:  # on a CPU each is a process of its own
        what = f"train.devices: {train.devices} on a machine with {num_devices}"
        raise InputError.no_resource(what, expected=f"at most {num_devices}")
    strategy: Any = "auto"
    if train.devices > 1:
        strategy = DDPStrategy(find_unused_parameters=find_task(config.task).skips_parameters)
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


def _card(
    config: Config,
    manifest: Manifest,
    data: dict[str, Any],
    plan: dict[str, Any],
    progress: Progress,
    command: str,
) -> dict[str, Any]:
    val = progress.last_val or {}
    return {
        "name": config.model.title,
        "command": command or " ".join(sys.argv),
        "data": config.data.manifest,
        "licence": "; ".join(sorted({row.licence for row in manifest.records if row.licence})) or None,
        "manifest_hash": data["manifest_hash"],
        "split_hash": data["split_hash"],
        **({"changed_data": data["changes"]} if data.get("changes") else {}),
        "model": {**config.model.keys, **config.model.options},
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
