"""What `medvl compare` measures, by the kind of evaluation: which metrics, from which columns, with which test.

Most metrics are ratios of sums over cases (`statistics.seed_means`). AUC is not: it is computed anew on every draw of
patients, the same ones for every method, and its p is that of this paired bootstrap. Of several seeds the bootstrap is
over patients and seeds (`statistics.over_seeds`).

Shapes: S seeds, n cases, K classes, M metrics, P patients, T draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.csv_cells import read_dicts
from medvl.core.errors import InputError
from medvl.evaluation.case_metrics import OVERLAP, POOLED_NOTE, CaseRow
from medvl.evaluation.kind import Case, Key, Truth
from medvl.evaluation.record import CASES
from medvl.metrics.classification import ScoredClass
from medvl.metrics.statistics import (
    SeedMeans,
    over_seeds,
    patient_sums,
    resampled,
    seed_means,
    sign_flip_test,
    swap_test,
)

FloatArray = NDArray[np.float64]
SWAP = "the two methods swapped within patients, the metric computed anew"
BOOTSTRAP = "paired bootstrap of the intervals: twice the share of draws on the other side of 0"


OVERLAP_TITLES = {
    "dice_per_image": "Dice per image (mean over cases)",
    "dice_pooled": "Dice pooled (over all pixels of the set)",
    "iou_per_image": "IoU per image (mean over cases)",
    "iou_pooled": "IoU pooled (over all pixels of the set)",
}
assert tuple(OVERLAP_TITLES) == OVERLAP
OVERLAP_TESTS = {
    "dice_per_image": "sign-flip permutation of the mean differences per patient",
    "dice_pooled": "the two methods swapped within patients, pooled Dice computed anew",
}
SAME_SET = ("manifest_hash", "split_hash")  # of the summaries of runs that are compared


@dataclass(frozen=True)
class Measures:
    """Titles of the metrics in order, those that are tested, and how (in words)."""

    titles: dict[str, str]
    tested: tuple[str, ...]
    tests: dict[str, str]

    def notes(self) -> list[str]:
        """What a reader must know of these metrics."""
        return []

    def means(
        self,
        runs: Sequence[Sequence[Any]],
        seeds: Sequence[str],
        patients: Sequence[str],
        num_draws: int,
        seed: int,
    ) -> SeedMeans:
        """Of one method; `runs[s][i]` is case i under the training seed `seeds[s]`."""
        top, bottom = self.terms(runs)
        return seed_means(top, bottom, patients, seeds=seeds, num_draws=num_draws, seed=seed)

    def terms(self, runs: Sequence[Sequence[Any]]) -> FloatArray:
        """Numerators and denominators, (2, S, n, M)."""
        raise TypeError(f"{type(self).__name__} has no ratios")

    def p_values(
        self,
        first: Sequence[Sequence[Any]],
        second: Sequence[Sequence[Any]],
        means: tuple[SeedMeans, SeedMeans],
        patients: Sequence[str],
        num_permutations: int,
        seed: int,
    ) -> dict[str, float]:
        """p of each tested metric. A case counts with the mean of its terms over the seeds."""
        a, b = (patient_sums(self.terms(runs).mean(axis=1), patients) for runs in (first, second))  # (2, P, M)
        result = {}
        for metric in self.tested:
            i = list(self.titles).index(metric)
            if self.tests[metric] == OVERLAP_TESTS["dice_per_image"]:
                change = a[0, :, i] / a[1, :, i] - b[0, :, i] / b[1, :, i]
                result[metric] = sign_flip_test(change, num_draws=num_permutations, seed=seed)
            else:
                result[metric] = swap_test(a[:, :, i], b[:, :, i], num_draws=num_permutations, seed=seed)
        return result


class Overlap(Measures):
    """Dice and IoU in both conventions, from pixels: cases.csv rounds them, which would break ties of the tests."""

    def notes(self) -> list[str]:
        """Why two conventions."""
        return [POOLED_NOTE]

    def terms(self, runs: Sequence[Sequence[CaseRow]]) -> FloatArray:
        """(2, S, n, 4)."""

        def of(row: CaseRow) -> tuple[list[float], list[float]]:
            both, total = row.tp_px, row.true_px + row.pred_px
            dice, iou = (2 * both / total, both / (total - both)) if total else (row.dice, row.iou)
            return [dice, 2 * both, iou, both], [1, total, 1, total - both]

        values = np.array([[of(row) for row in run] for run in runs], dtype=np.float64)  # (S, n, 2, 4)
        if np.isnan(values).any():
            raise InputError.conflict(
                "cases whose two masks are empty have no Dice, and they differ from run to run",
                remedy="evaluate with --empty-mask one or zero",
            )
        return np.moveaxis(values, 2, 0)


@dataclass(frozen=True)
class Ratios(Measures):
    """Columns of cases.csv over columns (or over the number of cases). A case without a value has no part in it."""

    columns: Sequence[str]
    pairs: Sequence[tuple[str, str]]

    def terms(self, runs: Sequence[Sequence[Any]]) -> FloatArray:
        """(2, S, n, M)."""
        values = np.array([[case.values for case in run] for run in runs], dtype=np.float64)  # (S, n, columns)
        values = np.concatenate([values, np.ones((*values.shape[:2], 1))], axis=2)
        place = {**{name: i for i, name in enumerate(self.columns)}, "": len(self.columns)}
        both = np.stack([values[..., [place[pair[side]] for pair in self.pairs]] for side in (0, 1)])
        both[:, np.isnan(both).any(axis=0)] = 0.0
        return both


@dataclass(frozen=True)
class Areas(Measures):
    """AUC of each class that has positives and negatives, their mean, mean average precision; accuracy of one label.

    Where only some classes have an interval (two patients or more with positives, and with negatives), the means of
    these stand beside the means of all, and these are what is tested.
    """

    labels: FloatArray  # (n, K), NaN = not known
    defined: tuple[int, ...]
    usable: tuple[int, ...]  # places in `defined` of the classes that have an interval
    classes: tuple[str, ...]
    multiclass: bool

    @classmethod
    def of(cls, classes: Sequence[str], labels: FloatArray, patients: Sequence[str], multiclass: bool) -> Areas:
        """The metrics that these labels (n, K) allow. InputError where no class has both kinds."""
        names = np.asarray(patients, dtype=str)
        num_with = [[len(np.unique(names[column == kind])) for kind in (0.0, 1.0)] for column in labels.T]
        defined = tuple(k for k, counts in enumerate(num_with) if min(counts) > 0)
        usable = tuple(i for i, k in enumerate(defined) if min(num_with[k]) > 1)
        if not defined:
            raise InputError.empty("no class has positives and negatives, so that there is no AUC to compare")
        titles = {
            "macro_auc": f"Macro AUC (mean over {len(defined)} classes)",
            "macro_average_precision": f"Macro average precision (mean over {len(defined)} classes)",
        }
        tested = ["macro_auc"]
        if usable and len(usable) < len(defined):
            titles["macro_auc_with_interval"] = f"Macro AUC (mean over the {len(usable)} classes with an interval)"
            titles["macro_average_precision_with_interval"] = (
                f"Macro average precision (mean over the {len(usable)} classes with an interval)"
            )
            tested = ["macro_auc_with_interval"]
        if multiclass:
            titles["accuracy"] = "Accuracy of the most probable class"
            tested.append("accuracy")
        areas = {f"auc_{classes[k]}": f"AUC of {classes[k]} ({int(np.nansum(labels[:, k]))} positive)" for k in defined}
        tested += areas
        tests = dict.fromkeys(tested, BOOTSTRAP)
        return cls(titles | areas, tuple(tested), tests, labels, defined, usable, tuple(classes), multiclass)

    def notes(self) -> list[str]:
        """Classes without an AUC, and without an interval."""
        undefined = [name for k, name in enumerate(self.classes) if k not in self.defined]
        notes = [f"no AUC, not in any mean (positives or negatives are missing): {', '.join(undefined)}"]
        left = [self.classes[k] for i, k in enumerate(self.defined) if i not in self.usable]
        alone = f"no interval (fewer than two patients with positives, or with negatives): {', '.join(left)}"
        return [*(notes if undefined else []), *([alone] if left else [])]

    def means(
        self,
        runs: Sequence[Sequence[Any]],
        seeds: Sequence[str],
        patients: Sequence[str],
        num_draws: int,
        seed: int,
    ) -> SeedMeans:
        """Of one method, all seeds on the same draws of patients."""
        names, code = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        cases = [self._classes(run, code) for run in runs]
        right = [np.array([np.argmax(case.values) == np.argmax(case.truth) for case in run]) for run in runs]
        whole = np.ones((1, len(names)))
        by_seed = np.concatenate([self._values(c, r, whole, code) for c, r in zip(cases, right, strict=True)])  # (S, M)
        parts = [
            np.stack([self._values(c, r, times, code) for c, r in zip(cases, right, strict=True)])
            for times in resampled(len(names), num_draws, seed)
        ]
        draws = over_seeds(np.concatenate(parts, axis=1), seeds, seed)  # (T, M)
        alone = [i for i in range(len(self.defined)) if i not in self.usable]
        if alone:
            draws[:, [0, 1, *(len(self.titles) - len(self.defined) + i for i in alone)]] = math.nan
        if len(names) < 2:
            draws[:] = math.nan
        return SeedMeans(by_seed, draws, len(patients))

    def p_values(
        self,
        first: Sequence[Sequence[Any]],
        second: Sequence[Sequence[Any]],
        means: tuple[SeedMeans, SeedMeans],
        patients: Sequence[str],
        num_permutations: int,
        seed: int,
    ) -> dict[str, float]:
        """p of the paired bootstrap, never 0; NaN where there is no interval."""
        change = means[0].draws - means[1].draws  # (T, M)
        return {metric: bootstrap_p(change[:, list(self.titles).index(metric)]) for metric in self.tested}

    def _classes(self, run: Sequence[Any], code: NDArray[np.int_]) -> list[ScoredClass]:
        probs = np.array([case.values for case in run], dtype=np.float64)  # (n, K)
        result = []
        for k in self.defined:
            known = ~np.isnan(self.labels[:, k])
            result.append(ScoredClass(probs[known, k], self.labels[known, k] > 0.5, code[known]))
        return result

    def _values(
        self, cases: Sequence[ScoredClass], right: NDArray[np.bool_], times: FloatArray, code: NDArray[np.int_]
    ) -> FloatArray:
        """Weights of the patients (T, P) -> (T, M). A mean is over the same classes in every draw, NaN without one."""
        metrics = [case.metrics(times) for case in cases]
        both = [
            np.stack([one[name] for one in metrics], axis=1) for name in ("auc", "average_precision")
        ]  # (T, defined)
        columns = [values.mean(axis=1) for values in both]
        if "macro_auc_with_interval" in self.titles:
            columns += [values[:, self.usable].mean(axis=1) for values in both]
        if self.multiclass:
            weights = times[:, code]
            columns.append((weights @ right) / np.maximum(weights.sum(axis=1), 1e-12))
        return np.concatenate([np.stack(columns, axis=1), both[0]], axis=1)


def bootstrap_p(changes: FloatArray) -> float:
    """Two-sided p of (T,) bootstrap differences: 2 (1 + draws on the rarer side of 0) / (1 + T), at most 1.

    A draw of exactly 0 is on both sides; NaN draws are left out; NaN without draws.
    """
    known = changes[~np.isnan(changes)]
    if not len(known):
        return math.nan
    rarer = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (1 + len(known)))


@dataclass(frozen=True, slots=True)
class RatioCase:
    """A case whose metrics are ratios of sums of columns: `values` are the columns of `RatioTable.columns`."""

    patient: str
    truth: Truth  # size of what is true, text
    values: tuple[float, ...]
    quality: float

    @property
    def text(self) -> str:
        """The query that the model was given."""
        return str(self.truth[1])


@dataclass(frozen=True, slots=True)
class RatioTable:
    """A kind of cases.csv whose metrics are ratios: {metric: (title, numerator, denominator)}, "" = number of cases.

    Args:
        truth: the column that is the same in runs that scored the same truth.
        quality: the column by which cases are ordered.
        method: of files with several rows a case, the one that is the model's.
    """

    ratios: Mapping[str, tuple[str, str, str]]
    tested: tuple[str, ...]
    truth: str
    quality: str
    method: str | None = None

    @property
    def columns(self) -> list[str]:
        """Numerators and denominators, each once."""
        return sorted({name for _, *pair in self.ratios.values() for name in pair if name})

    def read(self, folder: Path) -> tuple[dict[Key, Case], dict[str, Any]]:
        """The cases of an evaluation folder."""
        with (folder / CASES).open(encoding="utf-8", newline="") as file:
            rows = [row for row in read_dicts(file) if self.method is None or row["method"] == self.method]
        return {
            (row["id"], ""): RatioCase(
                row["patient"],
                (row[self.truth], row.get("text", "")),
                tuple(float(row[name] or math.nan) for name in self.columns),
                float(row[self.quality] or math.nan),
            )
            for row in rows
        }, {}

    def measures(self, summary: Mapping[str, Any], truths: Sequence[Truth], patients: Sequence[str]) -> Measures:
        """The metrics, whatever the cases."""
        titles = {name: title for name, (title, *_) in self.ratios.items()}
        pairs = [(top, bottom) for _, top, bottom in self.ratios.values()]
        return Ratios(titles, self.tested, dict.fromkeys(self.tested, SWAP), self.columns, pairs)


def overlap_measures(summary: Mapping[str, Any], truths: Sequence[Truth], patients: Sequence[str]) -> Measures:
    """Dice and IoU of masks."""
    return Overlap(dict(OVERLAP_TITLES), tuple(OVERLAP_TESTS), dict(OVERLAP_TESTS))


def area_measures(summary: Mapping[str, Any], truths: Sequence[Truth], patients: Sequence[str]) -> Measures:
    """AUC and average precision of the classes that the labels allow."""
    labels = np.array([[math.nan if v == "" else v for v in truth] for truth in truths], dtype=np.float64)
    return Areas.of(tuple(summary["classes"]), labels, patients, summary.get("labels") == "multiclass")
