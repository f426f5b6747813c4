"""The section `objective`: the loss of `task: segment` as a list of named terms, and the keys that it had before.

    objective: {terms: [{name: dice, weight: 0.5}, {name: cross_entropy, weight: 0.5, balance: balanced}]}

The names and options of the terms are those of the registry in `medvl.losses.segmentation`, which checks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from medvl.config.checks import validated
from medvl.config.ranges import SECTION, Weight
from medvl.core.errors import InputError

Mode = Literal["binary", "multilabel", "multiclass"]
Gamma = Annotated[float, Ge(0), Le(100)]  # of the focal loss
CROSS_ENTROPY = "cross_entropy"
# key of a configuration before there were terms -> (term, key of the term)
OLD_KEYS = {
    "dice_weight": ("dice", "weight"),
    "dice": ("dice", "form"),
    "ce_weight": (CROSS_ENTROPY, "weight"),
    "ce_balance": (CROSS_ENTROPY, "balance"),
    "focal_gamma": (CROSS_ENTROPY, "focal_gamma"),
}


class TermConfig(BaseModel):
    """One term of the loss. What else stands there are options of that term."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)

    name: str
    weight: Weight = Field(1.0, strict=True)

    @property
    def options(self) -> dict[str, Any]:
        """The options that are given."""
        return dict(self.model_extra or {})


@dataclass(config=SECTION)
class OldObjective:
    """The keys that `terms` replaced: dice_weight * Dice + ce_weight * cross entropy (reference LViT: 1/2 each)."""

    dice_weight: Weight = 0.5
    ce_weight: Weight = 0.5
    ce_balance: Literal["balanced", "plain"] = "balanced"
    dice: Literal["squared", "batch", "log_batch"] = "squared"
    focal_gamma: Gamma = 0.0

    def terms(self) -> list[dict[str, Any]]:
        """The same as terms."""
        terms: dict[str, dict[str, Any]] = {}
        for old, (name, key) in OLD_KEYS.items():
            terms.setdefault(name, {"name": name})[key] = getattr(self, old)
        return list(terms.values())


@dataclass(config=SECTION)
class ObjectiveConfig:
    """The loss on logits: the sum of the terms, each times its weight."""

    mode: Mode = "binary"  # multilabel: one sigmoid a class; multiclass: one softmax with background
    # name, weight and options of each term (docs/howto/losses.md)
    terms: list[TermConfig] = field(default_factory=lambda: [TermConfig(**term) for term in OldObjective().terms()])


def numbered(names: Sequence[str]) -> list[str]:
    """[dice, dice] -> [dice, dice_2]."""
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


def check_one_way(section: object, source: str) -> None:
    """InputError where a recipe gives both `terms` and a key that they replaced."""
    both = [key for key in OLD_KEYS if key in section] if isinstance(section, Mapping) and "terms" in section else []
    if both:
        raise InputError.conflict(
            f"objective.terms and objective.{', objective.'.join(both)}",
            file=source,
            expected="the terms alone, with their weights and options",
            remedy=f"leave out {', '.join(both)}",
        )


def read_old_keys(section: object, source: str) -> None:
    """Put the keys that recipes, protocols and presets have from before the terms into `section["terms"]`.

    Where the recipe has terms, what is left of a preset is the balance of a cross entropy that names none.
    """
    if not isinstance(section, dict):
        return
    old = {key: section.pop(key) for key in OLD_KEYS if key in section}
    if old and "terms" not in section:
        section["terms"] = validated(old, OldObjective, source, "objective.").terms()
    elif "ce_balance" in old and isinstance(section["terms"], list):
        section["terms"] = [
            {"balance": old["ce_balance"], **term}
            if isinstance(term, Mapping) and term.get("name") == CROSS_ENTROPY
            else term
            for term in section["terms"]
        ]
