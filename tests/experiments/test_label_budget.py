"""Learning curves: known curves are found again, the answer says what it does not know, runs and cells give points."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import refused
from runs import medvl
from scipy.optimize import least_squares

from medvl.config import config_dict, load_config
from medvl.data.labels import training_records
from medvl.data.records import load_manifest
from medvl.experiments import label_budget as learning_curve
from medvl.experiments.label_budget import as_text
from medvl.experiments.power_law import Curve, coverage, coverage_note, fit_curve, fit_curves, run_sd
from medvl.train.run import train


def budget_of(
    targets: Sequence[str], target_dice: float, *, num_simulations: int = 0, **options: Any
) -> dict[str, Any]:
    """`label_budget`, without its simulations unless they are asked for."""
    return learning_curve.label_budget(targets, target_dice, num_simulations=num_simulations, **options)


ALIKE = {
    "manifest": "manifest.csv", "manifest_hash": "m", "split_hash": "s", "grid": "native", "empty_mask": "one",
    "threshold": 0.5, "threshold_source": "fixed", "text": "the record's text", "split": "val",
}  # fmt: skip


def cells(folder: Path, points: Sequence[tuple[int, float, int]], variant: str = "text", **keys: Any) -> str:
    """Result cells of (labelled images, Dice, seed), the fraction being n / 1000."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, dice, seed in points:
        fraction = n / 1000
        cell = {
            **ALIKE,
            "variant": variant,
            "grid_point": {"data.label_fraction": fraction},
            "seed": seed,
            "config": {"init": "@prototype", "data": {"label_fraction": fraction}, "train": {"seed": seed, "lr": 0.1}},
            "labels": {
                "label_fraction": fraction, "labelled_images": n, "labelled_patients": n // 2,
                "labelled_records": 3 * n,
            },
            "metrics": {"dice_per_image": {"mean": dice}},
            **keys,
        }  # fmt: skip
        (folder / f"{variant}-{n}-{seed}.json").write_text(json.dumps(cell))
    return str(folder)


def noisy(
    curve: Curve, sd: float, seed: int = 0, counts: Sequence[int] = (20, 50, 100, 200)
) -> list[tuple[int, float, int]]:
    rng = np.random.default_rng(seed)
    return [(n, float(curve.at(n) + sd * rng.normal()), i) for n in counts for i in range(6)]


@pytest.mark.parametrize("curve", [Curve(1.0, 0.5, 0.9), Curve(0.6, 0.15, 0.97), Curve(3.0, 0.95, 0.72)])
@pytest.mark.parametrize("counts", [(10, 40, 160), (8, 20, 60, 200, 900)])
def test_exact_points_give_the_curve_back(curve: Curve, counts: tuple[int, ...]) -> None:
    n = np.array(counts, dtype=float)
    found = fit_curve(n, curve.at(n))
    assert (found.a, found.b, found.c) == pytest.approx((curve.a, curve.b, curve.c), rel=1e-4)
    target = curve.c - 0.05
    assert found.needed(target) == pytest.approx((curve.a / 0.05) ** (1 / curve.b), rel=1e-3)
    assert float(found.at(found.needed(target))) == pytest.approx(target, abs=1e-9)


def test_the_bounds_hold() -> None:
    n = np.array([10.0, 20, 40, 80])
    bent_up = fit_curve(n, np.array([0.5, 0.6, 0.75, 0.99]))  # no ceiling in sight
    assert bent_up.c == 1 and 0 < bent_up.b <= 1 and bent_up.a > 0
    falling = fit_curve(n, np.array([0.8, 0.7, 0.6, 0.5]))
    assert falling.a == 0 and falling.c == pytest.approx(0.65)
    assert falling.needed(0.7) == math.inf and falling.needed(0.6) == 1


def test_the_best_exponent_is_that_of_scipy() -> None:
    """scipy's bounded least squares from many starts finds nothing better."""
    rng = np.random.default_rng(0)
    n = np.repeat([20.0, 50, 100, 200], 3)[None].repeat(5, axis=0)
    dice = 0.92 - 1.5 * n**-0.5 + 0.01 * rng.standard_normal(n.shape)
    dice[0] = [0.5] * 3 + [0.6] * 3 + [0.75] * 3 + [0.99] * 3  # no ceiling in sight
    for counts, values, curve in zip(n, dice, fit_curves(n, dice), strict=True):

        def off(x: Any, counts: Any = counts, values: Any = values) -> Any:
            return x[2] - x[0] * counts ** -x[1] - values

        starts = [(1.0, b, 0.9) for b in (0.05, 0.3, 0.8)]
        fits = [least_squares(off, x0, bounds=([0, 0.01, 0], [np.inf, 1, 1]), xtol=1e-12, ftol=1e-12) for x0 in starts]
        assert ((curve.at(counts) - values) ** 2).sum() <= 2 * min(fit.cost for fit in fits) * (1 + 1e-6)


