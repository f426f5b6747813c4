"""Published downstream protocols by name: `protocol: NAME` or `NAME:SET` in a recipe, `--protocol` of `medvl classify`.

A protocol fills what recipe and command line leave open, before the `fidelity` preset does. What it sets, what the
recipe says otherwise and where medvl differs stand in the plan. The table is `medvl.config.published_protocols`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvl.config.differences import flat
from medvl.config.published_protocols import PROTOCOLS, ZERO_SHOT, Protocol
from medvl.core.errors import InputError, nearest


def find_protocol(name: str, source: object = "configuration") -> tuple[Protocol, str | None]:
    """`NAME` or `NAME:SET` -> the protocol and the set. InputError on an unknown one, naming the nearest."""
    key, _, which = str(name).partition(":")
    if key not in PROTOCOLS:
        like = nearest(key, PROTOCOLS)
        raise InputError(
            f"unknown protocol {key!r}",
            file=str(source),
            expected=", ".join(PROTOCOLS),
            remedy=f"did you mean {like}?" if like else None,
        )
    protocol = PROTOCOLS[key]
    if ":" in str(name) and which not in protocol.sets:
        expected = " | ".join(f"{key}:{one}" for one in protocol.sets) or f"{key} alone: it has no settings by set"
        raise InputError(f"protocol {key} knows no set {which!r}", file=str(source), expected=expected)
    return protocol, which or None


def protocol_values(tree: Mapping[str, Any], source: str = "configuration") -> dict[str, Any]:
    """What `tree["protocol"]` sets where the nested mapping `tree` says nothing, its task among it.

    Raises:
        InputError: no such protocol, or one of another task than the tree's.
    """
    protocol, which = find_protocol(tree["protocol"], source)
    if protocol.task == ZERO_SHOT or tree.get("task", protocol.task) != protocol.task:
        told = f"task: {tree['task']}" if "task" in tree else "a recipe"
        fitting = [name for name, one in PROTOCOLS.items() if one.task == tree.get("task", "segment")]
        raise InputError(
            f"protocol {protocol.name} is of {protocol.task}, not of {told}",
            file=source,
            expected=", ".join(fitting) or None,
            remedy=f"medvl classify --protocol {protocol.name}" if protocol.task == ZERO_SHOT else None,
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
    there = flat(config)
    wanted = protocol_values(config)
    sets = {key: value for key, value in wanted.items() if there.get(key) == value}
    own = {key: [there.get(key), value] for key, value in wanted.items() if key not in sets}
    told = {"name": config["protocol"], "sets": sets, "own": own, "differs": list(protocol.differs)}
    return {"protocol": told | {"scored": protocol.scored, "other_sets": list(protocol.sets)}}


def protocol_lines(plan: Mapping[str, Any]) -> list[str]:
    """`protocol_plan` as a person reads it."""
    if "protocol" not in plan:
        return []
    told = plan["protocol"]
    lines = [f"  protocol {told['name']} sets " + ", ".join(f"{key} {value}" for key, value in told["sets"].items())]
    if told["own"]:
        lines.append(
            "         not as it says: "
            + ", ".join(f"{key} {here} (protocol: {there})" for key, (here, there) in told["own"].items())
        )
    if told["other_sets"] and ":" not in told["name"]:
        lines.append(f"         no set is named: {', '.join(told['name'] + ':' + one for one in told['other_sets'])}")
    lines += [f"         differs: {text}" for text in told["differs"]]
    return [*lines, f"         the published number: {told['scored']}"]


def markdown() -> str:
    """The tables of docs/protocols.md."""
    parts = []
    for protocol in PROTOCOLS.values():
        names = [f"`{protocol.name}`", *(f"`{protocol.name}:{one}`" for one in protocol.sets)]
        kind = "`medvl classify --protocol`" if protocol.task == ZERO_SHOT else f"`task: {protocol.task}`"
        parts += [f"## {protocol.name}", "", f"{protocol.title}. {kind}; {', '.join(names)}.", ""]
        parts += ["| key | value | source | evidence | note |", "| --- | --- | --- | --- | --- |"]
        for row in protocol.settings:
            value = list(row.value) if isinstance(row.value, tuple) else row.value
            when = f" (`:{row.only}`)" if row.only else ""
            when += f" (up to {row.up_to:.0%} of the labels)" if row.up_to is not None else ""
            parts.append(f"| `{row.key}` | {value}{when} | {row.source} | {row.evidence} | {row.note} |")
        parts += ["", f"The published number: {protocol.scored}.", ""]
        parts += [*(f"- {text}" for text in protocol.differs), *([""] if protocol.differs else [])]
    return "\n".join(parts)
