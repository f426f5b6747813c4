"""YAML within limits: what people write is read right, what is damaged or hostile is one error."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import refused

from medvl.core import plain_yaml
from medvl.core.errors import InputError
from medvl.core.plain_yaml import MAX_BYTES, parse_yaml, read_yaml, yaml_text


def test_values_are_what_a_person_means() -> None:
    written = "a: 1e-3\nb: 010\nc: 1:30\nd: 2024-99-99\ne: 2024-01-01\nf: .5\ng: [1, -2.5, true, null]\nh: '1'\ni: ="
    assert parse_yaml(written) == {
        "a": 0.001, "b": "010", "c": "1:30", "d": "2024-99-99", "e": "2024-01-01", "f": 0.5,
        "g": [1, -2.5, True, None], "h": "1", "i": "=",
    }  # fmt: skip
    assert parse_yaml("") is None
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


def test_what_is_written_is_read_again() -> None:
    words = ["1e-3", "010", "yes", "2024-01-01", "=", "1", ".5", "null", "<<", "", " x", "0x1", ".inf", "1:30", "é"]
    value = {"z": words, "a": [1e-3, 1e300, 5, True, None]}
    assert parse_yaml(yaml_text(value)) == value
    assert list(parse_yaml(yaml_text(value))) == ["z", "a"]


_PAIRS = tuple(zip("abcdef", "bcdefg", strict=True))  # each name stands for ten of the one before
_BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in _PAIRS)
_MERGES = "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 10)}]}}\n" for a, b in _PAIRS)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x: 1\ny: !!bool abc", 2), ("x: !!float abc", 1), ("x: !!int ''", 1), ("x: !!binary abc", 1),
        ("x: !!python/object/apply:os.system [ls]", 1), ("x: " + "9" * 5000, 1), ("x: 1\nx: 2", 2),
        ("a: &a\n  b: *a", 1), ("[" * 3000, 1), ("\n".join(" " * i + "- " for i in range(300)), 51), (_BOMB, None),
        (_MERGES, None), ('x: "\\ud800"', 1), ('x: "\\0"', 1), ('x: "\\UFFFFFFFF"', None), ("a: 1\n---\nb: 2", 2),
        ("x: *gone", 1), ("? [a]\n: 1", 1), ("x: [1", None), ("a: \x07", None),
    ],
    ids=range(20),
)  # fmt: skip
def test_a_damaged_or_hostile_text_is_one_error(text: str, line: int | None) -> None:
    with refused("damaged") as caught:
        parse_yaml(text, "r.yaml")
    (fault,) = caught.value.faults
    assert fault.file == "r.yaml" and len(str(fault)) < 1500
    assert line is None or fault.line == line


def test_more_values_than_any_recipe_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_yaml, "MAX_NODES", 100)
    assert parse_yaml("- 1\n" * 90) == [1] * 90
    with refused("damaged"):
        parse_yaml("- 1\n" * 110)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "bom.yaml") == {"a": 1}
    (tmp_path / "latin1.yaml").write_bytes("a: é".encode("latin-1"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    for name in ("latin1.yaml", "large.yaml", "gone.yaml", "."):
        with pytest.raises(InputError):
            read_yaml(tmp_path / name)
