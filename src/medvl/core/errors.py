"""Errors a user can act on: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import atexit
import difflib
import mmap
import os
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

MAX_SHOWN = 1000  # characters of one message: a damaged file can hold a word of any length
MAX_ID = 160
MAX_FAULTS = 50  # that are printed


class FaultKind(StrEnum):
    """What kind of thing is wrong: for programs; the message is for people."""

    MISSING_FILE = auto()  # no such file or folder
    MISSING_COLUMN = auto()  # a table without a column that it must have
    MISSING = auto()  # an option, a key, a cell or another input that must be given is not
    MISSING_PACKAGE = auto()  # a package, or the weights in it, is not installed
    UNKNOWN_KEY = auto()  # a key or option that nothing reads
    UNKNOWN = auto()  # a name that is none of the choices
    MALFORMED = auto()  # a value, a line or an entry of another form or type than wanted
    OUT_OF_RANGE = auto()  # a number outside of its range
    NOT_FINITE = auto()  # NaN or infinite numbers
    WRONG_SHAPE = auto()  # an array or tensor of other dimensions
    DAMAGED = auto()  # a file that is cut off, or not of its format
    UNREADABLE = auto()  # a file that the system, or the library that reads it, refuses
    UNSUPPORTED = auto()  # sound, but of a kind that this is not for
    TOO_LARGE = auto()  # beyond a limit that guards against damaged or malicious files
    EMPTY = auto()  # nothing to work on, or too little
    DUPLICATE = auto()  # one name, id or key for two things
    AMBIGUOUS = auto()  # several readings, of which one must be chosen
    MISMATCH = auto()  # two things that must fit each other do not
    CONFLICT = auto()  # options that exclude each other, or mean nothing together
    LEAK = auto()  # a case, patient or group on both sides of a split
    EXISTS = auto()  # the output is there already and would be overwritten
    BUSY = auto()  # another process works on it
    NO_RESOURCE = auto()  # a device, memory or room on the disk is lacking
    TOO_EARLY = auto()  # a call before the one that it needs
    UNFINISHED = auto()  # some of the inputs are done, the others are not


_T_co = TypeVar("_T_co", covariant=True)


class _Made(Protocol[_T_co]):
    def __call__(
        self,
        what: str,
        file: str | Path | None = None,
        line: int | None = None,
        record: str | None = None,
        expected: str | None = None,
        remedy: str | None = None,
    ) -> _T_co: ...


class _Maker:
    """`InputError.damaged(what, ...)` is `InputError(what, kind=FaultKind.DAMAGED, ...)`; `Fault` likewise."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.kind = FaultKind(name)

    def __get__(self, instance: object, owner: type[_T_co]) -> _Made[_T_co]:
        return partial(owner, kind=self.kind)  # type: ignore[call-arg]  # both owners take it


class _Kinds:
    """A constructor for each kind."""

    __slots__ = ()

    missing_file = _Maker()
    missing_column = _Maker()
    missing = _Maker()
    missing_package = _Maker()
    unknown_key = _Maker()
    unknown = _Maker()
    malformed = _Maker()
    out_of_range = _Maker()
    not_finite = _Maker()
    wrong_shape = _Maker()
    damaged = _Maker()
    unreadable = _Maker()
    unsupported = _Maker()
    too_large = _Maker()
    empty = _Maker()
    duplicate = _Maker()
    ambiguous = _Maker()
    mismatch = _Maker()
    conflict = _Maker()
    leak = _Maker()
    exists = _Maker()
    busy = _Maker()
    no_resource = _Maker()
    too_early = _Maker()
    unfinished = _Maker()


@dataclass(frozen=True, slots=True)
class Fault(_Kinds):
    """One thing wrong with the input, with its kind and the place where it stands."""

    what: str
    file: str | Path | None = None
    line: int | None = None
    record: str | None = None
    expected: str | None = None
    remedy: str | None = None
    kind: FaultKind = field(kw_only=True)

    def __str__(self) -> str:
        place = "" if self.file is None else str(self.file)
        if self.line is not None:
            place += f":{self.line}" if place else f"line {self.line}"
        if self.record is not None:
            record = self.record if len(self.record) <= MAX_ID else f"{self.record[:MAX_ID]}..."
            place += f" [{record}]" if place else f"record {record}"
        length = len(self.what)
        what = self.what if length <= MAX_SHOWN else f"{self.what[:MAX_SHOWN]} ... ({length} characters)"
        text = f"{place}: {what}" if place else what
        if self.expected:
            text += f"; expected {self.expected}"
        if self.remedy:
            text += f"; remedy: {self.remedy}"
        return text


