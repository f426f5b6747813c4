"""The shipped model is what its card says: re-evaluated on the test split, to 1e-3."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import refused

import medvl
from medvl.data.record import Manifest
from medvl.data.records import load_manifest
from medvl.evaluation.case_metrics import METRICS
from medvl.evaluation.cases import relative_image
from medvl.evaluation.model_inputs import Inputs, open_inputs
from medvl.inference.model_folder import find_model, load_model, times_test_opened
from medvl.tasks.segment.evaluate import evaluate

MODEL = "medvl:lvit_regions"
FOLDER = find_model(MODEL)
CARD = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))


def test_it_is_small_whole_and_of_the_shipped_set() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert {"model.safetensors", "config.yaml", "card.json", "card.md", "metrics.jsonl", "test_log.jsonl"} <= names
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 25 * 2**20
    manifest = load_manifest("medvl:cxr_regions", check_files=False)
    assert CARD["manifest_hash"] == manifest.content_hash() and CARD["split_hash"] == manifest.split_hash()
    assert CARD["command"] == "medvl train recipes/lvit_regions.yaml --out runs/lvit_regions"
    assert times_test_opened(FOLDER) == 1


def test_it_meets_its_card_on_a_quarter_of_test() -> None:
    """Every fourth test image, whose means the card holds; `make soak` does all of them."""
    images = set(CARD["check"]["images"])
    assert len(images) == 35
    inputs = open_inputs(MODEL)
    manifest = inputs.manifest(None)
    kept = tuple(r for r in manifest.split("test") if relative_image(r, manifest) in images)
    check(inputs, replace(manifest, records=kept), CARD["check"]["metrics"])


@pytest.mark.soak
def test_it_meets_its_card_on_test() -> None:
    inputs = open_inputs(MODEL)
    check(inputs, inputs.manifest(None), CARD["metrics"]["test"])


def check(inputs: Inputs, manifest: Manifest, promised: dict[str, Any]) -> None:
    found = evaluate(inputs.source, manifest, split="test", surface=False, num_draws=1).summary
    assert found["num_cases"] == promised["num_cases"]
    for name in METRICS[:4]:
        assert found["metrics"][name]["mean"] == pytest.approx(promised[name], abs=1e-3), name
    assert times_test_opened(FOLDER) == 1  # a check of what is known already is no new look


def test_the_readme_example(tmp_path: Path) -> None:
    image = load_manifest("medvl:cxr_regions", check_files=False).split("val")[0].image
    predictor = medvl.Predictor.load(MODEL).set_image(image)
    right, left, nothing = predictor.segment_many(["right lung", "left lung", ""])
    half = right.mask.shape[1] // 2
    assert right.mask[:, :half].sum() > 20 * right.mask[:, half:].sum()  # the patient's right is on the picture's left
    assert left.mask[:, half:].sum() > 20 * left.mask[:, :half].sum()
    assert nothing.mask.mean() < 0.01 and any("empty" in note for note in nothing.warnings)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("model.safetensors", None, "missing_file"), ("model.safetensors", b"", "damaged"),
        ("model.safetensors", "half", "damaged"), ("text/encoder.safetensors", None, "damaged"),
        ("text/encoder.safetensors", "half", "damaged"), ("text/encoder.json", "half", "damaged"),
        ("card.json", None, "missing_file"), ("card.json", "half", "damaged"), ("card.json", b"[]", "damaged"),
        ("card.json", b"{}", "damaged"), ("card.json", b"\xff", "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_a_model_is_named(name: str, content: bytes | str | None, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FOLDER, folder)
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    with refused(kind, file=folder / ("text" if name.startswith("text") else name), naming="copy the whole model"):
        load_model(folder)
