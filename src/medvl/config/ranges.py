"""Ranges of configuration values, and what every section of a configuration shares."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, StringConstraints

# An unknown key is an error, and so are nan and inf, which every comparison lets through.
SECTION = ConfigDict(extra="forbid", allow_inf_nan=False)

Fraction = Annotated[float, Ge(0), Le(1)]
Share = Annotated[float, Gt(0), Le(1)]
Weight = Annotated[float, Ge(0)]
Positive = Annotated[float, Gt(0)]
Count = Annotated[int, Ge(0), Le(10**9)]
AtLeastOne = Annotated[int, Ge(1), Le(10**9)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # what numpy takes
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
