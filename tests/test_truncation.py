"""benchmarks/truncation.py: which sides a limit on tokens takes from captions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from medvl.data.tables import read_table


@pytest.fixture(scope="module")
def truncation() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "truncation.py"
    spec = importlib.util.spec_from_file_location("truncation", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "kept", "lost"),
    [
        # cut behind "all left" and "all right", which then look like adverbs
        ("Bilateral pulmonary infection, two infected areas, all left lung and all right lung.", "left", "right"),
        ("Unilateral pulmonary infection, one infected area, all right lung.", "right", ""),
        ("Bilateral pulmonary infection, two infected areas, upper lower left lung and lower right lung.", "",
         "left right"),
        ("Unilateral pulmonary infection, oneinfected area, middle lower leff lung.", "left", ""),  # joined: one token
        ("Unilateral pulmonary infection, one infected area, middle lower leff lung.", "", "left"),
        ("Left lung and right lung with opacities, more of them in the left lung.", "left right", ""),
        ("The tube was left in place, all right; nothing else is to be seen here.", "", ""),
        ("An effusion of the whole pleura, seen once more, now left-sided.", "", "left"),
    ],
)  # fmt: skip
def test_sides_kept_and_lost(truncation: ModuleType, text: str, kept: str, lost: str) -> None:
    assert truncation.kept_and_lost(text, 10) == (set(kept.split()), set(lost.split()))


def test_counts(truncation: ModuleType) -> None:
    texts = [
        "Bilateral pulmonary infection, two infected areas, all left lung and all right lung.",
        "Unilateral pulmonary infection, one infected area, upper lower right lung.",
        "Both lungs.",
    ]
    assert truncation.count(texts, 10) == {
        "texts": 3, "cut": 2, "name both sides": 1, "lose the left": 0, "lose the right": 2, "no side left": 1,
    }  # fmt: skip


@pytest.mark.shared
def test_the_share_that_the_docs_quote(truncation: ModuleType, shared_data: Path) -> None:
    rows = read_table(shared_data / "qata-texts" / "captions.csv").rows
    found = truncation.count([row["Description"] for _, row in rows if row["split"] == "train"], 10)
    assert f"{found['lose the right'] / found['texts']:.1%}" == "80.2%"
