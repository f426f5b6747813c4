from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from PIL import Image
from runs import medvl

from medvl.config import make_config, save_config
from medvl.evaluation.report.page import make_report, run_folder
from medvl.tasks.pretrain.report import read_log

from .test_report import whole_page

ROOT = Path(__file__).resolve().parents[2]
HASH = "ab" * 32
TEXT = "Small <b>left</b> effusion."


def validation(step: int, recall: float, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "epoch": step // 4, "kind": "val", "best": True, "elapsed_s": 6.0 * step}
    for number, k in enumerate((1, 5, 10)):
        row |= {f"i2t_r{k}": recall + 0.1 * number, f"t2i_r{k}": recall + 0.01, f"chance_r{k}": 0.0512 * (number + 1)}
    values = {"mean_recall": recall + 0.04, "alignment_loss": 2.5 - recall, "num_pairs": 20.0, "num_texts": 17.0}
    return {**row, **values, "decoder_loss": 0.7 - recall, "steps": float(step), **more}


def train_line(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "epoch": step / 4, "kind": "train", "loss": loss, "lr": 1e-3}


def write_log(run: Path, *rows: dict[str, Any], tail: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def write_model(folder: Path, step: int, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder.parents[0 if folder.name == "model" else 1] / "config.yaml", folder / "config.yaml")
    val = {key: v for key, v in validation(step, 0.25).items() if key not in ("step", "epoch", "kind", "best")}
    card = {"step": step, "epoch": step // 4, "manifest_hash": HASH, "split_hash": HASH[::-1], "licence": "CC0-1.0"}
    card |= {"versions": {"medvl": "0.1.0", "torch": "2.13.0"}, "command": "medvl train <recipe>"}
    card |= {"machine": {"processor": "P9", "cores": 3}, "metrics": {"val during training": val}}
    (folder / "card.json").write_text(json.dumps({**card, **more}))
    (folder / "format_version").write_text("medvl-model/1\n")


def write_panels(run: Path, texts: dict[str, str], step: int = 8, tiles: tuple[str, ...] = ("image", "mask")) -> None:
    (run / "panels").mkdir(exist_ok=True)
    for name in texts:
        Image.fromarray(np.zeros((4, 12, 3), dtype=np.uint8)).save(run / "panels" / f"{name}.png")
    rows = [{"id": name, "tiles": tiles, "text": text} for name, text in texts.items()]
    (run / "panels" / "panels.json").write_text(
        json.dumps({"step": step, "contains_report_text": True, "panels": rows})
    )


def write_config(run: Path, **pretrain: Any) -> None:
    tree = {"task": "pretrain", "data": {"manifest": "pairs <x>.csv", "laterality": "patient"}, "train": {"seed": 7}}
    run.mkdir(parents=True, exist_ok=True)
    save_config(
        make_config({**tree, "model": {"name": "g2d", "size": "nano"}, "pretrain": pretrain}), run / "config.yaml"
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run: two validations, two panels."""
    run = tmp_path / "run"
    write_config(run, warmup_steps=4)
    counts = {"train": 1200, "val": 20}
    plan = {"records": counts, "images": counts, "patients": {"train": 900, "val": 20}, "parameters": 1115577}
    plan |= {"device": "cpu", "steps": 8, "other_views": 3, "not_annotated": {"train": 0, "val": 0}}
    plan["pairs"] = {
        "without_text": {"train": 4, "val": 1},
        "distinct_texts": {"train": 1100, "val": 17},
        "negatives": "of the whole batch of 16 pairs",
    }
    (run / "plan.json").write_text(json.dumps(plan))
    write_log(run, train_line(4, 2.3), validation(4, 0.21), train_line(8, 2.6), validation(8, 0.33))
    write_model(run / "model", 8)
    write_panels(run, {"c<1>": TEXT, "c2": "No effusion."}, tiles=("image", "attention", "raw mask", "decoder"))
    return run


def words_of(path: Path) -> str:
    return whole_page(path)[2]


def test_the_page_is_whole_and_says_what_the_run_is(run: Path) -> None:
    path, summary = make_report(run)
    assert path == run / "report" / "val" / "report.html"
    _, page, words = whole_page(path)
    assert sum(url.startswith("data:image/png") for url in page.fetched) == 2
    for value in ("1,200", "1,100", "1,115,577", "abababababababab", "torch 2.13.0", "warmup_steps: 4", '"steps": 8'):
        assert value in words, value
    assert summary["validation"]["i2t_r1"] == 0.33 and summary["finished"] and summary["num_panels"] == 2


def test_the_last_validation_stands_beside_its_chance(run: Path) -> None:
    words = words_of(make_report(run)[0])
    assert "Last validation, step 8" in words
    assert "Recall at 1 0.3300 0.3400 0.0512" in words
    assert "Recall at 10 0.5300 0.3400 0.1536" in words
    assert "mean of the six recalls 0.3700 chance 0.1024" in words
    assert "alignment loss 2.1700 of all validation pairs" in words and "decoder loss 0.3700 against" in words
    assert "20 pairs, 17 distinct texts" in words
    assert "every validation (2)" in words and "0.2100" not in words  # three digits there
    assert "4 1 0.210 / 0.310 / 0.410 0.220 / 0.220 / 0.220 0.250" in words


def test_curves_of_losses_and_of_retrieval_against_chance(run: Path) -> None:
    text = make_report(run)[0].read_text()
    assert 'aria-label="Losses over steps"' in text and 'aria-label="Retrieval over steps"' in text
    assert "with decoder" in text
    write_config(run, decoder="none")
    write_log(run, train_line(4, 2.3), {k: v for k, v in validation(4, 0.21).items() if k != "decoder_loss"})
    assert "with decoder" not in make_report(run)[0].read_text()


def test_no_text_leaves_every_report_out(run: Path) -> None:
    assert "effusion" in make_report(run)[0].read_text()
    done = medvl("report", run, "--no-text", "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    text, summary = Path(printed["report"]).read_text(), printed["summary"]
    assert "effusion" not in text and "<q>" not in text and text.count("data:image/png") == 2
    assert not summary["contains_report_text"] and summary["validation"]["t2i_r1"] == 0.34


def test_everything_is_escaped(run: Path) -> None:
    evil = "<script>alert(1)</script>"
    write_panels(run, {"c2": evil}, tiles=(evil, '"><img src=x>'))
    write_model(run / "model", 8, licence=evil, command=evil, versions={evil: evil})
    text = make_report(run)[0].read_text()
    assert "<script" not in text and "<img src=x" not in text and "&lt;script&gt;" in text
    assert "pairs <x>.csv" not in text and "pairs &lt;x&gt;.csv" in text


def test_panels_that_are_missing_or_damaged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "panels" / "c2.png").unlink()
    assert make_report(run)[0].read_text().count("data:image/png") == 1
    assert "c2.png" in capsys.readouterr().err
    (run / "panels" / "panels.json").write_text('{"step": 8, "panels": [{"id": "c1"}]}')
    write_panels(run, {"c2": ""})
    (run / "panels" / "panels.json").write_text('{"step": 8, "panels": [{"id": "c2"}]}')
    with refused("damaged"):
        make_report(run)
    shutil.rmtree(run / "panels")
    path, summary = make_report(run)
    assert "<img" not in path.read_text() and summary["num_panels"] == 0


def test_a_run_that_is_going_on(run: Path) -> None:
    shutil.rmtree(run / "model")
    write_model(run / "checkpoints" / "best", 4)
    nan = float("nan")
    write_log(run, train_line(2, 2.3), validation(4, 0.21), train_line(6, nan), tail='{"step": 7, "ki')
    _, summary = make_report(run)
    assert not summary["finished"] and summary["validation"]["step"] == 4
    shutil.rmtree(run / "checkpoints")
    for line in (train_line(2, 2.3), validation(4, 0.21)):
        write_log(run, line)
        make_report(run)  # of a training loss alone, of a validation alone
    write_log(run)
    with refused("empty"):
        make_report(run)


def test_values_that_are_no_numbers_are_shown_as_such(run: Path) -> None:
    write_log(run, validation(4, 0.2, alignment_loss=float("nan")), validation(8, 0.3, decoder_loss=float("inf")))
    path, summary = make_report(run)
    assert summary["validation"]["decoder_loss"] is None
    assert "decoder loss n/a" in words_of(path)


def test_a_model_that_is_not_of_the_last_validation(run: Path) -> None:
    write_config(run, select="mean_recall")
    write_model(run / "model", 4)
    path, summary = make_report(run)
    assert summary["model_step"] == 4 and summary["validation"]["step"] == 8
    assert re.search(r'<tr class="model"><td class="n">4</td>', path.read_text())


def test_a_model_folder_leads_to_its_run_or_stands_alone(run: Path, tmp_path: Path) -> None:
    assert run_folder(run) == run == run_folder(run / "model")
    assert make_report(run / "model")[0] == run / "report" / "val" / "report.html"
    for place, kind in ((tmp_path / "nowhere", "missing_file"), (tmp_path, "unsupported")):
        with refused(kind):
            make_report(place)
    alone = Path(shutil.copytree(run / "model", tmp_path / "published"))
    path, summary = make_report(alone, out=tmp_path / "page.html")
    words = words_of(path)
    assert path == tmp_path / "page.html" and not (alone / "report").exists()
    assert "Recall at 1 0.2500 0.2600 0.0512" in words and "Training loss" not in words
    assert summary["finished"]


@pytest.mark.parametrize(
    "given",
    [
        {"split": "test"}, {"manifest": Path("other.csv")}, {"group_by": ["kind"]}, {"probe_rows": 5},
        {"threshold": 0.4}, {"overrides": ["data.text_column=note"]},
    ],
)  # fmt: skip
def test_options_that_evaluate_a_segmenter_are_refused(run: Path, given: dict[str, Any]) -> None:
    with refused("conflict"):
        make_report(run, **given)
    assert not (run / "report").exists()


def test_a_broken_log_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_log(path) == read_log(tmp_path / "none.jsonl")
    path.write_text('{"kind": "train", "step": 3, "loss": NaN}\n{"kind": "task", "step": 3}\n{"kin')
    log = read_log(path)
    assert log.train == ({"kind": "train", "step": 3, "loss": None},) and log.val == ()
    path.write_text('{"kind": "train", "step": 3}\n[1]\n{"kind": "val", "step": 3}\n')
    with refused("damaged"):
        read_log(path)
