"""Hashes of images and masks: right, and read once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from medvl.data import hashes
from medvl.data.hashes import HashStore, image_hashes
from medvl.data.records import load_manifest


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
