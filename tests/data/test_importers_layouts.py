"""The registry and `medvl data import`: every layout has its importer, options go where they belong."""

from __future__ import annotations

import csv
import inspect
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import refused
from imported import FOLDERS, data_import, lvit_layout, lvit_rows, picture
from typer.testing import CliRunner

import medvl.data.importers
from medvl.cli import app
from medvl.core.errors import InputError
from medvl.data.importers.layouts import Layout, all_layouts, get_layout
from medvl.data.records import load_manifest

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
