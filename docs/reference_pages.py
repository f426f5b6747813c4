"""Hook of mkdocs (mkdocs.yml): the pages of the reference that are made of the code at each build.

`reference/cli.md`: the help of every verb, as `--help` prints it. `reference/config.md`: the keys of a recipe, from the
sections' fields and the comments beside them. `reference/python.md`: the public names, for mkdocstrings.
None of these imports torch.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import click
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import TypeAdapter

import medvl
from medvl.cli import app
from medvl.config.config import Config
from medvl.core.task import all_tasks

WIDTH = 100  # of the help
CLI_HEAD = """# Command line

Made at each build of this site from the program itself: the text of `medvl VERB --help`.

| exit code | meaning |
| ---: | --- |
| 0 | done |
| 1 | done, with a finding: a patient in two splits, an image that could not be read, a set that is not complete |
| 2 | bad input: one message says what, where, what was expected and what to do |
| 130 | interrupted by Ctrl-C |

`--json` prints one JSON object on stdout; everything else goes to stderr. `key=value` overrides a key of the recipe
([all keys](config.md)).
"""
CONFIG_HEAD = """# Configuration keys

Made at each build of this site from `src/medvl/config/`. A recipe is a YAML file of sections; on the command line every
key is given as `section.key=value`. A wrong key is an error that names the nearest one.

The defaults below hold where neither the recipe, nor the protocol (`protocol: NAME`), nor the run of `init`, nor a
preset of `fidelity` says otherwise ([Fidelity](../fidelity.md), [Published protocols](protocols.md)). The plan
(`medvl train RECIPE --dry-run`) says what was chosen, and `RUN/config.yaml` keeps every value of a run.
"""
PYTHON_HEAD = """# Python

`import medvl` gives these names. None of them is imported before it is used. Shapes: `B` batch, `N` rows (one text
each), `C` channels, `H W` pixels, `h w` grid, `L` tokens, `D` width of a vector, `K` classes.
"""
YAML = {"None": "null", "True": "true", "False": "false"}
PYTHON_VALUE = re.compile(r"\b(None|True|False)\b")
PYTHON_MORE = {  # what the verbs call; the heading -> its objects
    "Train, evaluate, compare": (
        "medvl.train.run.train",
        "medvl.evaluation.request.EvaluationRequest",
        "medvl.evaluation.request.run_request",
        "medvl.evaluation.record.EvaluationRecord",
        "medvl.evaluation.text_sensitivity.text_sensitivity",
        "medvl.evaluation.compare.compare",
    ),
    "Pseudo masks and pseudo labels": (
        "medvl.losses.pseudo_mask.pseudo_mask",
        "medvl.losses.pseudo_labels.PseudoLabelStore",
        "medvl.losses.language_vision",
    ),
    "Metrics": ("medvl.metrics.segmentation", "medvl.metrics.statistics"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, page in (("cli", cli_page), ("config", config_page), ("python", python_page)):
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def cli_page() -> str:
    """The help of every verb that is not hidden."""
    lines = [CLI_HEAD]
    for words, command in verbs(typer.main.get_command(app), ()):
        context = click.Context(command, info_name=" ".join(("medvl", *words)), terminal_width=WIDTH)
        lines += [f"## medvl {' '.join(words)}".rstrip(), "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


def verbs(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of a command and of those below it, in the order of `--help`."""
    yield words, command
    for name in command.list_commands(click.Context(command)) if hasattr(command, "commands") else ():
        if not command.commands[name].hidden:
            yield from verbs(command.commands[name], (*words, name))


def config_page() -> str:
    """One table for each section: key, values, default and meaning."""
    lines = [CONFIG_HEAD, *tasks_table(), "## Top level", "", *section_table(Config, "")]
    for name, kind in inner_sections(Config, ""):
        lines += [f"## {name}", "", inspect.getdoc(kind) or "", "", *section_table(kind, name)]
    for task in all_tasks():
        for name, kind in task.sections.items():
            lines += [
                f"## {name}",
                "",
                f"Of `task: {task.name}`. {inspect.getdoc(kind)}",
                "",
                *section_table(kind, name),
            ]
            for inner, part in inner_sections(kind, f"{name}."):
                lines += [f"## {inner}", "", inspect.getdoc(part) or "", "", *section_table(part, inner)]
    return "\n".join(lines)


def inner_sections(kind: type, prefix: str) -> Iterator[tuple[str, type]]:
    """(name, section) of the sections within one, each followed by its own."""
    for name, part in get_type_hints(kind).items():
        if is_dataclass(part) and name in {field.name for field in fields(kind)}:
            yield f"{prefix}{name}", part
            yield from inner_sections(part, f"{prefix}{name}.")


