"""docs/architecture.md: the walks lead through code that is there, and the examples are those that are run."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = {"From a text to its logits": 7, "From a report to InfoNCE": 9, "From a mask to its Dice term": 8}
STEP = re.compile(r"^\d+\. `([\w/]+\.py)`: ((?:`[\w.]+`,?\s+)*`[\w.]+`)\. ", re.MULTILINE)


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    """docs/architecture.py as a module."""
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / "src" / "medvl" / file).read_text(encoding="utf-8"))


def definitions(file: str, name: str) -> list[ast.AST]:
    """The function, after the class that it is of; [] where the file defines neither."""
    body: list[ast.stmt] = tree_of(file).body
    path: list[ast.AST] = []
    for part in name.split("."):
        nodes = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == part]
        if not nodes:
            return []
        path.append(nodes[0])
        body = nodes[0].body
    return path


def names_in(path: list[ast.AST]) -> set[str]:
    """What a function names, in its body and in the annotations of its class."""
    nodes = list(ast.walk(path[-1]))
    nodes += [
        node
        for owner in path[:-1]
        for field in owner.body
        if isinstance(field, ast.AnnAssign)
        for node in ast.walk(field)
    ]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return names | {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}


def broken_steps(steps: list[tuple[str, str]]) -> list[str]:
    """Functions of a walk that are not there, or that nothing before them names (by their name or their class)."""
    broken, known = [], {steps[0][1]}
    for file, name in steps:
        path = definitions(file, name)
        if not path or known.isdisjoint(name.split(".")):
            broken.append(f"{file}: {name}")
        else:
            known |= names_in(path)
    return broken


def test_walks(architecture: ModuleType) -> None:
    sections = re.split(r"^### ", architecture.PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    walks = {section.partition(":")[0]: STEP.findall(section) for section in sections if STEP.search(section)}
    assert {title: len(steps) <= LONGEST[title] for title, steps in walks.items()} == dict.fromkeys(LONGEST, True)
    for title, steps in walks.items():
        functions = [(file, name) for file, names in steps for name in re.findall(r"`([\w.]+)`", names)]
        assert len(steps) == len({file for file, _ in steps}) and not broken_steps(functions), title
        assert broken_steps([*functions[:2], *functions[3:]]), "a gap is seen"
    assert broken_steps([("cli/train.py", "train"), ("train/run.py", "gone")]) == ["train/run.py: gone"]


def test_the_page_shows_the_examples_and_what_the_objects_have(architecture: ModuleType) -> None:
    page = architecture.PAGE.read_text(encoding="utf-8")
    shown = {}
    for block in architecture.BLOCK.finditer(page):
        kind, names = block[2], block[3]
        if kind == "example":
            shown |= {name: block[0] for name in names.split(",")}
            assert architecture.example_text(names) in block[0], f"{names}: run docs/architecture.py"
        elif kind == "object":
            text = (architecture.SOURCE / architecture.OBJECTS[names]).read_text(encoding="utf-8")
            members = {member for member, _ in architecture.members(text, names)}
            assert members >= set(re.findall(r"^\| `([\w()]+)` \|", block[0], re.MULTILINE)) - {names}
    assert set(shown) == {path.name for path in architecture.EXAMPLES.iterdir() if path.is_file()}


def test_the_picture(architecture: ModuleType, tmp_path: Path) -> None:
    """Arrows lead down the layers, but for `from_released`; the same bytes each time."""
    rows, counts = architecture.layers(), architecture.imports()
    place = {name: number for number, name in enumerate(name for row in rows for name in row)}
    assert {pair for pair in counts if place[pair[0]] >= place[pair[1]]} <= {("models", "weights")}
    for name in ("a.svg", "b.svg"):
        architecture.draw(rows, counts, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert all(f">{name}</text>" in (tmp_path / "a.svg").read_text() for name in place)
