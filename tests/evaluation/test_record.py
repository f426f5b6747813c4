"""The record of an evaluation: written, read back, of format version 1 converted, and found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medvl.core.errors import InputError
from medvl.data.record import Manifest
from medvl.evaluation.record import (
    CASES,
    FORMAT,
    EvaluationRecord,
    evaluation_of,
    identity,
    read_record,
    refuse_other_results,
    reuse_or_run,
)

VERSION_1 = sorted((Path(__file__).parent / "version_1").glob("*.json"))  # written by the last program of that format


@pytest.fixture
def record(phrases: Manifest) -> EvaluationRecord:
    return EvaluationRecord.of(
        "segment", model="run", model_hash="a", config={"task": "segment", "train": {"seed": 3}}, manifest=phrases,
        split="val", seed=3, counts={"num_cases": 4, "num_patients": 2, "num_images": 3},
        metrics={"dice_per_image": {"mean": 0.5, "lo": float("nan"), "hi": None, "num": 4}},
        extras={"by_group": {}, "slice": None}, threshold=0.5, notes=["a note"],
    )  # fmt: skip


def test_what_is_written_is_read_back(record: EvaluationRecord, tmp_path: Path) -> None:
    record.write(tmp_path, {CASES: "id\n"})
    read = read_record(tmp_path)
    assert read.summary == record.summary == json.loads((tmp_path / "summary.json").read_text())
    assert (read.num_cases, read.counts["num_images"], read.task) == (4, 3, "segment")
    assert read.metrics["dice_per_image"] == {"mean": 0.5, "lo": None, "hi": None, "num": 4}
    assert read.extras == record.extras and (tmp_path / CASES).read_text() == "id\n"


@pytest.mark.parametrize("path", VERSION_1, ids=lambda path: path.stem)
def test_version_1_is_converted_without_loss(path: Path) -> None:
    old = json.loads(path.read_text())
    new = EvaluationRecord.from_dict(old).summary
    assert new["format"] == FORMAT and evaluation_of(new) == evaluation_of(old) is not None
    assert {key: new[key] for key in old if key != "format"} == {key: old[key] for key in old if key != "format"}
    assert EvaluationRecord.from_dict(new).summary == new  # and stays as it is


def test_version_1_of_every_kind_is_tried() -> None:
    kinds = {evaluation_of(json.loads(path.read_text())) for path in VERSION_1}
    assert kinds >= {"segment", "classify", "detect", "ground", "zero-shot classify", "localise"}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": "medvl-summary/0"}', '{"format": "medvl-evaluation/3"}'])
def test_what_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(InputError):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("changed", "is_reused"),
    [
        ({}, True), ({"model_hash": "b"}, False), ({"split": "test"}, False), ({"threshold": 0.4}, False),
        ({"slice": 2}, False), ({"options": {"sigma": 1}}, False), ({"evaluation": "detect"}, False),
    ],
)  # fmt: skip
def test_reuse_or_run(
    record: EvaluationRecord, phrases: Manifest, tmp_path: Path, changed: dict[str, Any], is_reused: bool
) -> None:
    record.write(tmp_path, {CASES: "id\n"})
    made = []

    def run() -> EvaluationRecord:
        made.append(1)
        return record

    same = {**identity("segment", "a", phrases, "val"), "threshold": 0.5, "slice": None, **changed}
    reuse_or_run(tmp_path, same, run)
    assert bool(made) != is_reused
    reuse_or_run(tmp_path, same, run, is_enough=lambda stored: False)
    assert len(made) == (1 if is_reused else 2)


def test_without_cases_or_damaged_it_is_made_anew(record: EvaluationRecord, phrases: Manifest, tmp_path: Path) -> None:
    same = identity("segment", "a", phrases, "val")
    for files, text in (({}, None), ({CASES: "id\n"}, "{")):
        record.write(tmp_path, files)
        if text is not None:
            (tmp_path / "summary.json").write_text(text)
        assert reuse_or_run(tmp_path, same, lambda: record) is record


def test_other_results_are_not_written_over(record: EvaluationRecord, tmp_path: Path) -> None:
    refuse_other_results(tmp_path, evaluation="detect")  # nothing there yet
    record.write(tmp_path, {})
    refuse_other_results(tmp_path, evaluation="segment", model_hash="a")
    for other in ({"evaluation": "detect"}, {"model_hash": "b"}, {"split": "test"}):
        with pytest.raises(InputError):
            refuse_other_results(tmp_path, **other)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(InputError):
        refuse_other_results(tmp_path, evaluation="segment")
