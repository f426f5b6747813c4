"""What the verbs share: options, and the list of verbs that `--help` prints."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medvl.core.csv_cells import mark_formulas

# Spellings of earlier releases -> the verb of today. They go with the next release.
OLD_SPELLINGS = {
    "import": "data import",
    "doctor": "data check",
    "audit": "data audit",
    "split": "data split",
    "tokenizer": "data tokenizer",
    "phantom": "data phantom",
    "sweep": "x sweep",
    "benchmark": "x benchmark",
    "plan": "x label-budget",
    "suggest": "x suggest",
    "localise": "x localise",
    "pretrain-text": "x pretrain-text",
}
# Verbs of earlier releases that have options of their own (`old_spellings.py`) -> what serves every task today.
OLD_VERBS = {
    "detect": "predict",
    "ground": "predict for images, medvl evaluate for a manifest with masks",
    "classify": "predict --classes for images, medvl evaluate for a manifest with labels",
}
OTHER_COLUMNS = "names of other columns: data.columns={image: Path, patient: PatientID}"
_ORDER = ("demo", "predict", "data")  # the groups of verbs stand among the verbs, in the order of use


class VerbGroup(TyperGroup):
    """Verbs in the order of use, each with its whole first sentence in `--help`; old spellings lead to the new ones."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        new = OLD_SPELLINGS.get(cmd_name, OLD_VERBS.get(cmd_name))
        if "data" not in self.commands or new is None:  # a verb of today, or one of a group
            return super().get_command(ctx, cmd_name)
        print(f"medvl {cmd_name} is now medvl {new}; the old spelling goes with the next release", file=sys.stderr)
        if cmd_name in OLD_VERBS:
            return super().get_command(ctx, cmd_name)
        group, verb = new.split()
        sub: Any = self.commands[group]
        return sub.commands[verb]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        verbs = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(verb.help or "")) for name, verb in verbs if not verb.hidden])


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """-> what is no override, and the `data.KEY=VALUE` among the words; a file of such a name is a file."""
    overrides = [word for word in words if word.startswith("data.") and "=" in word and not Path(word).exists()]
    return [word for word in words if word not in overrides], overrides


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0]


def names_of(text: str) -> list[str]:
    """`a, b` -> ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers_of(text: str, option: str) -> list[float]:
    """`0.7,0.3` -> [0.7, 0.3]. InputError, which names the option, where one is no number."""
    from medvl.core.errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError.malformed(f"{option} is {text}", expected="numbers, e.g. 0.7,0.1,0.2") from None


def show(values: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print the result of a verb: one JSON object, or the text."""
    import json

    print(json.dumps(values) if as_json else text)


def _mark(value: bool) -> bool:
    mark_formulas(value)
    return value


ExcelSafe = Annotated[
    bool,
    typer.Option(
        "--excel-safe",
        callback=_mark,
        help="put an apostrophe before text in CSV files that a spreadsheet would run as a formula (= + - @)",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as one JSON object")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:0 or mps")]
