"""Records: every column, every format, every fault."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvl.core.errors import Fault, InputError
from medvl.data.box_table import Box
from medvl.data.record import MaskRef
from medvl.data.records import load_manifest, read_manifest, write_manifest
from medvl.data.tables import read_table, write_table

ROW = {"id": "a", "image": "a.png", "text": "right lung", "mask": "m.png", "patient": "p1", "split": "train"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png and b.png of 6x8 pixels, m.png of the same size, small.png of another."""
    for name in ("a", "b", "m"):
        Image.fromarray(np.full((6, 8), 7, np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(np.ones((3, 4), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    return tmp_path


def manifest(folder: Path, *rows: dict[str, str], name: str = "manifest.csv") -> Path:
    write_manifest(folder / name, rows)
    return folder / name


def faults(path: Path, **options: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_manifest(path, **options)  # type: ignore[arg-type]
    return [str(fault) for fault in caught.value.faults]


def test_every_column(folder: Path) -> None:
    row = ROW | {"mask_values": "1|3", "labels": "x| y", "study": "s", "view": "PA", "licence": "CC0", "kind": "zone"}
    record = load_manifest(manifest(folder, row | {"boxes": "big nodule 0 1 2.5 3|b 1 1 2 2"})).records[0]
    assert (record.id, record.image, record.text) == ("a", folder / "a.png", "right lung")
    assert record.masks == {"mask": MaskRef(folder / "m.png", (1, 3))}
    assert record.labels == ("x", "y")
    assert record.boxes == (Box("big nodule", 0, 1, 2.5, 3), Box("b", 1, 1, 2, 2))
    assert (record.study, record.view, record.licence, record.split) == ("s", "PA", "CC0", "train")
    assert record.extra == {"kind": "zone"} and record.line == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx", ".parquet"])
def test_formats_agree(folder: Path, suffix: str) -> None:
    rows = [ROW | {"mask_values": "2", "text": '=1+1, "x"\nline two', "n": "07"}, ROW | {"id": "b", "mask": "none"}]
    expected = load_manifest(manifest(folder, *rows))
    found = load_manifest(manifest(folder, *rows, name=f"manifest{suffix}"))
    assert [replace(row, line=0) for row in found.records] == [replace(row, line=0) for row in expected.records]
    assert found.content_hash() == expected.content_hash()


def test_spreadsheet_numbers_and_json_lists(folder: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["id", "image", "mask", "mask_values", "patient"])
    sheet.append([1.0, "a.png", "m.png", 2, 17])
    sheet.append([None] * 5)
    sheet.append([2, "b.png", None, None, 17])
    book.save(folder / "t.xlsx")
    one, two = load_manifest(folder / "t.xlsx").records
    assert (one.id, one.patient, one.line, two.id, two.line) == ("1", "17", 2, "2", 4)
    assert one.masks["mask"] == MaskRef(folder / "m.png", (2,)) and two.masks["mask"] is None
    (folder / "t.jsonl").write_text(
        '{"id": "a", "image": "a.png", "mask": "m.png", "mask_values": [1, 2], "patient": 5}\n'
    )
    record = load_manifest(folder / "t.jsonl").records[0]
    assert record.patient == "5" and record.masks["mask"] == MaskRef(folder / "m.png", (1, 2))


def test_not_annotated_is_not_absent(folder: Path) -> None:
    base = {"image": "a.png", "patient": "p", "mask_ggo": "", "mask_lung": "m.png"}
    path = manifest(folder, base | {"id": "a"}, base | {"id": "b", "mask_ggo": "none", "mask_lung": "None"})
    first, second = load_manifest(path).records
    assert first.masks == {"ggo": None, "lung": MaskRef(folder / "m.png")}
    assert second.masks == {"ggo": MaskRef(None), "lung": MaskRef(None)}
    assert load_manifest(path, empty_means_absent=["ggo"]).records[0].masks["ggo"] == MaskRef(None)
    assert load_manifest(path, classes=["lung"]).classes == ("lung",)
    assert load_manifest(path, classes=["lung"]).records[0].extra == {"mask_ggo": ""}
    assert "did you mean ggo?" in faults(path, classes=["gg0"])[0]
    assert "names no class: lungs" in faults(path, empty_means_absent=["lungs"])[0]


def test_label_map_classes(folder: Path) -> None:
    path = manifest(folder, ROW)
    masks = load_manifest(path, classes={"upper": [1, 4], "lower": [3]}).records[0].masks
    assert masks == {"upper": MaskRef(folder / "m.png", (1, 4)), "lower": MaskRef(folder / "m.png", (3,))}
    both = manifest(folder, ROW | {"mask_values": "1"})
    assert any("mask_values is not used" in text for text in load_manifest(both, classes={"x": [2]}).warnings)


def test_aliases_and_boxes_file(folder: Path) -> None:
    row = {
        "id": "a", "image": "a.png", "group": "g", "label": "x|y", "mask_kind": "a remark", "text_derived": "derived",
    }  # fmt: skip
    (folder / "boxes.csv").write_text("id,cls,x0,y0,x1,y1,source\na,ggo,0,0,8,6,me\ngone,ggo,0,0,1,1,me\n")
    found = load_manifest(manifest(folder, row), text_column="text_derived")
    record = found.records[0]
    assert (record.patient, record.labels, record.text) == ("g", ("x", "y"), "derived")
    assert record.boxes == (Box("ggo", 0, 0, 8, 6),) and found.classes == ()
    assert record.extra == {"mask_kind": "a remark"}
    assert any("1 ids that the manifest does not have" in text for text in found.warnings)


def test_all_faults_at_once(folder: Path) -> None:
    path = manifest(
        folder, ROW, ROW | {"split": "valid"}, ROW | {"id": "../x"},
        ROW | {"id": "c", "image": "gone.png", "text": ""}, ROW | {"id": "d", "image": "broken.png"},
        ROW | {"id": "e", "mask": "small.png"}, ROW | {"id": "f", "mask_values": "1|b"},
        ROW | {"id": "g", "image": "gone.png", "boxes": "x 4 4 1 1"}, ROW | {"id": "", "image": ""},
        ROW | {"id": "h", "boxes": "x 0 0 9 6", "mask_values": "0"},
    )  # fmt: skip
    found = {(fault.line, fault.record, str(fault.kind)) for fault in load_faults(path, need_text=True)}
    assert found == {
        (3, "a", "unknown"), (3, "a", "duplicate"), (4, "../x", "malformed"), (5, "c", "missing_file"),
        (5, "c", "missing"), (6, "d", "damaged"), (7, "e", "mismatch"), (8, "f", "malformed"), (9, "g", "malformed"),
        (10, None, "missing"), (11, "h", "out_of_range"), (11, "h", "malformed"),
    }  # fmt: skip
    kept, listed = read_manifest(path, need_text=True)
    assert len(listed) == 13 and len(kept.records) == 9


def test_header_faults(folder: Path) -> None:
    found = load_faults(manifest(folder, {"id": "a", "imagee": "a.png", "pateint": "p", "spilt": "train"}))
    for kind, remedy in (("missing_column", "imagee"), ("unknown_key", "patient"), ("unknown_key", "split")):
        assert any(fault.kind == kind and f"did you mean {remedy}?" in (fault.remedy or "") for fault in found)
    path = manifest(folder, {k: v for k, v in ROW.items() if k != "text"} | {"text_derived": "x"})
    with refused("missing_column", line=1, naming="did you mean text_derived?"):
        load_manifest(path, text_column="text_drived")
    with refused("missing_column", "missing", line=1):
        load_manifest(path, need_text=True)
    (folder / "x.csv").write_text("id,image\n")
    with refused("empty", file=folder / "x.csv"):
        load_manifest(folder / "x.csv")


def test_unreadable_tables(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.txt"):
        (tmp_path / name).write_bytes(b"neither")
        with pytest.raises(InputError):
            load_manifest(tmp_path / name)
    with refused("missing_file"):
        load_manifest(tmp_path / "gone.csv")


def test_lines_survive_line_breaks(folder: Path) -> None:
    path = manifest(folder, ROW | {"text": "one\ntwo"}, ROW | {"id": "b"}, ROW | {"id": "b"})
    assert [record.line for record in read_manifest(path)[0].records] == [2, 4, 5]
    assert ":5 [b]" in faults(path)[0]


def test_no_patient_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "a", "image": "a.png"}
    found = load_manifest(manifest(folder, row, row | {"id": "b"}))
    assert [record.patient for record in found.records] == ["a", "b"]
    assert "no column patient" in found.warnings[0] and "no column patient" in capsys.readouterr().err
    found = load_manifest(manifest(folder, row | {"patient": "p"}, row | {"id": "b"}, name="n.csv"))
    assert "1 rows without a patient" in found.warnings[0]


def test_files_are_checked_only_when_asked(folder: Path) -> None:
    path = manifest(folder, ROW | {"image": "gone.png"})
    assert load_manifest(path, check_files=False).records[0].image == folder / "gone.png"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)
    Image.fromarray(pixels).save(folder / "noise.jpg")
    (folder / "cut.jpg").write_bytes((folder / "noise.jpg").read_bytes()[:2000])  # a whole header, part of the pixels
    cut = manifest(folder, ROW | {"image": "cut.jpg", "mask": ""}, name="cut.csv")
    assert load_manifest(cut).records
    assert "cannot be read" in faults(cut, check_files="full")[0]


def test_split_and_hashes(folder: Path) -> None:
    rows = [ROW, ROW | {"id": "b", "split": "val", "patient": "p2"}, ROW | {"id": "c", "split": "", "mask": "none"}]
    found = load_manifest(manifest(folder, *rows))
    assert [record.id for record in found.split("val")] == ["b"]
    with refused("unknown", naming=f"medvl data split {found.path} --out"):
        found.split("test")
    (folder / "moved").mkdir()
    for name in ("a.png", "m.png"):
        shutil.copy(folder / name, folder / "moved" / name)
    moved = load_manifest(manifest(folder / "moved", *reversed(rows), name="other.csv"))
    assert moved.content_hash() == found.content_hash() and moved.split_hash() == found.split_hash()
    changed = load_manifest(manifest(folder, *[row | {"text": "left lung"} for row in rows]))
    assert changed.content_hash() != found.content_hash() and changed.split_hash() == found.split_hash()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "moved" / "a.png")
    assert moved.content_hash() != found.content_hash()
    assert load_manifest(manifest(folder, *rows[:2])).split_hash() != found.split_hash()


cell = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12).map(str.strip)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".xlsx", ".parquet"])
@settings(max_examples=15, deadline=None)
@given(cells=st.lists(st.tuples(cell, cell | st.just("a\u2028b")), min_size=1, max_size=4))
def test_tables_round_trip(tmp_path_factory: pytest.TempPathFactory, suffix: str, cells: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("t") / f"t{suffix}"
    rows = [{"id": f"r{i}", "one": one, "two": two} for i, (one, two) in enumerate(cells)]
    write_table(path, rows)
    table = read_table(path)
    assert [row for _, row in table.rows] == rows and table.columns == ("id", "one", "two") and not table.faults
    assert [name.name for name in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "t.xlsx"
    write_table(target, [{"a": "1"}])
    before = target.read_bytes()
    with refused("malformed"):
        write_table(target, [{"a": "ok"}, {"a": "\x00"}])
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]
    with refused("unknown"):
        write_table(target, [{"b": "1"}], ["a"])
    with refused("unsupported"):
        write_table(tmp_path / "t.txt", [{"b": "1"}])


def test_each_file_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 rows over 550 files: the work is that of the rows, not of opening each file 40 times."""
    from medvl.data import file_checks

    data = (folder / "a.png").read_bytes()
    for i in range(550):
        (folder / f"i{i}.png").write_bytes(data)
    rows = (
        {"id": f"r{i}", "image": f"i{i % 550}.png", "mask": f"i{i % 550}.png", "patient": "p"} for i in range(20000)
    )
    path = manifest(folder, *rows)
    opened: list[Path] = []
    real = file_checks.image_size
    monkeypatch.setattr(file_checks, "image_size", lambda path: opened.append(path) or real(path))
    assert len(load_manifest(path).records) == 20000
    assert len(opened) == 550 and len(set(opened)) == 550


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "num", "column"),
    [
        ("cxr-lung-paed", 547, "text"), ("hannover-cxr", 193, "text"), ("nih64", 728, "text"),
        ("cxr-notes", 218, "text_imaging"), ("cxr-lesion", 35, "text_derived"), ("monuseg-lvit", 36, "text"),
        ("btxrd-lvit", 779, "text_derived"),
    ],
)  # fmt: skip
def test_shared_sets(shared_data: Path, name: str, num: int, column: str) -> None:
    found = load_manifest(shared_data / name / "manifest.csv", text_column=column)
    assert len(found.records) == num and found.classes == ("mask",)
    with (shared_data / name / "manifest.csv").open(newline="") as stream:
        for record, row in zip(found.records, csv.DictReader(stream), strict=True):
            assert record.id == row["id"] and record.text == row[column]
            assert (record.masks["mask"] is not None) == bool(row["mask"])


@pytest.mark.shared
def test_shared_lesions(shared_data: Path) -> None:
    names = ["ggo", "consolidation", "left_lung"]
    path = shared_data / "cxr-lesion" / "manifest.csv"
    found = load_manifest(path, classes=names, empty_means_absent=["ggo", "consolidation"])
    assert all(record.masks["ggo"] is not None for record in found.records)
    assert any(record.masks["left_lung"] is None for record in found.records)
    assert sum(len(record.boxes) for record in found.records) > 35


def test_columns_of_masks_are_named_where_a_class_has_none(folder: Path) -> None:
    path = manifest(folder, ROW)
    with refused("missing_column", naming="did you mean mask?"):
        load_manifest(path, classes=["lesion"])
    row = {**{key: cell for key, cell in ROW.items() if key != "mask"}, "mask_left_lung": "m.png"}
    with refused("missing_column", naming="mask_left_lung") as caught:
        load_manifest(manifest(folder, row), classes={"lung": [1]})
    assert "data.classes=null" in str(caught.value)


def load_faults(path: Path, **options: object) -> list[Fault]:
    with pytest.raises(InputError) as caught:
        load_manifest(path, **options)  # type: ignore[arg-type]
    return list(caught.value.faults)


def test_constant_text(tiny_manifest: Path) -> None:
    bare = load_manifest(tiny_manifest, text_column="text")
    assert all(r.text for r in bare.records)
    path = tiny_manifest.parent / "bare.csv"
    path.write_text(tiny_manifest.read_text().replace("the left lung", ""))
    texts = {r.text for r in load_manifest(path, constant_text="both lungs").records}
    assert texts == {"both lungs", "the right lung"}
