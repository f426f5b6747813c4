"""Prompts of zero-shot classification: per class, sentences that affirm it and sentences that deny it.

    families:
      NAME:
        templates: {positive: ["{}"], negative: ["no {}"]}                       # {} = the class name
        pairs: {pneumonia: {positive: [pneumonia, findings of pneumonia], negative: [no pneumonia]}}

A file with `templates` or `pairs` at its top is one family, named after the file. Several sentences are an ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import read_yaml

DEFAULT_FILE = Path(__file__).parents[1] / "assets" / "prompts.yaml"
SIDES = ("positive", "negative")


@dataclass(frozen=True, slots=True)
class PromptPair:
    """What affirms a class, and what denies it; at least one sentence each."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]

    def to_dict(self) -> dict[str, list[str]]:
        """positive, negative: the sentences."""
        return {"positive": list(self.positive), "negative": list(self.negative)}


@dataclass(frozen=True, slots=True)
class PromptFamily:
    """One set of prompts: pairs of named classes, and templates for every other class."""

    name: str
    file: Path
    templates: PromptPair | None = None
    pairs: Mapping[str, PromptPair] = field(default_factory=dict)

    def prompts(self, classes: Sequence[str]) -> dict[str, PromptPair]:
        """The sentences of each class. A pair is found whatever the case and underscores of its class.

        Raises:
            InputError: a class without a pair where there are no templates, or one whose name denies already ("No
                Finding": "no no finding" says nothing).
        """
        by_words = self._by_words()
        pairs = {}
        for name in classes:
            words = class_words(name)
            if words in by_words:
                pairs[name] = by_words[words]
                continue
            if self.templates is None:
                like = nearest(words, by_words)
                raise InputError.unknown(
                    f"prompt family {self.name} has no pair for class {name}, and no templates",
                    file=self.file,
                    expected=f"one of {', '.join(self.pairs)}",
                    remedy=f"did you mean {like}?" if like else None,
                )
            if is_denial(name):
                raise InputError.malformed(
                    f"class {name} cannot be put into templates: its name is itself a denial",
                    file=self.file,
                    expected=f"pairs: {{{name}: {{positive: [...], negative: [...]}}}}",
                    remedy="leave it out of --classes, or give it a pair in --prompts FILE",
                )
            pairs[name] = PromptPair(*(tuple(t.replace("{}", words) for t in _side(self.templates, s)) for s in SIDES))
        return pairs

    def has_pair(self, name: str) -> bool:
        """Whether a class has sentences of its own, whatever its case and underscores."""
        return class_words(name) in self._by_words()

    def _by_words(self) -> dict[str, PromptPair]:
        return {class_words(name): pair for name, pair in self.pairs.items()}


def class_words(name: str) -> str:
    """A class name as words: lower case, spaces for underscores ("Pleural_Thickening" -> "pleural thickening")."""
    return " ".join(name.replace("_", " ").lower().split())


def is_denial(name: str) -> bool:
    """Whether a class name says that nothing is there ("No Finding", "normal"), so that "no {}" would say nothing."""
    return class_words(name).split(" ")[0] in ("no", "not", "without", "normal", "healthy")


def load_prompts(path: str | Path | None = None, family: str | None = None) -> PromptFamily:
    """One family of a prompts file (default: the shipped file; its first family).

    Raises:
        InputError: unreadable file, unknown key or family, no sentence where one is needed, a template without {}.
    """
    file = DEFAULT_FILE if path is None else Path(path)
    tree = read_yaml(file)
    if not isinstance(tree, dict) or not tree:
        raise InputError.empty("no prompts", file=file, expected="families, templates or pairs")
    families: dict[str, Any] = {file.stem: tree}
    if "families" in tree:
        _keys(tree, ("families",), file, "the file")
        families = tree["families"]
        if not isinstance(families, dict) or not families:
            raise InputError.empty("no families", file=file, expected="families: {NAME: {templates or pairs}}")
    read = {str(name): _family(str(name), value, file) for name, value in families.items()}
    if family is None:
        return next(iter(read.values()))
    if family not in read:
        like = nearest(family, read)
        raise InputError.unknown(
            f"no prompt family {family}",
            file=file,
            expected=", ".join(read),
            remedy=f"did you mean {like}?" if like else None,
        )
    return read[family]


def _family(name: str, value: Any, file: Path) -> PromptFamily:
    if not isinstance(value, dict) or not value:
        raise InputError.empty(f"prompt family {name} is empty", file=file, expected="templates and/or pairs")
    _keys(value, ("templates", "pairs"), file, f"family {name}")
    templates = None
    if "templates" in value:
        templates = _pair(value["templates"], file, f"templates of {name}")
        for sentence in (*templates.positive, *templates.negative):
            if "{}" not in sentence:
                raise InputError.malformed(
                    f"template {sentence!r} has no place for the class", file=file, expected="{} in it"
                )
    pairs = value.get("pairs") or {}
    if not isinstance(pairs, dict):
        raise InputError.malformed(f"pairs of {name}", file=file, expected="CLASS: {positive: [...], negative: [...]}")
    read: dict[str, PromptPair] = {}
    for key, pair in pairs.items():
        if any(class_words(str(key)) == class_words(other) for other in read):
            raise InputError.duplicate(f"class {key} has two pairs in family {name}", file=file)
        read[str(key)] = _pair(pair, file, f"pair of {key}")
    if templates is None and not read:
        raise InputError.empty(f"prompt family {name} is empty", file=file, expected="templates and/or pairs")
    return PromptFamily(name, file, templates, read)


def _pair(value: Any, file: Path, where: str) -> PromptPair:
    if not isinstance(value, dict):
        raise InputError.malformed(where, file=file, expected="{positive: [...], negative: [...]}")
    _keys(value, SIDES, file, where)
    sides = []
    for side in SIDES:
        given = value.get(side)
        sentences = [given] if isinstance(given, str) else given
        good = isinstance(sentences, list) and sentences and all(isinstance(s, str) and s.strip() for s in sentences)
        if not good:
            # A bare `no` in YAML is the value False, a bare number a number: both must be quoted.
            raise InputError.malformed(
                f"{where}: {side} is {given!r}", file=file, expected="one or more sentences, in quotes"
            )
        assert isinstance(sentences, list)
        sides.append(tuple(sentences))
    return PromptPair(*sides)


def _side(pair: PromptPair, side: str) -> tuple[str, ...]:
    return pair.positive if side == "positive" else pair.negative


def _keys(value: Mapping[Any, Any], known: Sequence[str], file: Path, where: str) -> None:
    for key in value:
        if key not in known:
            like = nearest(str(key), known)
            raise InputError.unknown_key(
                f"unknown key {key} in {where}",
                file=file,
                expected=", ".join(known),
                remedy=f"did you mean {like}?" if like else None,
            )
