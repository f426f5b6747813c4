"""LViT's layout, with both rules of mask names and the combined table."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from imported import FOLDERS, lvit_layout, lvit_rows
from PIL import Image

from medvl.data.importers.lvit import import_lvit
from medvl.data.records import load_manifest
from medvl.data.tables import write_table


def test_same_names_and_own_tables(tmp_path: Path) -> None:
    root = lvit_layout(tmp_path / "set", {split: lvit_rows(3, split) for split in FOLDERS})
    result = import_lvit(root, tmp_path / "out" / "manifest.csv")
    assert result.num_records == {"train": 3, "val": 3, "test": 3} and result.counts["sentences"] == 9
    records = load_manifest(tmp_path / "out" / "manifest.csv", need_text=True).split("val")
    assert [record.text for record in records] == [f"The nuclei are val {i}." for i in range(3)]
    assert records[0].image.resolve() == (root / "Val_Folder" / "img" / "val0.jpg").resolve()
    mask = records[0].masks["mask"]
    assert mask is not None and mask.path is not None
    assert mask.path.resolve() == (root / "Val_Folder" / "labelcol" / "val0.png").resolve()


def test_prefixed_masks_and_combined_table(tmp_path: Path) -> None:
    rows = {
        split: [(f"{split}{i}.png", f"mask_{split}{i}.png", "oneinfected area") for i in range(2)] for split in FOLDERS
    }
    result = import_lvit(lvit_layout(tmp_path / "set", rows, combined=True), tmp_path / "m.csv")
    assert result.num_records == {"train": 2, "val": 2, "test": 2}
    assert {record.text for record in load_manifest(tmp_path / "m.csv").records} == {"oneinfected area"}


def test_names_in_two_splits_and_patients(tmp_path: Path) -> None:
    rows = {split: [("1.png", "1.png", "x"), (f"sub-S1_{split}.png", f"sub-S1_{split}.png", "y")] for split in FOLDERS}
    result = import_lvit(lvit_layout(tmp_path / "set", rows), tmp_path / "m.csv")
    records = load_manifest(tmp_path / "m.csv").records
    assert {record.id for record in records} >= {"train-1", "val-1", "test-1"}
    assert Counter(record.patient for record in records)["S1"] == 3 and result.counts["named_patients"] == 3
    assert len(result.warnings) == 1


def test_all_faults_at_once(tmp_path: Path) -> None:
    root = lvit_layout(tmp_path / "set", {split: lvit_rows(4, split) for split in FOLDERS})
    train, val, test = (root / name for name in FOLDERS.values())
    (train / "labelcol" / "train1.png").unlink()
    (train / "img" / "train2.jpg").unlink()
    (train / "img" / "notes.txt").write_text("x")
    os.link(root / "pixel.png", train / "labelcol" / "mask_train3.png")
    rows = [{"Image": f"val{i}.png", "Description": "x" if i else ""} for i in (0, 1, 2, 2, 9)]
    write_table(val / "Val_text.xlsx", rows)
    (test / "img" / "test0.jpg").unlink()
    (test / "img" / "test0.jpg").write_bytes(b"rubbish")
    (test / "labelcol" / "test1.png").unlink()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(test / "labelcol" / "test1.png")
    kinds = ("missing_file", "duplicate", "mismatch", "unsupported", "ambiguous", "missing", "damaged")
    with refused(*kinds) as caught:
        import_lvit(root, tmp_path / "m.csv")
    assert [(fault.kind, Path(fault.file or "").name, fault.line) for fault in caught.value.faults] == [
        ("unsupported", "notes.txt", None),
        ("missing_file", "train1.jpg", None),  # its mask
        ("ambiguous", "train3.jpg", None),  # two masks
        ("mismatch", "train2.png", None),  # a mask without an image
        ("missing", "Val_text.xlsx", 2),  # an empty cell
        ("duplicate", "Val_text.xlsx", 5),
        ("mismatch", "val3.jpg", None),  # no sentence
        ("mismatch", "Val_text.xlsx", 6),  # a sentence of nothing
        ("damaged", "Test_text.xlsx", 2),
        ("mismatch", "Test_text.xlsx", 3),  # a mask of another size
    ]
    assert not (tmp_path / "m.csv").exists()


def test_layout_faults(tmp_path: Path) -> None:
    with refused("missing_file"):
        import_lvit(tmp_path / "gone", tmp_path / "m.csv")
    with refused("missing_file"):
        import_lvit(tmp_path, tmp_path / "m.csv")
    root = lvit_layout(tmp_path / "set", {"train": lvit_rows(1, "train"), "val": lvit_rows(1, "val")})
    (root / "Val_Folder" / "Val_text.xlsx").unlink()
    write_table(root / "Train_Folder" / "Train_text.xlsx", [{"Image": "train0.png", "Descripton": "x"}])
    with refused("missing_file", "missing_column", "mismatch", file=root / "Val_Folder", naming="Descripton"):
        import_lvit(root, tmp_path / "m.csv")


@pytest.mark.shared
def test_monuseg(shared_data: Path, tmp_path: Path) -> None:
    source = load_manifest(shared_data / "monuseg-lvit" / "manifest.csv")
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for record in source.records:
        name = record.id.removeprefix("mo-")
        rows.setdefault(record.split or "", []).append((f"{name}.jpg", f"{name}.png", record.text))
    result = import_lvit(lvit_layout(tmp_path / "MoNuSeg", rows), tmp_path / "m.csv")
    assert result.num_records == {"train": 24, "val": 6, "test": 6} and result.counts["named_patients"] == 36
    imported = {record.id: record for record in load_manifest(tmp_path / "m.csv", need_text=True).records}
    for record in source.records:
        assert imported[record.id.removeprefix("mo-")].text == record.text
        assert imported[record.id.removeprefix("mo-")].split == record.split


@pytest.mark.shared
def test_qata(shared_data: Path, tmp_path: Path) -> None:
    """All 9,258 captions in QaTa-COV19's own layout; the images cannot be had, so small ones stand in for them."""
    rows: dict[str, list[tuple[str, str, str]]] = {"train": [], "val": [], "test": []}
    with (shared_data / "qata-texts" / "captions.csv").open(newline="") as stream:
        captions = list(csv.DictReader(stream))
    for row in captions:
        rows[row["split"]].append((row["Image"].removeprefix("mask_"), row["Image"], row["Description"]))
    result = import_lvit(lvit_layout(tmp_path / "Covid19", rows, combined=True), tmp_path / "m.csv")
    assert result.num_records == {"train": 5716, "val": 1429, "test": 2113} and result.counts["sentences"] == 383
    records = load_manifest(tmp_path / "m.csv", check_files=False, need_text=True).records
    texts = {record.id: record.text for record in records}
    assert len(texts) == 9258
    for row in captions:
        assert texts[row["Image"].removeprefix("mask_").removesuffix(".png")] == row["Description"]
    joined = " ".join(texts.values())
    assert all(typo in joined for typo in ("lowerl", "mddle", "oneinfected"))
    train = {record.patient for record in records if record.split == "train"}
    val = {record.patient for record in records if record.split == "val"}
    assert len(train & val) == 434 and result.counts["named_patients"] > 4000
