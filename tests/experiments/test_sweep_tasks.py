"""A sweep of several tasks on phantoms drawn here: pre-training, classifiers that start from it, and asking it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from faults import refused
from PIL import Image

from medvl.core.errors import InputError
from medvl.experiments import zero_shot_cells
from medvl.experiments.sweep import load_sweep
from medvl.experiments.sweep_run import run_sweep

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, **changes: Any) -> Path:
    """A sweep over discs and bars of 32 px: 16 train and 8 val images with text, mask and labels."""
    (folder / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    rows = ["id,image,text,mask,labels,patient,split"]
    for i in range(24):
        shape = (y - 10) ** 2 + (x - 10) ** 2 < 30 if i % 2 else (abs(y - 24) < 3) & (abs(x - 18) < 10)
        pixels = (rng.normal(90, 12, y.shape) + 120 * shape).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "data" / f"{i}.png")
        Image.fromarray((255 * shape).astype(np.uint8)).save(folder / "data" / f"m{i}.png")
        name, split = "disc" if i % 2 else "bar", "train" if i < 16 else "val"
        rows.append(f"c{i},{i}.png,there is a {name},m{i}.png,{name},p{i},{split}")
    (folder / "data" / "m.csv").write_text("\n".join(rows) + "\n")
    (folder / "recipes").mkdir()
    base = "data: {image_size: [32, 32], in_channels: 1, normalize: none}\n"
    fast = "train: {epochs: 2, max_steps: 2, batch_size: 8, warmup_steps: 0, accelerator: cpu}\n"
    (folder / "recipes" / "pretrain.yaml").write_text(
        base + fast + "task: pretrain\ntext: {encoder: builtin, dim: 32}\n"
        "model: {size: nano}\npretrain: {decoder: none, num_panels: 0}\n"
    )
    (folder / "recipes" / "classify.yaml").write_text(base + fast + "task: classify\nmodel: {size: nano}\n")
    ask = {"zero_shot": "classify", "run": "@g2d", "manifest": "$DATA/m.csv"}
    variants: dict[str, Any] = {
        "g2d": {"once": True, "recipe": "pretrain.yaml"}, "random": {}, "from g2d": {"init": "g2d:@g2d"},
        "prompts": ask, "phrases": {**ask, "zero_shot": "ground"},
    }  # fmt: skip
    sweep = {
        "title": "Tasks", "recipe": "classify.yaml", "overrides": {"data.manifest": "$DATA/m.csv"},
        "grid": {"data.label_fraction": [0.5, 1.0]}, "variants": variants, "evaluate": {"split": "val"},
        **changes,
    }  # fmt: skip
    path = folder / "recipes" / "sweep.yaml"
    path.write_text("# medvl x sweep sweep.yaml --data DATA\n" + yaml.safe_dump(sweep, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep file, after it was run."""
    path = write(tmp_path_factory.mktemp("tasks"))
    outcomes = run_sweep(path, path.parent.parent / "out", data=path.parent.parent / "data")
    assert [outcome.error for outcome in outcomes] == [""] * 7
    return path


def cell(path: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path.parent.parent / "out" / "results" / f"{name}.json").read_text())
    return found


def test_the_grid_touches_only_what_is_not_once(swept: Path) -> None:
    assert [c.name for c in load_sweep(swept).cells()] == [
        "g2d-seed0", "random-label_fraction_0_5-seed0", "from_g2d-label_fraction_0_5-seed0", "prompts-seed0",
        "phrases-seed0", "random-label_fraction_1_0-seed0", "from_g2d-label_fraction_1_0-seed0",
    ]  # fmt: skip


