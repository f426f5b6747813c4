"""JSON that is read or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import refused

from medvl.core.files import MAX_DIGITS, read_json


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000, b'{"a":' * 100_000, b'{"id": ' + b"1" * 5000 + b"}",
        b'{"id": -' + b"1" * (MAX_DIGITS + 1) + b"}", '{"name": "Thorax Übersicht"}'.encode("latin-1"),
        '{"name": "x"}'.encode("utf-16"), b'{"name": "\\ud800"}', b'{"name": "x"', b"", b"NaNo",
    ],
)  # fmt: skip
def test_json_that_is_none_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with refused("damaged") as caught:
        read_json(path)
    (fault,) = caught.value.faults
    assert fault.file == path and len(str(fault)) < 400
    with refused("missing_file"):
        read_json(tmp_path / "absent.json")


def test_json_as_programs_write_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, -2.5, 1e3, 12345678901234567890], "b": "\\ud83d\\ude00 \xc3\xbc"}')
    assert read_json(path) == {"a": [1, -2.5, 1000.0, 12345678901234567890], "b": "\U0001f600 \u00fc"}
