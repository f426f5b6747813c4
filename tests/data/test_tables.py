"""Tables as people and programs make them: read right, or one fault with the cause. Oracle: what was written."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from faults import refused
from PIL import Image
from typer.testing import CliRunner

from medvl.cli import app
from medvl.core.csv_cells import is_formula, mark_formulas
from medvl.core.errors import InputError
from medvl.data.audit.audit import audit_manifest
from medvl.data.cells import is_missing
from medvl.data.record import Manifest
from medvl.data.records import load_manifest, moved_rows, read_manifest, write_manifest
from medvl.data.spreadsheets import formatted
from medvl.data.tables import read_table, write_table

HEADER = ["id", "image", "text", "patient"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """images/001.png to 003.png."""
    (tmp_path / "images").mkdir()
    for name in ("001", "002", "003"):
        Image.new("L", (8, 6), 7).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def sheet_of(path: Path, fill: Callable[[Any], None]) -> Path:
    book = openpyxl.Workbook()
    fill(book.active)
    book.save(path)
    return path


def changed(path: Path, old: str, new: str) -> Path:
    """The sheet's XML with one piece replaced, as another program or a damaged disk would leave it."""
    with zipfile.ZipFile(path) as archive:
        parts = {item.filename: archive.read(item) for item in archive.infolist()}
    name = "xl/worksheets/sheet1.xml"
    assert old.encode() in parts[name]
    parts[name] = parts[name].replace(old.encode(), new.encode())
    with zipfile.ZipFile(path, "w") as archive:
        for part, data in parts.items():
            archive.writestr(part, data)
    return path


def rows(path: Path) -> list[list[str]]:
    return [list(row.values()) for _, row in read_table(path, ("id", "image")).rows]


def csv_manifest(folder: Path, text: str | bytes, name: str = "m.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize(
    "word",
    "nan NaN None N/A n/a NA NULL null - <NA> \u200b — na NIL n.a. (null) \\N #REF! #DIV/0! . ? '' []".split(" "),
)
def test_words_for_nothing_are_no_text_no_label_no_patient(folder: Path, word: str) -> None:
    path = folder / "m.jsonl"
    row = {"id": "a", "image": "images/001.png", "text": word, "labels": f"x|{word}", "patient": word}
    write_table(path, [row, row | {"id": "b", "labels": word}])
    manifest = load_manifest(path)
    assert [(row.text, row.labels, row.labels_absent, row.patient) for row in manifest.records] == [
        ("", ("x",), False, "a"),
        ("", (), False, "b"),
    ]
    for column in ("text", "labels", "patient"):
        assert len([text for text in manifest.warnings if f"column {column}: 2 cells" in text]) == 1
    assert len(manifest.warnings) == 4  # one a column, and that no patient is known


@pytest.mark.parametrize(
    "word", ["NA12", "nana", "none seen", "+", "nat", "1", "左", "Null-point", "-1", "N/A?", "none-1"]
)
def test_real_values_stay(word: str) -> None:
    assert not is_missing(word)


def test_none_of_a_mask_is_absence_and_nan_is_not_annotated(folder: Path) -> None:
    text = "id,image,mask,labels\na,images/001.png,none,none\nb,images/001.png,nan,nan\nc,images/001.png,None,x\n"
    manifest = load_manifest(csv_manifest(folder, text))
    masks = [record.masks["mask"] for record in manifest.records]
    assert masks[0] is not None and masks[0].path is None and masks[1] is None
    assert [record.labels_absent for record in manifest.records] == [True, False, False]
    assert any("'None'" in text and "mask" in text for text in manifest.warnings)
    assert not any("0 cells" in text for text in manifest.warnings)
    manifest = load_manifest(csv_manifest(folder, "id,image,mask\na,images/001.png,none\n"))
    assert not any("cells" in text for text in manifest.warnings)