def test_the_coverage_is_that_of_experiments_drawn_by_hand(tmp_path: Path) -> None:
    """More runs a fraction hold the truth more often; what is said is what was simulated."""
    true, sd = Curve(1.5, 0.5, 0.92), 0.005
    counts, fractions = np.repeat([20.0, 50, 100, 200], 3), np.repeat([0.02, 0.05, 0.1, 0.2], 3).tolist()
    rows = coverage(true, sd, counts, fractions, 0.85, num_simulations=20)
    assert [row["runs_per_fraction"] for row in rows] == [None, 2, 3, 6]
    by_number = {row["runs_per_fraction"]: row["needed"] for row in rows}
    assert 0.5 < by_number[2] < 1 and 0.75 < by_number[6] <= 1 and by_number[2] <= by_number[6]
    assert coverage(true, sd, counts, fractions, 0.85, num_simulations=20) == rows
    # Certain where the truth is out of reach of every fit: the interval ends at infinity and so does the truth.
    assert all(row["needed"] == 1 for row in coverage(true, 1e-6, counts, fractions, 0.99, num_simulations=3))
    result = budget_of([cells(tmp_path / "cells", noisy(true, sd))], 0.85, num_draws=20, num_simulations=3)
    found = result["coverage"]
    assert found["simulations"] == 3 and found["sd"] == pytest.approx(0.005, rel=0.4)
    assert coverage_note(found) in result["notes"] and coverage_note(found) in as_text(result, tmp_path)
    assert budget_of([str(tmp_path / "cells")], 0.85, num_draws=20)["coverage"] is None
    # The interval that is printed holds the true number too, in nearly all of some experiments.
    sets = [cells(tmp_path / str(seed), noisy(true, sd, seed)) for seed in range(5)]
    intervals = [budget_of([folder], 0.85, num_draws=60)["needed"] for folder in sets]
    assert sum(one["lo"] <= true.needed(0.85) <= (one["hi"] or math.inf) for one in intervals) >= 4


def test_how_much_runs_vary() -> None:
    dice = np.array([0.5, 0.7, 0.8, 0.8, 0.83])
    # squares 0.02, then 0.0003 * 2: (0.02 + 0.0006) / (5 - 2)
    assert run_sd(dice, [0.1, 0.1, 0.5, 0.5, 0.5]) == pytest.approx(math.sqrt(0.0206 / 3))
    assert run_sd(dice[:2], [0.1, 0.5]) is None


