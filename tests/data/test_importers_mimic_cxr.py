"""MIMIC-CXR-JPG in miniature: two tables, images of 16 pixels, reports as typed."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from PIL import Image

from medvl.data.audit.audit import audit_manifest, audit_text
from medvl.data.importers.mimic_cxr import import_mimic_cxr
from medvl.data.records import load_manifest

# dicom, subject, study, view, split
IMAGES = [
    ("d1", "10000032", "50414267", "PA", "train"),
    ("d2", "10000032", "50414267", "LATERAL", "train"),
    ("d3", "10000032", "53189527", "AP", "train"),
    ("d4", "11000183", "51967845", "PA", "validate"),
    ("d5", "11000183", "51967845", "", "validate"),
    ("d6", "12000210", "54321009", "AP", "test"),
    ("d7", "12000210", "54321010", "PA", "test"),  # too short
    ("d8", "12000210", "54321011", "PA", "test"),  # empty
    ("d9", "12000210", "54321012", "PA", "test"),  # no report
]
REPORTS = {
    "p10/p10000032/s50414267.txt": (
        "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n COMPARISON:  ___\n \n"
        " FINDINGS: \n \n The lungs are clear, compared to ___.\n \n IMPRESSION: \n \n 1. No acute process.\n"
        " 2. No effusion.\n"
    ),
    "p10/p10000032/s53189527.txt": " IMPRESSION:  First draft only.\n IMPRESSION:  Small left effusion.\n",
    "p11/p11000183/s51967845.txt": " INDICATION:  Cough.\n \n There is a nodule in the right apex.\n",
    "p12/p12000210/s54321009.txt": " FINDINGS:  Heart size is normal.\n",
    "p12/p12000210/s54321010.txt": " FINDINGS:  Unchanged.\n",
    "p12/p12000210/s54321011.txt": " INDICATION:  Pain.\n FINDINGS: ___\n",
}


def write_table(path: Path, columns: str, rows: list[tuple[str, ...]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(columns.split())
    writer.writerows(rows)
    data = stream.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def lay_out(root: Path, suffix: str = ".csv.gz") -> Path:
    root.mkdir()
    write_table(
        root / f"mimic-cxr-2.0.0-split{suffix}",
        "dicom_id study_id subject_id split",
        [(dicom, study, subject, split) for dicom, subject, study, _, split in IMAGES],
    )
    write_table(
        root / f"mimic-cxr-2.0.0-metadata{suffix}",
        "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows",
        [(dicom, subject, study, 'CHEST (PA, "LAT")', view, "16") for dicom, subject, study, view, _ in IMAGES],
    )
    for i, (dicom, subject, study, _, _) in enumerate(IMAGES):
        path = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((16, 16), np.uint8)
        pixels[2 : 4 + i, 3:9] = 200
        Image.fromarray(pixels).save(path)
    for name, text in REPORTS.items():
        path = root / "mimic-cxr-reports" / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_frontal_views_with_their_reports(tmp_path: Path) -> None:
    result = import_mimic_cxr(lay_out(tmp_path / "set"), tmp_path / "out" / "manifest.csv")
    assert result.manifest == tmp_path / "out" / "manifest.csv"
    assert result.num_records == {"train": 2, "val": 1, "test": 1}
    assert result.counts == {
        "images": 9, "left_out_view_lateral": 1, "left_out_view_none": 1, "left_out_no_report": 1,
        "left_out_empty": 1, "left_out_too_short": 1, "studies": 4, "last_paragraph": 1, "sections_replaced": 1,
        "marks": 1, "list_numbers": 2, "headers": 0,
    }  # fmt: skip
    (warning,) = result.warnings
    assert "1 images were left out because their study has no report" in warning
    records = {record.id: record for record in load_manifest(result.manifest, need_text=True).records}
    assert list(records) == ["d1", "d3", "d4", "d6"]
    first = records["d1"]
    assert first.text == "No acute process. No effusion. The lungs are clear, compared to."
    assert first.extra == {
        "text_findings": "The lungs are clear, compared to.",
        "text_impression": "No acute process. No effusion.",
    }
    assert (first.patient, first.study, first.view, first.split) == ("p10000032", "s50414267", "PA", "train")
    assert first.image.resolve() == (tmp_path / "set" / "files/p10/p10000032/s50414267/d1.jpg").resolve()
    assert first.licence is not None and "PhysioNet" in first.licence
    assert records["d3"].text == "Small left effusion." and records["d3"].extra["text_findings"] == ""
    assert records["d4"].text == "There is a nodule in the right apex." and records["d4"].split == "val"
    assert records["d6"].text == "Heart size is normal." and records["d6"].split == "test"
    audit = audit_manifest(result.manifest)
    assert not audit.leak and audit.num_faults == 0
    assert {name: audit.counts["reports"][name] for name in ("num", "headers", "marks", "list_numbers", "empty")} == {
        "num": 4, "headers": 0, "marks": 0, "list_numbers": 0, "empty": 0,
    }  # fmt: skip
    assert "faults" in audit_text(audit)


def test_other_views_and_plain_tables(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "set", ".csv")
    result = import_mimic_cxr(root, tmp_path / "m.csv", views=["lateral", "swimmers"])
    assert result.num_records == {"train": 1, "val": 0, "test": 0} and result.counts["left_out_view_pa"] == 5
    assert load_manifest(tmp_path / "m.csv").records[0].view == "LATERAL"
    assert "no image has the view SWIMMERS; there are PA (5)" in result.warnings[0]
    with refused("missing"):
        import_mimic_cxr(root, tmp_path / "none.csv", views=())
    with refused("empty", naming="left_out_view_pa 5"):
        import_mimic_cxr(root, tmp_path / "none.csv", views=["XX"])
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("place", ["zip", "default zip", "folder", "beside the images"])
def test_places_of_the_reports(tmp_path: Path, place: str, mark: bytes) -> None:
    """With a byte order mark before each, or without."""
    root, plain = lay_out(tmp_path / "set"), lay_out(tmp_path / "plain")
    typed = root / "mimic-cxr-reports" / "files"
    for path in typed.rglob("*.txt"):
        path.write_bytes(mark + path.read_bytes().lstrip())
    packed = tmp_path / "reports.zip" if place == "zip" else root / "mimic-cxr-reports.zip"
    reports = {"zip": packed, "folder": tmp_path / "elsewhere"}.get(place)
    if place == "beside the images":
        for name in REPORTS:
            (typed / name).rename(root / "files" / name)
    else:
        typed.rename(tmp_path / "elsewhere")
    if place.endswith("zip"):
        with zipfile.ZipFile(packed, "w") as archive:
            for name in REPORTS:
                archive.write(tmp_path / "elsewhere" / name, f"files/{name}")
    made, expected = (
        import_mimic_cxr(root, tmp_path / "a.csv", reports=reports),
        import_mimic_cxr(plain, tmp_path / "b.csv"),
    )
    assert made.counts == expected.counts and made.counts["left_out_no_report"] == 1
    texts, expected_texts = ([r.text for r in load_manifest(one.manifest).records] for one in (made, expected))
    assert texts == expected_texts and len(texts) == 4


def test_no_reports_at_all(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "set")
    (root / "mimic-cxr-reports").rename(tmp_path / "gone")
    with refused("empty", naming="left_out_no_report 7"):
        import_mimic_cxr(root, tmp_path / "m.csv")
    with refused("missing_file"):
        import_mimic_cxr(root, tmp_path / "m.csv", reports=tmp_path / "nowhere")
    (root / "mimic-cxr-reports.zip").write_bytes(b"rubbish")
    with refused("damaged"):
        import_mimic_cxr(root, tmp_path / "m.csv")


def test_missing_files_together(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "set")
    files = root / "files"
    (files / "p10/p10000032/s50414267/d1.jpg").unlink()
    (files / "p10/p10000032/s53189527/d3.jpg").unlink()
    (files / "p10/p10000032/s50414267/d2.jpg").unlink()  # lateral: not needed
    broken = files / "p11/p11000183/s51967845/d4.jpg"
    broken.write_bytes(b"rubbish")
    report = root / "mimic-cxr-reports/files/p12/p12000210/s54321009.txt"
    report.write_bytes(b" FINDINGS: \xff\xfe\n")
    with refused("missing_file", "damaged", "unreadable", file=broken, naming="2 of 3 images") as caught:
        import_mimic_cxr(root, tmp_path / "m.csv")
    assert [fault.file for fault in caught.value.faults] == [report, None, broken]
    assert not (tmp_path / "m.csv").exists()


def test_faults_of_the_tables(tmp_path: Path) -> None:
    with refused("missing_file"):
        import_mimic_cxr(tmp_path / "gone", tmp_path / "m.csv")
    empty = tmp_path / "empty"
    empty.mkdir()
    with refused("missing_file") as caught:
        import_mimic_cxr(empty, tmp_path / "m.csv")
    assert len(caught.value.faults) == 3  # two tables, a folder
    root = lay_out(tmp_path / "set", ".csv")
    split, metadata = (root / f"mimic-cxr-2.0.0-{kind}.csv" for kind in ("split", "metadata"))
    good = split.read_text()
    text = good.replace("validate", "val").replace("d3,53189527", "d3,1")
    text = text.replace("d8,54321011,12000210", "d8,x,12000210") + "d1,50414267,10000032,train\nd77,1,1,train\n"
    split.write_text(text)
    with refused("duplicate", file=split, record="d1"):  # rows that cannot be told apart come first
        import_mimic_cxr(root, tmp_path / "m.csv")
    split.write_text(text.replace("d1,50414267,10000032,train\nd77", "d77"))
    metadata.write_text(metadata.read_text().replace("54321011", "x") + "d99,1,1,,PA,16\n")
    with refused("unknown", "mismatch", "malformed", "missing") as caught:
        import_mimic_cxr(root, tmp_path / "m.csv")
    assert [(fault.kind, Path(fault.file or ""), fault.line, fault.record) for fault in caught.value.faults] == [
        ("mismatch", split, 4, "d3"),  # another study
        ("unknown", split, 5, "d4"),  # no such split
        ("unknown", split, 6, "d5"),
        ("malformed", split, 9, "d8"),  # no number
        ("mismatch", split, 11, "d77"),  # not in the metadata
        ("missing", metadata, 11, "d99"),  # in no split
    ]
    split.write_text(good.replace("split\n", "fold\n", 1).replace("split\r\n", "fold\r\n", 1))
    metadata.rename(metadata.with_suffix(".csv.gz"))  # not compressed
    with refused("missing_column", "damaged", file=split, naming="column split"):
        import_mimic_cxr(root, tmp_path / "m.csv")