@pytest.mark.parametrize(
    "data",
    [
        b"id,image,text\na,images/001.png,left lung\n",
        b"\xef\xbb\xbfid,image,text\r\na,images/001.png,left lung\r\n",
        b"id;image;text\na;images/001.png;left lung\n",
        b"sep=;\r\nid;image;text\r\na;images/001.png;left lung\r\n",
        b"id\timage\ttext\na\timages/001.png\tleft lung\n",
        "id\timage\ttext\na\timages/001.png\tleft lung\n".encode("utf-16"),
        b"id,image,text,,\na,images/001.png,left lung,,\n,,,,\n\n",
        b"\n,,\nid,image,text\n\na,images/001.png,left lung\n",
        b"Our films, 2024\n\nid,image,text\na,images/001.png,left lung\n",
        b'"id","image","text"\n"a","images/001.png","left lung"\n',
        b",id,image,text\n0,a,images/001.png,left lung\n",
        b"id, image ,text\n a , images/001.png, left lung \n",
    ],
)
def test_csv_of_any_program(folder: Path, data: bytes) -> None:
    (record,) = load_manifest(csv_manifest(folder, data)).records
    assert (record.id, record.image, record.text) == ("a", folder / "images" / "001.png", "left lung")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("id,image\né,a.png\n".encode("latin-1"), "damaged"), ("id,image\na,a.png\n".encode("utf-16-le"), "damaged"),
        (b"id,image,id\na,a.png,b\n", "duplicate"), (b'id,image,text\na,a.png,"open\nb,b.png,x\n', "damaged"),
        (b"id,image,text\na,a.png\n", "malformed"), (b"id,image\na,a.png,x\n", "malformed"),
        (b"id,image\na\x00,a.png\n", "malformed"), (b"ID,Image\na,a.png\n", "missing_column"), (b"", "missing_column"),
    ],
)  # fmt: skip
def test_csv_that_cannot_be_read(folder: Path, data: bytes, kind: str) -> None:
    with refused(kind, file=folder / "m.csv"):
        load_manifest(csv_manifest(folder, data), check_files=False)


def test_jsonl(folder: Path) -> None:
    good = '{"id": "a", "image": "images/001.png", "text": null, "n": NaN}\n'
    path = csv_manifest(folder, good, "m.jsonl")
    assert load_manifest(path).records[0].text == ""
    lines = ('{"id": 1' + "1" * 5000 + "}", '{"id": "a\\ud800"}', "[" * 5000, '{"id": "b", "id": "c"}')
    for line in (*lines, '{"id": {"a": 1}}', "{", "[1]"):
        _, faults = read_manifest(csv_manifest(folder, good + line + "\n", "m.jsonl"))
        assert [(fault.line, len(str(fault)) < 500) for fault in faults] == [(2, True)]
    with refused("malformed"):
        load_manifest(csv_manifest(folder, '[\n{"id": "a"}\n]', "m.jsonl"))


@pytest.mark.parametrize(
    ("value", "number_format", "shown"),
    [
        (1, "000", "001"), (1234, "000", "1234"), (7, '"P"000', "P007"), (7, "\\P000", "P007"),
        (123456789, "000-00-0000", "123-45-6789"), (7, "General", "7"), (7, "0", "7"), (7, "0.00", "7"),
        (1234567, "#,##0", "1234567"), (7, "@", "7"), (7, "000;-000", "007"), (-7, "000", "-7"), (0, "00", "00"),
        (7, '00" mm"', "07 mm"), (7, "#", "7"), (7, "0%", "7"),
        (7, "0_);(0)", "7"), (7, "000_)", "007"), (7, "[Red]000", "007"), (7, '"P_"000', "P_007"), (5, "_-* 0_-", "5"),
    ],
)  # fmt: skip
def test_whole_numbers_as_a_spreadsheet_shows_them(value: int, number_format: str, shown: str) -> None:
    assert formatted(value, number_format) == shown


def test_leading_zeros_of_number_formats(folder: Path) -> None:
    def fill(sheet: Any) -> None:
        sheet.append(HEADER)
        for number in (1, 2):
            sheet.append([number, f"images/00{number}.png", "left", number])
            sheet.cell(sheet.max_row, 1).number_format = "000"
            sheet.cell(sheet.max_row, 4).number_format = '"P"0000'

    manifest = load_manifest(sheet_of(folder / "m.xlsx", fill))
    assert [(row.id, row.patient) for row in manifest.records] == [("001", "P0001"), ("002", "P0002")]


def test_merged_cells_hold_their_value_and_it_is_told(folder: Path) -> None:
    def fill(sheet: Any) -> None:
        sheet.append(HEADER)
        for number, patient in ((1, "p1"), (2, None), (3, "p3")):
            sheet.append([f"i{number}", f"images/00{number}.png", "left" if number == 1 else None, patient])
        sheet.merge_cells("D2:D3")

    path = sheet_of(folder / "m.xlsx", fill)
    assert rows(path)[1] == ["i2", "images/002.png", "", "p1"]
    assert any("merged" in note and "patient 1" in note for note in read_table(path, ("id",)).notes)
    assert [row.patient for row in load_manifest(path).records] == ["p1", "p1", "p3"]


