"""Recipes: strict, typed, preset-filled."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medvl.config import Config, config_dict, find_recipe, load_config, make_config, save_config
from medvl.errors import InputError
from medvl.fidelity import LVIT, markdown, preset_values
from medvl.train.sweep import is_sweep, load_sweep

ROOT = Path(__file__).resolve().parents[1]


def test_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"unknown key train\.epoch.*did you mean train\.epochs"):
        make_config({"train": {"epoch": 3}})


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(InputError) as caught:
        make_config({"train": {"epochs": "many", "lr": "fast"}, "data": {"resize": "crop"}})
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("preset", ["paper", "released", "medvl"])
def test_presets_fill_what_a_recipe_leaves_open(preset: str) -> None:
    config = make_config({"fidelity": preset, "train": {"lr_min": 1e-9}})
    plain = config_dict(config)
    for row in LVIT:
        if row.key == "train.lr_min":
            continue
        value = plain
        for part in row.key.split("."):
            value = value[part]
        assert value == getattr(row, preset), row.key
    assert config.train.lr_min == 1e-9


def test_medvl_preset_is_the_default_of_the_dataclasses() -> None:
    assert config_dict(make_config({"fidelity": "medvl"}))["train"] == config_dict(Config())["train"]


def test_lvit_switches_do_not_reach_other_networks() -> None:
    assert make_config({"model": {"name": "unet"}}).model.options == {}


def test_unknown_preset() -> None:
    with pytest.raises(InputError, match="did you mean released"):
        preset_values("release")


def test_round_trip_and_overrides(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: {manifest: m.csv}\n")
    config = load_config(recipe, ["train.lr=3e-4", "model.options.plam=avg", "data.image_size=[64, 96]"])
    assert config.train.lr == 3e-4
    assert config.model.options["plam"] == "avg"
    assert config.data.image_size == (64, 96)
    assert config.data.manifest == str(tmp_path / "m.csv")
    save_config(config, tmp_path / "c.yaml")
    assert config_dict(load_config(tmp_path / "c.yaml")) == config_dict(config)


def test_relative_paths_of_overrides_hold_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "run").mkdir()
    recipe = tmp_path / "recipes" / "r.yaml"
    recipe.write_text("data: {manifest: m.csv}\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(recipe, ["data.manifest=films.csv", "init=g2d:runs/g2d"])
    assert (config.data.manifest, config.init) == (str(tmp_path / "films.csv"), f"g2d:{tmp_path / 'runs' / 'g2d'}")
    save_config(config, tmp_path / "run" / "config.yaml")
    assert config_dict(load_config(tmp_path / "run" / "config.yaml")) == config_dict(config)
    assert load_config(recipe, ["data.manifest=medvl:cxr_regions"]).data.manifest == "medvl:cxr_regions"


def test_bad_override(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("{}")
    with pytest.raises(InputError, match="not key=value"):
        load_config(tmp_path / "r.yaml", ["train.lr"])


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_and_sweep_is_valid_and_says_how_to_run_it(recipe: Path) -> None:
    if is_sweep(recipe):
        verb, folder = "sweep", load_sweep(recipe).results_folder
        assert folder is None or folder.parent == ROOT / "results"
    else:
        verb = "train"
        load_config(recipe)
    first, second = recipe.read_text().splitlines()[:2]
    assert first.startswith(f"# medvl {verb} recipes/{recipe.name}")
    assert second.startswith("# measured:")
    assert isinstance(yaml.safe_load(recipe.read_text()), dict)


def test_the_twelve_differences_are_documented() -> None:
    assert len(LVIT) >= 12
    assert all(row.reason and row.key in markdown() for row in LVIT)


def test_a_recipe_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = load_config(ROOT / "recipes" / "lvit_semi.yaml")
    assert load_config("lvit_semi") == load_config("lvit_semi.yaml") == expected
    (tmp_path / "lvit_semi.yaml").write_text("train: {epochs: 3}\n")  # a file of one's own comes first
    assert load_config("lvit_semi.yaml").train.epochs == 3
    with pytest.raises(InputError) as caught:
        find_recipe("lvit_smi")
    assert "lvit_semi" in str(caught.value)


def test_recipes_for_own_data_hide_no_masks() -> None:
    for name in ("lvit_semi", "lvit_regions", "segment_lungs", "segment_mgca", "detect", "classify_linear"):
        assert load_config(name).data.label_fraction == 1.0, name


def test_the_border_of_older_configurations_is_that_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    old = make_config({"data": {"augment": {"border": "zero"}, "resize": "letterbox"}})
    assert old.data.border == "zero" and "pads validation" in capsys.readouterr().err
    assert make_config({"data": {"augment": {"border": "edge"}}}).data.border == "edge"
    assert make_config({"protocol": "mgca_segmentation"}).data.border == "zero"
    with pytest.raises(InputError):
        make_config({"data": {"augment": {"border": "zero"}, "border": "edge"}})
