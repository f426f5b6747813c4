"""What every test shares: no network, one place for the shared data, small threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared data folder; CI must have it, elsewhere the test is skipped."""
    folder = SHARED / "data"
    if folder.is_dir():
        return folder
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have the shared data folder at {folder}")
    pytest.skip("the shared data folder is not beside this checkout")
