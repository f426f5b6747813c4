"""The table of published protocols: what wins, what is refused, what the plan and the page tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvl.config import config_dict, load_config, make_config, save_config
from medvl.config.differences import flat
from medvl.config.protocols import (
    ZERO_SHOT,
    Protocol,
    Setting,
    all_protocols,
    find_protocol,
    protocol_lines,
    protocol_plan,
)
from medvl.config.sections import DetectConfig
from medvl.core.errors import InputError

NAMES = [
    ":".join(filter(None, (name, which)))
    for name, protocol in all_protocols().items()
    if protocol.task != ZERO_SHOT
    for which in (None, *protocol.sets)
]


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_protocol_is_one_of_the_configuration_and_takes_effect(name: str) -> None:
    config = config_dict(make_config({"protocol": name}))
    protocol, which = find_protocol(name)
    values = flat(config)
    assert values["task"] == protocol.task
    for key, value in flat(protocol.values(which)).items():
        assert values[key] == (list(value) if isinstance(value, tuple) else value), key
    assert protocol_plan(config)["protocol"]["own"] == {}


def test_recipe_and_command_line_win_then_the_protocol_then_the_preset(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("protocol: mgca_segmentation:rsna\nfidelity: released\ntrain: {epochs: 8}\n")
    config = load_config(recipe, ["train.lr=5e-4"])
    assert (config.train.epochs, config.train.lr, config.train.batch_size) == (8, 5e-4, 16)
    assert config.train.optimizer == "adamw"  # released: adam
    assert config.objective.terms[1].options["balance"] == "plain"  # released: balanced
    assert config.train.first_best_epoch == 6  # the protocol is silent
    plan = protocol_plan(config_dict(config))
    assert plan["protocol"]["own"] == {"train.lr": [5e-4, 2e-4], "train.epochs": [8, 50]}
    assert plan["protocol"]["sets"]["train.batch_size"] == 16
    text = "\n".join(protocol_lines(plan))
    assert "protocol mgca_segmentation:rsna sets" in text and "train.weight_decay 0.05" in text
    assert "train.lr 0.0005 (protocol: 0.0002)" in text and "differs: A frozen encoder" in text
    save_config(config, tmp_path / "c.yaml")  # as a run folder keeps it
    assert config_dict(load_config(tmp_path / "c.yaml")) == config_dict(config)
    assert protocol_lines(protocol_plan(config_dict(make_config({})))) == []


def test_a_set_is_used_only_where_it_is_named() -> None:
    assert make_config({"protocol": "mgca_segmentation"}).data.balance == "none"
    assert make_config({"protocol": "mgca_segmentation:siim"}).data.balance == "siim"
    assert make_config({"protocol": "mgca_linear:covidx"}).classify.labels == "multiclass"
    text = "\n".join(protocol_lines(protocol_plan(config_dict(make_config({"protocol": "mgca_linear"})))))
    assert "no set is named: mgca_linear:chexpert, mgca_linear:rsna, mgca_linear:covidx" in text


def test_mgcas_detection_fixes_its_loss_and_what_counts_as_a_prediction() -> None:
    """G2D, section 5.2 (reference). An override of any of it is said in the plan."""
    fixed = {
        "detect.anchors": "published", "detect.assign": "each_scale", "detect.lambda_xy": 2.5,
        "detect.lambda_wh": 2.5, "detect.lambda_conf": 1.0, "detect.lambda_noobj": 0.5, "detect.lambda_cls": 1.0,
        "detect.ignore_iou": 0.5, "detect.score_threshold": 0.5, "detect.nms_iou": 0.5,
    }  # fmt: skip
    plan = protocol_plan(config_dict(make_config({"protocol": "mgca_detection"})))["protocol"]
    assert {key: value for key, value in plan["sets"].items() if key.startswith("detect.")} == fixed
    assert {key: getattr(DetectConfig(), key.partition(".")[2]) for key in fixed} == fixed  # as without the protocol
    other = {key.partition(".")[2]: 0.9 for key, value in fixed.items() if isinstance(value, float)}
    plan = protocol_plan(config_dict(make_config({"protocol": "mgca_detection", "detect": other})))["protocol"]
    assert plan["own"] == {f"detect.{key}": [0.9, fixed[f"detect.{key}"]] for key in other}


def test_settings_by_set_and_label_fraction() -> None:
    rows = (
        Setting("train.batch_size", 16),
        Setting("train.batch_size", 8, up_to=0.01),
        Setting("train.lr", 1.0, only="b"),
    )
    protocol = Protocol("p", "", "segment", "", "", rows, sets=("a", "b"))
    assert protocol.values("a", 0.01) == {"train.batch_size": 8}
    assert protocol.values("b", 0.1) == {"train.batch_size": 16, "train.lr": 1.0}


@pytest.mark.parametrize(
    "tree",
    [
        {"protocol": "mgca_segmentaton"}, {"protocol": "mgca_segmentation:simm"}, {"protocol": "kad_finetune:"},
        {"protocol": "mgca_linear", "task": "segment"}, {"protocol": "mgca_linear", "task": "pretrain"},
        {"protocol": "medklip"},
    ],
)  # fmt: skip
def test_a_wrong_protocol_is_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        make_config(tree)


def test_every_setting_has_a_source_and_crops_without_a_key_are_said() -> None:
    for protocol in all_protocols().values():
        if protocol.task == ZERO_SHOT:  # a crop that no key of theirs sets
            assert any("centre 224" in text for text in protocol.differs)
        for row in protocol.settings:
            source = row.source or protocol.source
            assert source and (row.evidence == "medvl") == (source == "-"), row.key


def test_a_protocol_is_one_entry_of_a_file(tmp_path: Path) -> None:
    rows = "settings: [[{key: train.lr, value: [1]}]]"
    entry = f"protocols:\n- {{name: mine, title: t, task: segment, source: s, scored: dice, {rows}}}\n"
    (tmp_path / "a.yaml").write_text(entry)
    assert all_protocols(tmp_path)["mine"].values() == {"train.lr": (1,)}
    wrong = ("{}", "protocols: 3", entry.replace("task:", "tsk:"), entry.replace("value: [1]", "up_to: 1"))
    for i, text in enumerate((entry, *wrong)):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "a.yaml").write_text(text)
        (folder / "b.yaml").write_text(entry)
        with pytest.raises(InputError) as caught:
            all_protocols(folder)
        assert caught.value.faults[0].file is not None
