from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.evaluate.statistics import mean_interval, paired_difference, ratio_intervals


def test_mean_and_count_leave_nan_out() -> None:
    found = mean_interval([1.0, math.nan, 0.0, 0.5], ["a", "a", "b", "c"])
    assert (found.mean, found.num) == (0.5, 3)
    assert 0.0 <= found.lo < found.mean < found.hi <= 1.0


def test_one_patient_has_no_interval() -> None:
    found = mean_interval([0.2, 0.4], ["a", "a"])
    assert found.mean == pytest.approx(0.3)
    assert math.isnan(found.lo) and math.isnan(found.hi)
    assert found.to_dict() == {"mean": found.mean, "lo": None, "hi": None, "num": 2}


def test_nothing_to_average_is_nan() -> None:
    found = mean_interval([math.nan, math.nan], ["a", "b"])
    assert math.isnan(found.mean) and found.num == 0


def test_the_interval_is_seeded_and_ignores_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    values, patients = rng.random(60), [f"p{i % 20}" for i in range(60)]
    first = mean_interval(values, patients, seed=3)
    assert first == mean_interval(values, patients, seed=3)
    assert first != mean_interval(values, patients, seed=4)
    order = rng.permutation(60)
    shuffled = mean_interval(values[order], [patients[i] for i in order], seed=3)
    assert (shuffled.lo, shuffled.hi) == pytest.approx((first.lo, first.hi))


def test_patients_are_resampled_and_not_rows() -> None:
    # Ten patients whose fifty rows are all alike: the rows are 500, the information is ten.
    by_patient = np.random.default_rng(1).random(10)
    values, patients = np.repeat(by_patient, 50), np.repeat([f"p{i}" for i in range(10)], 50).tolist()
    clustered = mean_interval(values, patients)
    single = mean_interval(by_patient, [f"p{i}" for i in range(10)])
    as_if_independent = mean_interval(values, [f"row{i}" for i in range(500)])
    assert clustered.hi - clustered.lo == pytest.approx(single.hi - single.lo, rel=1e-6)
    assert clustered.hi - clustered.lo > 5 * (as_if_independent.hi - as_if_independent.lo)


def test_the_interval_matches_the_normal_approximation() -> None:
    values = np.random.default_rng(2).normal(0.7, 0.1, 400)
    found = mean_interval(values, [f"p{i}" for i in range(400)])
    half = 1.96 * values.std() / 20
    assert (found.lo, found.hi) == pytest.approx((found.mean - half, found.mean + half), abs=0.002)


def test_ratio_of_sums_by_hand() -> None:
    found = ratio_intervals([[8.0], [0.0]], [[10.0], [30.0]], ["a", "b"])[0]
    assert found.mean == pytest.approx(8 / 40)
    # Two patients: the draws are {a,a}, {a,b}, {b,b} = 0.8, 0.2, 0.
    assert (found.lo, found.hi) == pytest.approx((0.0, 0.8))


def test_the_coverage_is_near_its_name() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for seed in range(200):
        values = rng.normal(0.0, 1.0, 60)
        found = mean_interval(values, [str(i) for i in range(60)], seed=seed, num_draws=400)
        hits += found.lo <= 0.0 <= found.hi
    assert 0.88 <= hits / 200 <= 0.99


def test_a_paired_difference_is_tighter_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(50)
    patients = [f"p{i}" for i in range(50)]
    found = paired_difference(base, base - 0.1, patients)
    assert (found.mean, found.lo, found.hi) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_difference([0.5, math.nan], [0.25, 0.1], ["a", "b"]).num == 1
    with pytest.raises(ValueError, match="same rows"):
        paired_difference([1.0, 2.0], [1.0], ["a", "b"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12))
def test_pooled_dice_and_iou_satisfy_the_identity(parts: list[tuple[int, int, int]]) -> None:
    both, only_true, only_pred = np.array(parts, dtype=float).T
    top = np.stack([2 * both, both], axis=1)
    bottom = np.stack([2 * both + only_true + only_pred, both + only_true + only_pred], axis=1)
    d, j = ratio_intervals(top, bottom, [str(i % 4) for i in range(len(parts))])
    assert math.isnan(d.mean) == math.isnan(j.mean)
    if not math.isnan(d.mean):
        assert d.mean == pytest.approx(2 * j.mean / (1 + j.mean))


def test_five_thousand_patients_share_one_bootstrap() -> None:
    values = np.random.default_rng(0).random((5000, 3))
    values[:, 1] = values[:, 0]
    first, same, other = ratio_intervals(values, np.ones_like(values), [str(i) for i in range(5000)])
    assert first == same != other
    assert first.hi - first.lo == pytest.approx(2 * 1.96 * values[:, 0].std() / np.sqrt(5000), rel=0.1)
