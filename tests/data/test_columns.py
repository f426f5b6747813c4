"""Tables with other column names: the mapping that is given, the one that is guessed, and what is refused."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from pathlib import Path

import pytest
from faults import refused
from PIL import Image
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import make_config
from medvl.core.errors import InputError
from medvl.data.audit.audit import audit_manifest
from medvl.data.columns import NAMES, guess_columns, read_columns, shown, table_columns
from medvl.data.records import configured_manifest, load_manifest, moved_rows, write_manifest
from medvl.data.splits import split_manifest
from medvl.inference.inputs import list_images

# Headers as published -> what is guessed of them.
PUBLISHED = {
    "NIH ChestX-ray14, Data_Entry_2017.csv": (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
        {"image": "Image Index", "labels": "Finding Labels", "patient": "Patient ID", "view": "View Position"},
    ),
    "CheXpert, train.csv": (
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity",
        {"image": "Path"},
    ),
    "COVID-19 Radiography Database, metadata": ("FILE NAME,FORMAT,SIZE,URL", {"image": "FILE NAME"}),
    "QaTa-COV19 captions of LViT": ("Image,Description", {"image": "Image", "text": "Description"}),
    "RSNA pneumonia, train labels": ("patientId,x,y,width,height,Target", {"patient": "patientId"}),
    "VinDr-CXR, train.csv": (
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
        {"id": "image_id", "labels": "class_name"},
    ),
    "MIMIC-CXR, metadata": (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns",
        {"id": "dicom_id", "patient": "subject_id", "study": "study_id", "view": "ViewPosition"},
    ),
    "medvl's own": (",".join(NAMES), {}),
    "medvl's own, with aliases and further columns": ("id,image,mask_lung,text,group,label,patientid,diagnosis", {}),
    "medvl's own, without ids": ("image,text,mask", {"image": "image"}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_guesses_of_published_tables(name: str) -> None:
    header, expected = PUBLISHED[name]
    guess = guess_columns(header.split(","))
    assert guess.columns == expected and not guess.ambiguous
    assert not expected or table_columns([shown(guess.columns)]) == expected  # what is said can be typed


@pytest.mark.shared
def test_no_name_is_guessed_in_a_manifest_that_trains(shared_data: Path) -> None:
    tables = sorted(shared_data.glob("*/manifest.csv"))
    assert tables
    for table in tables:
        guess = guess_columns(table.read_text(encoding="utf-8-sig").partition("\n")[0].rstrip().split(","))
        assert not guess.columns and not guess.ambiguous, table


def write(folder: Path, names: dict[str, str], seed: int = 0, num: int = 12) -> tuple[Path, Path]:
    """A random manifest, by medvl's names and by others."""
    draw = random.Random(seed)
    rows = []
    for i in range(num):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{i}.png").touch()
        row = {name: "".join(draw.choices(string.ascii_lowercase, k=5)) for name in NAMES}
        row |= {"id": f"r{i}", "image": f"images/{i}.png", "mask": "none", "mask_values": "1|2", "boxes": "none"}
        row |= {"split": draw.choice(["train", "val", "test"]), "labels": draw.choice(["a|b", "none", ""])}
        row |= {"patient": f"p{i // 2}", "age": str(draw.randint(1, 99))}
        rows.append(row)
    order = draw.sample(list(rows[0]), len(rows[0]))
    plain, other = folder / "plain.csv", folder / "other.csv"
    write_manifest(plain, rows, order)
    renamed = [{names.get(name, name): cell for name, cell in row.items()} for row in rows]
    write_manifest(other, renamed, [names.get(name, name) for name in order])
    return plain, other