def test_the_sheet_with_the_header_is_read(folder: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Cover"
    book.active.append(["Our study", "2024"])
    for name in ("data", "copy"):
        sheet = book.create_sheet(name)
        sheet.append(["a title over it"])
        sheet.append(HEADER)
        sheet.append(["a", "images/001.png", name, "p"])
    book.save(folder / "two.xlsx")
    with refused("ambiguous"):
        load_manifest(folder / "two.xlsx")
    book["copy"].sheet_state = "hidden"
    book.save(folder / "hidden.xlsx")
    manifest = load_manifest(folder / "hidden.xlsx")
    assert manifest.records[0].text == "data" and any("sheet data is read" in text for text in manifest.warnings)


def test_no_sheet_with_the_header_and_escaped_line_breaks(folder: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Our study"])
    book.create_sheet("data").append(["ident", "image", "text"])
    book.save(folder / "none.xlsx")
    with refused("missing_column"):
        load_manifest(folder / "none.xlsx")
    write_table(folder / "m.xlsx", [{"id": "a", "image": "images/001.png", "text": "one_x000D__x000A_two"}])
    assert load_manifest(folder / "m.xlsx").records[0].text == "one\ntwo"


@pytest.mark.parametrize("dimension", ["A1", "A1:B2", "A1:D2", "A1:XFD1048576"])
def test_a_stored_dimension_is_no_limit(folder: Path, dimension: str) -> None:
    def fill(sheet: Any) -> None:
        sheet.append(HEADER)
        for number in range(3):
            sheet.append([f"a{number}", "images/001.png", "left", f"p{number}"])

    path = sheet_of(folder / "m.xlsx", fill)
    assert len(rows(path)) == 3
    changed(path, 'ref="A1:D4"', f'ref="{dimension}"')
    assert rows(path) == [[f"a{number}", "images/001.png", "left", f"p{number}"] for number in range(3)]


def test_formulas(folder: Path) -> None:
    def fill(sheet: Any) -> None:
        sheet.append(HEADER)
        sheet.append(["a", '="images/"&"001.png"', "left", "p"])

    path = sheet_of(folder / "m.xlsx", fill)
    with refused("empty") as caught:
        load_manifest(path)
    assert len(caught.value.faults) == 1 and "never computed" in str(caught.value) and caught.value.faults[0].remedy
    empty = '<f>"images/"&amp;"001.png"</f><v />'
    changed(path, empty, empty.replace("<v />", "<v>0</v>"))
    with refused("empty"):
        load_manifest(path)
    changed(
        path, '<c r="B2"><f>"images/"&amp;"001.png"</f><v>0</v>', '<c r="B2" t="str"><f>A1</f><v>images/001.png</v>'
    )
    assert load_manifest(path).records[0].text == "left"
    assert sheet_of(path, lambda sheet: (sheet.append(HEADER), sheet.append(["a", "images/001.png", "= no change", 1])))
    assert load_manifest(path).records[0].text == "= no change"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('r="B2"', 'r="ZZZZZ2"'),
        ("</sheetData>", ""),
        ("<worksheet", '<!DOCTYPE l [<!ENTITY a "aa">]><worksheet'),
        ("</sheetData>", '<row r="60000"><c r="XFD60000" t="inlineStr"><is><t>x</t></is></c></row></sheetData>'),
        ('<c r="C2" t="inlineStr"><is><t>left</t></is>', '<c r="C2" t="e"><v>#REF!</v>'),
        ('<c r="C2" t="inlineStr"><is><t>left</t></is>', '<c r="C2" t="s"><v>999</v>'),
        ('<c r="C2" t="inlineStr"><is><t>left</t></is>', '<c r="C2" t="n"><v>abc</v>'),
    ],
)
def test_a_damaged_sheet_is_one_error(folder: Path, old: str, new: str) -> None:
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(HEADER)
    sheet.append(["a", "images/001.png", "left", "p"])
    book.save(folder / "m.xlsx")
    text = zipfile.ZipFile(folder / "m.xlsx").read("xl/worksheets/sheet1.xml").decode()
    with pytest.raises(InputError) as caught:
        load_manifest(changed(folder / "m.xlsx", old if old in text else old.replace("inlineStr", "s"), new))
    assert len(caught.value.faults) == 1


def test_other_files_called_xlsx(folder: Path) -> None:
    for data in (b"", b"id,image\n", b"\xd0\xcf\x11\xe0" + b"0" * 600, b"PK\x03\x04" + b"0" * 100):
        with pytest.raises(InputError):
            load_manifest(csv_manifest(folder, data, "m.XLSX"))


