"""Reports as typed in a column of anybody's manifest, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

from faults import refused
from imported import data_import
from PIL import Image

from medvl.data.importers.reports import import_reports
from medvl.data.records import load_manifest, write_manifest

REPORTS = {
    "lines": "FINAL REPORT\nINDICATION: Cough.\nFINDINGS:\n1. Clear lungs, seen by Dr. ___.\nIMPRESSION: No change.",
    "joined": "INDICATION: Cough. FINDINGS: Large heart. IMPRESSION: Cardiomegaly, as before.",
    "small": "findings: the heart is large. impression: cardiomegaly is new.",
    "plain": "The lungs are clear.\n\nNo effusion.", "paragraph": "INDICATION: Cough.\n\nThe lungs are clear. Signed.",
    "short": "IMPRESSION: Normal.", "nothing": "FINDINGS: ___.", "none": "",
}  # fmt: skip
TEXTS = {
    "lines": "No change. Clear lungs, seen by Dr.", "joined": "Cardiomegaly, as before. Large heart.",
    "small": "cardiomegaly is new. the heart is large.", "plain": "The lungs are clear. No effusion.",
    "paragraph": "The lungs are clear.",
}  # fmt: skip


def manifest(folder: Path, column: str, **more: str) -> Path:
    folder.mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "x.png")
    rows = [
        {"id": name, "image": "x.png", column: text, "mask": "none", "split": "train", "age": "5", **more}
        for name, text in REPORTS.items()
    ]
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


def test_the_command_line(tmp_path: Path) -> None:
    source, out = manifest(tmp_path / "in", "report"), tmp_path / "out" / "clean.csv"
    done = data_import("reports", source, "--text-column", "report", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)["counts"]
    assert counts == {
        "rows_without_text": 3, "distinct_reports": 7, "with_sections": 5, "last_paragraph": 1, "whole": 1, "empty": 1,
        "too_short": 1, "cut": 0, "words_cut": 0, "sections_replaced": 0, "marks": 2, "list_numbers": 1, "headers": 0,
        "unknown_headings": 0, "several_examinations": 0, "addenda": 0, "signatures": 1, "markup": 0,
    }  # fmt: skip
    records = {record.id: record for record in load_manifest(out).records}
    assert {name: record.text for name, record in records.items()} == {name: TEXTS.get(name, "") for name in REPORTS}
    assert all(record.image.is_file() and record.extra["age"] == "5" for record in records.values())
    assert records["joined"].extra["text_findings"] == "Large heart."
    assert records["joined"].extra["text_impression"] == "Cardiomegaly, as before."
    assert records["lines"].extra["report"] == REPORTS["lines"] and records["plain"].masks["mask"] is not None


def test_columns_of_other_names(tmp_path: Path) -> None:
    source, out = manifest(tmp_path / "in", "report"), tmp_path / "out" / "clean.csv"
    source.write_text(source.read_text().replace("id,image,", "Case,Path,", 1))
    names = "data.columns={id: Case, image: Path, text: report}"
    done = data_import("reports", source, names, "--out", out)
    assert done.exit_code == 0, done.output
    records = {record.id: record.text for record in load_manifest(out).records}
    assert records == {name: TEXTS.get(name, "") for name in REPORTS}
    with refused("conflict"):
        raise data_import("siim", tmp_path, names, "--out", out).exception


def test_the_column_text_is_replaced_and_cut_behind_a_sentence(tmp_path: Path) -> None:
    source = manifest(tmp_path / "in", "text")
    result = import_reports(source.parent, tmp_path / "in" / "clean.csv", max_words=4)
    records = {record.id: record.text for record in load_manifest(result.manifest).records}
    assert records["joined"] == "Cardiomegaly, as before." and records["plain"] == "The lungs are clear."
    assert result.counts["cut"] == 4 and result.counts["words_cut"] == 5 + 2 + 4 + 2
    assert result.num_records == {"train": len(REPORTS)}


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    out = tmp_path / "clean.csv"
    taken = manifest(tmp_path / "taken", "report", text="my own text")
    with refused("exists", file=taken):
        import_reports(taken, out, text_column="report")
    with refused("missing_column", naming="nothing"):
        import_reports(taken, out, text_column="nothing")
    with refused("out_of_range", naming="--max-words"):
        import_reports(taken, out, max_words=0)
    with refused("empty", naming="age"):
        import_reports(manifest(tmp_path / "free", "report"), out, text_column="age")
    assert not out.exists()


def test_the_reports_as_typed_are_not_replaced(tmp_path: Path) -> None:
    source = manifest(tmp_path / "in", "text")
    before = source.read_bytes()
    link = tmp_path / "link.csv"
    link.symlink_to(source)
    for given, out in ((source, source), (source.parent, source), (source, link), (link, source)):
        with refused("exists"):
            import_reports(given, out)
        assert data_import("reports", given, "--out", out).exit_code != 0
    assert source.read_bytes() == before


def test_rows_that_lose_their_text_are_counted(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    texts = [""] * 10 + ["___"] * 20 + ["Clear."] * 8 + ["The lungs are clear.", "A small left effusion."]
    rows = [{"id": f"r{i}", "image": "x.png", "text": text, "split": "train"} for i, text in enumerate(texts)]
    write_manifest(tmp_path / "raw.csv", rows)
    done = data_import("reports", tmp_path / "raw.csv", "--out", tmp_path / "out.csv")
    assert done.exit_code == 0, done.output
    for line in ("train 40", "rows without text: 38", "distinct reports: 4", "empty: 1", "too short: 1"):
        assert line in done.stdout
    assert "38 of 40 rows have no text" in done.stderr
    kept = [record for record in load_manifest(tmp_path / "out.csv").records if record.text]
    assert [record.id for record in kept] == ["r38", "r39"]


def test_unknown_headings_and_several_examinations_are_said(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    names = ["BEVINDINGEN", "BEVINDINGEN", "VERSLAG", "REPERTO", "NALEZ", "LAUSUNTO", "POPIS"]
    texts = [f"{name}: de longen zijn schoon, nummer {i}." for i, name in enumerate(names)]
    texts += ["FINDINGS: ___.", "INDICATION: Cough.", "FINDINGS: Clear lungs, no effusion."]
    texts += ["EXAM: CHEST\nFINDINGS: Clear lungs.\nEXAM: KNEE\nFINDINGS: Arthrosis."]
    rows = [{"id": f"r{i}", "image": "x.png", "text": text, "patient": f"p{i}"} for i, text in enumerate(texts)]
    write_manifest(tmp_path / "raw.csv", rows)
    result = import_reports(tmp_path / "raw.csv", tmp_path / "out.csv")
    assert result.counts["unknown_headings"] == 7 and result.counts["empty"] == 9
    assert result.counts["several_examinations"] == 1
    unknown, several = result.warnings[0], result.warnings[1]
    assert "BEVINDINGEN (2)" in unknown and sum(name in unknown for name in set(names)) == 5
    assert "CHEST (1)" in several and "KNEE (1)" in several
