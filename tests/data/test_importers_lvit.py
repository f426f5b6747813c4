"""The registry and `medvl data import`; LViT's layout, with both rules of mask names and the combined table."""

from __future__ import annotations

import csv
import inspect
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from imported import FOLDERS, data_import, lvit_layout, lvit_rows, picture
from PIL import Image
from typer.testing import CliRunner

import medvl.data.importers
from medvl.cli import app
from medvl.core.errors import InputError
from medvl.data.importers.layouts import Layout, all_layouts, get_layout
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


LAYOUTS = all_layouts()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_every_layout_has_an_importer_that_takes_its_options(layout: Layout) -> None:
    assert any(part.required for part in layout.parts) and all(part.patterns for part in layout.parts)
    assert layout.obtained and layout.terms and layout.title and layout.met
    assert {"out", *layout.options} <= set(inspect.signature(layout.function()).parameters)


def test_an_unknown_layout_names_the_nearest() -> None:
    with refused("unknown") as caught:
        get_layout("chexprt")
    assert "chexpert" in str(caught.value.faults[0].remedy)


def test_listing_the_layouts_imports_none_of_the_importers() -> None:
    program = """
import sys
from medvl.data.importers.layouts import all_layouts
assert all_layouts()
heavy = {"torch", "cv2", "numpy", "pandas", "PIL", "monai", "transformers"}
importers = {"medvl.data.importers." + layout.importer.split(":")[0] for layout in all_layouts().values()}
sys.exit(", ".join((heavy | importers) & set(sys.modules)) or 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


TOY = """
from pathlib import Path

from medvl.data.importers.cases import Case, Draft


def import_toy(folder, out, *, views="PA"):
    draft = Draft("toy", Path(folder))
    for path in sorted(draft.folder.glob("*.png")):
        draft.cases.append(Case(path.stem, path, "train", labels=("nodule",), view=views))
    return draft.write(out, splits=("train",))
