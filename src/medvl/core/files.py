"""Files that are written whole or not at all, and JSON that is read or refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from medvl.errors import InputError


def keep_other_results(out: Path | None, **same: str) -> None:
    """InputError where `out` holds results of something else: they would be written over.

    Args:
        same: keys of summary.json and what they will be, e.g. format, model_hash, split.
    """
    path = out / "summary.json" if out is not None else None
    if path is None or not path.is_file():
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        others = [key for key, value in same.items() if held.get(key) != value]
    except (ValueError, AttributeError):
        held, others = {}, list(same)
    if others:
        known = [f"{key} {held[key]}" for key in ("model", "split", "manifest", "target", "format") if key in held]
        raise InputError(
            f"holds other results ({', '.join(known) or 'not readable'}; {', '.join(others)} would differ)",
            file=out, expected="a new folder, or one of the same results", remedy="--out DIR",
        )  # fmt: skip


NEW_OUT = "a file that holds nothing of the source"


def refuse_source(source: str | Path, out: str | Path) -> None:
    """InputError where `out` is the file `source`, by whatever name: writing would destroy what it is made of."""
    source, out = Path(source), Path(out)
    if source.resolve() == out.resolve() or (source.exists() and out.exists() and source.samefile(out)):
        raise InputError("--out is the source itself", file=out, expected=NEW_OUT, remedy="another --out")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


MAX_DIGITS = 100  # of a whole number in JSON; more is no number of an image, an id or a pixel
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: no such file, not UTF-8, not JSON, nested too deeply, a whole number of more than `MAX_DIGITS`
            digits, half of a surrogate pair.
    """
    return parse_json(read_text(path, "a JSON file"), file=path)


def read_text(path: str | Path, expected: str) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: no such file (`expected` says what it should be), not UTF-8.
    """
    path = Path(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", file=path, expected=expected) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path, expected=expected) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text ({error.reason})", file=path, remedy="save the file as UTF-8") from None


def parse_json(text: str, *, file: str | Path, line: int | None = None) -> Any:
    """The value of a JSON text, with the faults of `read_json`; `line` is where the text stands in its file."""
    try:
        value = json.loads(text, parse_int=_whole_number)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = error.lineno if line is None else line
        raise InputError(f"not valid JSON: {error.msg}, column {error.colno}", file=file, line=at) from None
    except RecursionError:
        raise InputError("JSON that is nested too deeply", file=file, line=line, expected=_SHALLOW) from None
    except UnicodeEncodeError:
        what = "half of a surrogate pair, which is no character"
        raise InputError(what, file=file, line=line, expected="\\ud83d\\ude00, both halves") from None
    except _DigitsError as error:
        raise InputError(str(error), file=file, line=line, expected=f"at most {MAX_DIGITS} digits") from None
    return value


_SHALLOW = "a few levels of lists and objects"


class _DigitsError(Exception):
    """A whole number that no program means."""


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _DigitsError(f"a whole number of {len(digits)} digits")
    return int(digits)
