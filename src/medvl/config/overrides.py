"""`key=value` of a command line, put into the nested mapping of a recipe."""

from __future__ import annotations

from typing import Any

from medvl.core.errors import InputError
from medvl.core.plain_yaml import parse_yaml


def parse_override(override: str, example: str = "train.lr=1e-3") -> tuple[str, Any]:
    """`a.b=VALUE` -> the key and the value, read as YAML; what is no YAML is text. InputError without `=` or key."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError.malformed(f"override {override[:80]!r} is not key=value", expected=f"e.g. {example}")
    try:
        return key, parse_yaml(text)
    except InputError:  # a path with ": " in it, a lone bracket
        return key, text


def apply_override(tree: dict[str, Any], override: str) -> str:
    """Set one key of `tree`, which is returned; sections on the way are made."""
    key, value = parse_override(override)
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError.malformed(f"override {override[:80]!r}: {parent} is not a section")
        node = child
    node[leaf] = value
    return key
