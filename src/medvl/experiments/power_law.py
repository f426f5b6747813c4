"""The learning curve of `medvl x label-budget`: a power law with a ceiling, its fit, its bootstrap, how often it holds.

    Dice(n) = c - a n^(-b),   a >= 0,   0 < b <= 1,   0 <= c <= 1,

n the number of labelled images (or patients, or records), c the Dice that no number of further masks exceeds. It is
the form of Cortes et al., "Learning curves: asymptotic values and rate of convergence", NeurIPS 1993, and of Figueroa
et al., "Predicting sample size required for classification performance", BMC Med. Inform. Decis. Mak. 12:8, 2012.

Shapes: m runs, D fits at once, each with its own m runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

B_MIN = 0.01  # nearly a logarithm: slower curves cannot be distinguished from it
CONFIDENCE = 0.95
GOLDEN = (math.sqrt(5) - 1) / 2
NUM_SIMULATIONS, SIMULATED_DRAWS = 200, 200
SIMULATED_RUNS = (2, 3, 6)  # a fraction


@dataclass(frozen=True, slots=True)
class Curve:
    """Dice(n) = c - a n^(-b)."""

    a: float
    b: float
    c: float

    def at(self, n: FloatArray | float) -> FloatArray:
        """Dice at n (any shape)."""
        return np.asarray(self.c - self.a * np.asarray(n, dtype=np.float64) ** -self.b)

    def needed(self, target: float) -> float:
        """n at which the curve reaches `target`, at least 1; infinite where the target is not below the ceiling."""
        if self.a == 0:
            return 1.0 if self.c >= target else math.inf
        if self.c <= target:
            return math.inf
        power = math.log(self.a / (self.c - target)) / self.b
        return max(1.0, math.exp(power)) if power < 700 else math.inf  # exp(700) is the largest float


@dataclass(frozen=True, slots=True)
class Precision:
    """How finely the exponent is searched."""

    num_grid: int = 65
    num_steps: int = 45  # each narrows the search to 0.618 of what it was


QUICK = Precision(17, 20)  # to a thousandth: enough for the simulations, which make thousands of fits


def fit_curve(n: FloatArray, dice: FloatArray) -> Curve:
    """The bounded least-squares fit to (m,) counts n >= 1 and (m,) Dice."""
    return fit_curves(n[None], dice[None])[0]


def fit_curves(n: FloatArray, dice: FloatArray, precision: Precision | None = None) -> list[Curve]:
    """D fits at once, to (D, m) counts n >= 1 and (D, m) Dice.

    For a given b the best a and c have a closed form (a linear problem with two bounds), so that only b is searched:
    on a grid, then by golden sections between the neighbours of the grid's best. It has no start to choose.
    """
    precision = precision or Precision()
    unit = np.exp(np.log(n).mean(axis=1))  # n in units of its geometric mean: well conditioned for every b
    log_n = np.log(n / unit[:, None])

    def cost(log_b: FloatArray) -> FloatArray:
        return _linear(log_n, dice, np.exp(log_b))[2]

    logs = np.linspace(math.log(B_MIN), 0.0, precision.num_grid)
    costs = np.stack([cost(np.full(len(n), one)) for one in logs])  # (G, D)
    best = costs.argmin(axis=0)
    lo, hi = logs[np.maximum(best - 1, 0)], logs[np.minimum(best + 1, len(logs) - 1)]
    left, right = hi - GOLDEN * (hi - lo), lo + GOLDEN * (hi - lo)
    at_left, at_right = cost(left), cost(right)
    for _ in range(precision.num_steps):
        lower = at_left < at_right
        lo, hi = np.where(lower, lo, left), np.where(lower, right, hi)
        new = np.where(lower, hi - GOLDEN * (hi - lo), lo + GOLDEN * (hi - lo))
        value = cost(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        at_left, at_right = np.where(lower, value, at_right), np.where(lower, at_left, value)
    middle = (lo + hi) / 2
    log_b = np.where(cost(middle) <= costs.min(axis=0), middle, logs[best])  # the sections do not try the ends
    b = np.exp(log_b)
    a, c, _ = _linear(log_n, dice, b)
    return [Curve(*map(float, row)) for row in zip(a * unit**b, b, c, strict=True)]


def bootstrap_curves(
    n: FloatArray,
    dice: FloatArray,
    fractions: Sequence[float],
    *,
    num_draws: int,
    rng: np.random.Generator,
    precision: Precision | None = None,
) -> list[Curve]:
    """Fits to resampled runs: each fraction keeps its number of runs. [] where no fraction has two.

    The m runs of a fraction vary about their mean by sqrt((m - 1) / m) less than what they were drawn from, which
    matters for few of them; their residuals are widened by its inverse (Davison & Hinkley, Bootstrap Methods and
    their Application, 1997, section 3.3).

    Args:
        n, dice, fractions: of each of the m runs.
    """
    strata = _strata(fractions)
    if all(len(rows) < 2 for rows in strata):
        return []
    wide = dice.copy()
    residual = dice - fit_curves(n[None], dice[None], precision)[0].at(n)
    for places in strata:
        if len(places) > 1:
            wider = math.sqrt(len(places) / (len(places) - 1)) - 1
            wide[places] += wider * (residual[places] - residual[places].mean())
    rows = np.concatenate(
        [places[rng.integers(len(places), size=(num_draws, len(places)))] for places in strata], axis=1
    )
    # With few runs the same draw comes often.
    distinct, which = np.unique(np.sort(rows, axis=1), axis=0, return_inverse=True)
    curves = fit_curves(n[distinct], wide[distinct], precision)
    return [curves[i] for i in which.ravel()]


def interval(draws: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval: order statistics, not interpolated, as a draw may be infinite."""
    tail = 50 * (1 - CONFIDENCE)
    lo, hi = np.percentile(draws, tail, method="lower"), np.percentile(draws, 100 - tail, method="higher")
    return float(lo), float(hi)


