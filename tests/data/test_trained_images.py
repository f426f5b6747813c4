"""Which images a model was trained on, over its stages, by content."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from faults import refused
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import load_config
from medvl.data.hashes import Stage, count_seen, read_stages, stage_of, write_stages
from medvl.train.run import train


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_images_are_counted_by_stage_and_once_in_all(tmp_path: Path) -> None:
    first = stage_of("pretrain", tmp_path / "a" / "notes.csv", map(digest, "abcd"))
    second = stage_of("segment", "masks.csv", map(digest, "cde"))
    overlap = count_seen((first, second), map(digest, "bcxxy"))
    by_hand = {"pretrain": len(set("abcd") & set("bcxy")), "segment": len(set("cde") & set("bcxy"))}
    assert {stage.task: number for stage, number in overlap.by_stage} == by_hand
    assert (overlap.num_images, overlap.num_seen) == (4, 2)
    line = overlap.line("val")
    assert line is not None and "2 of the 4 val images" in line and "notes.csv" in line and str(tmp_path) not in line
    assert count_seen((first,), [digest("z")]).line("val") is None


def test_stages_round_trip_and_damage_is_named(tmp_path: Path) -> None:
    stages = (Stage("pretrain", "m.csv", frozenset({"ab", "cd"})),)
    write_stages(tmp_path, stages)
    assert read_stages(tmp_path) == stages and read_stages(tmp_path / "other") is None
    (tmp_path / "trained_on.json").write_text('{"stages": [{"task": 1}]}')
    with refused("damaged"):
        read_stages(tmp_path)


def test_evaluate_says_how_many_images_were_trained_on(tiny_manifest: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    """A second stage whose val images are, under other names, images that the first was trained on."""
    words = ["train.max_steps=1", "model.size=nano"]
    first = train(load_config(tiny_recipe, words), tmp_path / "first")
    lines = (tiny_manifest.parent / "manifest.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        for column in (1, 3):
            shutil.copy(tiny_manifest.parent / row[column], tmp_path / f"copy_{row[column]}")
            row[column] = f"copy_{row[column]}"
        number = int(row[5][1:])
        row[6] = "val" if number in (0, 1, 2, 8) else "train" if number in (9, 10, 11) else "test"
    (tmp_path / "m.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    config = load_config(tiny_recipe, [*words, f"data.manifest={tmp_path / 'm.csv'}", f"init={first}"])
    second = train(config, tmp_path / "second")
    assert json.loads((second / "plan.json").read_text())["seen_images"]["trained_on"] == 3
    out = tmp_path / "out"
    words = ["evaluate", str(second), str(tmp_path / "m.csv"), "--split", "val", "--no-surface", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    seen = json.loads((out / "summary.json").read_text())["seen_images"]
    stages = [(stage["task"], stage["images"]) for stage in seen["stages"]]
    assert (seen["images"], seen["trained_on"], stages) == (4, 3, [("segment", 3)])