@pytest.mark.parametrize("seed", range(8))
def test_a_renamed_table_reads_as_the_same_records(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    some = draw.sample(NAMES, draw.randint(1, len(NAMES)))
    spellings = iter(draw.sample([f"Column {letter}{k}" for letter in "XYZ" for k in range(9)], len(some)))
    columns = {name: next(spellings) for name in some}
    plain, other = write(tmp_path, columns, seed)
    expected = load_manifest(plain, check_files=False)
    manifest = load_manifest(other, check_files=False, columns=columns)
    assert manifest.records == expected.records and manifest.classes == expected.classes
    assert manifest.content_hash() == expected.content_hash() and manifest.columns == columns
    read = read_columns(other, columns)
    assert read.rows == read_columns(plain).rows
    # Read by the configuration, a table of medvl's own names (a split, another set) is read too.
    data = make_config({"data": {"columns": columns, "manifest": str(other)}}).data
    assert configured_manifest(data, check_files=False).records == expected.records
    assert configured_manifest(data, plain, check_files=False).records == expected.records
    # What is written elsewhere has medvl's names.
    header, rows = moved_rows(manifest, tmp_path / "further" / "m.csv")
    assert set(header) == set(expected.records[0].extra) | set(NAMES)
    assert rows[0]["image"] == "../images/0.png"


def test_a_split_of_a_renamed_table_has_our_names(tmp_path: Path) -> None:
    columns = {"id": "Filename", "image": "Path", "patient": "PatientID"}
    plain, other = write(tmp_path, columns)
    before = other.read_bytes()
    (made,) = split_manifest(other, tmp_path / "split.csv", columns=columns)
    (expected,) = split_manifest(plain, tmp_path / "expected.csv")
    assert made.split_hash == expected.split_hash and other.read_bytes() == before
    assert load_manifest(made.path, check_files=False).records[0].patient == "p0"
    words = ["data", "split", str(other), "--out", str(tmp_path / "typed.csv"), shown(columns)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert (tmp_path / "typed.csv").read_bytes() == made.path.read_bytes()


def test_ids_are_made_of_the_images_names(tmp_path: Path) -> None:
    rows = [{"Path": f"{folder}/view1.png", "PatientID": folder} for folder in ("a", "b")] + [{"Path": "c/x.y.png"}]
    write_manifest(tmp_path / "t.csv", rows, ["Path", "PatientID"])
    manifest = load_manifest(tmp_path / "t.csv", columns={"image": "Path", "patient": "PatientID"}, check_files=False)
    assert [record.id for record in manifest.records] == ["view1-2", "view1-3", "x.y"]
    assert [record.patient for record in manifest.records] == ["a", "b", "x.y"]


@pytest.mark.parametrize(
    "columns",
    [
        {"image": "Path", "imgae": "Path"},  # no name of medvl's
        {"image": "Nowhere", "id": "Key"},  # no such column
        {"image": "Path", "mask": "Path"},  # one column for two
        {"image": "Path", "id": "Path"},
    ],
)
def test_a_wrong_mapping_is_one_error(columns: dict[str, str], tmp_path: Path) -> None:
    write_manifest(tmp_path / "t.csv", [{"Key": "a", "Path": "a.png"}])
    with pytest.raises(InputError) as caught:
        load_manifest(tmp_path / "t.csv", columns=columns, check_files=False)
    assert len(caught.value.faults) == 1 and caught.value.faults[0].expected


def test_a_column_that_loses_its_name_is_set_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(tmp_path / "t.csv", [{"id": "a", "image": "thumbnail.png", "Path": "a.png"}])
    (record,) = load_manifest(tmp_path / "t.csv", columns={"image": "Path"}, check_files=False).records
    assert record.image.name == "a.png" and record.extra == {"table_image": "thumbnail.png"}
    assert "Path" in capsys.readouterr().err


def test_the_audit_guesses_and_says_it(tmp_path: Path) -> None:
    columns = {"image": "Path", "text": "Report", "patient": "PatientID", "split": "Subset"}
    _, other = write(tmp_path, columns)
    audit = audit_manifest(other)
    (said,) = [finding.message for finding in audit.findings if finding.kind == "columns"]
    assert shown(audit.counts["columns"]) in said and audit.counts["columns"] == columns
    assert audit.leak  # p0 stands in two splits, which needs both guesses
    assert not audit_manifest(other, columns={"image": "Path"}).leak
    write_manifest(tmp_path / "two.csv", [{"path": "a.png", "file_name": "b.png"}])
    with refused("ambiguous", naming="data.columns={image"):
        audit_manifest(tmp_path / "two.csv")


def test_images_of_a_renamed_table_are_looked_at(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    write_manifest(tmp_path / "t.csv", [{"Key": "k", "Path": "a.png", "Report": "clear"}])
    columns = {"id": "Key", "image": "Path", "text": "Report"}
    (image,) = list_images([tmp_path / "t.csv"], columns=columns)
    assert image.name == "k" and image.record is not None and image.record.text == "clear"
    (unnamed,) = list_images([tmp_path / "t.csv"], columns={"image": "Path"})
    assert replace(unnamed, record=None, name="k") == replace(image, record=None)
    with refused("missing_column", naming="data.columns={"):
        list_images([tmp_path / "t.csv"])
