"""What an error is checked by: its kinds, its place and the names in it, never its wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medvl.core.errors import FaultKind, InputError


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