def test_a_target_that_takes_more_masks(tmp_path: Path) -> None:
    true = Curve(1.0, 0.5, 0.95)  # 0.9 at 400
    folder = cells(tmp_path / "cells", noisy(true, 0.002))
    result = budget_of([folder], 0.9, num_draws=150, out=tmp_path / "out")
    assert result["reached"] and result["extrapolated"] and not result["beyond_4x_largest"]
    assert result["needed"]["value"] == pytest.approx(400, rel=0.25)
    assert result["more"]["value"] == math.ceil(result["needed"]["value"]) - 200
    assert result["more"]["lo"] < 200 < result["more"]["hi"]
    assert [row["num_runs"] for row in result["fractions"]] == [6] * 4 and result["fractions"][0]["sd"] > 0
    assert "more" in result["answer"] and "labelled images" in result["answer"]
    assert any("3.0 annotated records" in note for note in result["notes"])
    assert json.loads((tmp_path / "out/learning_curve.json").read_text()) == result
    rows = list(csv.DictReader((tmp_path / "out/learning_curve.csv").open()))
    assert len(rows) == 24 and {row["n"] for row in rows} == {"20", "50", "100", "200"}
    assert (tmp_path / "out/learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    again, other = (budget_of([folder], 0.9, num_draws=150, seed=seed)["needed"] for seed in (0, 1))
    assert again == result["needed"] != other
    by_patient = budget_of([folder], 0.9, num_draws=5, unit="patients")
    assert by_patient["needed"]["value"] == pytest.approx(result["needed"]["value"] / 2, rel=0.01)
    assert "labelled patients" in as_text(by_patient, tmp_path)


def test_what_is_far_or_out_of_reach_is_said(tmp_path: Path) -> None:
    folder = cells(tmp_path / "cells", noisy(Curve(1.0, 0.5, 0.88), 0.001))
    beyond = budget_of([folder], 0.95, num_draws=100)
    ceiling = beyond["curve"]["c"]
    assert not beyond["reached"] and beyond["needed"]["value"] is None and beyond["more"]["hi"] is None
    assert ceiling["lo"] <= ceiling["value"] <= ceiling["hi"] and ceiling["value"] == pytest.approx(0.88, abs=0.02)
    assert "not reached: the fitted ceiling is 0.8" in beyond["answer"]
    far = budget_of([folder], 0.86, num_draws=100)  # 2,500 images
    assert far["reached"] and far["beyond_4x_largest"] and "EXTRAPOLATED beyond 4 x" in far["answer"]
    near = budget_of([folder], 0.75, num_draws=100)  # 59 images
    assert near["more"] == {"value": 0, "lo": 0, "hi": 0} and "no more masks" in near["answer"]


def test_one_run_per_fraction_has_no_interval(tmp_path: Path) -> None:
    folder = cells(tmp_path, [point for point in noisy(Curve(1.0, 0.5, 0.9), 0.001) if point[2] == 0])
    result = budget_of([folder], 0.85)
    assert "lo" not in result["needed"] and any("no intervals" in note for note in result["notes"])
    assert "[" not in result["answer"] and result["share_of_draws_reaching"] is None


def test_what_cannot_be_fitted_is_one_error(tmp_path: Path) -> None:
    points = noisy(Curve(1.0, 0.5, 0.9), 0.001)
    few = cells(tmp_path / "few", [point for point in points if point[0] < 100])
    both = cells(tmp_path / "two", points)
    cells(tmp_path / "two", points, "no text")
    assert budget_of([both], 0.85, variant="no text", num_draws=2)["num_runs"] == 24
    other_split = cells(tmp_path / "other", [(200, 0.8, 0)], split_hash="other")
    config = {"data": {"label_fraction": 0.2}, "train": {"seed": 0, "lr": 0.2}}
    other_rate = cells(tmp_path / "lr", [(200, 0.8, 0)], config=config)
    cases: list[tuple[str, list[str], float, dict[str, Any]]] = [
        ("empty", [few], 0.9, {}), ("ambiguous", [both], 0.9, {}), ("unknown", [both], 0.9, {"variant": "txt"}),
        ("out_of_range", [both], 90, {}), ("mismatch", [cells(tmp_path / "test", points, split="test")], 0.9, {}),
        ("mismatch", [few, other_split], 0.9, {}), ("mismatch", [few, other_rate], 0.9, {}),
        ("duplicate", [both, cells(tmp_path / "copy", points[:1])], 0.9, {"variant": "text"}),
        ("missing_file", [str(tmp_path)], 0.9, {}),
    ]  # fmt: skip
    for kind, targets, target_dice, options in cases:
        with refused(kind):
            budget_of(targets, target_dice, **options)


def test_older_cells_are_counted_again(tiny_recipe: Path, tiny_manifest: Path, tmp_path: Path) -> None:
    manifest = load_manifest(tiny_manifest)
    counts = []
    for fraction, dice in ((0.2, 0.5), (0.5, 0.7), (1.0, 0.8)):
        config = load_config(tiny_recipe, [f"data.label_fraction={fraction}"])
        counts.append(training_records(manifest.split("train"), config)[2]["labelled_images"])
        tree = config_dict(config)
        tree["data"]["manifest"] = "../data/manifest.csv"  # as a result file names it
        keys = {"manifest": "../data/manifest.csv", "manifest_hash": manifest.content_hash(), "labels": None}
        cells(tmp_path / "cells", [(round(1000 * fraction), dice, 0)], config=tree, **keys)
    folder = str(tmp_path / "cells")
    result = budget_of([folder], 0.7, manifest=tiny_manifest)
    assert [run["n"] for run in result["runs"]] == counts == [2, 4, 8]
    with refused("missing"):
        budget_of([folder], 0.7)
    other = tiny_manifest.parent / "other.csv"
    other.write_text(tiny_manifest.read_text().replace("the left lung", "left"))
    with refused("mismatch"):
        budget_of([folder], 0.7, manifest=other)


def test_runs_at_the_command_line(tiny_recipe: Path, tmp_path: Path) -> None:
    """Real runs: labels of plan.json, Dice of RUN/report/val, made once."""
    runs = []
    for fraction in (0.2, 0.5, 1.0):
        options = [f"data.label_fraction={fraction}", "train.max_steps=1", "train.steps_per_epoch=1"]
        runs.append(str(train(load_config(tiny_recipe, options), tmp_path / f"run{fraction}")))
    again = shutil.copytree(runs[0], tmp_path / "again")
    config = (again / "model/config.yaml").read_text()
    (again / "model/config.yaml").write_text(config.replace("seed: 0", "seed: 1"))
    words = ["--target-dice", 0.9, *runs, again, "--json", "--out", tmp_path / "plan"]
    done = medvl("x", "label-budget", *words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for run, row in zip([*runs[:1], str(again), *runs[1:]], result["runs"], strict=True):
        labels = json.loads((Path(run) / "plan.json").read_text())["labels"]
        summary = json.loads((Path(run) / "report/val/summary.json").read_text())
        assert row["run"] == run and row["n"] == labels["labelled_images"]
        assert row["dice_per_image"] == summary["metrics"]["dice_per_image"]["mean"]
    assert (tmp_path / "plan/learning_curve.png").is_file()
    (tmp_path / "run0.5/plan.json").unlink()
    with refused("missing_file"):
        budget_of(runs, 0.9)
