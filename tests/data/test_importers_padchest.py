"""PadChest in miniature: its columns and cells as they were met in the real table."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from PIL import Image

from medvl.data.importers.layouts import get_layout
from medvl.data.importers.padchest import import_padchest
from medvl.data.records import load_manifest
from medvl.data.reports import mirror_text

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = ("", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
           "ViewPosition_DICOM", "Projection", "Pediatric", "Report", "MethodLabel", "Labels")  # fmt: skip
ROWS = (
    (
        "1_a.png", "0", "s1", "p1", "PA", " pinzamient sen costofren derech . . . cardiomegali",
        "['pleural effusion', ' nodule']",
    ),
    ("1_b.png", "0", "s1", "p1", "L", " pinzamient sen costofren derech .", "['pleural effusion', 'nodule']"),
    ("2.png", "13", "s2", "p2", "AP_horizontal", " normal .", "['normal']"),
    ("3.png", "13", "s3", "p3", "AP", " sin cambi .", "['unchanged', '']"),
    ("4.png", "13", "s4", "p4", "PA", "nan", "nan"),
    ("5.png", "54", "s5", "p5", "PA", " dentr normal .", "['normal', 'scoliosis', 'scoliosis']"),
    ("6.png", "0", "s6", "p6", "PA", " sign radiolog epoc .", "['COPD signs']"),
    ("7.png", "0", "s2", "p7", "EXCLUDE", " . ", "['exclude']"),
)  # fmt: skip


def padchest(folder: Path, *, packed: bool = False, rows: tuple[tuple[str, ...], ...] = ROWS) -> Path:
    folder.mkdir()
    with gzip.open(folder / f"{TABLE}.gz", "wt") if packed else (folder / TABLE).open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for i, (name, place, study, patient, view, report, labels) in enumerate(rows):
            writer.writerow((i, name, place, 20140915, study, patient, "1930.0", "F", "nan", view, "No", report,
                             "Physician", labels))  # fmt: skip
            if place != "54":  # a zip file that was not fetched
                path = folder / place / name
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(np.full((4, 5), 4095, np.uint16)).save(path)
    (folder / "0" / "6.png").write_bytes(b"\x89PNG cut")
    (folder / "0" / "._2.png").write_bytes(b"\0\5")
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_padchest(tmp_path: Path, packed: bool) -> None:
    result = import_padchest(padchest(tmp_path / "set", packed=packed), tmp_path / "out" / "m.csv")
    records = {record.id: record for record in load_manifest(result.manifest, check_files="full").records}
    assert list(records) == ["1_a", "2", "3"] and result.num_records == {"(none)": 3}
    first = records["1_a"]
    assert first.text == "pinzamient sen costofren derech. cardiomegali"
    assert first.labels == ("pleural effusion", "nodule") and first.extra["labels_unknown"] == ""
    assert (first.patient, first.study, first.view, first.split) == ("p1", "s1", "PA", None)
    assert (first.extra["birth_year"], first.extra["sex"], first.extra["label_method"]) == ("1930", "F", "Physician")
    assert records["2"].labels == () and records["2"].text == "normal." and records["2"].extra["labels_unknown"] == ""
    assert set(records["3"].extra["labels_unknown"].split("|")) == {
        "pleural effusion", "nodule", "scoliosis", "COPD signs",
    }  # fmt: skip
    counts = {name: number for name, number in result.counts.items() if number}
    assert counts == {
        "images": 8, "left_out_view_L": 1, "left_out_view_EXCLUDE": 1, "left_out_no_report": 1, "left_out_no_file": 1,
        "left_out_unreadable": 1, "normal": 1, "labels_unknown": 1,
    }  # fmt: skip
    assert any("Spanish" in message for message in result.warnings) and any("6.png" in w for w in result.warnings)
    assert mirror_text(first.text) == first.text  # its sides are not rewritten


def test_padchest_views_and_faults(tmp_path: Path) -> None:
    folder = padchest(tmp_path / "set")
    result = get_layout("padchest").run(folder, tmp_path / "out" / "m.csv", views=("L",))
    assert [record.id for record in load_manifest(result.manifest).records] == ["1_b"]
    bad = tuple((*row[:6], labels) for row, labels in zip(ROWS, ("x", "['a|b']", "{1}", "[" * 500), strict=False))
    with refused("malformed") as caught:
        import_padchest(padchest(tmp_path / "bad", rows=bad), tmp_path / "other" / "m.csv")
    assert len(caught.value.faults) == 4
    for path in (tmp_path / "bad").iterdir():
        if path.is_file():
            path.unlink()
    with refused("missing_file"):
        import_padchest(tmp_path / "bad", tmp_path / "other" / "m.csv")
