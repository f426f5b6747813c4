"""README, its pictures and the citation: fresh, short, and complete."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import medvl
from medvl.experiments.sweep import load_sweep

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_numbers_of_the_readme_are_those_of_the_card_and_the_results():
    found = subprocess.run([sys.executable, "docs/readme_blocks.py", "--check"], cwd=ROOT, capture_output=True)
    assert found.returncode == 0, found.stdout.decode() + found.stderr.decode()


def test_the_results_of_the_readme_are_rows_of_the_sweeps(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import readme_blocks

    for row in readme_blocks.RESULTS:
        sweep = load_sweep(ROOT / "recipes" / f"{row.table}.yaml")
        assert {row.method, row.baseline} <= set(sweep.variants), row
        assert row.grid_point in [tuple(point.values()) for point in sweep.grid_points()], row
        reference = sweep.reference or next(name for name, keys in sweep.variants.items() if "recipe" not in keys)
        assert reference in (row.method, row.baseline), row


def test_the_readme_fits_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 120
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pictures_are_small_and_each_has_its_drawing():
    sizes = {path.stem: path.stat().st_size for path in PICTURES.glob("*.png")}
    assert {path.stem for path in PICTURES.glob("*.py")} >= set(sizes)
    assert max(sizes.values()) < 200_000 and sum(sizes.values()) < 1_000_000


@pytest.mark.parametrize("name", ["dice", "double_u"])
def test_a_picture_is_drawn_to_the_same_bytes(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PICTURES))
    import importlib

    style, module = importlib.import_module("style"), importlib.import_module(name)
    for number in (1, 2):
        style.save(module.draw(), tmp_path / f"{number}.png")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_the_citation_names_both_methods_and_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == medvl.__version__
    assert [one["authors"][0]["family-names"] for one in citation["references"]] == ["Li", "Liu"]
