"""Splits: no group is torn, shares are met, the same seed gives the same split."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvl.data.box_table import Box
from medvl.data.records import load_manifest, write_manifest
from medvl.data.splits import assign_groups, split_manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """60 rows of 40 images of 20 patients."""
    rows = []
    for i in range(60):
        image = i % 40
        if i < 40:
            Image.fromarray(np.full((4, 4), image, np.uint8)).save(tmp_path / f"i{image}.png")
        row = {"id": f"r{i}", "image": f"i{image}.png", "mask": f"i{image}.png", "patient": f"p{image // 2}"}
        rows.append(row | {"centre": "AB"[image % 4 > 1], "text": "a\nb", "mask_values": "1|2", "mask_note": "ok"})
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def test_patients_stay_together(manifest: Path, tmp_path: Path) -> None:
    (found,) = split_manifest(manifest, tmp_path / "deep" / "er" / "split.csv")
    records = load_manifest(found.path).records  # the files are found from the new place
    assert len({record.patient for record in records}) == len({(row.patient, row.split) for row in records}) == 20
    assert found.num_groups == {"train": 14, "val": 2, "test": 4} and sum(found.num_records.values()) == 60
    with manifest.open(newline="") as before, found.path.open(newline="") as after:
        for old, new in zip(csv.DictReader(before), csv.DictReader(after), strict=True):
            for name in ("id", "text", "mask_values", "patient", "centre", "mask_note"):
                assert old[name] == new[name]
            assert new["image"] == f"../../{old['image']}" and new["mask"] == f"../../{old['mask']}"


def test_same_seed_same_split(manifest: Path, tmp_path: Path) -> None:
    first, again, other = (
        split_manifest(manifest, tmp_path / name, seed=seed)[0]
        for name, seed in (("a.csv", 0), ("b.jsonl", 0), ("c.csv", 1))
    )
    assert first.split_hash == again.split_hash != other.split_hash
    lines = manifest.read_text().replace("a\nb", "a b").splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    assert split_manifest(tmp_path / "turned.csv", tmp_path / "d.csv")[0].split_hash == first.split_hash


def test_folds(manifest: Path, tmp_path: Path) -> None:
    files = split_manifest(manifest, tmp_path / "cv.csv", folds=5)
    assert [found.path.name for found in files] == [f"cv_fold{k}.csv" for k in range(5)]
    val = [{record.patient for record in load_manifest(found.path).split("val")} for found in files]
    assert sum(len(patients) for patients in val) == 20 == len(set.union(*val))
    for k, found in enumerate(files):
        records = load_manifest(found.path).records
        assert all((record.extra["fold"] == str(k)) == (record.split == "val") for record in records)


def test_keep_test(manifest: Path, tmp_path: Path) -> None:
    (first,) = split_manifest(manifest, tmp_path / "a.csv")
    test = {record.id for record in load_manifest(first.path).split("test")}
    (again,) = split_manifest(first.path, tmp_path / "b.csv", fractions=(0.5, 0.5), keep_test=True, seed=3)
    assert {record.id for record in load_manifest(again.path).split("test")} == test
    assert again.num_groups == {"train": 8, "val": 8, "test": 4}
    (tmp_path / "torn.csv").write_text(first.path.read_text().replace(",train\n", ",test\n", 1))
    with refused("leak"):
        split_manifest(tmp_path / "torn.csv", tmp_path / "c.csv", fractions=(0.5, 0.5), keep_test=True)


def test_rows_of_one_image_stay_together_whatever_groups_them(manifest: Path, tmp_path: Path) -> None:
    (found,) = split_manifest(manifest, tmp_path / "a.csv", by="id")
    records = load_manifest(found.path).records
    assert len({record.image for record in records}) == len({(row.image, row.split) for row in records}) == 40
    (found,) = split_manifest(manifest, tmp_path / "b.csv", by="centre", fractions=(0.5, 0.5))
    assert found.num_groups == {"train": 1, "val": 1}


def test_boxes_move_along(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("id,cls,x0,y0,x1,y1\nr0,big nodule,0,0.5,2,3\n")
    (found,) = split_manifest(manifest, tmp_path / "other" / "a.csv")
    assert load_manifest(found.path).records[0].boxes == (Box("big nodule", 0, 0.5, 2, 3),)
    (found,) = split_manifest(manifest, tmp_path / "a.csv")  # beside boxes.csv: not twice
    assert load_manifest(found.path).records[0].boxes == (Box("big nodule", 0, 0.5, 2, 3),)


def test_bad_input(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with refused("missing_column", naming="center"):
        split_manifest(manifest, out, by="center")
    with refused("out_of_range"):
        split_manifest(manifest, out, fractions=(0.7, 0.7))
    with refused("empty", naming="centre"):
        split_manifest(manifest, out, by="centre")
    with refused("out_of_range"):
        split_manifest(manifest, out, folds=1)
    with refused("conflict"):
        split_manifest(manifest, out, keep_test=True)
    assert not out.exists()


@settings(max_examples=50, deadline=None)
@given(
    weights=st.dictionaries(st.text(max_size=4), st.integers(1, 9), min_size=1, max_size=60),
    parts=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    seed=st.integers(0, 9),
)
def test_shares_are_met(weights: dict[str, int], parts: list[int], seed: int) -> None:
    fractions = [part / sum(parts) for part in parts]
    numbers = assign_groups(weights, fractions, seed)
    assert numbers.keys() == weights.keys()
    assert numbers == assign_groups(dict(reversed(weights.items())), fractions, seed)
    total = sum(weights.values())
    for number, fraction in enumerate(fractions):
        have = sum(weights[name] for name in numbers if numbers[name] == number)
        assert have - fraction * total <= max(weights.values())  # over by one group at most


def test_a_split_does_not_replace_its_manifest(manifest: Path, tmp_path: Path) -> None:
    link, fold = tmp_path / "link.csv", tmp_path / "cv_fold1.csv"
    fold.write_bytes(manifest.read_bytes())
    link.symlink_to(manifest)
    before = sorted(path.name for path in tmp_path.iterdir()), manifest.read_bytes()
    for out in (manifest, tmp_path / "." / "manifest.csv", link):
        with refused("exists"):
            split_manifest(manifest, out)
    with refused("exists", naming="cv_fold1.csv"):
        split_manifest(fold, tmp_path / "cv.csv", folds=3)
    assert before == (sorted(path.name for path in tmp_path.iterdir()), manifest.read_bytes())


@pytest.mark.parametrize("seed", range(5))
def test_every_part_gets_masks_where_there_are_enough(tmp_path: Path, seed: int) -> None:
    lines = ["id,image,text,mask,patient"]
    lines += [f"r{n},i{n}.png,the left lung,{'m.png' if n < 7 else ''},p{n}" for n in range(60)]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    split_manifest(tmp_path / "m.csv", tmp_path / "s.csv", fractions=(0.7, 0.15, 0.15), seed=seed)
    rows = load_manifest(tmp_path / "s.csv", check_files=False).records
    masks = Counter(row.split for row in rows if row.masks["mask"] is not None)
    assert masks == {"train": 5, "val": 1, "test": 1}
    sizes = Counter(row.split for row in rows)
    assert abs(sizes["train"] - 42) <= 1 and abs(sizes["val"] - 9) <= 1 and abs(sizes["test"] - 9) <= 1


def test_too_few_masks_for_every_part_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["id,image,text,mask,patient"]
    lines += [f"r{n},i{n}.png,a lung,{'m.png' if n < 2 else ''},p{n}" for n in range(20)]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    split_manifest(tmp_path / "m.csv", tmp_path / "s.csv")
    assert "only 2 groups" in capsys.readouterr().err