def test_each_cell_is_scored_by_its_task(swept: Path) -> None:
    assert "alignment_loss" in cell(swept, "g2d-seed0")["pretraining"]
    found = cell(swept, "from_g2d-label_fraction_0_5-seed0")
    assert found["evaluation"] == "classify" and found["config"]["init"] == "g2d:@g2d"
    assert found["labels"]["labelled_images"] == 8 and found["labels"]["per_class"]["disc"]["positive"] <= 8
    assert found["num_cases"] == 8 and found["by_class"]["disc"]["num_positive"] == 4
    wanted = {"macro_auc", "macro_f1", "macro_accuracy", "macro_mcc", "macro_average_precision", "macro_ece"}
    assert wanted <= set(found["metrics"]) and found["metrics"]["macro_auc"]["lo"] is not None
    assert found["threshold_source"].startswith("val") and "by_class" not in found["published_practice"]["by_f1"]
    prompts, phrases = cell(swept, "prompts-seed0"), cell(swept, "phrases-seed0")
    assert prompts["evaluation"] == "zero-shot classify" and set(prompts["by_class"]) == {"bar", "disc"}
    assert prompts["config"]["task"] == "pretrain" and prompts["manifest"] == "$DATA/m.csv"
    assert phrases["evaluation"] == "ground" and phrases["num_cases"] == 8 and "dice" in phrases["metrics"]
    assert prompts["asked"]["run"] == "@g2d" and prompts["overrides"][:2] == ["zero_shot=classify", "run=@g2d"]
    assert str(swept.parent.parent) not in json.dumps([found, prompts, phrases])


def test_cells_share_the_features_of_an_encoder_that_is_the_same(swept: Path) -> None:
    stored = list((swept.parent.parent / "out" / ".features").glob("*.npz"))
    assert len(stored) == 2  # of the random encoder and of g2d's, each for both fractions and for scoring
    for path in stored:
        with np.load(path) as content:
            assert len(content["digests"]) == 24


def test_what_was_asked_is_asked_again_only_when_it_changes(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = swept.parent.parent / "out"
    results = out / "results"
    file = results / "prompts-seed0.json"
    before = json.loads(file.read_text())
    asked = []

    def ask(self: Any, run: Path, out: Path, device: str) -> dict[str, Any]:
        asked.append(run.name)
        raise InputError.empty("asked")

    monkeypatch.setattr(zero_shot_cells.ClassQuery, "score", ask)
    data = swept.parent.parent / "data"
    assert {o.state for o in run_sweep(swept, out, data=data)} == {"done"} and not asked
    file.unlink()
    (listed,) = run_sweep(swept, out, data=data, only=["prompts"], dry_run=True)
    assert (listed.state, listed.note) == ("open", "to ask @g2d")
    (made,) = run_sweep(swept, out, data=data, only=["prompts"])
    after = json.loads(file.read_text())
    assert made.state == "done" and not asked and after["metrics"] == before["metrics"]
    text = swept.read_text()
    swept.write_text(text.replace("zero_shot: classify", "temperature: none\n    zero_shot: classify"))
    (changed,) = run_sweep(swept, out, data=data, only=["prompts"])
    assert "temperature: None there, none here" in changed.note and not asked
    file.unlink()
    (failed,) = run_sweep(swept, out, data=data, only=["prompts"])
    assert asked == ["g2d-seed0"] and "asked" in failed.error
    swept.write_text(text)
    run_sweep(swept, out, data=data, only=["prompts"])
    assert file.is_file() and len(asked) == 1


@pytest.mark.parametrize(
    ("variant", "kind", "naming"),
    [
        ({"zero_shot": "clasify", "run": "@g2d", "manifest": "m"}, "unknown", "classify"),
        ({"zero_shot": "classify", "run": "@g2d", "manifest": "m", "clases": ["a"]}, "unknown_key", "classes"),
        ({"zero_shot": "classify", "run": "@g2d"}, "missing", "manifest"),
        ({"zero_shot": "ground", "run": "runs/g2d", "manifest": "m"}, "malformed", "runs/g2d"),
        ({"zero_shot": "ground", "run": "@none", "manifest": "m"}, "conflict", "@none"),
        ({"zero_shot": "ground", "run": "@random", "manifest": "m"}, "unsupported", "@random"),
        ({"zero_shot": "ground", "run": "@g2d", "manifest": "m", "threshold": 2}, "out_of_range", "threshold"),
        ({"once": True, "init": "@random"}, "conflict", "@random"),
        ({"once": "yes"}, "conflict", "once"),
    ],
)
def test_faults_are_found_before_anything_runs(tmp_path: Path, variant: dict[str, Any], kind: str, naming: str) -> None:
    variants = {"g2d": {"once": True, "recipe": "pretrain.yaml"}, "random": {}, "x": variant}
    with refused(kind, naming=naming):
        load_sweep(write(tmp_path, variants=variants))
