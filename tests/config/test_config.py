"""Recipes: strict, typed, preset-filled."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from faults import refused

from medvl.config import Config, config_dict, find_recipe, load_config, make_config, save_config
from medvl.config.differences import differences, flat
from medvl.config.fidelity import method_of, preset_values
from medvl.core.errors import InputError
from medvl.core.task import all_tasks
from medvl.experiments.sweep import is_sweep, load_sweep

ROOT = Path(__file__).resolve().parents[2]


def test_unknown_key_names_the_nearest_one() -> None:
    with refused("unknown_key", naming="train.epochs"):
        make_config({"train": {"epoch": 3}})


def test_all_faults_are_reported_together() -> None:
    with refused("unknown", "malformed") as caught:
        make_config({"train": {"epochs": "many", "lr": "fast"}, "data": {"resize": "crop"}})
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("preset", ["paper", "released", "medvl"])
def test_presets_fill_what_a_recipe_leaves_open(preset: str) -> None:
    config = make_config({"fidelity": preset, "train": {"lr_min": 1e-9}})
    plain = flat(config_dict(config))
    for row in method_of("lvit").switches:
        if row.key == "train.lr_min":
            continue
        ((key, expected),) = flat({row.key: getattr(row, preset)}).items()
        assert plain[key] == expected, key
    assert config.train.lr_min == 1e-9


def test_the_recipe_has_the_values_that_the_table_of_differences_quotes() -> None:
    recipe = load_config(find_recipe("lvit_monuseg.yaml"))
    quoted = {row.what: row.medvl for row in method_of("lvit").unswitched}
    assert f"lvit_monuseg.yaml: {recipe.train.epochs}" in quoted["epochs"] and recipe.train.lr == 1e-3


def test_medvl_preset_is_the_default_of_the_dataclasses() -> None:
    assert config_dict(make_config({"fidelity": "medvl"}))["train"] == config_dict(Config())["train"]


def test_lvit_switches_do_not_reach_other_networks() -> None:
    assert make_config({"model": {"name": "unet"}}).model.options == {}


def test_unknown_preset() -> None:
    with refused("unknown"):
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
    with refused("malformed"):
        load_config(tmp_path / "r.yaml", ["train.lr"])


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_and_sweep_is_valid_and_says_how_to_run_it(recipe: Path) -> None:
    if is_sweep(recipe):
        verb, title = "x sweep", load_sweep(recipe).title
        assert ("PHANTOM" in title) != ("REAL" in title)
    else:
        verb = "train"
        load_config(recipe)
    first, second = recipe.read_text().splitlines()[:2]
    assert first.startswith(f"# medvl {verb} recipes/{recipe.name}")
    assert second.startswith("# measured:")
    assert isinstance(yaml.safe_load(recipe.read_text()), dict)


def test_a_recipe_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = load_config(ROOT / "recipes" / "lvit_semi.yaml")
    assert load_config("lvit_semi") == load_config("lvit_semi.yaml") == expected
    (tmp_path / "lvit_semi.yaml").write_text("train: {epochs: 3}\n")  # a file of one's own comes first
    assert load_config("lvit_semi.yaml").train.epochs == 3
    with refused("missing_file") as caught:
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
    with refused("conflict"):
        make_config({"data": {"augment": {"border": "zero"}, "border": "edge"}})


# Of each: a value that is accepted, and values that are none.
RANGES = {
    "train.lr": (0, -1, "inf", "nan", "1e400", True, "2024-99-99", [1]),
    "train.lr_min": (0, -1, "nan"),
    "train.ema_decay": (0.9, -1, 1, "nan"),
    "train.weight_decay": (0, -1, "inf"),
    "train.clip_norm": (1, -1, 0, "nan"),
    "train.warmup_steps": (0, -5, 0.5),
    "train.save_every_s": (0, -1, "inf"),
    "train.patience": (1, -1, 0),
    "train.first_best_epoch": (1, -1, 10_000),
    "train.restart_epochs": (1, -1),
    "train.seed": (0, -1, 2**32, int("9" * 40)),
    "train.devices": (1, 0, -1),
    "train.accelerator": ("cpu", "abc", 3),
    "train.steps_per_epoch": (1, 0),
    "train.epochs": (1, 0, True, "9" * 5000),
    "data.num_workers": (0, -1),
    "data.cache_mb": (0, -1),
    "data.slice_index": (0, -1),
    "data.p_empty_text": (1, -1, "nan"),
    "data.phrases_per_image": (1, 0),
    "data.rows_per_image": (1, -1),
    "data.val_phrases_per_image": (1, -1),
    "data.label_seed": (0, -1),
    "data.image_size": ([8, 8], [0, 8], [8], [True, 8]),
    "data.window": ([40, 80], [40, -80], [40, "nan"]),
    "data.classes": ({"a": [1]}, {"a": [0]}, {"a": ["b"]}, 3),
    "data.augment.scale": ([0.9, 1.1], [1.1, 0.9], [0, 1]),
    "data.constant_text": ("both lungs", False, "a\ud800"),
    "objective.dice_weight": (1, -1, "nan", "inf"),
    "objective.focal_gamma": (2, "inf", -1),
    "objective.ce_balance": ("plain", "even", True),
    "objective.terms": (
        [{"name": "dice", "weight": 1, "form": "batch"}], [], None, {}, [3], [{"weight": 1}],
        [{"name": "dice", "weight": -1}], [{"name": "dice", "weight": True}], [{"name": "dice", "weight": 0}],
        [{"name": "dice", "smooth": float("nan")}],
    ),
    "detect.anchors": ("fit", [[1, -1]], [[1]], [1]),
    "text.dim": (8, 0, -8),
    "text.max_tokens": (5, -1, 0),
    "pretrain.sigma": (0.1, 0, "nan"),
    "pretrain.mask.sigma_cells": (0.5, 0, "inf"),
    "model.options": ({}, {"dropout": float("nan")}, 3, [1]),
    "task": ("segment", [], {}, None, "segmentation"),
    "fidelity": ("paper", [], {}),
    "protocol": (None, [], "nope"),
}  # fmt: skip


@pytest.mark.parametrize("key", RANGES)
def test_every_value_has_a_range(key: str) -> None:
    def made(value: object) -> Config:
        tree: dict[str, object] = {}
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})  # type: ignore[assignment]
        node[leaf] = value
        owner = next((task.name for task in all_tasks() if parents and parents[0] in task.sections), None)
        return make_config(tree if owner is None else {**tree, "task": owner})

    good, *bad = RANGES[key]
    made(good)
    for value in bad:
        with pytest.raises(InputError) as caught:
            made(value)
        assert key.split(".")[-1] in str(caught.value) and len(str(caught.value)) < 2000


def test_values_that_contradict_each_other() -> None:
    with refused("conflict", naming="lr_min"):
        make_config({"train": {"lr": 1e-4, "lr_min": 1e-3}})
    with refused("conflict", naming="objective.terms"):
        make_config({"objective": {"dice_weight": 0, "ce_weight": 0}})


def test_the_old_keys_of_the_objective_are_read_as_terms(tmp_path: Path) -> None:
    old = {"dice_weight": 1, "ce_weight": 10, "ce_balance": "plain", "dice": "log_batch", "focal_gamma": 2}
    new = [
        {"name": "dice", "weight": 1, "form": "log_batch"},
        {"name": "cross_entropy", "weight": 10, "balance": "plain", "focal_gamma": 2},
    ]
    first, second = make_config({"objective": old}), make_config({"objective": {"terms": new}})
    assert first.objective == second.objective and config_dict(first) == config_dict(second)
    for key, value in old.items():
        with refused("conflict", naming=key):
            make_config({"objective": {"terms": new, key: value}})
    save_config(first, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == first
    whole = config_dict(second)
    assert differences({**whole, "objective": old}, whole) == {}
    del old["dice"], old["focal_gamma"]  # unknown to the oldest configurations
    assert set(differences({**whole, "objective": old}, whole)) == {
        "objective.terms.dice.form", "objective.terms.cross_entropy.focal_gamma"
    }  # fmt: skip
    only_dice = config_dict(make_config({"objective": {"terms": new[:1]}}))
    assert "objective.terms.cross_entropy.weight" in differences(only_dice, whole)
    assert differences({**whole, "objective": {}}, whole) == {}


@pytest.mark.parametrize(("preset", "balance"), [("medvl", "plain"), ("paper", "plain"), ("released", "balanced")])
def test_a_preset_gives_the_balance_of_the_cross_entropy(preset: str, balance: str) -> None:
    for section in {}, {"terms": [{"name": "cross_entropy", "focal_gamma": 2}]}:
        terms = make_config({"fidelity": preset, "objective": section}).objective.terms
        assert terms[-1].name == "cross_entropy" and terms[-1].options["balance"] == balance
    other = make_config({"fidelity": preset, "objective": {"terms": [{"name": "cross_entropy", "balance": "x"}]}})
    assert other.objective.terms[0].options["balance"] == "x"


def test_overrides_are_values_or_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("{}")
    words = ["train.lr=1e-3", "data.constant_text=a: [b", "data.views=[PA, AP]", "data.text_column=2024-01-01"]
    config = load_config(tmp_path / "r.yaml", words)
    assert (config.train.lr, config.data.constant_text) == (1e-3, "a: [b")
    assert (config.data.views, config.data.text_column) == (["PA", "AP"], "2024-01-01")
    for word in ("train.lr", "=3", "train..lr=3", ".=3", "train.lr.x=3", "task.x=3"):
        with pytest.raises(InputError):
            load_config(tmp_path / "r.yaml", [word])
