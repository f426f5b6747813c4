"""The audit: what it finds, what it does not find, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from imported import write_dicom
from PIL import Image
from runs import medvl

from medvl.data.audit.audit import audit_manifest, audit_text
from medvl.data.records import write_manifest


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, str]]:
    """Three patients, one in each split; all is well."""
    found = []
    for i, split in enumerate(("train", "val", "test")):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[2:5, 2:5] = i + 1
        Image.fromarray(pixels).save(tmp_path / f"i{i}.png")
        Image.fromarray(np.minimum(pixels, 1)).save(tmp_path / f"m{i}.png")
        row = {"id": f"r{i}", "image": f"i{i}.png", "mask": f"m{i}.png", "mask_values": "1", "text": "the right lung"}
        found.append(row | {"patient": f"p{i}", "split": split, "licence": "CC0", "labels": "normal"})
    return found


def write(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def kinds(path: Path, **options: object) -> dict[str, tuple[str, ...]]:
    return {finding.kind: finding.ids for finding in audit_manifest(path, **options).findings}  # type: ignore[arg-type]


def test_cells_of_boxes_are_counted(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    cells = ("node 1 1 3 3|node 4 4 6 6|mass 1 1 2 2", "none", "")
    written = [row | {"boxes": cell, "split": "train"} for row, cell in zip(rows, cells, strict=True)]
    counts = audit_manifest(write(tmp_path, written)).counts["splits"]["train"]["boxes"]
    assert counts == {"(none: looked for and absent)": 1, "(empty: not annotated)": 1, "node": 2, "mass": 1}


def test_a_sound_manifest(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    audit = audit_manifest(write(tmp_path, rows))
    assert (audit.leak, audit.exit_code, audit.num_faults) == (False, 0, 0)
    assert not [finding for finding in audit.findings if finding.severity != "info"]
    assert audit.counts["records"] == audit.counts["images"] == audit.counts["patients"] == 3
    val = audit.counts["splits"]["val"]
    assert val["classes"] == {"mask": {"annotated": 1}} and val["licences"] == {"CC0": 1}
    assert val["labels"] == {"normal": 1} and val["texts"]["words"] == {"min": 3, "median": 3, "max": 3}
    assert list(audit.counts["splits"]) == ["train", "val", "test"]
    assert "no leak between splits" in audit_text(audit)
    document = json.loads(audit.as_json())
    assert set(document) == {"manifest", "findings", "counts", "leak"}
    assert all(set(finding) == {"kind", "severity", "ids", "message"} for finding in document["findings"])


def test_patient_leak(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[2]["patient"] = "p0"
    audit = audit_manifest(write(tmp_path, rows))
    (finding,) = [finding for finding in audit.findings if finding.kind == "patient_leak"]
    assert audit.leak and audit.exit_code == 1 and finding.severity == "error"
    assert finding.ids == ("r0", "r2") and "1 patients stand in train and in test, e.g. p0" in finding.message
    assert "LEAK" in audit_text(audit)


def test_image_leak_under_another_name(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    (tmp_path / "copy.png").write_bytes((tmp_path / "i0.png").read_bytes())
    rows[1]["image"] = "copy.png"
    audit = audit_manifest(write(tmp_path, rows))
    assert audit.leak and audit.exit_code == 1
    (finding,) = [finding for finding in audit.findings if finding.kind == "image_leak"]
    assert finding.ids == ("r0", "r1") and "copy.png, i0.png" in finding.message
    rows[1]["split"] = "train"  # the same copy within one split is no leak
    audit = audit_manifest(write(tmp_path, rows))
    assert not audit.leak and kinds(tmp_path / "manifest.csv")["duplicate_image"] == ("r0", "r1")


def test_faults_are_collected(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[0]["image"] = "gone.png"
    rows[1]["split"] = "vall"
    rows[2]["patient"] = "p0"
    audit = audit_manifest(write(tmp_path, rows))
    assert audit.num_faults == 2 and audit.exit_code == 2 and audit.leak
    found = [finding.message for finding in audit.findings if finding.kind == "fault"]
    assert any("gone.png is missing" in text for text in found) and any("did you mean val?" in text for text in found)
    assert "2 faults" in audit_text(audit)
    assert "error: and 1 faults more" in audit_text(audit, num_faults=1)
    write_manifest(tmp_path / "header.csv", [{"identity": "a"}])
    assert audit_manifest(tmp_path / "header.csv").exit_code == 2


def test_cut_files_are_found(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    (tmp_path / "i0.png").write_bytes((tmp_path / "noise.png").read_bytes()[:2000])
    Image.fromarray(np.ones((60, 80), np.uint8)).save(tmp_path / "m0.png")
    audit = audit_manifest(write(tmp_path, rows))
    assert audit.num_faults == 1 and "i0.png cannot be read" in audit_text(audit)


def test_texts(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[0]["text"] = "Bilateral pulmonary infection, two infected areas, all left lung and all right lung."
    rows[1]["text"] = "One area in the upper and middle and lower third of the right lung."
    rows[2]["text"] = ""
    path = write(tmp_path, rows)
    audit = audit_manifest(path, max_tokens=9)
    assert audit.counts["texts"]["num"] == 2
    assert audit.counts["texts"]["truncation"] == {
        "builtin": {"max_tokens": None, "truncated": 0, "side_word_cut": 0, "no_side_word_left": 0},
        "slots": {"max_tokens": 10, "truncated": 2, "side_word_cut": 2, "no_side_word_left": 1},
        "max_tokens": {"max_tokens": 9, "truncated": 2, "side_word_cut": 2, "no_side_word_left": 2},
    }
    found = kinds(path)
    assert found["empty_text"] == ("r2",) and found["side_word_cut"] == ("r0", "r1") and "names_side" in found
    assert "text_in_train" in found
    rows[0]["text"] = rows[1]["text"] = "two words"
    assert not {"side_word_cut", "names_side"} & set(kinds(write(tmp_path, rows)))


def test_masks(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[0]["mask_values"] = "2|3"  # not in the map
    rows[1]["mask"] = "none"
    rows[2]["mask"] = ""
    path = write(tmp_path, rows)
    audit = audit_manifest(path)
    states = {name: split["classes"]["mask"] for name, split in audit.counts["splits"].items()}
    assert states == {"train": {"empty": 1}, "val": {"absent": 1}, "test": {"not annotated": 1}}
    found = kinds(path)
    assert found["empty_mask"] == ("r0",) and "no_mask_in_split" in found and audit.exit_code == 0


def test_columns(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    rows[0]["split"] = rows[1]["licence"] = ""
    found = kinds(write(tmp_path, rows))
    assert found["no_split"] == ("r0",) and found["no_licence"] == ("r1",)
    for row in rows:
        del row["patient"], row["mask"], row["mask_values"]
    found = kinds(write(tmp_path, rows))
    assert {"no_masks", "manifest"} <= set(found)


def test_how_dicom_images_lie(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    for i, orientation in enumerate((None, ["R", "F"], ["A", "F"])):
        tags = {"PatientOrientation": orientation} if orientation else {}
        write_dicom(tmp_path / f"i{i}.dcm", np.arange(i, i + 64, dtype=np.uint8).reshape(8, 8), **tags)
        rows[i]["image"] = f"i{i}.dcm"
    found_kinds = kinds(write(tmp_path, rows))
    assert found_kinds["no_orientation"] == ("r0",)
    assert found_kinds["turned_image"] == ("r1",)
    assert found_kinds["lateral_image"] == ("r2",)


def test_command_line(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    path = write(tmp_path, rows)
    sound = medvl("data", "audit", str(path), "--json", "--out", str(tmp_path / "out" / "audit.json"))
    assert sound.returncode == 0 and json.loads(sound.stdout)["leak"] is False
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == json.loads(sound.stdout)
    rows[2]["patient"] = "p0"
    leak = medvl("data", "audit", str(write(tmp_path, rows)))
    assert leak.returncode == 1 and "patient_leak" in leak.stdout
    rows[0]["image"] = "gone.png"
    assert medvl("data", "audit", str(write(tmp_path, rows))).returncode == 2
    gone = medvl("data", "audit", str(tmp_path / "nothing.csv"))
    assert gone.returncode == 2 and gone.stderr.startswith("error: ") and "no such file" in gone.stderr


def test_shipped_set_without_torch() -> None:
    """The audit of the shipped set is clean and needs no torch; nor do recipes and the inputs of predict."""
    code = (
        "import medvl.inference.batch;"
        "import sys; from medvl.data.audit.audit import audit_manifest; audit = audit_manifest('medvl:cxr_regions');"
        "assert audit.exit_code == 0 and not audit.leak and audit.counts['records'] == 18686;"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.shared
@pytest.mark.parametrize(("name", "column"), [("cxr-lesion", "text_derived"), ("monuseg-lvit", "text")])
def test_shared_sets(shared_data: Path, name: str, column: str) -> None:
    audit = audit_manifest(shared_data / name / "manifest.csv", text_column=column)
    assert audit.num_faults == 0 and not audit.leak


def test_16_bit_images_that_use_few_of_their_bits_are_counted(tmp_path: Path) -> None:
    """12 bits (0 to 4095), the same from 30,000 on, 10 bits in a TIFF; all of 16, 15 bits and 8-bit files are none."""
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    rows = ["id,image,text,patient,split"]
    for name, low, high, dtype in (
        ("twelve.png", 0, 4095, np.uint16), ("offset.png", 30_000, 34_095, np.uint16), ("ten.tif", 0, 1023, np.uint16),
        ("full.png", 0, 65_535, np.uint16), ("fifteen.png", 0, 32_767, np.uint16), ("dark8.png", 0, 20, np.uint8),
    ):  # fmt: skip
        cv2.imwrite(str(tmp_path / name), (low + (high - low) * ramp).round().astype(dtype))
        rows += [f"{name}-{i},{name},,{name},train" for i in range(2)]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    found = audit_manifest(tmp_path / "m.csv")
    (finding,) = [finding for finding in found.findings if finding.kind == "dark_images"]
    assert finding.ids == ("twelve.png-0", "offset.png-0", "ten.tif-0")
    assert "3 of 5 16-bit images: 2 use 12 of 16 bits, 1 uses 10 of 16 bits" in finding.message
