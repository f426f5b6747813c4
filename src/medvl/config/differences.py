"""Two configurations beside each other: flat keys, and which of them differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from medvl.config.model_keys import model_now
from medvl.config.objective import OLD_KEYS, numbered

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
_TERMS = "objective.terms"
_OPTIONS = "model.options."  # may have any keys, as the terms may: one missing there is a difference
_NEW_NAMES = {f"objective.{old}": f"{_TERMS}.{term}.{key}" for old, (term, key) in OLD_KEYS.items()}
# Options of terms that the oldest configurations do not know.
_SINCE = {_NEW_NAMES["objective.dice"]: "squared", _NEW_NAMES["objective.focal_gamma"]: 0.0}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"resize": "stretch"}} -> {"data.resize": "stretch"}.

    A term of the objective is named: `objective.terms.dice.weight`, of a second one `objective.terms.dice_2.weight`;
    the keys that the terms replaced are under those names too. `model` is by today's keys.
    """
    result: dict[str, Any] = {}
    if not prefix and isinstance(tree.get("model"), Mapping):
        tree = {**tree, "model": model_now(tree["model"])}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= flat(value, f"{name}.")
        elif name == _TERMS:
            terms = zip(numbered([term["name"] for term in value]), value, strict=True)
            result |= {f"{name}.{label}.{k}": v for label, term in terms for k, v in term.items() if k != "name"}
        else:
            result[_NEW_NAMES.get(name, name)] = value
    return result


def differences(
    other: Mapping[str, Any], this: Mapping[str, Any], ignore: Collection[str] = MACHINE_KEYS
) -> dict[str, tuple[Any, Any]]:
    """{key: (value of the other, value of this)} of two configurations (nested or flat).

    A key that only one of them has is no difference (an older version of medvl did not know it), except an option of
    the network or of a term of the objective.
    """
    first, second = flat(other), flat(this)
    pairs = {key: (first.get(key, _SINCE.get(key)), second.get(key, _SINCE.get(key))) for key in {*first, *second}}
    both_have_terms = all(any(key.startswith(_TERMS) for key in one) for one in (first, second))
    any_keys = (_OPTIONS, _TERMS) if both_have_terms else _OPTIONS
    return {
        key: pairs[key]
        for key in sorted(pairs)
        if key not in ignore
        and pairs[key][0] != pairs[key][1]
        and ((key in first and key in second) or key.startswith(any_keys))
    }


def differences_text(pairs: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences as a person reads them."""
    return "; ".join(f"{key}: {other} there, {this} here" for key, (other, this) in pairs.items())