"""
TOY_LAYOUT = """
- name: toy
  title: a folder of images
  obtained: nowhere
  terms: none
  met: "none"
  licence: CC0
  labels: [nodule]
  options: [views]
  parts:
    - {what: images, files: ["*.png"]}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of importers of somebody else."""
    folder = tmp_path / "importers"
    folder.mkdir()
    (folder / "toy.py").write_text(TOY)
    (folder / "toy.yaml").write_text(TOY_LAYOUT)
    monkeypatch.setattr(medvl.data.importers, "__path__", [*medvl.data.importers.__path__, str(folder)])
    all_layouts.cache_clear()
    yield folder
    all_layouts.cache_clear()
    sys.modules.pop("medvl.data.importers.toy", None)


def test_an_importer_is_two_files_of_its_own(toy: Path, tmp_path: Path) -> None:
    assert list(all_layouts()) == [*LAYOUTS, "toy"] and get_layout("toy").labels == ("nodule",)
    picture(tmp_path / "set" / "a.png")
    out = str(tmp_path / "out" / "m.csv")
    made = json.loads(data_import("toy", tmp_path / "set", "--out", out, "--views", "AP", "--json").stdout)
    assert made["records"] == {"train": 1} and made["labels"] == ["nodule"]
    assert load_manifest(out).records[0].licence == "CC0"
    assert CliRunner().invoke(app, ["doctor", "toy", str(tmp_path / "set")]).exit_code == 0


@pytest.mark.parametrize(
    "text",
    [
        "name: toy", TOY_LAYOUT.replace("title", "titel"), TOY_LAYOUT.replace("images,", "images, num: many,"),
        TOY_LAYOUT.replace("toy", "nih"),
    ],
)  # fmt: skip
def test_a_description_that_is_wrong_is_refused(toy: Path, text: str) -> None:
    (toy / "toy.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        all_layouts()
    assert caught.value.faults[0].file == toy / "toy.yaml"


def lvit_set(root: Path) -> Path:
    return lvit_layout(root, {split: lvit_rows(1, split) for split in FOLDERS})


@pytest.mark.parametrize("name", ["qata", "mosmed", "monuseg"])
def test_the_sets_of_lvit(name: str, tmp_path: Path) -> None:
    result = LAYOUTS[name].run(lvit_set(tmp_path / "set"), tmp_path / "out" / "m.csv")
    assert result.num_records == {"train": 1, "val": 1, "test": 1} and result.counts["sentences"] == 3
    texts = {record.split: record.text for record in load_manifest(result.manifest, need_text=True).records}
    assert texts["val"] == "The nuclei are val 0."


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """A set of one image."""
    folder = tmp_path / "yolo"
    picture(folder / "images" / "a.png", (16, 20))
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text("names: [opacity]\ntrain: images\n")
    return folder


def test_command_line(yolo: Path, tmp_path: Path) -> None:
    made = json.loads(data_import("yolo", yolo, "--out", tmp_path / "a" / "m.csv", "--json").stdout)
    assert made["records"] == {"train": 1} and made["counts"]["boxes"] == 1 and made["warnings"] == []
    done = data_import("yolo", yolo, "--out", tmp_path / "b" / "m.csv")
    assert done.exit_code == 0 and "train 1" in done.stdout and "boxes: 1" in done.stdout


@pytest.mark.parametrize(
    ("layout", "option", "naming"),
    [
        ("yolo", "--max-size 9", "lung-regions"), ("yolo", "--uncertain 9", "chexpert"),
        ("yolo", "--views 9", "mimic-cxr, padchest"), ("chexpert", "--uncertain perhaps", "perhaps"),
        ("lvitt", "", "lvit"),
    ],
)  # fmt: skip
def test_options_belong_to_their_layout(yolo: Path, layout: str, option: str, naming: str) -> None:
    done = data_import(layout, yolo, "--out", yolo / "m.csv", *option.split())
    assert isinstance(done.exception, InputError) and naming in str(done.exception)


def test_tables_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "stage_2_train_labels.csv"
    with refused("missing_file", naming="medvl data check rsna"):
        LAYOUTS["rsna"].run(tmp_path / "gone", tmp_path / "m.csv")
    path.write_text("patientID,x,y,width,height,Target\n")
    with refused("missing_column", file=path, line=1, naming="patientId"):
        LAYOUTS["rsna"].run(tmp_path, tmp_path / "m.csv")
    path.write_text("patientId,x,y,width,height,Target\na,1,1\nb,,,,,0,9\n")
    with refused("malformed") as caught:
        LAYOUTS["rsna"].run(tmp_path, tmp_path / "m.csv")
    assert [(fault.file, fault.line) for fault in caught.value.faults] == [(path, 2), (path, 3)]
    with refused("missing_file", naming="train-rle.csv"):
        LAYOUTS["siim"].run(tmp_path, tmp_path / "m.csv")


@pytest.mark.shared
def test_the_captions_of_qata_are_those_of_the_registry(shared_data: Path) -> None:
    with (shared_data / "qata-texts" / "captions.csv").open(newline="", encoding="utf-8") as stream:
        splits = Counter(row["split"] for row in csv.DictReader(stream))
    assert splits == {"train": 5716, "val": 1429, "test": 2113}
    parts = {part.what: part.num for part in LAYOUTS["qata"].parts}
    assert [parts[f"{name.capitalize()}: masks"] for name in splits] == list(splits.values())


@pytest.mark.parametrize("name", ["lvit", "qata"])
def test_a_table_of_the_set_is_not_replaced(name: str, tmp_path: Path) -> None:
    folder = lvit_set(tmp_path / "set")
    table = next(folder.rglob("*_text.*"))
    before = table.read_bytes()
    assert isinstance(data_import(name, folder, "--out", table).exception, InputError)
    assert table.read_bytes() == before
    for _ in range(2):  # a manifest of an import before is no file of the set
        assert data_import(name, folder, "--out", folder / "m.csv").exit_code == 0