def tasks_table() -> list[str]:
    """Which sections each task has, and the defaults that are its own."""
    lines = ["| task | its sections | `model.name` | defaults of its own |", "| --- | --- | --- | --- |"]
    for task in all_tasks():
        sections = ", ".join(f"[`{name}`](#{anchor(name)})" for name in task.sections)
        defaults = ", ".join(f"`{key}: {shown(value)}`" for key, value in task.defaults.items())
        lines.append(f"| `{task.name}` | {sections} | `{task.model_name}` | {defaults} |")
    return [*lines, ""]


def section_table(kind: type, section: str) -> list[str]:
    """The keys of a section."""
    schema = TypeAdapter(kind).json_schema()
    properties = schema["properties"]
    about = comments(kind)
    lines = ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(kind):
        one = properties[field.name]
        if "$ref" in one or field.name == "sections":  # a section of its own
            continue
        default = shown(one["default"]) if "default" in one else shown(field_default(field))
        key = f"{section}.{field.name}".lstrip(".")
        cells = (values_of(one, schema.get("$defs", {})), f"`{default}`", about.get(field.name, ""))
        lines.append(f"| `{key}` | {' | '.join(map(cell, cells))} |")
    return [*lines, ""]


def cell(text: str) -> str:
    """Of a table: `|` is no border, and `{` no list of attributes."""
    return text.replace("|", "\\|").replace("{", "&#123;") if "`" not in text else text.replace("|", "\\|")


def field_default(field: Any) -> Any:
    """The default of a dataclass's field, of pydantic's JSON types."""
    value = getattr(field.default, "default_factory", None) or getattr(field, "default_factory", None)
    made = value() if callable(value) else field.default
    return TypeAdapter(Any).dump_python(made, mode="json")


def shown(value: Any) -> str:
    """A value as YAML writes it in one line."""
    return json.dumps(value).replace('"', "") or "''"


def values_of(schema: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What may stand there, in words, of a JSON schema."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"mapping ({', '.join(known[name]['properties'])}, ...)"
    if "anyOf" in schema:
        parts = [values_of(part, known) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join([*dict.fromkeys(parts), *(["null"] if len(parts) < len(schema["anyOf"]) else [])])
    if "enum" in schema:
        return " | ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            return "[" + ", ".join(values_of(part, known) for part in schema["prefixItems"]) + "]"
        return f"list of {values_of(schema.get('items', {}), known)}"
    if kind == "object":
        more = schema.get("additionalProperties")
        return f"mapping of names to {values_of(more, known)}" if isinstance(more, dict) else "mapping"
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{range_of(schema)}"
    return {"boolean": "`true` | `false`", "string": "text"}.get(kind or "", "any")


def range_of(schema: Mapping[str, Any]) -> str:
    """` 0 to 1`, ` > 0`, ` 1 or more`: the range of a number; a bound of a billion says nothing."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    high = None if high is not None and high >= 10**9 else high
    below = None if below is not None and below >= 2**32 else below
    if low is not None and high is not None:
        return f" {low} to {high}"
    parts = [f"{low} or more" if low is not None else "", f"> {above}" if above is not None else ""]
    parts += [f"at most {high}" if high is not None else "", f"< {below}" if below is not None else ""]
    text = ", ".join(part for part in parts if part)
    return f" {text}" if text else ""


def comments(kind: type) -> dict[str, str]:
    """Field -> the comment above it and the one behind it."""
    text = inspect.getsource(kind)
    source = text.splitlines()
    about: dict[str, str] = {}
    for node in ast.parse(inspect.cleandoc(text)).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above, line = [], node.lineno - 2
        while source[line].strip().startswith("# "):
            above.insert(0, source[line].strip()[2:])
            line -= 1
        behind = [row.partition("  # ")[2] for row in source[node.lineno - 1 : node.end_lineno]]
        about[node.target.id] = PYTHON_VALUE.sub(
            lambda value: YAML[value[0]], " ".join(filter(None, (*above, *behind)))
        )
    return about


def anchor(heading: str) -> str:
    """The target of a link to a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def python_page() -> str:
    """The public names and the main objects below them."""
    lines = [PYTHON_HEAD, "## medvl", ""]
    for name, module in medvl._PUBLIC.items():
        lines += [f"::: {module}.{name}", ""]
    for title, names in PYTHON_MORE.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += [f"::: {name}", ""]
    return "\n".join(lines)
