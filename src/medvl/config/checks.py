"""What the type of one field cannot say about a configuration: unknown keys, kinds of values, contradictions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from medvl.core.errors import Fault, InputError, nearest
from medvl.core.plain_yaml import NO_TEXT, shown, validation_faults
from medvl.core.task import find_task

if TYPE_CHECKING:
    from medvl.config import Config


def validated(tree: Mapping[str, Any], section: type, source: str, prefix: str = "") -> Any:
    """The section that `tree` describes; InputError with every fault of keys, else of values."""
    faults = key_faults(tree, section, source, prefix)
    if faults:
        raise InputError(faults)
    try:
        return TypeAdapter(section).validate_python(tree)
    except ValidationError as error:
        raise InputError(validation_faults(error, source, prefix)) from None


def key_faults(
    tree: Mapping[str, Any], section: type, source: str, prefix: str = "", more: tuple[str, ...] = ()
) -> list[Fault]:
    """Keys that the section does not know, true or false where none is meant (YAML reads `no` so), nan and inf.

    `more`: further keys that an unknown one may have meant.
    """
    fields: dict[str, Any] = section.__pydantic_fields__  # type: ignore[attr-defined]  # set by pydantic's dataclass
    faults = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in fields:
            like = nearest(str(key), [*fields, *more])
            remedy = f"did you mean {prefix}{like}?" if like else f"known keys: {', '.join(fields)}"
            faults.append(Fault.unknown_key(f"unknown key {name}", file=source, remedy=remedy))
            continue
        kind = fields[key].annotation
        if isinstance(kind, type) and is_dataclass(kind):
            if isinstance(value, Mapping):
                faults += key_faults(value, kind, source, f"{name}.")
            continue
        leaves = _leaves(value)
        can_be_bool = any(word in str(kind) for word in ("bool", "Any", "TermConfig"))
        if not can_be_bool and any(isinstance(leaf, bool) for leaf in leaves):
            what = f"{name}: {shown(value)} is true or false"
            faults.append(Fault.malformed(what, file=source, expected="a number or text", remedy='quote a word: "no"'))
        elif any(isinstance(leaf, str) and NO_TEXT.search(leaf) for leaf in leaves):
            faults.append(Fault.malformed(f"{name}: {shown(value)} holds a character that no text has", file=source))
        elif any(isinstance(leaf, float) and not math.isfinite(leaf) for leaf in leaves):
            faults.append(Fault.not_finite(f"{name}: {shown(value)}", file=source, expected="a finite number"))
    return faults


def cross_faults(config: Config, source: str) -> list[Fault]:
    """Values that are right alone and wrong together."""
    train = config.train
    faults = []

    def fault(what: str, expected: str) -> None:
        faults.append(Fault.conflict(what, file=source, expected=expected))

    if train.schedule != "constant" and 0 < train.lr < train.lr_min:
        fault(f"train.lr_min {train.lr_min:g} is above train.lr {train.lr:g}", "at most train.lr")
    if train.first_best_epoch > train.epochs:
        what = f"train.first_best_epoch {train.first_best_epoch} is after the last epoch, {train.epochs}"
        fault(what, "at most train.epochs")
    for name, pair in (("scale", config.data.augment.scale), ("crop_area", config.data.augment.crop_area)):
        if pair is not None and pair[0] > pair[1]:
            fault(f"data.augment.{name}: {pair[0]:g} is above {pair[1]:g}", "the smaller one first")
    return faults + find_task(config.task).faults(config, source)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
