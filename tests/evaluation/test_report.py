from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from faults import refused

from medvl.config import DataConfig
from medvl.data.record import Manifest
from medvl.data.records import load_manifest
from medvl.evaluation.case_metrics import CaseRow
from medvl.evaluation.model_inputs import Inputs, is_model, open_inputs, parse_overrides
from medvl.evaluation.prediction_sources import PredictorSource
from medvl.evaluation.report.figures import contour_path, curves_svg, image_data_uri, read_curves
from medvl.evaluation.report.page import make_report
from medvl.tasks.segment import report as report_module
from medvl.tasks.segment.kinds import group_columns
from medvl.tasks.segment.report import pick_cases

from .conftest import FakePredictor, lung, write_rows

VOID = {
    "meta", "br", "img", "input", "link", "hr", "path", "image", "use", "line", "circle", "rect", "stop", "polyline",
}  # fmt: skip


class Page(HTMLParser):
    """Tags in balance, and everything that would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def whole_page(path: Path) -> tuple[str, Page, str]:
    """The page as its file, as tags and as its words. It fetches nothing, and each reference has its one target."""
    text = path.read_text()
    page = Page(text)
    assert page.open == [] and not page.tags & {"script", "link", "iframe"}
    assert all(url.startswith(("data:image/", "#")) for url in page.fetched)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    return text, page, " ".join(" ".join(page.text).split())


@pytest.fixture
def run(phrases: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, FakePredictor]:
    """A run folder whose model is a fake that obeys its text."""
    run = tmp_path / "run"
    model = run / "model"
    model.mkdir(parents=True)
    (model / "format_version").write_text("medvl-model/1\n")
    (model / "card.json").write_text("{}")
    (run / "config.yaml").write_text("{}")
    lines = [
        {"step": 1, "epoch": 0.5, "kind": "train", "loss": 0.7, "lr": 1e-3},
        {"step": 2, "epoch": 1, "kind": "val", "loss": 0.6, "dice_per_image": 0.5, "more": [1]},
        {"step": 4, "epoch": 2, "kind": "val", "loss": 0.4, "dice_per_image": 0.8},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "ki')
    predictor = FakePredictor()

    def open_fake(target: object, overrides: object, *, device: str) -> Inputs:
        source = PredictorSource(predictor, str(target), {"model_hash": "ab" * 32})  # type: ignore[arg-type]
        return Inputs(source, DataConfig(laterality="patient"), model, phrases.path)

    monkeypatch.setattr(report_module, "open_inputs", open_fake)
    return run, predictor


def test_the_page_is_whole_and_fetches_nothing(run: tuple[Path, FakePredictor]) -> None:
    path, summary = make_report(run[0])
    assert path == run[0] / "report" / "val" / "report.html"
    text, page, words = whole_page(path)
    assert page.fetched and len(text) < 5_000_000
    assert "fake <lvit>" in words and "fake &lt;lvit&gt;" in text
    for expected in ("not a medical device", "Dice per image", "Dice pooled", "Dice, MGCA", "Dice, positives",
                     "By kind", "left and right swapped", "contains report text"):  # fmt: skip
        assert expected in words, expected
    assert "changes side in 100.0 % of 8 cases" in words
    assert summary["metrics"]["dice_per_image"]["mean"] == 1.0
    # The loss curve and the best validation Dice are drawn.
    assert "Validation Dice per image" in words and "0.800" in words


def test_no_text_leaves_every_text_out(run: tuple[Path, FakePredictor]) -> None:
    assert "right lung" in make_report(run[0])[0].read_text()
    text = make_report(run[0], include_text=False)[0].read_text()
    for phrase in ("right lung", "left lung", "both lungs"):
        assert phrase not in text
    assert "report text was left out" in text


def test_results_are_used_again_until_something_changes(run: tuple[Path, FakePredictor]) -> None:
    folder, predictor = run
    make_report(folder)
    first = (folder / "report" / "val" / "summary.json").stat().st_mtime_ns
    asked = len(predictor.asked)
    make_report(folder)
    assert (folder / "report" / "val" / "summary.json").stat().st_mtime_ns == first
    assert len(predictor.asked) - asked < asked / 2  # only the pictures
    make_report(folder, threshold=0.4)
    assert (folder / "report" / "val" / "summary.json").stat().st_mtime_ns != first


def test_test_is_opened_only_when_asked_and_logged_once(run: tuple[Path, FakePredictor]) -> None:
    log = run[0] / "test_log.jsonl"
    make_report(run[0])
    assert not log.exists()
    make_report(run[0], split="test")
    make_report(run[0], split="test")
    assert len(log.read_text().splitlines()) == 1
    assert "1 time(s)" in (run[0] / "report" / "test" / "report.html").read_text()


def test_a_model_without_text_has_no_probe(run: tuple[Path, FakePredictor]) -> None:
    run[1].uses_text = False
    text = make_report(run[0])[0].read_text()
    assert "This model takes no text." in text
    assert not (run[0] / "report" / "val" / "probe.json").exists()


def test_texts_are_escaped(phrases: Manifest, run: tuple[Path, FakePredictor], tmp_path: Path) -> None:
    evil = "<script>alert('right lung')</script>"
    rows = [
        {
            "id": f"e{i}", "image": f"film{i}.png", "mask": f"masks/film{i}_right.png", "text": evil,
            "patient": f"p{i}", "split": "val",
        }
        for i in range(3)
    ]  # fmt: skip
    path = write_rows(phrases.path.with_name("evil.csv"), rows)
    text = make_report(run[0], path)[0].read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_cases_are_the_best_median_and_worst_whatever_their_patients() -> None:
    rows = [case(f"r{i}", f"p{i % 3}", dice=i / 40) for i in range(41)]
    groups = dict(pick_cases(rows[::-1]))
    assert [row.dice for row in groups["Worst"]] == [0.0, 1 / 40, 2 / 40]
    assert [row.dice for row in groups["Median"]] == [20 / 40, 19 / 40, 21 / 40]
    assert [row.dice for row in groups["Best"]] == [1.0, 39 / 40, 38 / 40]
    # Nine cases of five patients: every one is shown, at its place.
    nine = dict(pick_cases([case(f"r{i}", f"p{i // 2}", dice=i / 10) for i in range(9)]))
    assert {name: sorted(row.id for row in found) for name, found in nine.items()} == {
        "Worst": ["r0", "r1", "r2"], "Median": ["r3", "r4", "r5"], "Best": ["r6", "r7", "r8"]
    }  # fmt: skip
    five = dict(pick_cases([case(f"r{i}", "p", dice=i / 10) for i in range(5)]))
    assert [[row.id for row in five[name]] for name in ("Worst", "Median", "Best")] == [["r0"], ["r2"], ["r4"]]
    two = dict(pick_cases(rows[:2]))
    assert [row.id for row in two["Worst"]] == ["r0"] and [row.id for row in two["Best"]] == ["r1"]
    # A correct "nothing there" is no best case worth showing.
    empty = [case("none", "p0", dice=1.0, true_px=0), *(case(f"r{i}", f"p{i}", dice=0.9) for i in range(1, 9))]
    assert "none" not in {row.id for row in dict(pick_cases(empty))["Best"]}


def case(name: str, patient: str, *, dice: float, true_px: int = 10) -> CaseRow:
    nan = math.nan
    return CaseRow(name, "i", patient, "val", "mask", "", dice, dice, nan, nan, nan, nan, true_px, 10, 1, 1, 1, 5)


def test_contours_follow_the_mask() -> None:
    assert contour_path(lung(""), 1.0) == ""
    path = contour_path(lung("right lung"), 2.0)
    points = np.array([[float(v) for v in pair.split()] for pair in re.findall(r"[\d.]+ [\d.]+", path)])
    # Pixel centres of columns 6 to 23 and rows 8 to 31, twice as large.
    assert (points.min(axis=0) == [13, 17]).all() and (points.max(axis=0) == [47, 63]).all()
    ring = lung("right lung")
    ring[15:20, 10:15] = False
    assert contour_path(ring, 1.0).count("M") == 2


def test_images_are_shrunk_and_colour_is_kept() -> None:
    uri, scale = image_data_uri(np.random.default_rng(0).random((1000, 500)).astype(np.float32))
    assert uri.startswith("data:image/jpeg;base64,") and scale == pytest.approx(0.32)
    red = np.zeros((10, 10, 3), dtype=np.float32)
    red[..., 0] = 1.0
    assert image_data_uri(red)[1] == 1.0


def test_curves_of_a_broken_or_missing_log(tmp_path: Path) -> None:
    assert curves_svg(read_curves(tmp_path / "none.jsonl")) == ""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 3, "loss": 0.5}\n[1]\n{"kind": "val", "epoch": 1, "loss": NaN}\n{"kin')
    curves = read_curves(path)
    assert curves == {"train loss": [(3.0, 0.5)], "val loss": [], "val dice": []}
    assert curves_svg(curves).startswith("<svg")
    assert "fill: var(--true)" in curves_svg(curves)  # the mark of a single value, which makes no line


def test_columns_with_few_short_values_are_tabulated(phrases: Manifest, tmp_path: Path) -> None:
    assert group_columns(phrases.records) == ("kind",)
    rows = [
        {
            "id": str(i), "image": "film0.png", "mask": "none", "source": f"file {i}", "note": "x" * 40 + str(i % 2),
            "same": "a",
        }
        for i in range(14)
    ]  # fmt: skip
    assert group_columns(load_manifest(write_rows(phrases.path.with_name("few.csv"), rows)).records) == ()


def test_inputs_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    assert not is_model(tmp_path / "masks")
    assert is_model("medvl:lvit_regions")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert is_model(tmp_path / "run")
    with refused("missing_file"):
        open_inputs(tmp_path / "run")
    with refused("missing_file"):
        open_inputs(tmp_path / "nowhere")
    inputs = open_inputs(tmp_path / "masks", ["data.text_column=note", "data.classes=[lung, heart]"])
    assert (inputs.data.text_column, inputs.data.classes) == ("note", ["lung", "heart"])
    with refused("missing"):
        inputs.manifest(None)


def test_only_reading_can_be_overridden() -> None:
    assert parse_overrides(["data.slice_index=3", "data.window=[40, 400]"]) == {"slice_index": 3, "window": [40, 400]}
    with refused("unknown"):
        parse_overrides(["data.text_colum=x"])
    with refused("unknown"):
        parse_overrides(["model.size=T"])
    with refused("malformed"):
        parse_overrides(["split"])
