"""The parsers on the whole published tables, as the torchxrayvision wheel carries them. Its code is never imported.

The numbers were counted here, with the wheel 1.5.7, and agree with the publications where these give them.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from medvl.core.errors import Fault
from medvl.data.importers import chexpert, nih, openi, rsna, siim
from medvl.data.importers.shapes import relative_runs

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "torchxrayvision", "-d", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the wheel cannot be downloaded: {done.stderr.strip()[-200:]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in ("BBox_List_2017", "Data_Entry_2017_v2020", "chexpert_train", "siim-pneumothorax-train-rle"):
            content = gzip.decompress(archive.read(f"torchxrayvision/data/{name}.csv.gz"))
            (folder / f"{name}.csv").write_bytes(content)
        with archive.open("torchxrayvision/data/NLMCXR_reports.tgz") as stream, tarfile.open(fileobj=stream) as reports:
            reports.extractall(folder, filter="data")
        with archive.open("torchxrayvision/data/kaggle_stage_2_train_labels.csv.zip") as stream:
            zipfile.ZipFile(stream).extractall(folder)
    return folder


def test_siim(tables: Path) -> None:
    faults: list[Fault] = []
    runs = siim.read_runs(tables / "siim-pneumothorax-train-rle.csv", faults)
    assert not faults and len(runs) == 12047 and sum(map(bool, runs.values())) == 2669
    assert sum(max(len(codes), 1) for codes in runs.values()) == 12954
    areas = [int(relative_runs(code, (1024, 1024)).sum()) for codes in runs.values() for code in codes]
    assert len(areas) == 3576 and sum(areas) == 39_729_957  # every run fits 1024 x 1024
    split = siim.split_of(list(runs))
    assert Counter(split.values()) == {"train": 8433, "val": 1807, "test": 1807}
    positive = Counter(split[name] for name, codes in runs.items() if codes)
    assert positive == {"train": 1860, "val": 411, "test": 398}


def test_rsna(tables: Path) -> None:
    faults: list[Fault] = []
    boxes = rsna.read_boxes(tables / "stage_2_train_labels.csv", faults)
    assert not faults and len(boxes) == 26684 and sum(map(len, boxes.values())) == 9555
    assert all(x1 <= 1024 and y1 <= 1024 for found in boxes.values() for _, _, x1, y1 in found)
    split = rsna.split_of(list(boxes))
    assert Counter(split.values()) == {"train": 16010, "val": 5337, "test": 5337}
    positive = Counter(split[name] for name, found in boxes.items() if found)
    assert positive == {"train": 3579, "val": 1182, "test": 1251}


def test_nih(tables: Path) -> None:
    faults: list[Fault] = []
    entries = nih.read_entries(tables / "Data_Entry_2017_v2020.csv", faults)
    assert not faults and len(entries) == 112120 and len({entry.patient for entry in entries.values()}) == 30805
    labels = Counter(label for entry in entries.values() for label in entry.labels)
    published = "11559 2776 13317 19894 5782 6331 1431 5302 4667 2303 2516 1686 3385 227"
    assert [labels[name] for name in nih.LABELS] == [int(number) for number in published.split()]
    assert sum(not entry.labels for entry in entries.values()) == 60361
    assert Counter(entry.view for entry in entries.values()) == {"PA": 67310, "AP": 44810}
    boxes, renamed = nih.read_boxes(tables / "BBox_List_2017.csv", faults)
    assert not faults and len(boxes) == 880 and sum(map(len, boxes.values())) == 984 and renamed == 123
    assert set(boxes) <= set(entries) and all(box.x1 <= 1024 and box.y1 <= 1024 for b in boxes.values() for box in b)


def test_validation_of_nih_has_kads_size_for_lists_of_whole_patients(tables: Path) -> None:
    """The official lists are not in the wheel: the first patients stand in for train_val_list.txt, 86,524 images."""
    faults: list[Fault] = []
    entries = nih.read_entries(tables / "Data_Entry_2017_v2020.csv", faults)
    names = sorted(entries)
    lists = {"train_val": set(names[:86524]), "test": set(names[86524:])}
    split = nih.split_of(entries, lists, faults, tables)
    assert not faults and Counter(split.values()) == {"train": 77872, "val": 8652, "test": 25596}
    patients = {name: {entries[image].patient for image in names if split[image] == name} for name in ("train", "val")}
    assert not patients["train"] & patients["val"]


def test_chexpert(tables: Path) -> None:
    faults: list[Fault] = []
    counts: Counter[str] = Counter()
    path = tables / "chexpert_train.csv"
    entries = chexpert.read_entries(path, faults, counts, uncertain="g2d", unmentioned="negative")
    assert not faults and len(entries) == 191027 and len({entry.patient for entry in entries}) == 64534
    assert counts == {
        "lateral_left_out": 32387, "not_mentioned": 1946610, "uncertain_taken_as_positive": 51259,
        "uncertain_taken_as_negative": 31088, "uncertain_taken_as_unknown": 37740,
    }  # fmt: skip
    positive = Counter(label for entry in entries for label in entry.positive)
    five = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    assert [positive[name] for name in five] == [59583, 23385, 12983, 61493, 86477]
    unknown = Counter(label for entry in entries for label in entry.unknown)
    assert unknown["Pneumonia"] == 15981 and unknown["Fracture"] == 499 and not any(unknown[name] for name in five)
    split = chexpert.split_of(entries)
    assert Counter(split) == {"train": 186027, "val": 5000}
    patients = {name: {e.patient for e, own in zip(entries, split, strict=True) if own == name} for name in set(split)}
    assert not patients["train"] & patients["val"]


def test_openi(tables: Path, tmp_path: Path) -> None:
    """All reports, as the archive unpacks; one small picture stands in for the images that they name."""
    reports = sorted((tables / "ecgen-radiology").glob("*.xml"))
    texts = [path.read_text(encoding="utf-8") for path in reports]
    names = {name for text in texts for name in re.findall('parentImage id="([^"]+)"', text)}
    assert len(reports) == 3955 and len(names) == 7470
    Image.new("L", (8, 8)).save(tmp_path / "pixel.png")
    (tmp_path / "NLMCXR_png").mkdir()
    for name in names:
        (tmp_path / "NLMCXR_png" / f"{name}.png").hardlink_to(tmp_path / "pixel.png")
    (tmp_path / "ecgen-radiology").symlink_to(tables / "ecgen-radiology")
    result = openi.import_openi(tmp_path, tmp_path / "m.csv")
    assert result.num_records == {"(none)": 7430} and result.counts == {
        "reports": 3955, "left_out_no_image": 104, "left_out_empty": 25, "images": 7430, "marks": 3544,
        "list_numbers": 1212, "headers": 7, "no_indexing": 92,
    }  # fmt: skip