def test_backslashes_capitals_and_absolute_paths(folder: Path) -> None:
    text = "id,image,mask\na,images\\001.png,none\nb,Images/002.PNG,none\nc,images/003.png,images\\003.png\n"
    manifest = load_manifest(csv_manifest(folder, text))
    assert [record.image for record in manifest.records] == [folder / f"images/00{i}.png" for i in (1, 2, 3)]
    assert any("2 paths are written with" in text for text in manifest.warnings)
    (folder / "out").mkdir()
    _, moved = moved_rows(manifest, folder / "out" / "m.csv")
    assert [row["image"] for row in moved] == [f"../images/00{i}.png" for i in (1, 2, 3)]
    text = "id,image\na,C:\\films\\images\\001.png\nb,\\\\server\\x\\002.png\nc,file:///D:/films/003.png\n"
    with refused("malformed") as caught:
        load_manifest(csv_manifest(folder, text))
    (fault,) = caught.value.faults
    assert "3 paths" in fault.what and fault.remedy is not None and "images/001.png" in fault.remedy


def test_a_path_that_no_system_allows(folder: Path) -> None:
    for name in ("a" * 300 + ".png", "a/" * 3000 + "x.png"):
        with refused("out_of_range") as caught:
            load_manifest(csv_manifest(folder, f"id,image,mask\na,{name},{name}\nb,images/001.png,none\n"))
        assert len(caught.value.faults) == 1 and len(str(caught.value)) < 400


def test_two_files_of_the_same_letters_are_not_chosen_between(folder: Path) -> None:
    Image.new("L", (8, 6), 9).save(folder / "images" / "A.png")
    (folder / "images" / "a.png").write_bytes((folder / "images" / "A.png").read_bytes())
    if len(list((folder / "images").iterdir())) == 4:
        pytest.skip("a file system without capitals")
    with refused("missing_file"):
        load_manifest(csv_manifest(folder, "id,image\na,images/A.PNG\n"))


def boxes_of(folder: Path, ids: str, boxes: str) -> Manifest:
    text = "id,image\n" + "".join(f"{name},images/001.png\n" for name in ids.split())
    lines = "".join(f"{name},lung,0,0,4,4\n" for name in boxes.split())
    csv_manifest(folder, "id,cls,x0,y0,x1,y1\n" + lines, "boxes.csv")
    return load_manifest(csv_manifest(folder, text))


def test_lost_zeros_of_boxes(folder: Path) -> None:
    assert [len(row.boxes) for row in boxes_of(folder, "1 2 3", "001 002 002").records] == [1, 2, 0]
    assert [len(row.boxes) for row in boxes_of(folder, "001 002", "1 2.0").records] == [1, 1]
    assert [len(row.boxes) for row in boxes_of(folder, "a b", "a gone").records] == [1, 0]
    for ids, boxes in (("1 01", "001"), ("1", "01 001"), ("a b", "c d"), ("1", "1 001")):
        with pytest.raises(InputError):
            boxes_of(folder, ids, boxes)


def test_marked_formulas_are_read_as_they_were(tmp_path: Path) -> None:
    cells = ["=1+1", "+cmd", "-left", "@x", "\tx", "-5", "+3.2e-1", "'=1", "''=1", "plain", "1-2", "-", "'quoted'"]
    columns = [f"c{i}" for i in range(len(cells))]
    try:
        for marks in (False, True):
            mark_formulas(marks)
            write_manifest(tmp_path / "m.csv", [dict(zip(columns, cells, strict=True))])
            (row,) = [row for _, row in read_table(tmp_path / "m.csv").rows]
            assert list(row.values()) == [cell.strip() for cell in cells]
    finally:
        mark_formulas(False)
    written = (tmp_path / "m.csv").read_text().splitlines()[1].split(",")
    assert written[:4] == ["'=1+1", "'+cmd", "'-left", "'@x"] and written[5:7] == ["-5", "+3.2e-1"]
    assert [is_formula(cell) for cell in ("=1", "-1.5", "-a", "1", "+.5", "")] == [
        True, False, True, False, False, False,
    ]  # fmt: skip


def test_excel_safe_of_split_and_the_warning_of_audit(folder: Path) -> None:
    text = "id,image,text,patient,note\n" + "".join(f"a{i},images/00{i}.png,=2+2,p{i},-{i}\n" for i in (1, 2, 3))
    source, out = csv_manifest(folder, text), folder / "s.csv"
    for words, cell in ((["--excel-safe"], "'=2+2"), ([], "=2+2")):
        command = ["data", "split", str(source), "--out", str(out), "--fractions", "0.7,0.3", *words]
        assert CliRunner().invoke(app, command).exit_code == 0
        assert f",{cell}," in out.read_text() and ",-1," in out.read_text()
        assert {record.text for record in load_manifest(out).records} == {"=2+2"}
    kinds = {finding.kind: finding.ids for finding in audit_manifest(source).findings}
    assert kinds["formula_cell"] == ("a1", "a2", "a3")
