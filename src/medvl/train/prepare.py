"""From a configuration and a manifest to what the loop takes: learner, loaders, records of each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lightning_fabric import Fabric

from medvl.config import Config
from medvl.core.errors import InputError
from medvl.core.task import Prepared, find_task
from medvl.data.context import ContextRules
from medvl.data.record import Manifest, Record
from medvl.data.text_input import check_readable, check_told_apart, text_coverage
from medvl.models.batch_norm import convert_batch_norm
from medvl.tasks.context import context_plan, context_rules, written_texts
from medvl.train.loop import check_patience


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
        InputError: the encoder knows too few of the words, or confuses texts whose answers differ.
    """
    if ready.encoder is None or not ready.learner.text.uses_text:
        return
    texts = {name: written_texts(rows, context) for name, rows in ready.splits.items()}
    coverage = {name: text_coverage(ready.encoder, rows) for name, rows in texts.items()}
    check_readable(coverage["train"])
    check_told_apart(ready.encoder, ready.splits["train"], texts["train"])
    ready.plan["texts"] = {name: part.as_dict() for name, part in coverage.items()}
    lines = [f"  text   {part.line(name)}" for name, part in coverage.items()]
    ready.plan["lines"] = [*ready.plan.get("lines", ()), *lines]
