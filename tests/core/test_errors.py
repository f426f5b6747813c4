"""Faults: their kinds, their places, and errors that cross a process."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from faults import refused

from medvl.core.errors import DivergedError, Fault, FaultKind, InputError


@pytest.mark.parametrize("kind", FaultKind)
def test_every_kind_has_a_constructor_of_faults_and_of_errors(kind: FaultKind) -> None:
    fault = getattr(Fault, kind)("it", "a.csv", 3, "r1", expected="that", remedy="this")
    assert fault == Fault("it", "a.csv", 3, "r1", "that", "this", kind=kind)
    error = getattr(DivergedError, kind)("it", file="a.csv", line=3, record="r1", expected="that", remedy="this")
    assert type(error) is DivergedError and error.faults == (fault,) and error.kinds == (kind,)
    assert str(error) == "a.csv:3 [r1]: it; expected that; remedy: this"


def test_an_error_of_several_faults_crosses_a_process() -> None:
    error = InputError([Fault.missing("a"), Fault.damaged("b", file="b.png"), Fault.missing("c")])
    again = pickle.loads(pickle.dumps(error))
    assert again.faults == error.faults and str(again) == str(error)
    assert error.kinds == (FaultKind.MISSING, FaultKind.DAMAGED)


def test_refused_checks_kind_and_place() -> None:
    error = InputError.damaged("cut off at byte 12", file="a.png", record="r1")
    with refused("damaged", file="a.png", record="r1", naming="12"):
        raise error
    wrong = [("missing", {}), ("damaged", {"file": "b.png"}), ("damaged", {"record": "r2"}), ("damaged", {"line": 1})]
    for kind, place in [*wrong, ("damaged", {"naming": "13"})]:
        with pytest.raises(AssertionError), refused(kind, **place):
            raise error
    with pytest.raises(AssertionError), refused("damaged"):
        raise InputError([*error.faults, replace(error.faults[0], kind=FaultKind.EMPTY)])
