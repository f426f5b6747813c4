"""Intervals by patient: rows of one patient are not independent, so patients are resampled, not rows.

Every metric is a ratio of sums over rows (a mean is the sum of values over their number, a pooled Dice twice the common
pixels over all pixels), hence one bootstrap serves them all. Percentile bootstrap, 95 %, seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

NUM_DRAWS = 2000
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


def _draws(by_patient: FloatArray, num_draws: int, seed: int) -> FloatArray:
    """(2, P, M) sums per patient -> (draws, M) ratios of resampled patients."""
    rng = np.random.default_rng(seed)
    num_patients = by_patient.shape[1]
    parts = []
    for start in range(0, num_draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, num_draws - start)
        picked = rng.integers(num_patients, size=(size, num_patients))
        picked += np.arange(size)[:, None] * num_patients
        times = np.bincount(picked.ravel(), minlength=size * num_patients).astype(np.float64)
        times = times.reshape(size, num_patients)  # (draws, P): how often each patient was drawn
        parts.append(_ratio(times @ by_patient[0], times @ by_patient[1]))
    return np.concatenate(parts)


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    return np.divide(top, bottom, out=np.full_like(top, math.nan), where=bottom > 0)
