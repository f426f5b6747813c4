"""What `import medvl` offers."""

from __future__ import annotations

import pytest

import medvl


@pytest.mark.parametrize("name", medvl.__all__)
def test_a_public_name_is_there(name: str) -> None:
    assert getattr(medvl, name) is not None
