"""Intervals by patient: rows of one patient are not independent, so patients are resampled, not rows.

A method that was trained with several seeds has intervals over patients and seeds: a two-level bootstrap that draws
both with replacement. The seeds predict the same patients, so that a draw of patients holds for all of them.

Every metric is a ratio of sums over rows (a mean is the sum of values over their number, a pooled Dice twice the common
pixels over all pixels), hence one bootstrap serves them all. Percentile bootstrap, 95 %, seeded.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

NUM_DRAWS = 2000
FEW_PATIENTS, ENOUGH_DRAWS = 8, 10  # of fewer labelled patients only the mean of so many draws is a result
NUM_PERMUTATIONS = 10_000
_DRAWS_AT_ONCE = 200  # bounds memory: 200 x patients


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval and the number of things it was computed from.

    `lo` and `hi` are NaN where fewer than two patients contribute; all are NaN where nothing does.
    """

    mean: float
    lo: float
    hi: float
    num: int

    def to_dict(self) -> dict[str, Any]:
        """mean, lo, hi, num; NaN as None, so that it can be written as JSON."""
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(self).items()}


def ratio_intervals(
    numerators: ArrayLike,
    denominators: ArrayLike,
    patients: Sequence[str],
    *,
    num: Sequence[int] | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Interval]:
    """sum(numerator) / sum(denominator) of each column, with an interval by patient.

    Args:
        numerators, denominators: (n, M), row i of `patients[i]`. NaN in either leaves that row out of that column.
        num: what to report as `num` per column; default the number of rows that are not left out.

    Returns:
        M intervals. A draw whose denominator is zero is left out of the interval.
    """
    top = np.array(numerators, dtype=np.float64, ndmin=2, copy=True)
    bottom = np.array(denominators, dtype=np.float64, ndmin=2, copy=True)
    if top.shape != bottom.shape or len(top) != len(patients):
        raise ValueError(f"numerators {top.shape}, denominators {bottom.shape}, {len(patients)} patients")
    absent = np.isnan(top) | np.isnan(bottom)
    top[absent] = bottom[absent] = 0.0
    counts = (~absent).sum(axis=0) if num is None else np.asarray(num)
    names, code = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    by_patient = np.zeros((2, len(names), top.shape[1]))
    np.add.at(by_patient[0], code, top)
    np.add.at(by_patient[1], code, bottom)
    estimate = _ratio(by_patient[0].sum(axis=0), by_patient[1].sum(axis=0))  # (M,)
    lo, hi = np.full_like(estimate, math.nan), np.full_like(estimate, math.nan)
    enough = (by_patient[1] > 0).sum(axis=0) >= 2
    if enough.any():
        draws = _draws(by_patient[:, :, enough], num_draws, seed)  # (draws, M')
        tail = 50 * (1 - confidence)
        lo[enough], hi[enough] = np.nanpercentile(draws, [tail, 100 - tail], axis=0)
    return [Interval(float(e), float(a), float(b), int(n)) for e, a, b, n in zip(estimate, lo, hi, counts, strict=True)]


def resampled(num_patients: int, num_draws: int, seed: int) -> Iterator[FloatArray]:
    """How often each patient was drawn, (t, P) at a time: the same draws for the same number of patients and seed."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, num_draws - start)
        picked = rng.integers(num_patients, size=(size, num_patients)) + np.arange(size)[:, None] * num_patients
        times = np.bincount(picked.ravel(), minlength=size * num_patients).astype(np.float64)
        yield times.reshape(size, num_patients)


def interval_of(estimate: float, draws: FloatArray, num: int) -> Interval:
    """The estimate with the 95 % interval of its draws (T,), of those that are known; NaN bounds without one."""
    known = draws[~np.isnan(draws)]
    if math.isnan(estimate) or not len(known):
        return Interval(estimate, math.nan, math.nan, num)
    lo, hi = np.percentile(known, [2.5, 97.5])
    return Interval(estimate, float(lo), float(hi), num)


def mean_interval(values: ArrayLike, patients: Sequence[str], *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Interval:
    """Mean of `values` (n,) with its interval by patient; NaN values are left out."""
    column = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    return ratio_intervals(column, np.ones_like(column), patients, num_draws=num_draws, seed=seed)[0]


def paired_difference(
    first: ArrayLike, second: ArrayLike, patients: Sequence[str], *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> Interval:
    """Mean of `first - second`, both (n,) of the same rows, with its interval by patient.

    A row where either is NaN is left out. The interval is that of the difference, which is what to look at: two
    overlapping intervals of the same cases do not mean that there is no difference.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} against {b.shape}: a paired difference needs the same rows")
    return mean_interval(a - b, patients, num_draws=num_draws, seed=seed)


