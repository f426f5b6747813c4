"""Miniatures of the published radiograph sets: import, load the manifest, compare masks and boxes to the pixel."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from imported import area, dicom, loaded, mask_of, picture
from PIL import Image

from medvl.core.errors import Fault
from medvl.data.box_table import Box
from medvl.data.importers import chexpert, covidx, nih, object_cxr, rsna
from medvl.data.importers.chexpert import LABELS as CHEXPERT
from medvl.data.importers.chexpert import import_chexpert
from medvl.data.importers.covidx import import_covidx
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.ms_cxr import import_ms_cxr
from medvl.data.importers.nih import import_nih
from medvl.data.importers.object_cxr import import_object_cxr, parse_shape
from medvl.data.importers.rsna import import_rsna
from medvl.data.importers.siim import import_siim
from medvl.data.importers.siim import split_of as split_siim

SIDES = (16, 16)


def table(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")
    return path


@pytest.fixture
def siim(tmp_path: Path) -> Path:
    """Twenty images; a and b have a pneumothorax, a in two rows; one file has another name than its UID."""
    folder = tmp_path / "siim"
    rows = ["ImageId, EncodedPixels", "1.2.0, 17 2 14 2", "1.2.0,0 1", "1.2.1,  255 1"]
    rows += [f"1.2.{i}, -1" for i in range(2, 20)]
    table(folder / "train-rle.csv", "\n".join(rows))
    for i in range(20):
        name = "other" if i == 7 else f"1.2.{i}"
        path = folder / "dicom-images-train" / f"s{i}" / f"{name}.dcm"
        dicom(path, np.zeros(SIDES), uid=f"1.2.{i}", patient=f"p{i // 2}")
    return folder


def test_siim(siim: Path, tmp_path: Path) -> None:
    result = import_siim(siim, tmp_path / "out" / "manifest.csv", canvas=16)
    records = loaded(result.manifest)
    # 17 skips column 0 and row 0 of column 1; 14 after pixel 18 leads to pixel 33: row 1 of column 2.
    expected = np.zeros((16, 16), bool)
    expected[1:3, 1] = expected[1:3, 2] = expected[0, 0] = True
    assert (mask_of(records["1.2.0"]) == expected).all()
    assert (mask_of(records["1.2.1"]) == area(slice(15, 16), slice(15, 16), SIDES)).all()
    absent = records["1.2.7"].masks["mask"]
    assert absent is not None and absent.path is None and records["1.2.7"].labels == ()
    assert records["1.2.7"].image.name == "other.dcm" and records["1.2.7"].patient == "p3"
    assert records["1.2.0"].labels == ("pneumothorax",)
    assert result.num_records == {"train": 14, "val": 3, "test": 3}
    assert result.counts["rows"] == 21 and result.counts["masks"] == 2 and result.counts["positive"] == 2
    splits = {(record.patient, record.split) for record in records.values()}
    two = len(splits) - len({patient for patient, _ in splits})  # of each patient's two images
    assert two > 0 and result.counts["patients_in_two_splits"] == two and len(result.warnings) == 1
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["1.2.0.png", "1.2.1.png"]
    assert not (tmp_path / "out" / "boxes.csv").exists()
    with refused("exists"):
        import_siim(siim, tmp_path / "out" / "again.csv", canvas=16)


def test_siim_faults_are_raised_together_and_nothing_is_written(siim: Path, tmp_path: Path) -> None:
    for i in (3, 4, 5):
        (siim / "dicom-images-train" / f"s{i}" / f"1.2.{i}.dcm").unlink()
    with (siim / "train-rle.csv").open("a") as stream:
        stream.write("1.2.0,-1\n1.2.2,\n")
    out = tmp_path / "out" / "m.csv"
    with refused("missing_file", "conflict", "missing", "mismatch", naming="1.2.3, 1.2.4, 1.2.5") as caught:
        import_siim(siim, out)  # the canvas of the real set
    kinds = Counter(fault.kind for fault in caught.value.faults)
    assert kinds == {"missing_file": 1, "conflict": 1, "missing": 1, "mismatch": 17}  # 17 images of another size
    table(siim / "train-rle.csv", "ImageId, EncodedPixels\n1.2.0,17 400")
    with refused("out_of_range", naming="417", record="1.2.0"):
        import_siim(siim, out, canvas=16)
    assert not out.exists() and not (out.parent / "masks").exists()
    assert not list(out.parent.glob(".*")) if out.parent.exists() else True


def test_rsna(tmp_path: Path) -> None:
    folder = tmp_path / "rsna"
    rows = ["patientId,x,y,width,height,Target", "a,2.0,3.0,4.0,5.0,1", "a,5.0,7.0,11.0,2.0,1"]
    rows += [f"n{i},,,,,0" for i in range(9)]
    table(folder / "stage_2_train_labels.csv", "\n".join(rows))
    for name in ("a", *(f"n{i}" for i in range(9))):
        dicom(folder / "stage_2_train_images" / f"{name}.dcm", np.zeros(SIDES), patient=name)
    result = import_rsna(folder, tmp_path / "out" / "manifest.csv", canvas=16)
    records = loaded(result.manifest)
    expected = area(slice(3, 8), slice(2, 6), SIDES) | area(slice(7, 9), slice(5, 16), SIDES)
    assert (mask_of(records["a"]) == expected).all()
    assert records["a"].boxes == (Box("pneumonia", 2, 3, 6, 8), Box("pneumonia", 5, 7, 16, 9))
    assert records["a"].labels == ("pneumonia",) and records["n0"].boxes == ()
    assert result.num_records == {"train": 6, "val": 2, "test": 2} and result.counts["boxes"] == 2
    table(folder / "stage_2_train_labels.csv", rows[0] + "\na,2,3,4,5,0\na,1,1,0,2,1\na,9,9,9,9,1")
    with refused("malformed", "out_of_range") as caught:
        import_rsna(folder, tmp_path / "other" / "manifest.csv", canvas=16)
    assert [fault.kind for fault in caught.value.faults] == ["malformed", "malformed", "out_of_range"]


def test_object_cxr(tmp_path: Path) -> None:
    folder = tmp_path / "object"
    shapes = "0 1 2 4 5;1 8 8 14 12;2 0 10 4 10 0 14"
    rows = ["image_name,annotation", f"a.jpg,{shapes}", *(f"n{i}.jpg," for i in range(9))]
    table(folder / "train.csv", "\n".join(rows))
    table(folder / "dev.csv", "image_path,annotation\n/path/a.jpg,\n/path/z.jpg,0 0 0 20 2")
    for name in ("a", *(f"n{i}" for i in range(9))):
        picture(folder / "train" / f"{name}.jpg", (16, 20))
    picture(folder / "dev" / "a.jpg", (16, 20))
    picture(folder / "dev" / "z.jpg", (16, 20))
    result = import_object_cxr(folder, tmp_path / "out" / "manifest.csv")
    records = loaded(result.manifest)
    assert result.num_records == {"train": 8, "val": 2, "test": 2}
    expected = np.zeros((16, 20), bool)
    expected[2:5, 1:4] = True
    expected[8:12, 8:14] = [[0, 1, 1, 1, 1, 0], [1] * 6, [1] * 6, [0, 1, 1, 1, 1, 0]]
    expected[10, :3] = expected[11, :2] = expected[12, :1] = True
    assert (mask_of(records["train_a"]) == expected).all()
    corners = [(box.x0, box.y0, box.x1, box.y1) for box in records["train_a"].boxes]
    assert corners == [(1, 2, 4, 5), (8, 8, 14, 12), (0, 10, 4, 14)]
    assert records["dev_z"].split == "test" and records["dev_z"].labels == ("foreign_object",)
    assert records["dev_a"].boxes == () and records["dev_a"].image.parent.name == "dev"
    for wrong in ("0 4 2 1 5", "1 1 1 2", "2 0 0 1 1", "2 0 0 5 0 9 0", "3 0 0 1 1", "x"):
        with refused("malformed"):
            parse_shape(wrong)
    table(folder / "test.csv", "image_name,annotation\nz.jpg,0 0 0 2 2")
    picture(folder / "test" / "z.jpg", SIDES)
    assert import_object_cxr(folder, tmp_path / "two" / "m.csv").num_records["holdout"] == 1


NIH_HEAD = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
NIH_HEAD += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"


def nih_set(folder: Path) -> Path:
    """Sixty images of twenty patients; the last four patients are the test set."""
    rows = [NIH_HEAD]
    names = [f"{patient:08d}_{i:03d}.png" for patient in range(20) for i in range(3)]
    for i, name in enumerate(names):
        labels = ("No Finding", "Infiltration|Pleural_Thickening", "Hernia")[i % 3]
        rows.append(f"{name},{labels},{i % 3},{int(name[:8])},58,M,{'PA' if i % 2 else 'AP'},2682,2749,0.143,0.143,")
        picture(folder / f"images_{i % 2 + 1:03d}" / "images" / name, SIDES)
    table(folder / "Data_Entry_2017.csv", "\n".join(rows))
    (folder / "train_val_list.txt").write_text("\n".join(names[:48]))
    (folder / "test_list.txt").write_text("\n".join(names[48:]) + "\n")
    head = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    rows = [head, f"{names[1]},Infiltrate,1.5,2,3,4.25", f"{names[2]},Hernia,10,10,6,6.5,,,"]
    table(folder / "BBox_List_2017.csv", "\n".join(rows))
    return folder


def test_nih(tmp_path: Path) -> None:
    folder = nih_set(tmp_path / "nih")
    result = import_nih(folder, tmp_path / "out" / "manifest.csv", canvas=16)
    records = loaded(result.manifest)
    first = records["00000000_001"]
    assert first.labels == ("Infiltration", "Pleural_Thickening") and first.view == "PA" and first.patient == "0"
    assert first.boxes == (Box("Infiltration", 1.5, 2, 4.5, 6.25),)
    assert records["00000000_002"].boxes == (Box("Hernia", 10, 10, 16, 16),)  # half a pixel over the edge
    assert records["00000000_000"].labels == () and "labels_unknown" not in first.extra
    assert result.counts == {
        "images": 60, "patients": 20, "boxes_called_infiltrate": 1, "no_finding": 20, "boxes_cut_at_the_edge": 1,
        "boxes": 2,
    }  # fmt: skip
    # Whole patients of three images, no more than 8,652 of 86,524: 5 of 48.
    assert result.num_records == {"train": 45, "val": 3, "test": 12}
    assert {record.patient for record in records.values() if record.split == "test"} == {"16", "17", "18", "19"}
    assert len({record.patient for record in records.values() if record.split == "val"}) == 1


def test_nih_faults(tmp_path: Path) -> None:
    folder = nih_set(tmp_path / "nih")
    with (folder / "Data_Entry_2017.csv").open("a") as stream:
        stream.write("00000099_000.png,Fracture,0,99,1,M,PA,1,1,1,1,\n")
    with (folder / "test_list.txt").open("a") as stream:
        stream.write("00000000_000.png\n")
    (folder / "images_001" / "images" / "00000000_000.png").unlink()
    kinds = ("unknown", "leak", "mismatch", "missing_file")  # a label, in both lists, in none, not there
    with refused(*kinds, naming="2 of 61 images") as caught:
        import_nih(folder, tmp_path / "m.csv", canvas=16)
    assert [fault.kind for fault in caught.value.faults] == list(kinds)
    (folder / "test_list.txt").unlink()
    with refused("missing_file", naming="test_list.txt"):
        import_nih(folder, tmp_path / "m.csv", canvas=16)


def chexpert_set(folder: Path) -> Path:
    head = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
    states: dict[str, str] = dict.fromkeys(CHEXPERT, "")
    states |= {"No Finding": "0.0", "Cardiomegaly": "-1.0", "Lung Opacity": "1.0", "Edema": "-1.0", "Fracture": "-1.0"}
    for name, num in (("train", 40), ("valid", 3)):
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(head)
            for i in range(num):
                for view, side in (("Frontal", "AP"), ("Lateral", "")):
                    path = f"{name}/patient{i:05d}{'' if name == 'train' else '9'}/study1/view1_{view.lower()}.jpg"
                    writer.writerow([f"{folder.name}/{path}", "Female", "68", view, side, *states.values()])
                    picture(folder / path, SIDES)
    return folder


def test_chexpert(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "CheXpert-v1.0-small"
    folder.mkdir(parents=True)
    chexpert_set(folder)
    result = import_chexpert(folder.parent, tmp_path / "out" / "manifest.csv")
    records = loaded(result.manifest)
    assert result.num_records == {"train": 39, "val": 1, "test": 3}  # 5,000 of 191,027 is 1 of 40
    record = records["patient00000_study1_view1_frontal"]
    assert record.labels == ("Lung Opacity", "Edema") and record.extra["labels_unknown"] == "Fracture"
    assert (record.patient, record.study, record.view) == ("patient00000", "patient00000_study1", "AP")
    assert result.counts["lateral_left_out"] == 43 and result.counts["not_mentioned"] == 9 * 43
    assert result.counts["uncertain_taken_as_positive"] == result.counts["uncertain_taken_as_unknown"] == 43
    positive = import_chexpert(folder, tmp_path / "positive" / "m.csv", uncertain="positive")
    labels = loaded(positive.manifest)[record.id].labels
    assert labels == ("Cardiomegaly", "Lung Opacity", "Edema", "Fracture")
    unknown = import_chexpert(folder, tmp_path / "unknown" / "m.csv", uncertain="unknown", unmentioned="unknown")
    unsure = loaded(unknown.manifest)[record.id]
    assert unsure.labels == ("Lung Opacity",)
    assert set(unsure.extra["labels_unknown"].split("|")) == set(CHEXPERT) - {"Lung Opacity", "No Finding"}
    with refused("unknown", naming="--uncertain"):
        import_chexpert(folder, tmp_path / "m.csv", uncertain="maybe")  # type: ignore[arg-type]


def test_covidx(tmp_path: Path) -> None:
    folder = tmp_path / "covidx"
    lines = [f"{i // 2} image {i}.png {('normal', 'pneumonia', 'COVID-19')[i % 3]} cohen" for i in range(10)]
    table(folder / "train_COVIDx9A.txt", "\n".join(lines))
    table(folder / "test_COVIDx9A.txt", "0 image 0.png COVID-19 rsna\n1 image.jpg normal rsna")
    for i in range(10):
        picture(folder / "train" / f"image {i}.png", SIDES)
    picture(folder / "test" / "image 0.png", SIDES)
    picture(folder / "test" / "image.jpg", SIDES)
    result = import_covidx(folder, tmp_path / "out" / "manifest.csv")
    records = loaded(result.manifest)
    assert result.num_records == {"train": 8, "val": 2, "test": 2}
    # scikit-learn 1.9.1, train_test_split(list(range(10)), train_size=0.8, random_state=0)[1] == [2, 8]
    assert {record.id for record in records.values() if record.split == "val"} == {"train_image_2", "train_image_8"}
    assert records["train_image_4"].labels == ("pneumonia",) and records["train_image_4"].patient == "cohen-2"
    assert records["test_image_0"].extra["source"] == "rsna" and records["test_image_0"].patient == "rsna-0"
    assert result.counts["patients_in_two_splits"] == 2 and len(result.warnings) == 1
    table(folder / "test_COVIDx9A.txt", "0 image 0.png flu rsna\n1 a.jpg normal rsna\n1 a.jpg normal rsna\nx")
    with refused("malformed", "duplicate", "missing_file", naming="line 1, line 4"):
        import_covidx(folder, tmp_path / "two" / "m.csv")


def test_ms_cxr(tmp_path: Path) -> None:
    head = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height"
    first, second = "files/p10/p10000032/s50414267/d1.jpg", "files/p11/p11000001/s5/d2.jpg"
    rows = [
        f'd1,Pneumonia,"left lower, dense",{first},1,2,3,4,20,16',
        f'd1,Pneumonia,"left lower, dense",{first},10,2,2,2,20,16',
        f"d1,Edema,both bases,{first},0,8,20,8,20,16",
        f"d2,Edema,both bases,{second},0,0,16,1,16,16",
    ]
    folder = tmp_path / "ms"
    table(folder / "MS_CXR_Local_Alignment_v1.0.0.csv", "\n".join([head, *rows]))
    images = tmp_path / "mimic" / "files"
    picture(tmp_path / "mimic" / first, (16, 20))
    picture(tmp_path / "mimic" / second, SIDES)
    result = import_ms_cxr(folder, tmp_path / "out" / "manifest.csv", images=tmp_path / "mimic")
    records = loaded(result.manifest)
    assert result.num_records == {"train": 0, "val": 0, "test": 3} and result.counts["images"] == 2
    expected = np.zeros((16, 20), bool)
    expected[2:6, 1:4] = expected[2:4, 10:12] = True
    assert (mask_of(records["d1_1"]) == expected).all()
    assert records["d1_1"].text == "left lower, dense" and len(records["d1_1"].boxes) == 2
    assert records["d1_2"].labels == ("Edema",) and mask_of(records["d1_2"]).sum() == 160
    assert (records["d1_2"].patient, records["d1_2"].study) == ("p10000032", "s50414267")
    (folder / "MS_CXR_Local_Alignment_v1.0.0.csv").unlink()
    split = [f"{row},{name}" for row, name in zip(rows, ("train", "train", "train", "validate"), strict=True)]
    table(folder / "MS_CXR_Local_Alignment_v1.1.0.csv", "\n".join([head + ",split", *split]))
    result = import_ms_cxr(folder, tmp_path / "two" / "m.csv", images=images)
    assert result.num_records == {"train": 2, "val": 1, "test": 0}
    with refused("missing_file"):
        import_ms_cxr(folder, tmp_path / "three" / "m.csv")
    Image.new("L", (8, 8)).save(images / "p11" / "p11000001" / "s5" / "d2.jpg")
    with refused("mismatch"):
        import_ms_cxr(folder, tmp_path / "three" / "m.csv", images=images)


def number_of(layout: str, what: str) -> int:
    """How many files of a part the published set has."""
    (number,) = (part.num for part in get_layout(layout).parts if part.what == what)
    assert number is not None
    return number


def test_sets_of_the_published_size_are_split_as_the_published_table_counts() -> None:
    """G2D's table 6, train / val / test; on made-up names, the rules ask for no more. The tables: soak tests."""
    split = split_siim([f"1.2.{i}" for i in range(number_of("siim", "DICOM files"))])
    assert Counter(split.values()) == {"train": 8433, "val": 1807, "test": 1807}
    split = rsna.split_of([f"{i:x}" for i in range(number_of("rsna", "DICOM files"))])
    assert Counter(split.values()) == {"train": 16010, "val": 5337, "test": 5337}
    assert Counter(covidx.split_of(number_of("covidx", "train: images"))) == {"train": 23988, "val": 5998}
    assert number_of("covidx", "test: images") == 400
    names = [f"{i:05d}.jpg" for i in range(number_of("object-cxr", "train: images"))]
    assert len(names) == 6400 + 1600 and len(object_cxr.validation_of(names)) == 1600
    assert number_of("object-cxr", "dev: images") == 1000
    images = number_of("nih", "images")
    entries = {f"{i}.png": nih.Entry((), str(i // 3), "PA", i) for i in range(images)}  # patients of three images
    lists = {"train_val": set(list(entries)[:86524]), "test": set(list(entries)[86524:])}
    faults: list[Fault] = []
    split = nih.split_of(entries, lists, faults, Path("table"))
    assert not faults and Counter(split.values()) == {"train": 77872, "val": 8652, "test": 25596}
    frontal = [
        chexpert.Entry(f"train/patient{i // 3}/study1/view{i % 3}_frontal.jpg", (), (), "AP")
        for i in range(number_of("chexpert", "train: frontal images"))
    ]
    assert Counter(chexpert.split_of(frontal)) == {"train": 186027, "val": 5000}
    assert number_of("chexpert", "valid: frontal images") == 202


def test_every_uncertain_cell_of_chexpert_by_the_published_rule(tmp_path: Path) -> None:
    head = ",".join(["Path", "Frontal/Lateral", "AP/PA", *CHEXPERT])
    path = table(tmp_path / "train.csv", f"{head}\ns/train/p1/s1/v.jpg,Frontal,AP" + ",-1.0" * len(CHEXPERT))
    (entry,) = chexpert.read_entries(path, [], Counter(), uncertain="g2d", unmentioned="negative")
    positive = {"Atelectasis", "Edema", "Pleural Effusion"}
    assert set(entry.positive) == positive
    assert set(entry.unknown) == set(CHEXPERT) - positive - {"Cardiomegaly", "Consolidation"}  # these two are negative
