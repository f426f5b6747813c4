"""What the run behind `init` fixes need not be given again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvl.config import Config, load_config, make_config, save_config
from medvl.config.from_init import say_taken
from medvl.train.run import train


def stored(folder: Path, **sections: Any) -> str:
    """A run folder of which only the configuration is there; -> `init`."""
    folder.mkdir()
    save_config(make_config(sections), folder / "config.yaml")
    return str(folder)


def same_network(first: Config, second: Config) -> bool:
    keys = ("in_channels", "channel_order", "normalize")
    fed = all(getattr(first.data, key) == getattr(second.data, key) for key in keys)
    return fed and (first.task, first.model, first.text) == (second.task, second.model, second.text)


RUNS: dict[str, dict[str, Any]] = {
    "lvit": {
        "data": {"in_channels": 1, "normalize": "none"},
        "text": {"encoder": "builtin", "dim": 64, "layers": 1, "max_tokens": 9},
        "model": {"name": "lvit", "size": "nano", "options": {"text_merge": "attention", "dropout": 0.2}},
    },
    "unet": {"text": {"encoder": "none"}, "model": {"name": "unet", "size": "T"}, "objective": {"mode": "multiclass"}},
    "classifier": {"task": "classify", "data": {"in_channels": 1}, "model": {"encoder": "resnet50"}},
    "detector": {"task": "detect", "data": {"channel_order": "bgr"}, "model": {"encoder": "resnet18_nano"}},
    "pre-training": {"task": "pretrain", "data": {"in_channels": 1}, "model": {"encoder": "resnet50"},
                     "text": {"encoder": "builtin", "dim": 32}},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_the_same_task_fixes_network_text_and_norms(name: str, tmp_path: Path) -> None:
    run = stored(tmp_path / "run", **RUNS[name])
    recipe = {"task": RUNS[name].get("task", "segment"), "init": run, "data": {"image_size": [64, 64]}}
    config = make_config(recipe)
    assert same_network(config, load_config(Path(run) / "config.yaml"))
    assert config.data.image_size == (64, 64)
    if "objective" in config.sections:
        assert config.objective.mode == RUNS[name].get("objective", {}).get("mode", "binary")
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
    # Another network, or what the recipe says itself, stays.
    assert make_config({**recipe, "data": {"normalize": "zscore"}}).data.normalize == "zscore"
    if recipe["task"] == "segment":
        assert make_config({**recipe, "model": {"name": "attention_unet"}}).model.size == "mini"
        assert make_config({**recipe, "text": {"dim": 16}}).text.dim == 16


# The network of a recipe -> keys that a pre-training on that encoder fixes.
STARTS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "U-Net": ({"model": {"name": "encoder_unet"}}, "resnet50", {"encoder": "resnet50"}),
    "LViT on a ResNet": ({"model": {"name": "lvit"}}, "resnet50", {"encoder": "resnet50", "size": "mini"}),
    "LViT on its own path": ({"model": {"name": "lvit"}}, "ucnn_nano", {"encoder": "ucnn", "size": "nano"}),
    "classifier": ({"task": "classify"}, "resnet18_nano", {"encoder": "resnet18_nano"}),
    "detector": ({"task": "detect"}, "resnet18_nano", {"encoder": "resnet18_nano"}),
    "network without such an encoder": ({"model": {"name": "unet"}}, "resnet50", {"encoder": None, "size": "mini"}),
}


@pytest.mark.parametrize("prefix", ["", "g2d:"])
@pytest.mark.parametrize("name", STARTS)
def test_a_pre_training_fixes_the_image_encoder(name: str, prefix: str, tmp_path: Path) -> None:
    recipe, encoder, expected = STARTS[name]
    options = {"input_norm": "none"}
    run = stored(tmp_path / "run", task="pretrain", data={"in_channels": 1}, model={"encoder": encoder})
    other = stored(tmp_path / "other", task="pretrain", data={}, model={"encoder": encoder, "options": options})
    config = make_config({**recipe, "init": prefix + run})
    assert {key: getattr(config.model, key) for key in expected} == expected
    assert config.text == make_config(recipe).text and "input_norm" not in config.model.options
    if name != "network without such an encoder":
        assert config.data.in_channels == 1
        fed = make_config({**recipe, "init": prefix + other})
        own_path = name == "LViT on its own path"
        assert (fed.data.normalize == "none") == own_path != (fed.model.options.get("input_norm") == "none")
    kept = make_config({**recipe, "init": prefix + run, "data": {"in_channels": 3}})
    assert kept.data.in_channels == 3  # and `weights/init.py` refuses it


def test_the_old_spelling_of_an_encoder_stays(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", task="pretrain", model={"encoder": "resnet50"})
    config = make_config({"init": run, "model": {"name": "encoder_unet", "size": "nano"}})
    assert config.model.encoder == "resnet18_nano"


def test_nothing_is_taken_where_there_is_no_run(tmp_path: Path) -> None:
    for init in ("weights:file.pth", str(tmp_path / "nowhere"), "g2d:nowhere"):
        assert make_config({"init": init}).model == make_config({}).model


def test_what_was_taken_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_taken.cache_clear()
    run = stored(tmp_path / "run", **RUNS["lvit"])
    make_config({"init": run})
    said = capsys.readouterr().err
    assert "model.size=nano" in said and "text.dim=64" in said and "channel_order" not in said
    make_config({"init": run})
    assert not capsys.readouterr().err


def test_a_run_goes_on_from_another_by_its_name_alone(tiny_recipe: Path, tmp_path: Path) -> None:
    first = load_config(tiny_recipe, ["train.max_steps=2", "train.epochs=1"])
    run = train(first, tmp_path / "first")
    recipe = {"init": str(run), "data": {"manifest": first.data.manifest, "laterality": "patient"}}
    recipe["data"] |= {"image_size": list(first.data.image_size)}
    second = make_config({**recipe, "train": {"max_steps": 2, "epochs": 1, "accelerator": "cpu"}})
    assert same_network(first, second)
    assert (train(second, tmp_path / "second") / "model").is_dir()