@dataclass(frozen=True, slots=True)
class SeedMeans:
    """M metrics of one method, each the mean over S training seeds, with the bootstrap draws of that mean.

    `by_seed` is (S, M); `draws` is (num_draws, M), NaN where fewer than two patients contribute. Of several seeds they
    are over patients and seeds, of one over patients. Objects made of the same patients with the same `seed` resampled
    the same patients, and those with the same training seeds the same of these, draw by draw: their difference is
    paired in both.
    """

    by_seed: FloatArray
    draws: FloatArray
    num: int

    @property
    def means(self) -> FloatArray:
        """(M,) means over the seeds."""
        return np.asarray(self.by_seed.mean(axis=0))

    @property
    def sds(self) -> FloatArray:
        """(M,) standard deviations over the seeds (n - 1); NaN for a single seed."""
        if len(self.by_seed) < 2:
            return np.full(self.by_seed.shape[1], math.nan)
        return np.asarray(self.by_seed.std(axis=0, ddof=1))

    def intervals(self, confidence: float = 0.95) -> list[Interval]:
        """The means with their intervals, over patients and, of several seeds, over these."""
        return _percentiles(self.means, self.draws, self.num, confidence)

    def minus(self, other: SeedMeans, confidence: float = 0.95) -> list[Interval]:
        """Differences of the means to another method's, on the same patients."""
        if self.draws.shape != other.draws.shape or self.num != other.num:
            raise ValueError("a paired difference needs the same rows and draws")
        return _percentiles(self.means - other.means, self.draws - other.draws, self.num, confidence)


