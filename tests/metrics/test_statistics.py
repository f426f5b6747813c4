from __future__ import annotations

import math
import pkgutil
import subprocess
import sys

import numpy as np
import pytest

import medvl.metrics
from medvl.metrics.statistics import (
    holm,
    mean_interval,
    paired_difference,
    patient_sums,
    ratio_intervals,
    seed_means,
    sign_flip_test,
    swap_test,
)


def test_mean_and_count_leave_nan_out() -> None:
    found = mean_interval([1.0, math.nan, 0.0, 0.5], ["a", "a", "b", "c"])
    assert (found.mean, found.num) == (0.5, 3)
    assert 0.0 <= found.lo < found.mean < found.hi <= 1.0
    nothing = mean_interval([math.nan, math.nan], ["a", "b"])
    assert math.isnan(nothing.mean) and nothing.num == 0
    of_one = mean_interval([0.2, 0.4], ["a", "a"]).to_dict()  # one patient has no interval
    assert of_one == {"mean": pytest.approx(0.3), "lo": None, "hi": None, "num": 2}


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
    assert math.isnan(ratio_intervals([[0.0], [0.0]], [[0.0], [0.0]], ["a", "b"])[0].mean)


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
    with pytest.raises(ValueError):
        paired_difference([1.0, 2.0], [1.0], ["a", "b"])


def test_columns_share_one_bootstrap() -> None:
    values = np.random.default_rng(0).random((5000, 3))
    values[:, 1] = values[:, 0]
    first, same, other = ratio_intervals(values, np.ones_like(values), [str(i) for i in range(5000)])
    assert first == same != other


