"""Lung masks to regions and phrases."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from imported import data_import, dicom
from PIL import Image
from typer.testing import CliRunner

from medvl.cli import app
from medvl.core.errors import InputError
from medvl.data.image import orientation_of
from medvl.data.images import read_image, resample_map
from medvl.data.importers.lung_regions import import_lung_regions, label_map, phrase_rows, two_lungs
from medvl.data.importers.region_phrases import HELD_OUT, region_code, region_name, regions, wordings
from medvl.data.masks import read_labels, resample_mask
from medvl.data.records import load_manifest, write_manifest

SETS = ("seen", "val", "test")


def lungs(height: int = 60, width: int = 50, tops: tuple[int, int] = (6, 15)) -> np.ndarray:
    """Two rectangles, the viewer's left one 45 rows high, the other 30."""
    mask = np.zeros((height, width), np.uint8)
    mask[tops[0] : tops[0] + 45, 5:20] = 255
    mask[tops[1] : tops[1] + 30, 30:46] = 255
    return mask


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four patients; d's mask is one component."""
    rng = np.random.default_rng(0)
    rows = []
    for i, (name, split) in enumerate((("a-1", "train"), ("b-1", "val"), ("c-1", "test"), ("d-1", "train"))):
        mask = lungs()
        if name == "d-1":
            mask[20:23, 5:46] = 255
        if name == "b-1":
            mask[0, 0] = 255  # a speck
        Image.fromarray(mask).save(tmp_path / f"m{i}.png")
        Image.fromarray(rng.integers(0, 255, mask.shape, np.uint8)).save(tmp_path / f"i{i}.png")
        row = {"id": name, "image": f"i{i}.png", "mask": f"m{i}.png", "patient": f"p{i}", "split": split}
        rows.append(row | {"label": "normal", "licence": "CC0"})
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path


def test_thirds_of_each_lungs_own_height() -> None:
    right, left, specks = two_lungs(lungs() > 0)
    assert not specks and right[:, :25].sum() == right.sum() and left[:, 25:].sum() == left.sum()
    values = label_map(right, left)
    for column, first, top, third in ((10, 1, 6, 15), (35, 4, 15, 10)):
        for zone in range(3):
            rows = np.flatnonzero(values[:, column] == first + zone)
            assert (rows[0], rows[-1]) == (top + zone * third, top + (zone + 1) * third - 1)
    assert ((values > 0) == (lungs() > 0)).all()


def test_masks_that_do_not_fit_the_rule() -> None:
    one, three = np.zeros((20, 20), bool), lungs() > 0
    one[5:15, 5:15] = three[54:59, 22:28] = True
    for mask, naming in ((one, "1 large"), (0 * one > 0, "0 large"), (three, "3 large"), (np.rot90(lungs() > 0), "")):
        with refused("malformed", naming=naming):
            two_lungs(mask)
    speck = lungs() > 0
    speck[0, 0] = True
    right, left, specks = two_lungs(speck)
    assert specks and not right[0, 0] and not left[0, 0]


@pytest.mark.parametrize("max_size", [None, 30])
@pytest.mark.parametrize("words", ["R\\F", "L\\H", "F\\R"])
def test_turned_images(tmp_path: Path, words: str, max_size: int | None) -> None:
    """Masks beside a turned DICOM are in its stored pixels; the sides are those of the standard display."""
    orientation = orientation_of(*words.split("\\"))
    assert orientation is not None
    turn, shown = orientation.turn, lungs()
    Image.fromarray(turn.undo(shown)).save(tmp_path / "m.png")
    dicom(tmp_path / "i.dcm", turn.undo(shown), orientation=words)
    row = {"id": "a", "image": "i.dcm", "mask": "m.png", "patient": "p", "split": "val"}
    write_manifest(tmp_path / "manifest.csv", [row])
    import_lung_regions(tmp_path / "manifest.csv", tmp_path / "out", max_size=max_size)
    record = load_manifest(tmp_path / "out" / "manifest.csv").records[0]
    reference = record.masks["mask"]
    assert reference is not None and reference.path is not None
    image, size = read_image(record.image), (60, 50) if max_size is None else (30, 25)
    labels = label_map(*(resample_mask(lung, size) for lung in two_lungs(shown > 0)[:2]))
    assert (image.orientation.turn.apply(read_labels(reference.path)) == labels).all()
    assert np.abs(image.displayed().pixels - resample_map(shown / np.float32(255), size)).mean() < 0.05