def seed_means(
    numerators: ArrayLike,
    denominators: ArrayLike,
    patients: Sequence[str],
    *,
    seeds: Sequence[str] | None = None,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> SeedMeans:
    """Ratios of sums of every training seed, averaged over the seeds; see `over_seeds` for the interval.

    Args:
        numerators, denominators: (S, n, M) without NaN; row i is of `patients[i]` in every seed.
        seeds: S names of the training seeds; default their places.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.ndim != 3 or top.shape != bottom.shape or top.shape[1] != len(patients):
        raise ValueError(f"numerators {top.shape}, denominators {bottom.shape}, {len(patients)} patients")
    by_patient = np.stack([patient_sums(top, patients), patient_sums(bottom, patients)], axis=1)  # (S, 2, P, M)
    by_seed = _ratio(by_patient[:, 0].sum(axis=1), by_patient[:, 1].sum(axis=1))  # (S, M)
    names = [str(i) for i in range(len(top))] if seeds is None else seeds
    each = np.stack([_draws(one, num_draws, seed) for one in by_patient])  # (S, draws, M): same patients each time
    draws = over_seeds(each, names, seed)  # (draws, M)
    draws[:, (by_patient[:, 1] > 0).sum(axis=1).min(axis=0) < 2] = math.nan
    return SeedMeans(by_seed, draws, len(patients))


def over_seeds(draws: FloatArray, seeds: Sequence[str], seed: int) -> FloatArray:
    """The upper level of the bootstrap: (S, T, M) draws of S seeds -> (T, M), means over S of these drawn again.

    Which are drawn depends on their names and `seed` alone, in any order, so that methods of the same training seeds
    draw the same ones; those of other seeds are drawn by themselves. A single seed stays as it is. Of few seeds the
    interval is too narrow: their variance is taken (S - 1) / S times.
    """
    num_seeds, num_draws = draws.shape[:2]
    if len(seeds) != num_seeds or len(set(seeds)) != num_seeds:
        raise ValueError(f"{len(seeds)} names, {len(set(seeds))} different ones, for {num_seeds} seeds")
    if num_seeds == 1:
        return np.asarray(draws[0])
    order = sorted(range(num_seeds), key=lambda i: seeds[i])
    rng = np.random.default_rng([seed, zlib.crc32("\n".join(sorted(seeds)).encode())])
    picked = rng.integers(num_seeds, size=(num_draws, num_seeds))
    times = (picked[:, :, None] == np.arange(num_seeds)).sum(axis=1)  # (T, S): how often each seed was drawn
    mean: FloatArray = np.einsum("ts,stm->tm", times / num_seeds, draws[order])
    return mean


def patient_sums(values: FloatArray, patients: Sequence[str]) -> FloatArray:
    """Sums over each patient's rows, patients in sorted order: (..., n, M) -> (..., P, M)."""
    names, code = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    rows = np.moveaxis(values, -2, 0)  # (n, ..., M)
    sums = np.zeros((len(names), *rows.shape[1:]))
    np.add.at(sums, code, rows)
    return np.moveaxis(sums, 0, -2)  # (..., P, M)


def sign_flip_test(differences: ArrayLike, *, num_draws: int = NUM_PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p of the mean of (P,) per-patient differences being 0 when each sign could as well be the other.

    Exact where there are no more sign patterns than `num_draws`, else from seeded draws (see `swap_test`).
    """
    values = np.asarray(differences, dtype=np.float64)
    one = np.ones_like(values)
    return swap_test([values, one], [np.zeros_like(values), one], num_draws=num_draws, seed=seed)


def swap_test(first: ArrayLike, second: ArrayLike, *, num_draws: int = NUM_PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p of the difference of two ratios of sums, when the two methods may be swapped patient by patient.

    Args:
        first, second: (2, P) numerators and denominators of each patient under either method.

    All 2^P swaps are enumerated where that is at most `num_draws`, and p is the share of those whose difference is at
    least as far from 0 as the one observed. Otherwise p = (1 + hits) / (1 + num_draws), which is never 0. NaN where a
    ratio is undefined.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or a.shape[0] != 2:
        raise ValueError(f"{a.shape} against {b.shape}, expected (2, P) both")
    num_patients = a.shape[1]
    exact = 2**num_patients <= num_draws
    total = 2**num_patients if exact else num_draws
    observed = float(abs(_swapped(a, b, np.zeros((1, num_patients)))[0]))
    if math.isnan(observed):
        return math.nan
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, total, _DRAWS_AT_ONCE):
        numbers = np.arange(start, min(start + _DRAWS_AT_ONCE, total))
        if exact:
            swaps = (numbers[:, None] >> np.arange(num_patients)) & 1
        else:
            swaps = rng.integers(2, size=(len(numbers), num_patients))
        statistic = np.abs(_swapped(a, b, swaps.astype(np.float64)))
        hits += int((statistic >= observed - 1e-12).sum())  # equal ones are equal but for rounding
    return hits / total if exact else (1 + hits) / (1 + total)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p of a family of tests, in the order given; NaN stays NaN and is not of the family.

    The k-th smallest of m is multiplied by m - k + 1, is at least the one before it and at most 1.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = highest
    return adjusted


def _swapped(a: FloatArray, b: FloatArray, swaps: FloatArray) -> FloatArray:
    """(draws,) differences of ratios when the patients marked in `swaps` (draws, P) change methods."""
    change = swaps @ (b - a).T  # (draws, 2)
    first, second = a.sum(axis=1) + change, b.sum(axis=1) - change
    return _ratio(first[:, 0], first[:, 1]) - _ratio(second[:, 0], second[:, 1])


def _percentiles(estimate: FloatArray, draws: FloatArray, num: int, confidence: float) -> list[Interval]:
    tail = 50 * (1 - confidence)
    result = []
    for value, column in zip(estimate, draws.T, strict=True):
        known = column[~np.isnan(column)]
        lo, hi = np.percentile(known, [tail, 100 - tail]) if len(known) else (math.nan, math.nan)
        result.append(Interval(float(value), float(lo), float(hi), num))
    return result


def _draws(by_patient: FloatArray, num_draws: int, seed: int) -> FloatArray:
    """(2, P, M) sums per patient -> (draws, M) ratios of resampled patients."""
    times = resampled(by_patient.shape[1], num_draws, seed)
    return np.concatenate([_ratio(weights @ by_patient[0], weights @ by_patient[1]) for weights in times])


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    return np.divide(top, bottom, out=np.full_like(top, math.nan), where=bottom > 0)
