"""The numbers in the tables of docs/results.md, from result files as a sweep writes them."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def metric(mean: float | None, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "lo": mean and mean - 0.1, "hi": mean and mean + 0.1, "num": 4, **more}


@pytest.fixture(scope="module")
def tables(generate: ModuleType) -> ModuleType:
    """docs/result_cells.py."""
    import result_cells

    return result_cells


def test_one_seed_has_an_interval_and_several_a_deviation(generate: ModuleType, tables: ModuleType) -> None:
    assert tables.interval(metric(0.5)) == "0.500 [0.400, 0.600]" and tables.interval(metric(None)) == ""
    assert tables.interval(metric(0.4), "+") == "+0.400 [+0.300, +0.500]"
    assert tables.over_seeds([0.5, 0.7]) == "0.600 ± 0.141" and tables.over_seeds([]) == ""
    names = ("dice_per_image", "dice_pooled", "iou_per_image", "iou_pooled")
    one, two = ({"name": "all", "num": 4, **dict.fromkeys(names, metric(value))} for value in (0.5, 0.7))
    assert generate.table_cells(one, [{"rows": [one]}]) == ["all", "4", "0.500 [0.400, 0.600]", *["0.500"] * 3]
    assert generate.table_cells(one, [{"rows": [one]}, {"rows": [two]}]) == ["all", "4", *["0.600 ± 0.141"] * 4]
    assert generate.table_cells(None, []) == [""] * 6


def test_pretraining_stands_beside_its_chance(generate: ModuleType) -> None:
    cells = []
    for seed, recall in enumerate((0.2, 0.4)):
        values: dict[str, float] = {"alignment_loss": 2.2, "num_pairs": 20}
        for k in (1, 5, 10):
            values |= {f"i2t_r{k}": recall, f"t2i_r{k}": recall + 0.01, f"chance_r{k}": 0.05 * k}
        cells.append({"pretraining": values, "pairs": {"records": {"train": 1200}}, "minutes": 3.0 + seed})
    recalls = [f"0.300 ± 0.141 / 0.310 ± 0.141 ({chance})" for chance in ("0.050", "0.250", "0.500")]
    assert generate.pretraining_cells(cells) == ["2.200 ± 0.000", *recalls, "", "1,200 / 20", "3.5"]
    assert not any(generate.pretraining_cells([]))


def test_planned_cells_are_counted_and_few_draws_of_few_patients_are_marked(tables: ModuleType) -> None:
    grid = [{"data.label_fraction": fraction} for fraction in (0.01, 0.5)]
    patients = {("ab", 0.01, "patient"): 3}
    about = tables.About("t", "", "", {"EPI": 10, "old": 10}, grid, names=frozenset({"x"}), patients=patients)
    cells = []
    for name, point, seeds, labelled in (("EPI", grid[0], 9, 3), ("EPI", grid[1], 2, 8), ("old", grid[0], 10, None)):
        labels = {"labelled_patients": labelled} if labelled else {}
        config = {"data": {"label_fraction": point["data.label_fraction"]}}
        cell = {"variant": name, "grid_point": point, "config": config, "manifest_hash": "ab", "labels": labels}
        cells += [cell] * seeds
    standing = {tuple(columns[:2]): columns[2] for columns, _ in tables.rows_of(about, ["EPI", "old"], cells)}
    mark = "9 / 10 (3 labelled patients, fewer than ten draws: no result)"
    assert standing == {
        ("EPI", "0.01"): mark, ("EPI", "0.5"): "2 / 10", ("old", "0.01"): "10 / 10", ("old", "0.5"): "0 / 10",
    }  # fmt: skip


def test_a_cell_that_nobody_planned_is_an_error(generate: ModuleType, tables: ModuleType, tmp_path: Path) -> None:
    about = tables.About("t", "", "", {"a": 1}, names=frozenset({"a-seed0"}))
    (tmp_path / "a-seed0.json").write_text('{"variant": "a"}')
    assert generate.read_cells(tmp_path, about) == [{"variant": "a"}]
    for name, content in (("a-seed0", {"variant": "a", "grid_point": {"x": 1}}), ("c-seed0", {"variant": "c"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(SystemExit):
            generate.read_cells(tmp_path, about)


def test_areas_and_intervals_of_some_classes(generate: ModuleType) -> None:
    from task_tables import _areas, _classes, _metric

    def of(**areas: float | None) -> dict[str, Any]:
        return {"by_class": {name: {"auc": {"mean": v}, "num_positive": len(name)} for name, v in areas.items()}}

    assert _areas([of(a=0.5, bb=None, c=0.25, d=0.75)]) == "a 0.500 (1), c 0.250 (1), d 0.750 (1)"
    seeds = [of(a=0.5, bb=0.125, c=0.25, d=0.75), of(a=0.5, bb=0.375, c=0.0, d=0.25)]
    assert _areas(seeds) == "lowest: c 0.125 (1), highest: a 0.500 (1)" and _areas([of(a=None)]) == ""
    some = {"mean": 0.5, "lo": 0.25, "hi": 0.75, "num": 2, "classes": ["a", "b"]}
    one: dict[str, Any] = {
        "metrics": {"macro_auc": {"mean": 0.625, "lo": None, "hi": None, "num": 3}},
        "macro_with_interval": {"macro_auc": some}, "by_class": {"a": {"num_positive": 4}},
        "manifest": "$DATA/films/manifest.csv", "split": "val", "num_cases": 9,
    }  # fmt: skip
    assert _metric([one], ("macro_auc",)) == "0.625 (2 of 3 classes: 0.500 [0.250, 0.750])"
    assert _metric([one, one], ("macro_auc",)) == "0.625 ± 0.000" and _classes(one)[-1].endswith("over a, b")
    assert _metric([{**one, "macro_with_interval": {}}], ("macro_auc",)) == "0.625"
