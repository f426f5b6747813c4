"""`medvl fit`: the plan that fits a table, and the whole way from a table to a report, of each kind of table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults import refused
from PIL import Image
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import load_config, make_config
from medvl.data.records import load_manifest, write_manifest
from medvl.data.table_facts import TableFacts, table_facts
from medvl.data.tables import read_table
from medvl.phantom.dataset import make_phantoms
from medvl.train.fit_plan import choose_plan
from medvl.train.fit_table import LeakError, fit_table

SHORT = ("train.epochs=1", "train.max_steps=2", "train.val_every=1", "data.image_size=[64,64]")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("phantoms"), num=24, size=64, seed=0)


@pytest.fixture
def make(phantoms: Path, tmp_path: Path) -> Make:
    """A table of some columns of the phantoms; `boxes`: with their boxes.csv; `edit` changes a row."""

    def build(*columns: str, boxes: bool = False, edit: Callable[[int, dict[str, str]], None] | None = None) -> Path:
        for name in ("images", "masks", *(["boxes.csv"] if boxes else [])):
            os.symlink(phantoms.parent / name, tmp_path / name)
        rows = [dict(row) for _, row in read_table(phantoms).rows]
        for i, row in enumerate(rows):
            if edit is not None:
                edit(i, row)
        names = ["id", "image", "patient", *columns]
        write_manifest(tmp_path / "table.csv", [{name: row[name] for name in names} for row in rows], names)
        return tmp_path / "table.csv"

    return build


def hide_most_masks(i: int, row: dict[str, str]) -> None:
    row["mask"] = row["mask"] if i % 4 == 0 else ""


FACTS = TableFacts(Path("t.csv"), num_images=100, num_rows=100)
TEXTS = {"num_texts": 100, "num_distinct_texts": 60}
MASKS = {"num_annotated": 100, "classes": ("mask",)}
# The facts of a table -> what is trained: task, network, text, semi-supervised.
KINDS = {
    "masks and texts": ({**MASKS, **TEXTS}, ("segment", "lvit", "builtin", False)),
    "masks alone": (MASKS, ("segment", "encoder_unet", "none", False)),
    "masks and one text for all": ({**MASKS, "num_texts": 100, "num_distinct_texts": 1},
                                   ("segment", "encoder_unet", "none", False)),
    "masks and few texts": ({**MASKS, "num_texts": 20, "num_distinct_texts": 20},
                            ("segment", "encoder_unet", "none", False)),
    "few masks and texts": ({**MASKS, **TEXTS, "num_annotated": 49}, ("segment", "lvit", "builtin", True)),
    "half of the masks": ({**MASKS, **TEXTS, "num_annotated": 50}, ("segment", "lvit", "builtin", False)),
    "few masks alone": ({**MASKS, "num_annotated": 10}, ("segment", "encoder_unet", "none", True)),
    "reports": (TEXTS, ("pretrain", "g2d", None, False)),
    "reports and labels": ({**TEXTS, "num_labelled": 100}, ("pretrain", "g2d", None, False)),
    "labels": ({"num_labelled": 100}, ("classify", "classifier", "none", False)),
    "labels and captions of few kinds": ({"num_labelled": 9, "num_texts": 100, "num_distinct_texts": 7},
                                         ("classify", "classifier", "none", False)),
    "boxes": ({"num_boxed": 10}, ("detect", "yolo", "none", False)),
    "boxes, reports and labels": ({**TEXTS, "num_boxed": 10, "num_labelled": 100}, ("detect", "yolo", "none", False)),
    "masks and boxes": ({**MASKS, "num_boxed": 100}, ("segment", "encoder_unet", "none", False)),
}  # fmt: skip


@pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_fits_the_table(kind: str, on_gpu: bool) -> None:
    changes, (task, network, encoder, semi) = KINDS[kind]
    plan = choose_plan(replace(FACTS, **changes), on_gpu=on_gpu)
    config = make_config({**plan.settings})
    assert (config.task, config.model.name) == (task, network) and plan.task == task
    assert (task == "segment" and config.semi.on) == semi
    assert encoder is None or config.text.encoder == encoder
    assert bool(plan.labelled_only) == semi and all(plan.lines)


def test_the_plan_suits_machine_and_images() -> None:
    facts = replace(FACTS, **MASKS, **TEXTS, side_px=2000)
    small, large = (make_config(choose_plan(facts, on_gpu=on_gpu).settings) for on_gpu in (False, True))
    assert max(small.data.image_size) < max(large.data.image_size) and small.model.title != large.model.title
    tiny = make_config(choose_plan(replace(facts, side_px=40)).settings)
    assert tiny.data.image_size == (64, 64)
    for num_images in (3, 50, 5000, 10**6):
        config = make_config(choose_plan(replace(facts, num_images=num_images, num_annotated=num_images)).settings)
        steps = config.train.epochs * -(-num_images // config.train.batch_size)
        assert steps <= 1000 or config.train.epochs == 1
    several = make_config(choose_plan(replace(facts, classes=("lung", "heart"), rows_per_image=9)).settings)
    assert several.objective.mode == "multilabel" and several.data.phrases_per_image == 4
    exclusive = make_config(choose_plan(replace(FACTS, num_labelled=9, one_label_each=True)).settings)
    assert exclusive.classify.labels == "multiclass"
    assert make_config(choose_plan(facts, task="pretrain").settings).task == "pretrain"


def test_whose_left_is_taken_from_reports_alone() -> None:
    facts = replace(FACTS, **TEXTS, name_sides=True)
    assert "laterality" not in choose_plan(facts).settings["data"]
    assert choose_plan(replace(facts, are_reports=True)).settings["data"]["laterality"] == "patient"


def test_a_table_of_images_alone_is_refused() -> None:
    with refused("empty"):
        choose_plan(replace(FACTS, num_texts=100, num_distinct_texts=7))


def test_facts_of_the_phantoms(phantoms: Path) -> None:
    facts = table_facts(load_manifest(phantoms))
    rows = [row for _, row in read_table(phantoms).rows if row["split"] == "train"]
    assert facts.num_images == facts.num_rows == len(rows) and facts.num_annotated == len(rows)
    assert facts.num_distinct_texts == len({row["text"] for row in rows}) and facts.are_reports and facts.name_sides
    assert facts.num_labelled == len(rows) and not facts.one_label_each
    assert (facts.side_px, facts.in_channels, facts.classes) == (64, 1, ("mask",))


def test_facts_of_coloured_images_and_of_labels_that_are_files(tmp_path: Path) -> None:
    Image.new("RGB", (80, 40), (200, 10, 10)).save(tmp_path / "a.png")
    rows = [{"id": name, "image": "a.png", "label": name} for name in ("x", "y")]
    write_manifest(tmp_path / "t.csv", rows)
    facts = table_facts(load_manifest(tmp_path / "t.csv"))
    assert (facts.in_channels, facts.side_px, facts.num_labelled) == (3, 80, 1)
    write_manifest(tmp_path / "t.csv", [{**row, "label": "a.png"} for row in rows])
    with refused("mismatch", naming="data.columns={mask: label}"):
        table_facts(load_manifest(tmp_path / "t.csv"))


# The columns of a table -> its task. Each is fitted with two steps, to its report.
TABLES = {
    "masks and texts": (("text", "mask"), {}, "segment"), "masks alone": (("mask",), {}, "segment"),
    "few masks": (("text", "mask"), {"edit": hide_most_masks}, "segment"), "reports": (("text",), {}, "pretrain"),
    "labels": (("labels",), {}, "classify"), "boxes": ((), {"boxes": True}, "detect"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_from_a_table_to_a_report(kind: str, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns, options, task = TABLES[kind]
    table = make(*columns, **options)
    before = table.read_bytes()
    result = fit_table(table, tmp_path / "run", overrides=SHORT)
    assert result.task == task and result.report is not None and result.report.is_file()
    assert table.read_bytes() == before and (tmp_path / "run" / "model").is_dir()
    config = load_config(tmp_path / "run" / "config.yaml")
    splits = {record.split for record in load_manifest(config.data.manifest).records}
    assert splits == {"train", "val"}  # 16 patients are too few for a test split
    assert (config.init is not None) == (config.task == "segment" and config.semi.on) == (kind == "few masks")
    assert "medvl-fit/1" in (tmp_path / "run" / "fit" / "fit.json").read_text()
    # Given again, the command makes nothing anew.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    assert times and fit_table(table, tmp_path / "run", overrides=SHORT).summary == result.summary
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.safetensors")}
    with refused("mismatch"):
        fit_table(table, tmp_path / "run", overrides=SHORT, seed=1)


def test_another_table_and_its_columns(make: Make, tmp_path: Path) -> None:
    """Columns of other names are guessed for audit, split and training alike; --test opens the test split."""
    rows = [row for _, row in read_table(make("mask", "split")).rows]
    names = {"id": "Image ID", "image": "Path", "patient": "PatientID", "mask": "Segmentation", "split": "Subset"}
    table = tmp_path / "other.csv"
    write_manifest(table, [{names[name]: cell for name, cell in row.items()} for row in rows])
    words = ["fit", str(table), "--out", str(tmp_path / "run"), "--json", "--test", *SHORT, "model.name=unet"]
    done = CliRunner().invoke(app, [*words, "model.size=nano"])
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["task"] == "segment" and made["summary"]["split"] == "val"
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.data.columns == names and config.data.manifest == str(table) and config.model.name == "unet"
    assert (tmp_path / "run" / "report" / "test" / "report.html").is_file()
    assert json.loads((tmp_path / "run" / "test_log.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("last", ["train", "test"])
def test_val_is_split_off_a_table_that_has_none(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], last: str
) -> None:
    """By patient; rows that are test stay so."""

    def edit(i: int, row: dict[str, str]) -> None:
        row["split"] = "train" if i < 18 else last

    table = make("mask", "split", edit=edit)
    before = {record.id: record for record in load_manifest(table).records}
    fit_table(table, tmp_path / "run", overrides=SHORT, dry_run=True)
    after = load_manifest(tmp_path / "run" / "fit" / "split.csv").records
    patients = {name: {record.patient for record in after if record.split == name} for name in ("train", "val")}
    assert len(after) == len(before) and patients["val"] and not patients["train"] & patients["val"]
    for record in after:
        assert (record.split == "test") == (before[record.id].split == "test")
    num = sum(record.split == "val" for record in after)
    assert f"val {num} records of {len(patients['val'])} groups" in capsys.readouterr().err


def test_a_leak_or_a_fault_stops_before_training(make: Make, tmp_path: Path) -> None:
    def leak(i: int, row: dict[str, str]) -> None:
        row |= {"patient": "p", "split": "train" if i % 2 else "val"}

    table = make("mask", "split", edit=leak)
    with pytest.raises(LeakError) as caught:
        fit_table(table, tmp_path / "run", overrides=SHORT)
    assert caught.value.exit_code == 1 and not (tmp_path / "run" / "model").exists()
    rows = [row for _, row in read_table(table).rows]
    write_manifest(table, [{**row, "mask": "nowhere.png"} for row in rows])
    with refused("malformed") as faults:
        fit_table(table, tmp_path / "run", overrides=SHORT)
    assert faults.value.exit_code == 2
    write_manifest(table, [{**row, "patient": row["id"]} for row in rows])  # mended: the folder can be used
    result = fit_table(table, tmp_path / "run", overrides=SHORT, dry_run=True)
    assert result.report is None and not (tmp_path / "run" / "model").exists()


def test_a_plan_may_be_changed_before_training(make: Make, tmp_path: Path) -> None:
    """Another key, then another seed, into the folder of a dry run: the splits follow the seed."""
    table, split, seen = make("mask"), tmp_path / "run" / "fit" / "split.csv", []
    for seed, words in ((0, ()), (0, ("train.lr=1e-2",)), (1, ())):
        fit_table(table, tmp_path / "run", overrides=(*SHORT, *words), seed=seed, dry_run=True)
        seen.append(split.read_bytes())
    assert seen[0] == seen[1] != seen[2]


def test_what_may_be_one_of_several_columns_is_asked(tmp_path: Path) -> None:
    write_manifest(tmp_path / "t.csv", [{"id": "a", "image": "a.png", "caption": "x", "report": "y"}])
    with refused("unknown", naming="segment"):
        fit_table(tmp_path / "t.csv", tmp_path / "run", task="segmnt")
    with refused("ambiguous", naming="data.columns={text: caption}"):
        fit_table(tmp_path / "t.csv", tmp_path / "run")
