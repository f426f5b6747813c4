"""Published downstream protocols by name: `protocol: NAME` or `NAME:SET` in a recipe, `--protocol` of `medvl evaluate`.

A protocol fills what recipe and command line leave open, before the `fidelity` preset does. What it sets, what the
recipe says otherwise and where medvl differs stand in the plan. The protocols themselves are YAML files in
config/protocols/: a new one is a new entry there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from medvl.config.differences import flat
from medvl.config.ranges import SECTION
from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import read_typed

FOLDER = Path(__file__).with_name("protocols")
ZERO_SHOT = "zero-shot classification"  # of `medvl evaluate`, which has no recipe; its keys are that command's options
Evidence = Literal["read", "second-hand", "medvl"]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_list(rows: Any) -> Any:
    """A list among the rows (a YAML alias) stands for its rows."""
    if not isinstance(rows, list):
        return rows
    return [row for item in rows for row in (item if isinstance(item, list) else [item])]


@dataclass(config=SECTION, frozen=True, slots=True)
class Setting:
    """One key of the configuration and its value; a later one of the same key wins where its condition holds."""

    key: str
    value: Annotated[Any, BeforeValidator(_as_tuple)]
    source: str | None = None  # None: that of the protocol
    evidence: Evidence = "read"
    note: str = ""
    only: str | None = None  # the set that it is for
    up_to: float | None = None  # the largest data.label_fraction that it is for


@dataclass(config=SECTION, frozen=True, slots=True)
class Protocol:
    """A published protocol of one task. `sets`: the data sets for which it has settings of their own."""

    name: str
    title: str
    task: str
    source: str  # of the settings that name none
    scored: str  # what of medvl's output is the published number
    settings: Annotated[tuple[Setting, ...], BeforeValidator(_one_list)]
    differs: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def is_zero_shot(self) -> bool:
        """Whether it is one of zero-shot classification, which trains nothing and has no recipe."""
        return self.task == ZERO_SHOT

    def values(self, which: str | None = None, label_fraction: float = 1.0) -> dict[str, Any]:
        """{key: value} for one of `sets` (None: what holds for all) at a label fraction."""
        return {
            row.key: row.value
            for row in self.settings
            if row.only in (None, which) and (row.up_to is None or label_fraction <= row.up_to)
        }


@dataclass(config=SECTION)
class _File:
    protocols: tuple[Protocol, ...]
    shared: Any = None  # rows and sentences of several protocols, named by YAML anchors


@cache
def all_protocols(folder: Path = FOLDER) -> dict[str, Protocol]:
    """Name -> protocol, in the order of the files and of their entries.

    Raises:
        InputError: a file that is no list of protocols, or a name that stands twice.
    """
    protocols: dict[str, Protocol] = {}
    for path in sorted(folder.glob("*.yaml")):
        for protocol in read_typed(path, _File).protocols:
            if protocol.name in protocols:
                raise InputError.duplicate(f"protocol {protocol.name} stands twice", file=path)
            protocols[protocol.name] = protocol
    return protocols


def find_protocol(name: str, source: object = "configuration") -> tuple[Protocol, str | None]:
    """`NAME` or `NAME:SET` -> the protocol and the set. InputError on an unknown one, naming the nearest."""
    key, _, which = str(name).partition(":")
    protocols = all_protocols()
    if key not in protocols:
        like = nearest(key, protocols)
        raise InputError.unknown(
            f"unknown protocol {key!r}",
            file=str(source),
            expected=", ".join(protocols),
            remedy=f"did you mean {like}?" if like else None,
        )
    protocol = protocols[key]
    if ":" in str(name) and which not in protocol.sets:
        expected = " | ".join(f"{key}:{one}" for one in protocol.sets) or f"{key} alone: it has no settings by set"
        raise InputError.unknown(f"protocol {key} knows no set {which!r}", file=str(source), expected=expected)
    return protocol, which or None


def protocol_values(tree: Mapping[str, Any], source: str = "configuration") -> dict[str, Any]:
    """What `tree["protocol"]` sets where the nested mapping `tree` says nothing, its task among it.

    Raises:
        InputError: no such protocol, or one of another task than the tree's.
    """
    protocol, which = find_protocol(tree["protocol"], source)
    if protocol.is_zero_shot or tree.get("task", protocol.task) != protocol.task:
        asker = f"task: {tree['task']}" if "task" in tree else "a recipe"
        fitting = [name for name, one in all_protocols().items() if one.task == tree.get("task", "segment")]
        raise InputError.mismatch(
            f"protocol {protocol.name} is of {protocol.task}, not of {asker}",
            file=source,
            expected=", ".join(fitting) or None,
            remedy=f"medvl evaluate --protocol {protocol.name}" if protocol.is_zero_shot else None,
        )
    data = tree.get("data")
    fraction = data.get("label_fraction", 1.0) if isinstance(data, Mapping) else 1.0
    values = protocol.values(which, fraction if isinstance(fraction, (int, float)) else 1.0)
    return {"task": protocol.task} | {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }


def protocol_plan(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a whole configuration (`config_dict`) owes to its protocol: {protocol: {name, sets, own, differs, scored}}.

    `sets` {key: value} are those in force, `own` {key: [value, the protocol's]} those that recipe or command line say
    otherwise. Empty without a protocol.
    """
    if config.get("protocol") is None:
        return {}
    protocol, _ = find_protocol(config["protocol"])
    values = flat(config)
    wanted = flat(protocol_values(config))
    sets = {key: value for key, value in wanted.items() if values.get(key) == value}
    overridden = {key: [values.get(key), value] for key, value in wanted.items() if key not in sets}
    plan = {"name": config["protocol"], "sets": sets, "own": overridden, "differs": list(protocol.differs)}
    return {"protocol": plan | {"scored": protocol.scored, "other_sets": list(protocol.sets)}}


