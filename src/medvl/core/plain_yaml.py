"""YAML as people write it by hand: text, numbers, true/false, null, lists and mappings, within limits.

A file of a stranger may be damaged or made to exhaust memory. Every fault is one InputError with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from medvl.core.errors import Fault, FaultKind, InputError
from medvl.core.files import read_text

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50  # a recipe has 4
MAX_NODES = 100_000  # with every alias (*name) written out
MAX_DIGITS = 100
_SHOWN = 60  # characters of a value in a message
NO_TEXT = re.compile("[\0\ud800-\udfff]")  # half a character (a surrogate), or the end of a C string
T = TypeVar("T")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file. An empty file is None.

    Raises:
        InputError: no such file, not UTF-8, not YAML, a key that stands twice, beyond the limits of this module.
    """
    path = Path(path)
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise InputError.too_large(
            f"YAML of {path.stat().st_size:,} bytes", file=path, expected=f"at most {MAX_BYTES:,}"
        )
    return parse_yaml(read_text(path, "a YAML file"), path)


def read_typed(path: str | Path, kind: type[T]) -> T:
    """The content of a YAML file as a `kind`: a dataclass of pydantic's, or any type that pydantic knows.

    Raises:
        InputError: as `read_yaml`, and a value of another type, or a key that is missing or not known.
    """
    from pydantic import TypeAdapter, ValidationError

    value = read_yaml(path)
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InputError(validation_faults(error, path)) from None


def validation_faults(error: ValidationError, file: str | Path | None, prefix: str = "") -> list[Fault]:
    """What pydantic finds wrong, a fault for each value; `prefix` stands before its key."""
    return [
        Fault(
            f"{prefix}{'.'.join(map(str, item['loc']))}: {item['msg']} (found {shown(item['input'])})",
            file,
            kind=_kind_of_validation(item["type"]),
        )
        for item in error.errors()
    ]


def shown(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _kind_of_validation(name: str) -> FaultKind:
    if name == "missing":
        return FaultKind.MISSING
    if name in ("unexpected_keyword_argument", "extra_forbidden"):
        return FaultKind.UNKNOWN_KEY
    if name == "literal_error":
        return FaultKind.UNKNOWN
    is_limit = name.startswith(("greater_than", "less_than", "too_", "multiple_of"))
    return FaultKind.OUT_OF_RANGE if is_limit else FaultKind.MALFORMED


def parse_yaml(text: str, file: str | Path | None = None) -> Any:
    """YAML text -> None, bool, int, float, str, list or dict. A date is text. `file` is for the message.

    Raises:
        InputError: as `read_yaml`.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {}, file)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        what = " ".join(part for part in (error.context, error.problem, error.note) if part)
        raise InputError.damaged(f"not valid YAML: {what}", file=file, line=line) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # characters no YAML may hold; "\UFFFFFFFF"
        raise InputError.damaged(f"not valid YAML: {_one_line(error)}", file=file) from None


def yaml_text(value: Any, **options: Any) -> str:
    """YAML that `parse_yaml` reads as `value`, keys in their order. `options`: as those of `yaml.dump`."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, **options))


class _Loader(yaml.SafeLoader):
    """Faults of values carry their line; mappings keep no key twice."""

    depth = 0
    num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.num_nodes += 1
        if self.depth > MAX_DEPTH or self.num_nodes > MAX_NODES:
            what = f"more than {MAX_DEPTH} levels" if self.depth > MAX_DEPTH else f"more than {MAX_NODES:,} values"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and node.tag not in _TAGS:
            raise yaml.MarkedYAMLError(problem=f"the tag {node.tag!r} is not known", problem_mark=node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        if node.tag.endswith((":int", ":float")) and len(text) > MAX_DIGITS:
            what = f"a number of {len(text)} characters"
            raise yaml.MarkedYAMLError(problem=f"{what} (at most {MAX_DIGITS})", problem_mark=node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, AttributeError):  # `!!bool abc`, `!!int ''`
            kind = node.tag.rpartition(":")[2]
            what = f"{text[:40]!r} is no {kind}"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark) from None
        if isinstance(value, str) and NO_TEXT.search(value):
            raise yaml.MarkedYAMLError(problem="a character that no text has", problem_mark=node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names: set[str] = set()
        for key, _ in node.value:  # before merges (<<), whose keys may be written again
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if key.value in names:
                    raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
                names.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as a number."""


# Numbers are those of YAML 1.2: 1e-3 is one; 010 (8 in YAML 1.1), 1:30 (90) and dates are text, and so is "=".
_NUMBERS = (
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
)
_KEPT = _TAGS - {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
_Loader.yaml_implicit_resolvers = {
    sign: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT]
    for sign, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _signs in _NUMBERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), list(_signs))


def _size(node: yaml.Node, sizes: dict[int, int], file: str | Path | None) -> int:
    """How many nodes stand below `node`, aliases written out. InputError on one that holds itself."""
    if sizes.get(id(node)) == 0:  # begun, not ended
        raise InputError.damaged("an alias (*) stands within what it names", file=file, line=node.start_mark.line + 1)
    if id(node) not in sizes:
        sizes[id(node)] = 0
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in below for part in pair] if isinstance(node, yaml.MappingNode) else below
        size = 1 + sum(_size(part, sizes, file) for part in parts)
        if size > MAX_NODES:
            what = f"more than {MAX_NODES:,} values, its aliases (*) written out"
            raise InputError.damaged(what, file=file, line=node.start_mark.line + 1)
        sizes[id(node)] = size
    return sizes[id(node)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