def test_import(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = import_lung_regions(folder, out, max_size=30, licence="CC BY")
    assert result.num_records == {"train": 38, "val": 28, "test": 28}
    assert (result.counts["images"], result.counts["images_with_specks"]) == (3, 1)
    (fault,) = result.left_out
    assert fault.record == "d-1" and fault.kind == "malformed"
    records = load_manifest(result.manifest, need_text=True).records
    assert {record.licence for record in records} == {"CC BY"} and records[0].id == "a_r_a"
    assert {record.patient for record in records} == {"p0", "p1", "p2"}
    with Image.open(out / "images" / "a.jpg") as image:
        assert image.size == (25, 30)
    labels = load_manifest(out / "manifest_labels.csv").records
    assert [record.id for record in labels] == ["a", "b", "c"] and labels[0].labels == ("normal",)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    again = import_lung_regions(folder, tmp_path / "again", max_size=30, licence="CC BY")
    assert again.manifest.read_bytes() == result.manifest.read_bytes()
    with refused("exists"):
        import_lung_regions(folder, out)
    whole = import_lung_regions(folder / "manifest.csv", tmp_path / "whole")
    assert (tmp_path / "whole" / "images" / "a.png").read_bytes() == (folder / "i0.png").read_bytes()
    assert np.asarray(Image.open(tmp_path / "whole" / "maps" / "a.png")).shape == (60, 50)
    assert load_manifest(whole.manifest).records[0].licence == "CC0"


def test_rows_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "image": "i0.png", "mask": "m0.png", "patient": "p", "split": "train"},
        {"id": "b", "image": "i0.png", "mask": "m0.png", "patient": "p", "split": ""},
    ]
    write_manifest(folder / "bad.csv", rows)
    with refused("missing", "duplicate", record="b"):
        import_lung_regions(folder / "bad.csv", tmp_path / "out")
    with refused("out_of_range", naming="--max-size"):
        import_lung_regions(folder, tmp_path / "out", max_size=2)
    write_manifest(folder / "d.csv", [rows[0] | {"mask": "m3.png"}])
    with refused("malformed", naming="1 large"):
        import_lung_regions(folder / "d.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_regions() -> None:
    kinds = regions()
    counts = {kind: len(members) for kind, members in kinds.items()}
    assert counts == {"lung": 2, "both": 1, "zone": 6, "pair": 6, "bilateral": 6, "mixed": 34, "heldout": 8}
    every = [region for members in kinds.values() for region in members]
    assert len(set(every)) == 63 == len({region_name(r) for r in every}) == len({region_code(r) for r in every})
    assert region_name(frozenset((1, 2, 3, 4))) == "right_lung+left_upper" and region_code(frozenset((1, 6))) == "ru_ll"
    for region in HELD_OUT:  # what is held out is the union, not its parts
        parts = (region & {1, 2, 3}, region & {4, 5, 6})
        assert all(parts) and all(part in every for part in parts)


def test_wordings_are_disjoint_and_mean_one_region() -> None:
    owner: dict[str, tuple[frozenset[int], str]] = {}
    words: dict[str, set[str]] = {name: set() for name in SETS}
    for kind, members in regions().items():
        for region in members:
            for name in SETS:
                texts = wordings(region, name)  # type: ignore[arg-type]
                assert len(texts) == len(set(texts)) >= (10 if name == "seen" else 4)
                for text in texts:
                    assert owner.setdefault(text, (region, name)) == (region, name), text
                    assert "{" not in text and text == text.strip() and "  " not in text
                    if kind != "heldout":
                        words[name] |= set(re.findall(r"\w+", text))
    assert words["val"] | words["test"] <= words["seen"]
    assert "right upper and left middle zones" in wordings(frozenset((1, 5)), "seen")
    assert "upper two thirds of the left lung" in wordings(frozenset((4, 5)), "seen")
    assert not any("two thirds" in text for text in wordings(frozenset((4, 6)), "seen"))


def test_rows_are_a_function_of_the_image() -> None:
    assert list(phrase_rows("x", "train")) == list(phrase_rows("x", "train"))
    assert list(phrase_rows("x", "train")) != list(phrase_rows("y", "train"))
    assert all(which == "seen" and kind != "heldout" for kind, _, which, _ in phrase_rows("x", "train"))
    test = list(phrase_rows("x", "test"))
    assert {kind for kind, *_ in test} == set(regions())
    for _, region, which, text in test:
        assert text in wordings(region, "seen" if which == "seen" else "test")


def test_rows_without_a_mask_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    cells = zip(("i0.png", "i1.png", "i1.png"), ("m0.png", "", "none"), strict=True)
    rows = [
        {"id": f"r{i}", "image": image, "mask": mask, "patient": "p", "split": "train"}
        for i, (image, mask) in enumerate(cells)
    ]
    write_manifest(folder / "some.csv", rows)
    result = import_lung_regions(folder / "some.csv", tmp_path / "out")
    assert (result.counts["images"], result.counts["rows_without_a_mask"], result.left_out) == (1, 2, ())
    write_manifest(folder / "none.csv", rows[1:])
    with pytest.raises(InputError):
        import_lung_regions(folder / "none.csv", tmp_path / "other")


def test_command_line(folder: Path, tmp_path: Path) -> None:
    """What is left out is listed, and the exit code says so."""
    done = data_import("lung-regions", folder, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 1 and "left out:" in done.stderr and "[d-1]" in done.stderr
    assert json.loads(done.stdout)["counts"]["phrases"] == 94
    words = ["data", "split", str(folder / "manifest.csv"), "--out", str(tmp_path / "split.csv"), "--fractions"]
    done = CliRunner().invoke(app, [*words, "0.5,0.5"])
    assert done.exit_code == 0 and "train 2 records of 2 groups" in done.stdout
    assert isinstance(CliRunner().invoke(app, [*words, "a,b"]).exception, InputError)