def protocol_lines(plan: Mapping[str, Any]) -> list[str]:
    """`protocol_plan` as a person reads it."""
    if "protocol" not in plan:
        return []
    entry = plan["protocol"]
    lines = [f"  protocol {entry['name']} sets " + ", ".join(f"{key} {value}" for key, value in entry["sets"].items())]
    if entry["own"]:
        overridden = (f"{key} {value} (protocol: {published})" for key, (value, published) in entry["own"].items())
        lines.append("         not as it says: " + ", ".join(overridden))
    if entry["other_sets"] and ":" not in entry["name"]:
        lines.append(f"         no set is named: {', '.join(entry['name'] + ':' + one for one in entry['other_sets'])}")
    lines += [f"         differs: {text}" for text in entry["differs"]]
    return [*lines, f"         the published number: {entry['scored']}"]


def markdown() -> str:
    """The tables of docs/reference/protocols.md."""
    parts = []
    for protocol in all_protocols().values():
        names = [f"`{protocol.name}`", *(f"`{protocol.name}:{one}`" for one in protocol.sets)]
        kind = "`medvl evaluate --protocol`" if protocol.is_zero_shot else f"`task: {protocol.task}`"
        parts += [f"## {protocol.name}", "", f"{protocol.title}. {kind}; {', '.join(names)}.", ""]
        parts += ["| key | value | source | evidence | note |", "| --- | --- | --- | --- | --- |"]
        for row in protocol.settings:
            value = list(row.value) if isinstance(row.value, tuple) else row.value
            when = f" (`:{row.only}`)" if row.only else ""
            when += f" (up to {row.up_to:.0%} of the labels)" if row.up_to is not None else ""
            source = row.source or protocol.source
            parts.append(f"| `{row.key}` | {value}{when} | {source} | {row.evidence} | {row.note} |")
        parts += ["", f"The published number: {protocol.scored}.", ""]
        parts += [*(f"- {text}" for text in protocol.differs), *([""] if protocol.differs else [])]
    return "\n".join(parts)
