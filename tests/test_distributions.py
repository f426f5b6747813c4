"""The wheel and the sdist as a user gets them: whole, and the quick demo runs where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import medvl

ROOT = Path(__file__).resolve().parents[1]
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

pytestmark = pytest.mark.soak


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, built from the sdist, and the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_they_are_whole(files: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, sdist = files
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=tmp_path)
    info = f"medvl-{medvl.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    tracked = run("git", "ls-files", cwd=ROOT).splitlines()
    package = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    recipes = {f"medvl/{name}" for name in tracked if name.startswith("recipes/")}
    assert {name for name in names if not name.startswith(info)} == package | recipes
    texts = {name for name in tracked if name in ("LICENSE", "NOTICE") or name.startswith("LICENSES/")}
    assert {f"{info}/licenses/{name}" for name in texts} <= names
    assert set(metadata.get_all("License-File")) == texts
    assert "CC-BY-4.0" in metadata["License-Expression"] and metadata["License"] is None
    assert set(tracked) <= sources


def test_the_quick_demo_runs_in_a_clean_environment(files: tuple[Path, Path], tmp_path: Path) -> None:
    """A new environment with what the wheel requires and nothing else; then the sdist in the wheel's place."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    programs = tmp_path / "venv" / "bin"
    wheel, sdist = files
    for name, file, options in (("wheel", wheel, []), ("sdist", sdist, ["--force-reinstall", "--no-deps"])):
        run(programs / "pip", "install", "-q", "-c", ROOT / "constraints.txt", *options, file, cwd=tmp_path)
        place = run(programs / "python", "-c", "import medvl; print(medvl.__file__)", cwd=tmp_path).strip()
        assert Path(place).is_relative_to(tmp_path)
        run(programs / "medvl", "demo", "--quick", "--out", name, cwd=tmp_path)
        assert (tmp_path / name / "report.html").is_file()
        assert list((tmp_path / name / "prediction").glob("*__right-upper-zone.png"))
        run(programs / "medvl", "train", "lvit_regions", "--dry-run", cwd=tmp_path)  # a recipe of the package
