"""Hashes of images and masks: right, and read once; which images a model was trained on, by content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from faults import refused
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import load_config
from medvl.data import hashes
from medvl.data.hashes import HashStore, Stage, count_seen, image_hashes, read_stages, stage_of, write_stages
from medvl.data.records import load_manifest
from medvl.train.run import train


def old(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, (1, 1))
    return path


def test_a_file_is_read_again_only_where_size_or_times_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "MARGIN_NS", 0)
    paths = [old(tmp_path / name, name.encode()) for name in "ab"]
    store = HashStore(tmp_path / "kept.jsonl")
    expected = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    assert store.hashes([*paths, *paths]) == expected and store.num_hashed == 2
    again = HashStore(tmp_path / "kept.jsonl")
    assert again.hashes(paths) == expected and again.num_hashed == 0
    old(paths[0], b"c")  # as long as before, of the same time: its inode was changed later
    assert again.hashes(paths) == expected | {paths[0]: hashlib.sha256(b"c").hexdigest()} and again.num_hashed == 1
    paths[1].unlink()
    assert again.hashes(paths)[paths[1]] is None


def test_a_file_that_may_still_change_unseen_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    for num in (1, 2):
        store = HashStore(tmp_path / "kept.jsonl")
        store.hashes([tmp_path / "a"])
        assert store.num_hashed == 1, num


def test_a_damaged_store_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "kept.jsonl").write_bytes(b'\xff\n{}\n[1]\n["a"\n[]\n')
    path = old(tmp_path / "a", b"a")
    assert HashStore(tmp_path / "kept.jsonl").hashes([path]) == {path: hashlib.sha256(b"a").hexdigest()}


def test_the_hashes_of_a_manifest(tiny_manifest: Path, tmp_path: Path) -> None:
    manifest = load_manifest(tiny_manifest)
    store = HashStore(tmp_path / "kept.jsonl")
    found = image_hashes(manifest.records, store)
    assert len(found) == 16
    assert all(found[path] == hashlib.sha256(path.read_bytes()).hexdigest() for path in found)
    assert manifest.content_hash(manifest.file_hashes(store)) == manifest.content_hash()
    assert manifest.file_hashes(store)["i3.png"] == found[tiny_manifest.parent / "i3.png"]


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
