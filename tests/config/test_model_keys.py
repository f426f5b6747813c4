"""`model.encoder` and `model.size`: defaults, and every older spelling read as the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults import refused

from medvl.config import config_dict, load_config, make_config, save_config
from medvl.config.differences import differences
from medvl.config.model_keys import model_title
from medvl.core import errors


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_warned", set())


def keys(tree: dict[str, Any]) -> tuple[str, str | None, str | None]:
    model = make_config(tree).model
    assert "cnn" not in model.options
    return model.name, model.size, model.encoder


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({}, ("lvit", "mini", "ucnn")),
        ({"task": "pretrain"}, ("g2d", None, "resnet18_mini")),
        ({"task": "classify"}, ("classifier", None, "resnet18_mini")),
        ({"task": "detect"}, ("yolo", None, "resnet18_mini")),
        ({"model": {"name": "encoder_unet"}}, ("encoder_unet", None, "resnet18_mini")),
        ({"model": {"name": "unet"}}, ("unet", "mini", None)),
        ({"model": {"name": "of another program"}}, ("of another program", None, None)),
        ({"protocol": "mgca_linear"}, ("classifier", None, "resnet50")),
        # older spellings
        ({"task": "pretrain", "model": {"size": "nano"}}, ("g2d", None, "resnet18_nano")),
        ({"task": "pretrain", "model": {"size": "ucnn_nano"}}, ("g2d", None, "ucnn_nano")),
        ({"task": "detect", "model": {"size": "hf:folder"}}, ("yolo", None, "hf:folder")),
        ({"protocol": "mgca_linear", "model": {"size": "nano"}}, ("classifier", None, "resnet18_nano")),
        ({"protocol": "mgca_segmentation", "model": {"size": "mini"}}, ("encoder_unet", None, "resnet18_mini")),
        ({"model": {"size": "T", "options": {"cnn": "nano"}}}, ("lvit", "T", "resnet18_nano")),
        ({"model": {"options": {"cnn": "ucnn"}}}, ("lvit", "mini", "ucnn")),
        ({"model": {"name": "clipseg", "size": "folder"}}, ("clipseg", None, None)),
        # a width stays a width
        ({"model": {"size": "nano", "encoder": "resnet50"}}, ("lvit", "nano", "resnet50")),
    ],
)
def test_keys(tree: dict[str, Any], expected: tuple[str, str | None, str | None]) -> None:
    assert keys(tree) == expected
    stored = config_dict(make_config(tree))
    assert keys({**stored, "protocol": None}) == expected  # what is written is read as the same


@pytest.mark.parametrize(
    "tree",
    [
        {"task": "pretrain", "model": {"size": "nano", "encoder": "resnet50"}},
        {"model": {"encoder": "resnet50", "options": {"cnn": "nano"}}},
    ],
)
def test_both_spellings_must_agree(tree: dict[str, Any]) -> None:
    with refused("conflict"):
        make_config(tree)


@pytest.mark.parametrize(
    ("recipe", "overrides", "encoder"),
    [
        ("{size: nano}", [], "resnet18_nano"),
        ("{size: nano}", ["model.encoder=resnet50"], "resnet50"),
        ("{encoder: resnet50}", ["model.size=nano"], "resnet18_nano"),
        ("{encoder: resnet50}", ["model={size: nano}"], "resnet18_nano"),
    ],
)
def test_the_command_line_counts_more_in_either_spelling(
    recipe: str, overrides: list[str], encoder: str, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"task: pretrain\nmodel: {recipe}\n")
    assert load_config(tmp_path / "recipe.yaml", overrides).model.encoder == encoder


def test_only_the_users_own_recipe_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = "task: pretrain\nmodel: {name: g2d, size: nano}\n"
    (tmp_path / "config.yaml").write_text(old)  # of a run
    assert load_config(tmp_path / "config.yaml").model.encoder == "resnet18_nano"
    assert capsys.readouterr().err == ""
    (tmp_path / "recipe.yaml").write_text(old)
    for _ in range(2):
        load_config(tmp_path / "recipe.yaml")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "model.encoder: resnet18_nano" in lines[0]


def test_shipped_recipes_have_the_new_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[2] / "recipes"
    for path in sorted(folder.glob("*.yaml")):
        if "\nvariants:" not in path.read_text():  # a sweep is read recipe by recipe
            load_config(path)
    assert "is read as" not in capsys.readouterr().err


def test_older_configurations_compare_as_equal(tmp_path: Path) -> None:
    old = {"task": "pretrain", "model": {"name": "g2d", "size": "nano", "options": {}}}
    new = config_dict(make_config(old))
    assert differences({**new, "model": {**old["model"], "options": new["model"]["options"]}}, new) == {}
    save_config(make_config(old), tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == make_config(old)
    lvit = {"model": {"name": "lvit", "size": "mini", "options": {"cnn": "resnet50"}}}  # of a stored result
    now = {"model": {"name": "lvit", "size": "mini", "encoder": "resnet50", "options": {}}}
    assert differences(lvit, now) == {}
    assert differences(lvit, {"model": {**now["model"], "encoder": "ucnn"}}).keys() == {"model.encoder"}


def test_title() -> None:
    assert model_title({"name": "lvit", "size": "mini"}) == "lvit mini"
    assert model_title({"name": "g2d", "size": "nano"}) == "g2d resnet18_nano"
    assert model_title({"name": "lvit", "size": "T", "encoder": "resnet50"}) == "lvit T resnet50"
