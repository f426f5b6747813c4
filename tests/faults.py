"""What an error is checked by: its kinds, its place and the names in it, never its wording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medvl.core.errors import Fault, FaultKind, InputError


@contextmanager
def refused(
    *kinds: str, file: str | Path | None = None, line: int | None = None, record: str | None = None, naming: str = ""
) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """An InputError with faults of exactly these kinds, one of them at this place.

    Args:
        kinds: of `FaultKind`, as text.
        naming: a name or number that its message holds, such as that of the missing column.
    """
    with pytest.raises(InputError) as caught:
        yield caught
    error = caught.value
    assert set(error.kinds) == {FaultKind(kind) for kind in kinds}, error
    assert naming in str(error), error
    places = [
        fault
        for fault in error.faults
        if (file is None or (fault.file is not None and Path(fault.file) == Path(file)))
        and (line is None or fault.line == line)
        and (record is None or fault.record == record)
    ]
    assert places, error


def fault_of(
    function: Callable[..., object], path: Path, *args: object, remedy: bool = True, **options: object
) -> Fault:
    """The only fault of a call, in one line: it names the file, what was expected and a remedy, never the patient."""
    with pytest.raises(InputError) as caught:
        function(path, *args, **options)
    (fault,) = caught.value.faults
    assert fault.file == path and fault.expected and (fault.remedy or not remedy)
    assert "\n" not in str(fault) and "Jane" not in str(fault)
    return fault