def test_sign_flips_of_three_patients_by_hand() -> None:
    # The eight sums of +-1 +-2 +-3: only 6 and -6 are as far out as the one observed.
    assert sign_flip_test([1.0, 2.0, 3.0]) == 2 / 8
    # Of +-3 +-1 +-1, with 3 + 1 - 1 = 3 observed: 5, 3, 3 and their opposites, not 1 and -1.
    assert sign_flip_test([3.0, 1.0, -1.0]) == 6 / 8
    assert sign_flip_test([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip_test([0.5]) == 1.0
    # Of +-0.1 +-0.2 +-0.1, with 0.2 observed: 0.4, 0.2, 0.2 and their opposites, though 0.1 + 0.2 - 0.1 is not 0.2.
    assert sign_flip_test([0.1, 0.2, -0.1]) == 6 / 8


def test_swapped_pooled_dice_of_two_patients_by_hand() -> None:
    # Patient 1: 8/10 against 2/10; patient 2: 0/30 against 15/30. Pooled 8/40 = 0.2 against 17/40 = 0.425.
    first, second = [[8.0, 0.0], [10.0, 30.0]], [[2.0, 15.0], [10.0, 30.0]]
    # Differences: as it is -0.225; patient 1 swapped 2/40 - 23/40 = -0.525; patient 2 23/40 - 2/40; both +0.225.
    assert swap_test(first, second) == 1.0
    # Denominators move with their patient: 9/10 against 1/50, then swapped one by one.
    a, b = [[4.0, 5.0], [5.0, 5.0]], [[1.0, 0.0], [40.0, 10.0]]
    # As it is 9/10 - 1/50 = 0.88; patient 1: 6/45 - 4/15 = -0.133; patient 2: 4/15 - 6/45; both: -0.88.
    assert swap_test(a, b) == 0.5
    assert math.isnan(swap_test(np.zeros((2, 2)), np.zeros((2, 2))))  # an undefined ratio has no p


def test_drawn_permutations_are_seeded_and_near_the_exact_p() -> None:
    differences = np.random.default_rng(4).normal(0.4, 1.0, 14)
    exact = sign_flip_test(differences, num_draws=2**14)
    drawn = sign_flip_test(differences, num_draws=10_000)
    assert drawn == sign_flip_test(differences, num_draws=10_000) != sign_flip_test(differences, seed=1)
    assert drawn == pytest.approx(exact, abs=0.015) and 0.01 < exact < 0.5
    assert sign_flip_test(np.ones(100), num_draws=999) == 1 / 1000  # never 0


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.2: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.2.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    # The third would be 0.08 * 1, below the second's 0.07 * 2.
    assert holm([0.01, 0.07, 0.08]) == pytest.approx([0.03, 0.14, 0.14])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    undefined, known = holm([math.nan, 0.04])
    assert math.isnan(undefined) and known == 0.04
    assert holm([]) == []


def test_sums_by_patient() -> None:
    values = np.arange(12.0).reshape(2, 3, 2)
    assert patient_sums(values, ["b", "a", "b"]).tolist() == [[[2, 3], [4, 6]], [[8, 9], [16, 18]]]


def test_the_mean_over_one_seed_is_the_plain_interval() -> None:
    rng = np.random.default_rng(0)
    top, bottom, patients = rng.random((30, 2)), 1 + rng.random((30, 2)), [f"p{i % 9}" for i in range(30)]
    for seeds in (None, ["7"]):
        found = seed_means(top[None], bottom[None], patients, seeds=seeds)
        assert found.intervals() == ratio_intervals(top, bottom, patients)


def test_means_over_seeds_are_of_each_seeds_ratio() -> None:
    tops, bottoms = [[[8.0], [0.0]], [[2.0], [3.0]]], [[[10.0], [30.0]], [[10.0], [10.0]]]
    found = seed_means(tops, bottoms, ["a", "b"])
    assert found.by_seed.tolist() == [[0.2], [0.25]]
    assert found.means == pytest.approx([0.225]) and found.sds == pytest.approx([0.05 / math.sqrt(2)])
    # Patients a a: 0.8 and 0.2; b b: 0 and 0.3; a b: 0.2 and 0.25. Drawn are seed 0 twice, seed 1 twice, or both.
    assert set(found.draws.ravel().round(9)) == {0.8, 0.2, 0.5, 0.0, 0.3, 0.15, 0.25, 0.225}
    assert np.isnan(seed_means(tops[:1], bottoms[:1], ["a", "b"]).sds).all()
    assert math.isnan(seed_means(tops, bottoms, ["a", "a"]).intervals()[0].lo)


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    patients, one = [f"p{i}" for i in range(40)], np.ones((6, 40, 1))
    agree = np.broadcast_to(0.6 + 0.1 * rng.standard_normal((1, 40, 1)), (6, 40, 1))
    disagree = agree + np.array([-0.2, 0.2, -0.1, 0.1, -0.2, 0.2])[:, None, None]
    widths = []
    for values in (agree, disagree):
        (found,) = seed_means(values, one, patients).intervals()
        assert found.mean == pytest.approx(agree.mean())
        widths.append(found.hi - found.lo)
    (single,) = seed_means(agree[:1], one[:1], patients).intervals()
    assert widths[0] == pytest.approx(single.hi - single.lo)  # nothing to add, and the patients are drawn alike
    # Variances add: of the patients 0.1^2 / 40, of the seeds 0.03 / 6 (their offsets' mean square over six).
    half = 1.96 * math.sqrt((widths[0] / 2 / 1.96) ** 2 + 0.03 / 6)
    assert widths[1] / 2 == pytest.approx(half, rel=0.08) and widths[1] > 2 * widths[0]


def test_two_seeds_and_no_spread_of_patients_by_hand() -> None:
    values, one = np.array([0.0, 1.0])[:, None, None] * np.ones((2, 9, 1)), np.ones((2, 9, 1))
    found = seed_means(values, one, [f"p{i}" for i in range(9)])
    shares = [(found.draws == value).mean() for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03) and sum(shares) == 1


def test_the_same_seeds_are_paired_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    patients, one = [f"p{i}" for i in range(30)], np.ones((5, 30, 1))
    offsets = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    base = 0.5 + 0.05 * rng.standard_normal((5, 30, 1)) + offsets[:, None, None]
    first = seed_means(base + 0.03, one, patients, seeds=["4", "8", "2", "1", "0"])
    order = [4, 2, 0, 1, 3]
    second = seed_means(base[order], one, patients, seeds=["0", "2", "4", "8", "1"])  # the same, in another order
    (paired,) = first.minus(second)
    assert (paired.mean, paired.lo, paired.hi) == pytest.approx((0.03, 0.03, 0.03))
    (apart,) = first.minus(seed_means(base, one, patients, seeds=["5", "6", "7", "9", "10"]))
    (unnamed,) = seed_means(base, one, patients).minus(seed_means(base - 0.1, one, patients))
    assert (unnamed.lo, unnamed.hi) == pytest.approx((0.1, 0.1))
    assert apart.mean == pytest.approx(0.03) and apart.lo < -0.1 and apart.hi > 0.15
    with pytest.raises(ValueError):
        seed_means(base, one, patients, seeds=["0", "0", "1", "2", "3"])
    with pytest.raises(ValueError):
        first.minus(seed_means(base[:, :29], one[:, :29], patients[:29]))


def test_what_is_measured_needs_numpy_and_scipy_alone() -> None:
    names = [f"medvl.metrics.{module.name}" for module in pkgutil.iter_modules(medvl.metrics.__path__)]
    code = f"import sys, {', '.join(names)}; sys.exit(' '.join({{'torch', 'pandas', 'monai'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
