"""One training run: recipe -> RUN folder (config, plan, metrics, checkpoints, model)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from medvl.config import Config, config_dict, load_config, manifest_path, save_config
from medvl.data.dataset import Sample, SegmentDataset, collate
from medvl.data.labels import training_records
from medvl.data.records import Manifest, Record, load_manifest
from medvl.data.sampler import BatchSampler, EpochSampler, MixedSampler
from medvl.errors import InputError
from medvl.files import write_json
from medvl.model_folder import load_model, save_model
from medvl.provenance import machine, versions
from medvl.tasks.segment import SegmentTask, TextGuidedSegmenter, TextInput, build_segmenter
from medvl.tasks.semi_segment import SemiSegmentTask
from medvl.text.cache import FeatureCache
from medvl.text.encoder import TextEncoder
from medvl.train.checkpoint import Progress
from medvl.train.loop import fit
from medvl.train.monitor import Monitor
from medvl.train.plan import make_plan, plan_text


def train(config: Config | None, out: Path, *, resume: bool = False, dry_run: bool = False, command: str = "") -> Path:
    """Train a configuration into `out` (a RUN folder) and return it. With `dry_run` only the plan is made and printed.

    Args:
        config: the recipe; None with `resume` takes the run's own config.yaml.
        resume: continue an interrupted run, to the same weights as if it had not been interrupted.
        command: the command line, for the card.
    """
    config = _open_run(config, out, resume, dry_run)
    manifest = open_manifest(config)
    splits: dict[str, Sequence[Record]] = {name: manifest.split(name) for name in ("train", "val")}
    for name, rows in splits.items():
        if all(mask is None for row in rows for mask in row.masks.values()):
            raise InputError(
                f"no record of the {name} split has a mask", file=manifest.path, expected="annotated records"
            )
    texts = sorted({row.text for row in splits["train"]})  # those of unlabelled records too: a text is no label
    splits["train"], hidden, label_plan = training_records(splits["train"], config)
    fabric = Fabric(
        accelerator=config.train.accelerator, devices=config.train.devices, precision=config.train.precision
    )
    fabric.launch()
    module, encoder = _build(config, manifest, texts)
    if encoder is not None and module.uses_text and not any(text.strip() for text in texts):
        raise InputError(
            "no record of the train split has a text",
            file=manifest.path,
            expected=f"texts in the column {config.data.text_column}",
            remedy="set data.text_column, or text.encoder=none for a model without text",
        )
    cache = None
    if encoder is not None and encoder.frozen:
        cache = FeatureCache(encoder, Path(config.text.cache_dir) if config.text.cache_dir else out / "cache")
    text = TextInput(encoder, cache, module.uses_text)
    task = SegmentTask(config, module, text)
    if config.semi.on:
        task = SemiSegmentTask(
            config,
            module,
            text,
            records=splits["train"],
            classes=manifest.classes,
            hidden=hidden,
            folder=out / "semi",
            encoder=encoder,
        )
        label_plan["unlabelled_without_text"] = task.num_without_text
    loaders = {name: _loader(fabric, splits[name], manifest, config, hidden, train=name == "train") for name in splits}
    if fabric.is_global_zero and not (resume or dry_run):
        # What can be wrong with recipe and data was found before the folder is made.
        out.mkdir(parents=True, exist_ok=True)
        save_config(config, out / "config.yaml")
    monitor = Monitor(out, enabled=fabric.is_global_zero)
    plan = make_plan(config, task, splits, loaders["train"], loaders["val"], fabric.device)
    plan["labels"] = label_plan
    monitor.say(plan_text(plan, config))
    if encoder is not None and task.text.uses_text:
        _say_text(monitor, encoder, splits["train"])
    if dry_run:
        return out
    if fabric.is_global_zero:
        write_json(out / "plan.json", plan)

    def save_best(best: nn.Module, progress: Progress) -> None:
        if fabric.is_global_zero:
            card = _card(config, manifest, plan, progress, command)
            save_model(out / "checkpoints" / "best", config, manifest.classes, best, encoder, card)  # type: ignore[arg-type]  # the loop sees nn.Module

    progress = fit(
        fabric, task, loaders["train"], loaders["val"], config.train, monitor, save_best=save_best, resume=resume
    )
    if fabric.is_global_zero:
        _publish(out)
        monitor.say(
            f"done: best val {task.metric} {progress.best:.4f} (epoch {progress.best_epoch}) after "
            f"{progress.elapsed_s / 60:.1f} min; the model is in {out / 'model'}"
        )
    return out


def open_manifest(config: Config, path: Path | None = None) -> Manifest:
    """Load the manifest of a configuration (or another one, read the same way)."""
    if path is None and not config.data.manifest:
        raise InputError("no manifest", expected="data.manifest in the recipe or data.manifest=FILE")
    return load_manifest(
        path or manifest_path(config),
        text_column=config.data.text_column,
        classes=config.data.classes,
        empty_means_absent=config.data.empty_means_absent,
        constant_text=config.data.constant_text,
    )


def _build(config: Config, manifest: Manifest, texts: list[str]) -> tuple[TextGuidedSegmenter, TextEncoder | None]:
    """The network and text encoder: new ones, or those of the model in `init`."""
    if config.init is None:
        return build_segmenter(config, len(manifest.classes), texts)
    module, encoder, own, card = load_model(config.init)
    differences = [
        f"{name}: {getattr(own, name)} there, {getattr(config, name)} here"
        for name in ("model", "text")
        if getattr(own, name) != getattr(config, name)
    ]
    if tuple(card["classes"]) != manifest.classes:
        differences.append(f"classes: {', '.join(card['classes'])} there, {', '.join(manifest.classes)} here")
    if differences:
        raise InputError(
            f"init is another network ({'; '.join(differences)})", file=config.init, expected="the same model and text"
        )
    if encoder is None or not encoder.frozen:
        module.requires_grad_(True)
    return module, encoder


def _open_run(config: Config | None, out: Path, resume: bool, dry_run: bool) -> Config:
    stored = out / "config.yaml"
    if resume:
        if not stored.is_file():
            raise InputError("no run to resume", file=out, expected="a run folder with config.yaml")
        own = load_config(stored)
        if config is not None and config_dict(config) != config_dict(own):
            raise InputError(
                "the recipe differs from the run's configuration", file=stored, remedy="resume without a recipe"
            )
        return own
    if config is None:
        raise InputError("no recipe", expected="medvl train RECIPE.yaml, or --resume --out RUN")
    if dry_run:
        return config
    if out.exists() and any(out.iterdir()):
        raise InputError(
            "the run folder exists", file=out, remedy="choose another --out, or --resume to continue that run"
        )
    return config


def _loader(
    fabric: Fabric,
    records: Sequence[Record],
    manifest: Manifest,
    config: Config,
    hidden: frozenset[str],
    *,
    train: bool,
) -> DataLoader[Sample]:
    seed = config.train.seed
    dataset = SegmentDataset(records, manifest.classes, config.data, seed=seed, train=train, hidden=hidden)
    sampler: BatchSampler
    if train and (config.semi.on or config.train.steps_per_epoch is not None):
        if fabric.world_size > 1:
            raise InputError(
                "semi and train.steps_per_epoch run on one device", expected="train.devices: 1",
            )  # fmt: skip
        labelled = dataset.labelled()
        known = set(labelled)
        others = [i for i in range(len(dataset)) if i not in known] if config.semi.on else []
        sampler = MixedSampler(
            labelled, others, config.train.batch_size, seed=seed, num_batches=config.train.steps_per_epoch
        )
    else:
        sampler = EpochSampler(
            len(dataset),
            config.train.batch_size,
            seed=seed,
            shuffle=train,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=config.data.num_workers,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(config.train.seed),  # the loader draws from its own, not the global one
    )


def _say_text(monitor: Monitor, encoder: Any, records: Sequence[Record]) -> None:
    texts = sorted({row.text for row in records})
    tokens = encoder.tokenize(texts)
    lengths = tokens.mask.sum(dim=1)
    num_without = sum(not row.text.strip() for row in records)
    monitor.say(
        f"  text   {len(texts)} distinct training texts, {int(lengths.min())} to {int(lengths.max())} tokens"
        + (f", {tokens.num_truncated} CUT to {encoder.max_tokens}" if tokens.num_truncated else ", none cut")
        + (f"; {num_without} of {len(records)} training records have NO text" if num_without else "")
    )


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
        "parameters": plan["parameters"],
        "laterality": config.data.laterality,
        "seed": config.train.seed,
        "epoch": progress.best_epoch,
        "step": progress.step,
        "versions": versions(),
        "machine": machine(),
        "metrics": {"val during training": {"dice_per_image": val.get("dice_per_image"), "grid": "model"}},
    }


def _publish(run: Path) -> None:
    """RUN/model is the best checkpoint; it replaces an older one whole."""
    best, target, temporary = run / "checkpoints" / "best", run / "model", run / "model.new"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(best, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
