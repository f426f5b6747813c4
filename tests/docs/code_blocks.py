"""The fenced blocks of a page, and what it takes to run one."""

from __future__ import annotations

import csv
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from runs import medvl

from medvl.config import make_config
from medvl.core.plain_yaml import read_yaml
from medvl.data.records import load_manifest
from medvl.experiments.sweep import is_sweep, load_sweep
from medvl.text.prompts import load_prompts

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (?P<name>not run|file|example): (?P<value>[^\n]+) -->\n\s*$")
NAMED = re.compile(r"# ([\w/]+\.yaml)\b")
COMMAND = re.compile(r"^(medvl|make) [a-z]", re.MULTILINE)
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


@dataclass(frozen=True)
class Block:
    """`kind` is the language; `mark` and `value` are those of the comment above the block."""

    line: int
    kind: str
    text: str
    mark: str
    value: str


def pages() -> list[Path]:
    """README and every page of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in FENCE.finditer(text):
        indent = len(found["indent"])
        inner = "".join(row[indent:] if row.strip() else "\n" for row in found["text"].splitlines(keepends=True))
        mark = MARK.search(text[: found.start()])
        name, value = (mark["name"], mark["value"]) if mark else ("", "")
        blocks.append(Block(text[: found.start()].count("\n") + 1, found["kind"], inner, name, value))
    return blocks


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, without comments."""
    for row in text.replace("\\\n", " ").splitlines():
        words = shlex.split(row, comments=True)
        if words:
            yield words


class Runner:
    """Runs the blocks of one page in the current folder; Python names stay until its end."""

    def __init__(self, hidden: Sequence[tuple[str, str]]) -> None:
        """`hidden`: (pattern of a command, words that are put behind it)."""
        self.hidden, self.names = hidden, {"__name__": "page"}
        self.printed: str | None = None  # by the block before

    def run(self, block: Block) -> None:
        """AssertionError where a block does not do what it says."""
        printed, self.printed = self.printed, None
        if block.kind == "sh":
            for words in commands_of(block.text):
                self.command(words)
        elif block.kind == "python":
            out = StringIO()
            with redirect_stdout(out):
                exec(compile(block.text, f"line {block.line}", "exec"), self.names)
            self.printed = out.getvalue()
        elif block.kind == "text":
            assert printed is None or printed == block.text, f"printed was\n{printed}"
            assert not COMMAND.search(block.text), "a command stands in a block of kind sh"
        elif block.kind == "csv":
            assert block.mark == "file", "its name stands above it: <!-- file: NAME.csv -->"
            Path(block.value).write_text(block.text, encoding="utf-8")
            if "image" in next(csv.reader(block.text.splitlines())):
                assert load_manifest(block.value, check_files=False).records
        elif block.kind == "yaml":
            check_yaml(block.text)
        else:
            raise AssertionError(f"a block of kind {block.kind or '(none)'}: sh, python, text, csv or yaml")

    def command(self, words: list[str]) -> None:
        """Run `medvl`; of make and pip see that the target or extra is there."""
        name, *rest = words
        if name == "make":
            assert set(rest) <= TARGETS
        elif name == "pip":
            assert {extra for word in rest for extra in re.findall(r"\[(\w+)\]", word)} <= EXTRAS
        else:
            assert name in ("medvl", ".venv/bin/medvl"), f"{name}: this test runs medvl, make and pip"
            line = shlex.join(words)
            more = [word for pattern, text in self.hidden if re.search(pattern, line) for word in shlex.split(text)]
            ended = medvl(*rest, *more)
            assert ended.returncode == 0, f"{line} {shlex.join(more)}\n{ended.stdout}\n{ended.stderr}"


def check_yaml(text: str) -> None:
    """Saved under the name in its first line; a recipe, a sweep, prompts, or a part of a recipe."""
    name = NAMED.match(text)
    path = Path(name[1] if name else "block.yaml")
    path.write_text(text, encoding="utf-8")
    raw: Any = read_yaml(path)
    if is_sweep(path):
        load_sweep(path)
    elif {"families", "templates", "pairs"} & set(raw):
        load_prompts(path)
    else:
        make_config(raw, source=path.name)
    json.dumps(raw)
