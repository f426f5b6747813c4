"""The plan of a run, before it starts: what will be read, how big it is, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from medvl.config import Config
from medvl.config.protocols import protocol_lines
from medvl.core.learner import Learner
from medvl.core.task import find_task
from medvl.data.dataset import Sample
from medvl.data.record import Record
from medvl.data.reports import names_side
from medvl.metrics.statistics import ENOUGH_DRAWS, FEW_PATIENTS
from medvl.train.estimate import estimate


def make_plan(
    config: Config,
    learner: Learner,
    splits: dict[str, Sequence[Record]],
    loaders: dict[str, DataLoader[Sample]],
    fabric: Fabric,
    folder: Path,
) -> dict[str, Any]:
    """Count what a run reads and estimate what it takes; nothing of the learner is changed."""
    texts = [row.text for rows in splits.values() for row in rows]
    cost = estimate(learner, config.train, loaders["train"], loaders["val"], texts, fabric, folder)
    memory = {"process_gib": round(cost.process_bytes / 2**30, 2)}
    if cost.device_bytes is not None:
        memory["device_gib"] = round(cost.device_bytes / 2**30, 2)
    encoder = learner.text.encoder
    frozen = encoder is not None and encoder.frozen
    sides = _whose_sides(config, learner, splits)
    return {
        "records": {name: len(rows) for name, rows in splits.items()},
        "images": {name: len({row.image for row in rows}) for name, rows in splits.items()},
        "patients": {name: len({row.patient for row in rows}) for name, rows in splits.items()},
        "not_annotated": {
            name: sum(all(mask is None for mask in row.masks.values()) for row in rows) for name, rows in splits.items()
        },
        "parameters": sum(p.numel() for p in learner.module.parameters() if p.requires_grad),
        "frozen_text_parameters": sum(p.numel() for p in encoder.parameters()) if encoder is not None and frozen else 0,
        "rows_per_step": cost.rows,
        "gflops_per_step": round(cost.flops / 1e9, 2),
        "step_s": round(cost.step_s, 4),
        "load_s": round(cost.load_s, 4),
        "once_s": round(cost.once_s, 2),
        "validation_s": round(cost.validation_s, 2),
        "save_s": round(cost.save_s, 3),
        "steps": cost.steps,
        "steps_per_epoch": len(loaders["train"]),
        "expected_s": round(cost.total_s, 1),
        "expected_minutes": round(cost.total_s / 60, 1),
        "timed": cost.timed,
        "memory": memory,
        "device": str(fabric.device),
        "threads": torch.get_num_threads(),
        **({"sides": sides} if sides else {}),
    }


def _whose_sides(config: Config, learner: Learner, splits: dict[str, Sequence[Record]]) -> str | None:
    """Whose left and right the texts mean, where the model reads texts and one of them names a side."""
    if learner.text.encoder is None:
        return None
    return config.data.laterality if any(names_side(row.text) for row in splits["train"]) else None


def _label_lines(labels: dict[str, Any]) -> list[str]:
    """What of the training split is labelled, where not all of it is."""
    lines = []
    if "balance" in labels:
        balance = labels["balance"]
        lines.append(
            f"  balance siim: {balance['positive_images']} images with foreground, "
            f"{balance['negative_images']} without, {balance['left_out_images']} without left out "
            f"(draw {labels['label_seed']}); val is as it is"
        )
    if labels["label_fraction"] == 1 and not labels["unlabelled_records"] and not labels["left_out_records"]:
        return lines
    lines.append(
        f"  labels {100 * labels['label_fraction']:.3g}%: {labels['labelled_records']} records of "
        f"{labels['labelled_images']} images, {labels['labelled_patients']} patients (draw {labels['label_seed']}"
        f"{', by image' if labels['label_by'] == 'image' else ''})"
    )
    if labels["unlabelled_records"]:
        lines.append(
            f"         {labels['unlabelled_records']} unlabelled records take part, {labels['hidden_masks']} of them "
            f"with a hidden mask, {labels.get('unlabelled_without_text', 0)} without text and hence without LV loss"
        )
    if labels["left_out_records"]:
        lines.append(f"         {labels['left_out_records']} records without a visible mask take no part (no semi)")
    if labels["labelled_patients"] < FEW_PATIENTS:
        lines.append(
            f"         fewer than {FEW_PATIENTS} patients: report the mean of {ENOUGH_DRAWS} draws or more "
            "(data.label_seed)"
        )
    return lines


def _pair_lines(pairs: dict[str, Any]) -> list[str]:
    """What the pairs of pre-training are."""
    lines = [
        f"  pairs  {pairs['distinct_texts']['train']} distinct training texts, {pairs['distinct_texts']['val']} in "
        f"validation; {sum(pairs['without_text'].values())} records without text take no part",
        f"         negatives {pairs['negatives']}",
    ]
    return lines


def _context_lines(context: dict[str, Any]) -> list[str]:
    """What is known beside the texts, and of how many records it is not."""
    lines = [
        f"  context as {context['as']}"
        + (" OF ANOTHER PATIENT (data.context_shuffle, a control)" if context["shuffled"] else "")
    ]
    for name, column in context["columns"].items():
        kind = "number" if column["kind"] == "number" else f"one of {', '.join(column['categories'])}"
        splits = [
            f"{split} {part['missing']} of {part['records']} missing"
            + (f" and {part['unknown']} unknown" if part["unknown"] else "")
            for split, part in column.items()
            if isinstance(part, dict)
        ]
        lines.append(f"         {name}: {kind}; {', '.join(splits)}")
    return lines


def plan_text(plan: dict[str, Any], config: Config) -> str:
    """The plan as a person reads it."""
    end = time.strftime("%H:%M", time.localtime(time.time() + plan["expected_s"]))
    needs_labels = find_task(config.task).needs_labels
    lines = [
        f"plan  {config.model.title} {config.model.options or ''} text={config.text.encoder}",
        *(
            f"  {name:6} {plan['records'][name]} records, {plan['images'][name]} images, "
            f"{plan['patients'][name]} patients"
            + (f", {plan['not_annotated'][name]} not annotated" if needs_labels and plan["not_annotated"][name] else "")
            for name in plan["records"]
        ),
        *protocol_lines(plan),
        *(_label_lines(plan["labels"]) if "labels" in plan else []),
        *(_pair_lines(plan["pairs"]) if "pairs" in plan else []),
        *(_context_lines(plan["context"]) if "context" in plan else []),
        *(
            [f"  sides  left and right in the texts are those of the {plan['sides']} (data.laterality)"]
            if "sides" in plan
            else []
        ),
        *plan.get("lines", ()),
        *([f"  views  {plan['other_views']} records of other views take no part"] if "other_views" in plan else []),
        *([f"  init   {config.init}: {plan['init']}"] if "init" in plan else []),
        f"  model  {plan['parameters'] / 1e6:.2f} M trained parameters"
        + (f" + {plan['frozen_text_parameters'] / 1e6:.1f} M frozen" if plan["frozen_text_parameters"] else "")
        + f", {plan['gflops_per_step']:.1f} GFLOPs a step of {plan['rows_per_step']} rows",
        f"  time   {plan['steps']} steps x {plan['step_s'] + plan['load_s']:.3f} s on {plan['device']} "
        f"({plan['threads']} threads) = {_duration(plan['expected_s'])} with validation and saving"
        + (f", {_duration(plan['once_s'])} of them for what is kept" if plan["once_s"] > 30 else "")
        + f"; ends about {end} (estimated from {plan['timed']})",
        "  memory about "
        + ", ".join(f"{name.replace('_gib', '')} {value} GiB" for name, value in plan["memory"].items()),
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
