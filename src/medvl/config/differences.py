"""Two configurations beside each other: flat keys, and which of them differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# How and where a run is computed, not what: they may differ between runs of the same settings.
MACHINE_KEYS = frozenset(
    {
        "train.accelerator",
        "train.devices",
        "train.save_every_s",
        "data.num_workers",
        "data.cache_mb",
        "text.cache_dir",
        "classify.cache_dir",
    }
)
SEED_KEYS = frozenset({"train.seed", "data.label_seed"})  # what is drawn anew from seed to seed
PATH_KEYS = (  # values are paths, or `medvl:NAME`
    "init", "data.manifest", "data.also_labelled", "text.cache_dir", "text.tokenizer", "text.init",
    "classify.cache_dir",
)  # fmt: skip
OPTIONS = "model.options."  # the only open mapping; a key missing there is a difference


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"resize": "stretch"}} -> {"data.resize": "stretch"}."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        result |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return result


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], ignore: Collection[str] = MACHINE_KEYS
) -> dict[str, tuple[Any, Any]]:
    """{key: (value there, value here)} of two configurations (nested or flat).

    A key that only one of them has is no difference (an older version of medvl did not know it), except an option of
    the network.
    """
    first, second = flat(there), flat(here)
    return {
        key: (first.get(key), second.get(key))
        for key in sorted({*first, *second})
        if key not in ignore
        and first.get(key) != second.get(key)
        and ((key in first and key in second) or key.startswith(OPTIONS))
    }


def said(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as a person reads them."""
    return "; ".join(f"{key}: {there} there, {here} here" for key, (there, here) in found.items())