def run_sd(dice: FloatArray, fractions: Sequence[float]) -> float | None:
    """The standard deviation of the runs about the mean of their fraction; None where no fraction has two."""
    strata = _strata(fractions)
    squares = sum(float(((dice[places] - dice[places].mean()) ** 2).sum()) for places in strata)
    free = len(dice) - len(strata)
    return math.sqrt(squares / free) if free else None


def coverage(
    curve: Curve,
    sd: float,
    n: FloatArray,
    fractions: Sequence[float],
    target: float,
    *,
    num_simulations: int = NUM_SIMULATIONS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How often the intervals hold the truth, by simulation: experiments drawn from `curve` with normal noise of `sd`,
    each fitted and resampled as real runs are.

    Args:
        n, fractions: of each of the m real runs. Simulated are these (`runs_per_fraction` None), and 2, 3 and 6 runs at
            the mean n of each fraction.
        target: whose n is looked for.

    Returns:
        `runs_per_fraction`, and of `needed` and `ceiling` the share of the experiments whose interval holds it.
    """
    strata = _strata(fractions)
    means = np.array([n[places].mean() for places in strata])
    designs: dict[int | None, tuple[FloatArray, Sequence[float]]] = {None: (n, fractions)}
    for each in SIMULATED_RUNS:
        designs[each] = np.repeat(means, each), [float(k) for k in np.repeat(np.arange(len(means)), each)]
    rows = []
    for number, (counts, groups) in designs.items():
        rng = np.random.default_rng([seed, number or 0])
        held = np.zeros(2)
        for _ in range(num_simulations):
            dice = curve.at(counts) + sd * rng.standard_normal(len(counts))
            curves = bootstrap_curves(counts, dice, groups, num_draws=SIMULATED_DRAWS, rng=rng, precision=QUICK)
            for k, (truth, draws) in enumerate(
                ((curve.needed(target), [one.needed(target) for one in curves]), (curve.c, [one.c for one in curves]))
            ):
                lo, hi = interval(draws)
                held[k] += lo <= truth <= hi
        needed, ceiling = (held / num_simulations).tolist()
        rows.append({"runs_per_fraction": number, "needed": needed, "ceiling": ceiling})
    return rows


def coverage_note(result: Mapping[str, Any]) -> str:
    """What the simulations found, in a sentence."""
    parts = [
        f"{'these' if row['runs_per_fraction'] is None else row['runs_per_fraction']} runs"
        f"{'' if row['runs_per_fraction'] is None else ' a fraction'}: {row['needed']:.0%} and {row['ceiling']:.0%}"
        for row in result["by_runs"]
    ]
    return (
        f"intervals are meant to hold the truth in {CONFIDENCE:.0%} of experiments; of {result['simulations']} "
        f"simulated ones (this curve, runs that vary by {result['sd']:.2g}) they held the true n and the true ceiling "
        f"with {'; '.join(parts)}"
    )


def _linear(log_n: FloatArray, dice: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(D,) a, c, sum of squares of the best dice ~ c - a exp(-b log_n) with a >= 0 and c <= 1; c >= 0 follows."""
    x = np.exp(-b[:, None] * log_n)  # (D, m)
    x_mean, mean = x.mean(axis=1), dice.mean(axis=1)
    off = x - x_mean[:, None]
    spread = (off**2).sum(axis=1)
    slope = -(off * (dice - mean[:, None])).sum(axis=1)
    a = np.divide(slope, spread, out=np.zeros_like(slope), where=spread > 0)
    c = mean + a * x_mean
    # Both bounds cannot be broken at once: where a < 0, c < mean <= 1.
    at_ceiling = (x * (1 - dice)).sum(axis=1) / (x**2).sum(axis=1)
    a, c = np.where(a < 0, 0.0, np.where(c > 1, at_ceiling, a)), np.where(a < 0, mean, np.minimum(c, 1.0))
    return a, c, ((dice - c[:, None] + a[:, None] * x) ** 2).sum(axis=1)


def _strata(fractions: Sequence[float]) -> list[IntArray]:
    """The places of the runs of each fraction, in the order in which the fractions come."""
    strata: dict[float, list[int]] = {}
    for i, fraction in enumerate(fractions):
        strata.setdefault(fraction, []).append(i)
    return [np.array(places) for places in strata.values()]
