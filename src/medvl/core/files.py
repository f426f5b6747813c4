"""Files and folders that are written whole or not at all, locks, and JSON that is read or refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError, warn

NEW_OUT = "a file that holds nothing of the source"


def refuse_source(source: str | Path, out: str | Path) -> None:
    """InputError where `out` is the file `source`, by whatever name: writing would destroy what it is made of."""
    source, out = Path(source), Path(out)
    if source.resolve() == out.resolve() or (source.exists() and out.exists() and source.samefile(out)):
        raise InputError.exists("--out is the source itself", file=out, expected=NEW_OUT, remedy="another --out")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def append_line(path: Path, line: str) -> None:
    """Add a line to a log. A process that is killed may leave half a line."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@contextmanager
def whole_file(path: Path, suffix: str = "", *, flush: bool = False) -> Iterator[Path]:
    """Write a file whole or not at all: the `with` block writes the path that it is given, which then becomes `path`.

    Where the block fails, an older file stays as it was and nothing is left.

    Args:
        suffix: of the path to write, for writers that go by it (".png").
        flush: wait until it is on the disk before it takes the place of an older one, for what a loss of power must
            not take.

    Raises:
        OSError: with the name of the file, whatever the block raised it with (a full disk).
    """
    temporary = _temporary(path, suffix)
    try:
        with naming(path):
            yield temporary
            if flush:
                _flush(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Write a folder whole or not at all: the `with` block fills the folder that it is given, which becomes `path`.

    Where the block fails, an older folder stays as it was and nothing is left. A process that is killed between the
    two renames leaves the older folder under another name: `restore_folder` brings it back.

    Args:
        flush: wait until every file is on the disk, for what a loss of power must not take.
    """
    temporary, older = _temporary(path), path.with_name(f".{path.name}{_OLDER}")
    restore_folder(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with naming(path):
            yield temporary
            for file in temporary.rglob("*"):
                if flush and file.is_file():
                    _flush(file)
            if path.exists():
                os.replace(path, older)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        restore_folder(path)


def restore_folder(path: Path) -> None:
    """After a process was killed while it replaced the folder `path`: the older one, if the new one is not there."""
    older = path.with_name(f".{path.name}{_OLDER}")
    if path.exists():
        shutil.rmtree(older, ignore_errors=True)
    elif older.is_dir():
        os.replace(older, path)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left half written below `folder`. Nobody else may be writing there."""
    for path in sorted(folder.rglob(".*")):
        if _TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process is the only one in here, by a lock on the file `path`.

    It is released when the process ends, however it ends; processes that it forked do not hold it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no such lock, one process at a time
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    for last in (False, True):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if last:
                os.close(handle)
                yield False
                return
            time.sleep(0.1)  # another process may only be looking
        except OSError as error:
            warn(f"{path.parent}: no locks on this disk ({error.strerror}); use it from one process at a time")
            break
    _locks.add(handle)
    try:
        yield True
    finally:
        _locks.discard(handle)
        os.close(handle)


_OLDER = ".older"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp(\.[\w.]+)?")
_locks: set[int] = set()


def _close_locks() -> None:
    for handle in _locks:
        os.close(handle)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)  # a lock is held as long as any process has its file open


def _temporary(path: Path, suffix: str = "") -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the operating system name the file that was to be written."""
    try:
        yield
    except InputError:
        raise  # says its file itself
    except OSError as error:
        if error.filename is None or _TEMPORARY.fullmatch(Path(os.fsdecode(error.filename)).name):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:
        # Writers in other languages fail over the first error a second time, or only say its number.
        below: BaseException | None = error
        while below is not None and not isinstance(below, OSError):
            below = below.__context__
        number = re.search(r"os error (\d+)", str(error))
        code = below.errno if isinstance(below, OSError) else int(number[1]) if number else None
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


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
        raise InputError.missing_file("no such file", file=path, expected=expected) from None
    except OSError as error:
        raise InputError.unreadable(f"cannot be read ({error.strerror})", file=path, expected=expected) from None
    except UnicodeDecodeError as error:
        raise InputError.damaged(
            f"not UTF-8 text ({error.reason})", file=path, remedy="save the file as UTF-8"
        ) from None


def parse_json(text: str, *, file: str | Path, line: int | None = None) -> Any:
    """The value of a JSON text, with the faults of `read_json`; `line` is where the text stands in its file."""
    try:
        value = json.loads(text, parse_int=_whole_number)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = error.lineno if line is None else line
        raise InputError.damaged(f"not valid JSON: {error.msg}, column {error.colno}", file=file, line=at) from None
    except RecursionError:
        raise InputError.damaged("JSON that is nested too deeply", file=file, line=line, expected=_SHALLOW) from None
    except UnicodeEncodeError:
        what = "half of a surrogate pair, which is no character"
        raise InputError.damaged(what, file=file, line=line, expected="\\ud83d\\ude00, both halves") from None
    except _DigitsError as error:
        raise InputError.damaged(str(error), file=file, line=line, expected=f"at most {MAX_DIGITS} digits") from None
    return value


_SHALLOW = "a few levels of lists and objects"


class _DigitsError(Exception):
    """A whole number that no program means."""


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _DigitsError(f"a whole number of {len(digits)} digits")
    return int(digits)


def new_folder(out: Path) -> None:
    """Make an output folder. InputError when it is there and not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError.exists("the output folder is not empty", file=out, remedy="choose another --out")
    out.mkdir(parents=True, exist_ok=True)
