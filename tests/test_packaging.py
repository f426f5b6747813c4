"""What a release says of itself: one version, and the licences of exactly what it holds."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import medvl
from medvl.core.plain_yaml import read_yaml
from medvl.data.records import load_manifest

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(medvl.__file__).parent / "assets"
SPDX = {"CC BY 4.0": "CC-BY-4.0", "CC BY 3.0": "CC-BY-3.0", "MIT": "MIT", "CC0-1.0": "CC0-1.0"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def asset_licences(folder: Path) -> set[str]:
    """SPDX names of the licences that a folder of assets says: a model's card, or each row of a set's tables."""
    if (card := folder / "card.json").is_file():
        names = set(json.loads(card.read_text(encoding="utf-8"))["licence"].split("; "))
    else:
        tables = (f"medvl:{folder.name}", f"medvl:{folder.name}/manifest_labels.csv")
        names = {row.licence or "" for table in tables for row in load_manifest(table, check_files=False).records}
    return {SPDX[name] for name in names}


def test_the_licence_names_what_the_package_holds(project: dict[str, Any]) -> None:
    folders = [path for path in ASSETS.iterdir() if path.is_dir() and not path.name.startswith("__")]
    assert folders
    licences = {"Apache-2.0"}.union(*map(asset_licences, folders))
    assert set(project["license"].split(" AND ")) == licences
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert all(f"medvl/assets/{folder.name}:" in notice for folder in folders)
    assert {path.stem for path in (ROOT / "LICENSES").iterdir()} == licences - {"Apache-2.0"}  # that one is LICENSE


def test_one_version_everywhere() -> None:
    assert f"\nversion: {medvl.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" and headings[1].split()[0] == medvl.__version__


def test_the_workflow_runs_make_test_on_every_python_of_the_classifiers(project: dict[str, Any]) -> None:
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    (job,) = read_yaml(ROOT / ".github" / "workflows" / "test.yml")["jobs"].values()
    prefix = "Programming Language :: Python :: "
    versions = [name.removeprefix(prefix) for name in project["classifiers"] if name.startswith(prefix)]
    assert job["strategy"]["matrix"]["python"] == versions
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test PYTHON=python${{ matrix.python }}"]
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert actions and all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in actions)
    assert "secrets" not in text and "MEDVL_REQUIRE_SHARED:" not in text
