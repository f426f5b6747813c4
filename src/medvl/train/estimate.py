"""The plan of a run, measured before it starts: what will be read, how big it is, how long it will take."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from medvl.config import Config
from medvl.config.protocols import protocol_lines
from medvl.core.learner import Learner
from medvl.core.task import find_task
from medvl.data.dataset import Batch, Sample
from medvl.data.record import Record
from medvl.data.reports import names_side
from medvl.train.loop import make_optimizer

TIMED_STEPS = 3
FEW_PATIENTS, ENOUGH_DRAWS = 8, 10  # of fewer labelled patients only the mean of so many draws is a result


def make_plan(
    config: Config,
    learner: Learner,
    splits: dict[str, Sequence[Record]],
    train_loader: DataLoader[Sample],
    val_loader: DataLoader[Sample],
    device: torch.device,
) -> dict[str, Any]:
    """Count, then time `TIMED_STEPS` real steps on a copy of the model. Weights and generators stay as they were.

    What is computed once and then kept (features of texts, decoded images) is timed apart and counted once: in the
    first epoch only, and not at all where it is there already.
    """
    state = torch.get_rng_state()
    twin = learner.twin(device)
    optimizer = make_optimizer(config.train, twin.module)
    first, again = list(_timed(train_loader, TIMED_STEPS + 1)), []
    if train_loader.num_workers == 0:
        again = [seconds for _, seconds in _timed(train_loader, TIMED_STEPS + 1)]  # decoded by now
    text_s = _text_seconds(twin, splits, [batch for batch, _ in first], device)
    times = []
    # The first step allocates and is not counted; an epoch of fewer batches gives them several times.
    for batch, _ in islice(cycle(first), TIMED_STEPS + 1):
        start = time.monotonic()
        _step(twin, batch.to(device), optimizer)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.monotonic() - start)
    batch = first[-1][0]
    with FlopCounterMode(display=False) as counter:
        _step(twin, batch.to(device), optimizer)
    [(val_batch, val_load_s)] = _timed(val_loader, 1)
    if val_loader.num_workers == 0:
        [(val_batch, val_load_s)] = _timed(val_loader, 1)
    _ = twin.text(val_batch.texts, device, val_batch.context)
    start = time.monotonic()
    with torch.no_grad():
        twin.module.eval()
        twin.validation_step(val_batch.to(device))
    val_s = (time.monotonic() - start + val_load_s * (val_loader.num_workers == 0)) * len(val_loader)
    torch.set_rng_state(state)
    steps = config.train.num_steps(len(train_loader))
    step_s = _middle(times[1:])
    load_s = _middle(again) if again else 0.0  # workers load while a step is computed
    decode_s = max(0.0, _middle([seconds for _, seconds in first]) - load_s) if again else 0.0
    validations = -(-steps // (len(train_loader) * config.train.val_every))
    once_s = text_s + decode_s * min(steps, len(train_loader))
    total_s = once_s + steps * (step_s + load_s) + validations * val_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    memory = {"process_gib": round(peak, 2)}
    if device.type == "cuda":
        memory["device_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    parameters = sum(p.numel() for p in learner.module.parameters() if p.requires_grad)
    return {
        "records": {name: len(rows) for name, rows in splits.items()},
        "images": {name: len({row.image for row in rows}) for name, rows in splits.items()},
        "patients": {name: len({row.patient for row in rows}) for name, rows in splits.items()},
        "not_annotated": {
            name: sum(all(mask is None for mask in row.masks.values()) for row in rows) for name, rows in splits.items()
        },
        "parameters": parameters,
        "frozen_text_parameters": sum(p.numel() for p in learner.text.encoder.parameters())
        if learner.text.encoder is not None and learner.text.encoder.frozen
        else 0,
        "rows_per_step": len(batch.texts),
        "gflops_per_step": round(counter.get_total_flops() / 1e9, 2),
        "step_s": round(step_s, 4),
        "load_s": round(load_s, 4),
        "once_s": round(once_s, 2),
        "steps": steps,
        "steps_per_epoch": len(train_loader),
        "expected_minutes": round(total_s / 60, 1),
        "memory": memory,
        "device": str(device),
        "threads": torch.get_num_threads(),
        **({"sides": laterality} if (laterality := _whose_sides(config, learner, splits)) else {}),
    }


def _whose_sides(config: Config, learner: Learner, splits: dict[str, Sequence[Record]]) -> str | None:
    """Whose left and right the texts mean, where the model reads texts and one of them names a side."""
    if learner.text.encoder is None:
        return None
    return config.data.laterality if any(names_side(row.text) for row in splits["train"]) else None


def _timed(loader: DataLoader[Sample], num: int) -> Iterator[tuple[Batch, float]]:
    """The first batches, and the seconds until each was there."""
    start = time.monotonic()
    batches: Any = loader
    for number, batch in enumerate(batches, 1):
        yield batch, time.monotonic() - start
        if number == num:
            break
        start = time.monotonic()


def _text_seconds(
    learner: Learner, splits: dict[str, Sequence[Record]], batches: Sequence[Batch], device: torch.device
) -> float:
    """Seconds until the features of all texts are kept: those of `batches` are computed here, and timed."""
    cache = learner.text.cache
    if cache is None:
        return 0.0
    num_before, start = cache.num_computed, time.monotonic()
    for batch in batches:
        learner.text(batch.texts, device, batch.context)
    seconds, num = time.monotonic() - start, cache.num_computed - num_before
    num_texts = len({row.text for rows in splits.values() for row in rows})
    return seconds / num * max(0, num_texts - num) if num else 0.0


def _middle(seconds: Sequence[float]) -> float:
    return sorted(seconds)[len(seconds) // 2]


def _step(learner: Learner, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    learner.backward(batch, None, lambda loss: loss.backward())  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()


def _label_lines(labels: dict[str, Any]) -> list[str]:
    """What of the training split is labelled, where not all of it is."""
    lines = []
    if "balance" in labels:
        found = labels["balance"]
        lines.append(
            f"  balance siim: {found['positive_images']} images with foreground, {found['negative_images']} without, "
            f"{found['left_out_images']} without left out (draw {labels['label_seed']}); val is as it is"
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
            f"{split} {own['missing']} of {own['records']} missing"
            + (f" and {own['unknown']} unknown" if own["unknown"] else "")
            for split, own in column.items()
            if isinstance(own, dict)
        ]
        lines.append(f"         {name}: {kind}; {', '.join(splits)}")
    return lines


def plan_text(plan: dict[str, Any], config: Config) -> str:
    """The plan as a person reads it."""
    end = time.strftime("%H:%M", time.localtime(time.time() + plan["expected_minutes"] * 60))
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
        f"({plan['threads']} threads) = {plan['expected_minutes']:.1f} min with validation"
        + (f" and {plan['once_s'] / 60:.1f} min for what is kept" if plan["once_s"] > 30 else "")
        + f"; ends about {end}",
        "  memory " + ", ".join(f"{name.replace('_gib', '')} {value} GiB" for name, value in plan["memory"].items()),
    ]
    return "\n".join(lines)