class InputError(_Kinds, Exception):
    """Bad input from the user. The command line prints it and exits with code 2.

    Takes one message with its kind and place, or a sequence of `Fault` that are all reported together.
    """

    exit_code = 2

    @overload
    def __init__(
        self,
        what: str,
        file: str | Path | None = None,
        line: int | None = None,
        record: str | None = None,
        expected: str | None = None,
        remedy: str | None = None,
        *,
        kind: FaultKind,
    ) -> None: ...

    @overload
    def __init__(self, what: Sequence[Fault]) -> None: ...

    def __init__(self, what: str | Sequence[Fault], *place: Any, **rest: Any) -> None:
        self.faults: tuple[Fault, ...] = (Fault(what, *place, **rest),) if isinstance(what, str) else tuple(what)
        super().__init__(self.faults)  # from which pickle makes it again
        self.add_note(
            f"kind: {', '.join(self.kinds)}"
        )  # a trace names it; that is all that a loader's process hands on

    @property
    def kinds(self) -> tuple[FaultKind, ...]:
        """The kinds of the faults, each once."""
        return tuple(dict.fromkeys(fault.kind for fault in self.faults))

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        lines = [f"{len(self.faults)} faults:", *(f"  {fault}" for fault in self.faults[:MAX_FAULTS])]
        if len(self.faults) > MAX_FAULTS:
            lines.append(f"  and {len(self.faults) - MAX_FAULTS} more")
        return "\n".join(lines)


class UnfinishedError(InputError):
    """Some of the inputs could not be read; what could is done and kept. Exit code 1."""

    exit_code = 1


class DivergedError(InputError):
    """Training cannot go on: a loss, the weights or what they give are not finite. Exit code 1."""

    exit_code = 1


_warned: set[str] = set()  # messages that were printed
_held: dict[str, list[str]] = {}  # message -> places that are not printed yet
_known: set[tuple[str, str]] = set()  # of a message and a place
_holder: int | None = None  # the process that holds warnings back, to print each kind once with a count
_printed: mmap.mmap | None = None  # a byte for each kind, shared with the workers that this process forks
_NUM_KINDS = 2**20


def warn(message: str, *, place: str | Path | None = None) -> None:
    """Print `message` to stderr, once per distinct message and process.

    Args:
        place: the file or record that it is about; `message` then says only what kind of thing it is. Of a kind the
            first place is printed at once and the others are counted; a verb of the command line prints one line of
            each kind, with the count of its places.
    """
    if place is None:
        if message not in _warned:
            _warned.add(message)
            print(f"warning: {message}", file=sys.stderr)
        return
    if (message, str(place)) in _known:
        return
    _known.add((message, str(place)))
    if _holder == os.getpid() or message in _warned:
        _held.setdefault(message, []).append(str(place))
    else:
        _warned.add(message)
        if _is_first(message):
            print(f"warning: {place}: {message}", file=sys.stderr)


def hold_warnings() -> None:
    """From now on this process prints warnings about files and records in `print_warnings`, one line of each kind."""
    global _holder, _printed
    _holder = os.getpid()
    _printed = mmap.mmap(-1, _NUM_KINDS)


def _is_first(message: str) -> bool:
    """Whether no worker of this run has printed the kind yet; each epoch may have new ones."""
    if _printed is None:
        return True
    at = zlib.crc32(message.encode()) % _NUM_KINDS
    is_first = _printed[at] == 0
    _printed[at] = 1
    return is_first


def print_warnings() -> None:
    """Print what was held back: one line of each kind, with the count and the first places."""
    for message, places in _held.items():
        if len(places) == 1:
            text = f"{places[0]}: {message}"
        else:
            more = "more, " if message in _warned else ""
            text = f"{message} ({more}{len(places)} times, e.g. {', '.join(places[:3])})"
        _warned.add(message)
        _is_first(message)
        print(f"warning: {text}", file=sys.stderr)
    _held.clear()


atexit.register(print_warnings)


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None when nothing is like it."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None
