"""What every test shares: no network, one place for the shared data, small threads."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; see medvl/cli
# The golden numbers were recorded with AVX2. Wider instructions add in another order, and PLAM's maximum then picks
# other pixels: up to 1.7 % in its smallest gradients.
for name, value in (("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2"), ("MKL_CBWR", "AVX2")):
    os.environ.setdefault(name, value)

SHARED = Path(__file__).resolve().parents[2] / "shared"
NOT_THERE = "the shared data folder is not beside this checkout"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared data folder; with MEDVL_REQUIRE_SHARED=1 it must be there, elsewhere the test is skipped."""
    folder = SHARED / "data"
    if folder.is_dir():
        return folder
    if os.environ.get("MEDVL_REQUIRE_SHARED") == "1":
        pytest.fail(f"MEDVL_REQUIRE_SHARED is set, and there is no shared data folder at {folder}")
    pytest.skip(NOT_THERE)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The last lines count the tests that were skipped because the shared data are not there."""
    skipped = [test for test in terminalreporter.getreports("skipped") if NOT_THERE in str(test.longrepr)]
    if skipped:
        terminalreporter.write_line(f"tests skipped: {len(skipped)}, as {NOT_THERE}")


@pytest.fixture(autouse=True)
def fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of warning is printed once per process: a test does not depend on those before it."""
    from medvl.core import errors

    for name, value in (("_warned", set()), ("_known", set()), ("_held", {})):
        monkeypatch.setattr(errors, name, value)


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """docs/generate.py as a module."""
    folder = Path(__file__).resolve().parents[1] / "docs"
    sys.path.insert(0, str(folder))  # it imports its neighbours
    return importlib.import_module("generate")


@pytest.fixture
def example() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a file of docs/examples; what it registers is forgotten after the test."""
    from medvl.core import task
    from medvl.losses.segmentation import TERMS
    from medvl.models.encoders.registry import ENCODERS
    from medvl.models.registry import MODELS
    from medvl.text.registry import TEXT_ENCODERS

    folder = Path(__file__).resolve().parents[1] / "docs" / "examples"
    registries: list[dict[str, Any]] = [task._tasks, TERMS, ENCODERS, MODELS, TEXT_ENCODERS]  # type: ignore[list-item]
    before = [dict(registry) for registry in registries]

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{name}", folder / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom set: two bright discs an image, the text names the patient's side. 8 train, 4 val, 4 test images."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :40]
    lines = ["id,image,text,mask,mask_values,patient,split,licence,kind"]
    for i in range(16):
        split = "train" if i < 8 else "val" if i < 12 else "test"
        shift = int(rng.integers(-4, 5))
        right = (y - 24 - shift) ** 2 + (x - 10) ** 2 < 49  # the patient's right is on the viewer's left
        left = (y - 24 + shift) ** 2 + (x - 29) ** 2 < 49
        pixels = rng.normal(60, 12, y.shape) + 120 * (right | left)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"i{i}.png")
        Image.fromarray((1 * right + 2 * left).astype(np.uint8)).save(folder / f"m{i}.png")
        for side, value in (("right", 1), ("left", 2)):
            lines.append(f"c{i}_{side},i{i}.png,the {side} lung,m{i}.png,{value},p{i},{split},CC0,{side}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


@pytest.fixture(scope="session")
def tiny_recipe(tiny_manifest: Path) -> Path:
    """A recipe that trains on the phantom set in a few seconds."""
    recipe = tiny_manifest.parent / "recipe.yaml"
    recipe.write_text(
        "data: {manifest: manifest.csv, laterality: patient, image_size: [32, 32], in_channels: 1,"
        " phrases_per_image: 2, p_empty_text: 0.05}\n"
        "text: {dim: 32}\n"
        "model: {size: nano}\n"
        "train: {epochs: 4, batch_size: 4, warmup_steps: 2, lr: 2.0e-3, accelerator: cpu, ema_decay: 0.9}\n"
    )
    return recipe


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of that recipe; nobody changes the folder."""
    from medvl.config import load_config
    from medvl.train.run import train

    return train(load_config(tiny_recipe, ["train.max_steps=2"]), tmp_path_factory.mktemp("tiny_run") / "run")
