"""How clinical variables are read: numbers, categories, what is missing, and what may not be kept."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused

from medvl.config import DataConfig
from medvl.data.context import ContextRules, add_context, learn_rules
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest

FILE = Path("manifest.csv")


def manifest_of(cells: list[dict[str, str]], *, patients: list[str] | None = None, split: str = "train") -> Manifest:
    """Records of nothing but their context, each of its own patient unless said."""
    records = tuple(
        Record(
            id=f"r{i}", image=Path(f"{i}.png"), text="both lungs", masks={}, boxes=(), labels=(),
            patient=patients[i] if patients else f"p{i}", study=None, view="PA", split=split, licence=None, extra=own,
            line=i + 2,
        )
        for i, own in enumerate(cells)
    )  # fmt: skip
    return Manifest(FILE, records, (), ())


def learned(cells: list[dict[str, str]], columns: Any, mode: str = "tokens", **more: Any) -> ContextRules:
    data = DataConfig(context_columns=columns, context_as=mode)  # type: ignore[arg-type]
    return learn_rules(add_context(manifest_of(cells, **more), data, 0, needed=True).records, data, FILE)


def test_numbers_and_categories_by_hand() -> None:
    cells = [{"age": str(age), "sex": sex} for age, sex in zip(range(0, 101, 10), "MFMFMFMFMFm", strict=True)]
    rules = learned([*cells, {"age": "", "sex": ""}], ["age", "sex"])
    age, sex = rules.columns
    assert (age.kind, age.mean, age.edges) == ("number", 50.0, (20.0, 40.0, 60.0, 80.0))
    assert age.sd == pytest.approx(math.sqrt(1000.0))
    assert (sex.kind, sex.categories) == ("category", ("f", "m"))  # compared without case
    rows = [{"age": "50", "sex": "M"}, {"age": "", "sex": "f "}, {"age": "81.5", "sex": "x"}, {}]
    found = rules.values(rows)
    np.testing.assert_allclose(found[[0, 2], 0], [0.0, 31.5 / math.sqrt(1000.0)], rtol=1e-6)
    np.testing.assert_array_equal(found[:2, 1], [1, 0])
    assert np.isnan(found[[1, 3], 0]).all() and np.isnan(found[2:, 1]).all()
    assert rules.lacking(rows[2]) == ["sex"] and rules.lacking({}) == ["age", "sex"]
    assert ContextRules.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules


def test_the_words_of_a_context() -> None:
    cells = [{"age": str(i), "crp_val": str(100 * i), "sex": "FM"[i % 2]} for i in range(10)]
    rules = learned(cells, ["age", "sex", "crp_val"], "text")
    said = rules.written("Right opacity.", {"age": "9", "sex": "M", "crp_val": ""})
    assert said == "age very high, sex male, crp val missing. Right opacity."
    edges = rules.columns[0].edges
    words = [rules.columns[0].words(str(value)) for value in (-5, *edges, 1000)]
    assert words == [f"age {word}" for word in ("very low", "low", "middle", "high", "very high", "very high")]
    assert rules.written("", {}) == "age missing, sex missing, crp val missing."
    assert learned(cells, ["age"]).written("Right opacity.", {"age": "9"}) == "Right opacity."  # tokens leave it alone


def test_fifths_of_numbers_far_from_zero() -> None:
    rules = learned([{"year": str(year)} for year in range(2001, 2021)], ["year"], "text")
    words = [rules.columns[0].words(str(year)) for year in (2001, 2007, 2010, 2015, 2020)]
    assert words == [f"year {word}" for word in ("very low", "low", "middle", "high", "very high")]


@pytest.mark.parametrize("mode", ["text", "tokens"])
def test_nothing_that_is_kept_or_written_may_point_at_a_patient(mode: str) -> None:
    ward = ["ward 1203"] * 4 + ["room 12"] * 4 + ["Smith"] * 4
    patients = [f"p{i}" for i in range(8)] + ["one"] * 4  # "Smith" stands in four records of one patient
    cells = [{"ward": name, "crp": str(137.25 + i)} for i, name in enumerate(ward)]
    rules = learned(cells, ["ward", "crp"], mode, patients=patients)
    assert rules.columns[0].categories == ("room 12",)
    assert all(edge == round(edge, 1) for edge in rules.columns[1].edges)  # the deviation is 3.5
    if mode == "text":
        texts = [rules.written("", row) for row in cells]
        digits = {digits for text in texts for digits in re.findall(r"\d+", text)}
        assert digits == {"12"} and texts[0].startswith("ward missing, crp very low")
    counts = rules.counts(add_context(manifest_of(cells), DataConfig(context_columns=["ward"]), 0, needed=True).records)
    assert counts["ward"] == {"missing": 0, "unknown": 8}


def test_an_unreadable_number_names_file_record_and_column() -> None:
    cells = [{"crp": str(i)} for i in range(6)] + [{"crp": "3,5"}, {"crp": "nan"}]
    with refused("malformed", file=FILE, line=8, record="r6", naming="column crp: '3,5'") as error:
        learned(cells, ["crp"])
    assert [fault.record for fault in error.value.faults] == ["r6", "r7"] and "{crp: category}" in str(error.value)
    with refused("malformed"):
        learned(cells[:6], ["crp"]).values([{"crp": "high"}])
    assert learned([{"grade": str(i % 2)} for i in range(6)], {"grade": "category"}).columns[0].categories == ("0", "1")
    with refused("malformed"):
        learned([{"sex": "f"}, {"sex": "1"}, {"sex": "2"}], {"sex": "number"})
    words = [{"view": "PA" if i % 2 else "AP"} for i in range(22)]  # no number at all, and the words are named
    with refused("malformed", file=FILE, line=2, record="r0", naming="data.context_columns: {view: category}") as error:
        learned(words, {"view": "number"})
    assert [fault.record for fault in error.value.faults] == [*(f"r{i}" for i in range(20)), None]


@pytest.mark.parametrize("cells", [[""] * 4, ["4"] * 4, ["name a", "name b", "name c", "name d"]])
def test_a_column_that_says_nothing_is_an_error(cells: list[str]) -> None:
    with refused("empty"):
        learned([{"x": cell} for cell in cells], ["x"])


def test_absent_columns(capsys: pytest.CaptureFixture[str]) -> None:
    data = DataConfig(context_columns=["agee", "view"])
    manifest = manifest_of([{"age": "1"}, {"age": "2"}])
    with refused("missing_column", naming="agee"):
        add_context(manifest, data, 0, needed=True)
    found = add_context(manifest, data, 0, needed=False)
    assert "no column agee: this clinical variable is taken as missing" in capsys.readouterr().err
    assert found.records[0].context == {"agee": "", "view": "PA"}
    assert [row.extra for row in found.records] == [row.extra for row in manifest.records]


def test_words_that_mean_missing_are_said_and_counted() -> None:
    data = DataConfig(context_columns=["crp"], context_missing=["-inf", "N/A"])
    cells = [{"crp": cell} for cell in ("1", "-inf", "n/a", "3", "")]
    records = add_context(manifest_of(cells), data, 0, needed=True).records
    rules = learn_rules(records, data, FILE)
    assert rules.columns[0].mean == 2.0 and rules.counts(records)["crp"] == {"missing": 3, "unknown": 0}


def test_shuffling_gives_every_record_another_patients_context() -> None:
    patients = ["a", "a", "b", "c", "c", "c"]
    cells = [{"of": name} for name in patients]
    data = DataConfig(context_columns=["of"], context_shuffle=True)
    draws = []
    for seed in range(6):
        found = add_context(manifest_of(cells, patients=patients), data, seed, needed=True).records
        assert all(row.context["of"] != row.patient for row in found)
        assert len({row.context["of"] for row in found if row.patient == "c"}) == 1  # one other patient's
        assert found == add_context(manifest_of(cells, patients=patients), data, seed, needed=True).records
        draws.append(tuple(row.context["of"] for row in found))
    assert len(set(draws)) > 1
    texts = replace(manifest_of(cells, patients=patients), records=tuple(
        replace(row, text=row.patient) for row in manifest_of(cells, patients=patients).records
    ))  # fmt: skip
    shuffled = add_context(texts, DataConfig(text_shuffle=True), 0, needed=True).records
    assert all(row.text != row.patient for row in shuffled)
    with refused("empty"):
        add_context(manifest_of(cells[:2], patients=patients[:2]), data, 0, needed=True)
    with refused("conflict", naming="context_shuffle"):
        add_context(manifest_of(cells), DataConfig(context_shuffle=True), 0, needed=True)


@pytest.mark.shared
def test_the_variables_of_real_tables(shared_data: Path) -> None:
    manifest = load_manifest(shared_data / "hannover-cxr" / "manifest.csv", check_files=False)
    data = DataConfig(context_columns=["sex", "crp_val", "po2_val"])
    with refused("malformed", naming="crp_val"):
        learn_rules(add_context(manifest, data, 0, needed=True).records, data, manifest.path)
    data = replace(data, context_missing=["-inf"])
    records = add_context(manifest, data, 0, needed=True).records
    rules = learn_rules(records, data, manifest.path)
    assert [column.kind for column in rules.columns] == ["category", "number", "number"]
    empty = sum(not row.extra["crp_val"] for row in records)
    assert rules.counts(records)["crp_val"]["missing"] == empty + 2
    notes = load_manifest(shared_data / "cxr-notes" / "manifest.csv", check_files=False)
    data = DataConfig(context_columns=["age", "sex"], context_as="text")
    rules = learn_rules(add_context(notes, data, 0, needed=True).split("train"), data, notes.path)
    words = {rules.written("", row.context) for row in add_context(notes, data, 0, needed=True).records}
    assert "age high, sex male." in words and not any(re.search(r"\d", text) for text in words)
