"""Open-i and PadChest in miniature: reports as XML and as a table, images of few pixels."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from faults import refused
from PIL import Image

from medvl.data.importers.layouts import get_layout
from medvl.data.importers.openi import import_openi
from medvl.data.importers.padchest import import_padchest
from medvl.data.records import load_manifest
from medvl.data.reports import mirror_text
from medvl.data.splits import split_manifest

LICENCE = "http://creativecommons.org/licenses/by-nc-nd/4.0/"


def xml(number: str, findings: str, impression: str, majors: list[str], images: list[str]) -> str:
    texts = {"COMPARISON": "None.", "INDICATION": "Cough", "FINDINGS": findings, "IMPRESSION": impression}
    abstract = "".join(f'<AbstractText Label="{label}">{escape(text)}</AbstractText>' for label, text in texts.items())
    terms = "".join(f"<major>{escape(term)}</major>" for term in majors)
    figures = "".join(
        f'<parentImage id="{name}"><figureId>F{i}</figureId><caption>Xray Chest PA and Lateral</caption>'
        f'<panel type="single"><url>/hadoop/{name}.jpg</url></panel></parentImage>'
        for i, name in enumerate(images, start=1)
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><meta type="rr"/><uId id="CXR{number}"/>'
        f'<pmcId id="{number}"/><docSource>CXR</docSource><licenseType>open-access</licenseType>'
        f"<licenseURL>{LICENCE}</licenseURL><MedlineCitation><Article><Abstract>{abstract}</Abstract></Article>"
        f"</MedlineCitation><MeSH>{terms}<automatic>effusion</automatic></MeSH>{figures}</eCitation>"
    )


REPORTS = {
    "1": (
        "Clear lungs. No XXXX of a mass.", "1. Normal chest x-XXXX.", ["normal"],
        ["CXR1_1_IM-1-3001", "CXR1_1_IM-1-4001"],
    ),
    "2": ("", "Small effusion < 1 cm.", ["Pleural Effusion/left/small", "Aorta/tortuous"], ["CXR2_IM-2-1001"]),
    "3": ("Heart normal.", "No change.", ["No Indexing"], ["CXR3_IM-3-1001"]),
    "4": ("Lungs are clear.", "Normal.", ["normal"], []),
    "10": ("", "XXXX", ["normal"], ["CXR10_IM-4-1001"]),
    "11": ("", "Normal chest.", ["normal"], ["CXR11_IM-5-1001"]),
}  # fmt: skip


def lay_out(root: Path, inner: str = "ecgen-radiology") -> Path:
    (root / inner).mkdir(parents=True)
    (root / "NLMCXR_png").mkdir()
    for number, (findings, impression, majors, images) in REPORTS.items():
        (root / inner / f"{number}.xml").write_text(xml(number, findings, impression, majors, images))
        for name in images:
            Image.fromarray(np.full((16, 16), len(name), np.uint8)).save(root / "NLMCXR_png" / f"{name}.png")
    return root


@pytest.mark.parametrize("inner", ["ecgen-radiology", "NLMCXR_reports/ecgen-radiology"])
def test_reports_and_their_images(tmp_path: Path, inner: str) -> None:
    result = import_openi(lay_out(tmp_path / "set", inner), tmp_path / "out" / "m.csv")
    assert result.num_records == {"(none)": 4}
    assert result.counts == {
        "reports": 6, "left_out_no_image": 1, "left_out_empty": 1, "left_out_too_short": 1, "images": 4, "marks": 2,
        "list_numbers": 1, "headers": 0, "no_indexing": 1,
    }  # fmt: skip
    records = load_manifest(result.manifest, need_text=True).records
    assert [record.id for record in records] == [
        "CXR1_1_IM-1-3001", "CXR1_1_IM-1-4001", "CXR2_IM-2-1001", "CXR3_IM-3-1001",
    ]  # fmt: skip
    first, second, third, fourth = records
    assert first.text == second.text == "Normal chest x. Clear lungs. No of a mass."
    assert first.extra == {"text_findings": "Clear lungs. No of a mass.", "text_impression": "Normal chest x."}
    assert first.image.resolve() == (tmp_path / "set/NLMCXR_png/CXR1_1_IM-1-3001.png").resolve()
    assert third.text == "Small effusion < 1 cm." and third.labels == ("Pleural Effusion/left/small", "Aorta/tortuous")
    assert fourth.labels == () and fourth.text == "No change. Heart normal."
    assert (first.patient, first.study, first.view, first.split, first.licence) == ("CXR1", "CXR1", None, None, LICENCE)
    assert len(result.warnings) == 2 and "which image is frontal" in result.warnings[0]
    assert "medvl data split --by patient" in result.warnings[1]


def test_the_split_comes_afterwards_by_patient(tmp_path: Path) -> None:
    import_openi(lay_out(tmp_path / "set"), tmp_path / "m.csv")
    split_manifest(tmp_path / "m.csv", tmp_path / "split.csv", fractions=(0.4, 0.3, 0.3))
    found = load_manifest(tmp_path / "split.csv").records
    assert found[0].study == found[1].study and found[0].split == found[1].split
    assert {record.split for record in found} == {"train", "val", "test"}


def test_faults_together(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "set")
    texts = root / "ecgen-radiology"
    (root / "NLMCXR_png" / "CXR1_1_IM-1-4001.png").unlink()
    (root / "NLMCXR_png" / "CXR2_IM-2-1001.png").write_bytes(b"rubbish")
    (root / "NLMCXR_png" / "CXR11_IM-5-1001.png").unlink()  # left out as too short: not needed
    (texts / "20.xml").write_text("<eCitation><uId")
    (texts / "21.xml").write_text("<eCitation/>")
    (texts / "22.xml").write_text(xml("1", "Clear lungs seen.", "", ["a"], ["CXR3_IM-3-1001"]))
    (texts / "23.xml").write_text(xml("23", "Clear lungs seen.", "", ["a|b"], ["CXR23_IM"]))
    (texts / "24.xml").write_text(xml("24", "Clear lungs seen.", "", ["a"], ["../CXR24"]))
    with refused("missing_file", "damaged", "malformed", "duplicate") as caught:
        import_openi(root, tmp_path / "m.csv")
    assert [(fault.kind, fault.file and Path(fault.file).name) for fault in caught.value.faults] == [
        ("damaged", "20.xml"),
        ("malformed", "21.xml"),  # no uId
        ("duplicate", "22.xml"),  # the report
        ("duplicate", "22.xml"),  # its image
        ("malformed", "23.xml"),  # a label with |
        ("malformed", "24.xml"),  # a name that leads out of the folder
        ("missing_file", None),
        ("damaged", "CXR2_IM-2-1001.png"),
    ]
    assert not (tmp_path / "m.csv").exists()


def test_faults_of_the_layout(tmp_path: Path) -> None:
    with refused("missing_file"):
        import_openi(tmp_path / "gone", tmp_path / "m.csv")
    with refused("missing_file") as caught:
        import_openi(tmp_path, tmp_path / "m.csv")
    assert len(caught.value.faults) == 2
    for name in ("ecgen-radiology", "NLMCXR_png"):
        (tmp_path / name).mkdir()
    with refused("missing_file", file=tmp_path / "ecgen-radiology"):
        import_openi(tmp_path, tmp_path / "m.csv")
    (tmp_path / "ecgen-radiology" / "4.xml").write_text(xml("4", "Lungs are clear.", "", ["normal"], []))
    with refused("empty"):
        import_openi(tmp_path, tmp_path / "m.csv")


@pytest.mark.shared
def test_a_part_of_the_collection(shared_data: Path, tmp_path: Path) -> None:
    """Every twelfth real report in the published layout; one small picture stands in for the images."""
    with (shared_data / "openi-reports" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))[::12]
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "NLMCXR_png").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "pixel.png")
    for row in rows:
        number = row["id"].removeprefix("oi-CXR")
        images = [name for name in row["openi_images"].split("|") if name]
        text = xml(number, row["findings"], row["impression"], row["label"].split("|"), images)
        (tmp_path / "ecgen-radiology" / f"{number}.xml").write_text(text)
        for name in images:
            (tmp_path / "NLMCXR_png" / f"{name}.png").hardlink_to(tmp_path / "pixel.png")
    result = import_openi(tmp_path, tmp_path / "m.csv")
    with_image = [row for row in rows if row["openi_images"]]
    empty = sum(not row["findings"] and not row["impression"] for row in with_image)
    assert result.counts["reports"] == len(rows) == 297
    assert result.counts.get("left_out_no_image", 0) == len(rows) - len(with_image)
    assert result.counts.get("left_out_empty", 0) == empty and result.counts.get("left_out_too_short", 0) == 0
    records = load_manifest(result.manifest, check_files=False, need_text=True).records
    assert len({record.study for record in records}) == len(with_image) - empty
    assert {record.patient for record in records} == {record.study for record in records}
    labels = {record.study: record.labels for record in records}
    for row in with_image:
        if row["findings"] or row["impression"]:
            expected = tuple(label.strip() for label in row["label"].split("|") if label != "No Indexing")
            assert labels[row["id"].removeprefix("oi-")] == expected


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
