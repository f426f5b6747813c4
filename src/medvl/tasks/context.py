"""The texts of a run and the clinical variables beside them: whether its network can take them, how they are read, what
the plan says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvl.config import Config
from medvl.core.errors import InputError
from medvl.core.task import find_task
from medvl.data.context import ContextRules, column_kinds, learn_rules
from medvl.data.record import Manifest, Record
from medvl.inference.model_folder import load_context
from medvl.text.base import TextEncoder
from medvl.text.cache import FeatureCache
from medvl.weights.init import init_of


def context_rules(config: Config, manifest: Manifest, splits: Mapping[str, Sequence[Record]]) -> ContextRules | None:
    """How `data.context_columns` are read: learned from the train split, or those of the run that `init` continues.

    Raises:
        InputError: a network that cannot take them, or what is wrong with the columns.
    """
    names = list(column_kinds(config.data))
    if not names:
        return None
    _check_network(config, len(names))
    prefix, path = init_of(config)
    rules = load_context(path) if path and not prefix else None
    if rules is None:  # a run without context is refused later, by the differences of the configurations
        rules = learn_rules(splits["train"], config.data, manifest.path)
    for rows in splits.values():
        rules.check(rows, manifest.path)
    return rules


def context_differences(saved: Config, config: Config) -> list[str]:
    """What differs between the context of a run (`saved`) and of one that continues it."""
    return [
        f"data.{name}: {getattr(saved.data, name)} in the saved run, {getattr(config.data, name)} in this one"
        for name in ("context_columns", "context_as")
        if getattr(saved.data, name) != getattr(config.data, name)
        and (saved.data.context_columns or config.data.context_columns)
    ]


def context_plan(config: Config, rules: ContextRules | None, splits: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """{"context": what is read, and how much of it is missing or unknown in each split}; {} without context."""
    if rules is None:
        return {}
    counts = {split: rules.counts(rows) for split, rows in splits.items()}
    columns = {
        column.name: {
            "kind": column.kind,
            "categories": list(column.categories),
            **{split: {**counts[split][column.name], "records": len(rows)} for split, rows in splits.items()},
        }
        for column in rules.columns
    }
    return {"context": {"as": rules.mode, "shuffled": config.data.context_shuffle, "columns": columns}}


def written_texts(records: Sequence[Record], context: ContextRules | None) -> list[str]:
    """The texts of records, one per row, as the text encoder reads them."""
    return [row.text if context is None else context.written(row.text, row.context) for row in records]


def feature_cache(config: Config, encoder: TextEncoder | None, out: Path) -> FeatureCache | None:
    """What is computed once per distinct text: features, or those of an encoder's frozen layers."""
    if encoder is None or not encoder.prefix_frozen:
        return None
    return FeatureCache(encoder, Path(config.text.cache_dir) if config.text.cache_dir else out / "cache")


def _check_network(config: Config, num_columns: int) -> None:
    task = find_task(config.task)
    if not task.takes_text or config.text.encoder == "none":
        what = "text.encoder: none" if task.takes_text else f"task: {config.task}"
        raise InputError.conflict(
            f"data.context_columns with {what}: clinical variables stand beside a text",
            expected="a task and an encoder that read text",
            remedy="where there is no text: text.encoder: builtin and data.constant_text, e.g. both lungs",
        )
    task.check_context(config, num_columns)
