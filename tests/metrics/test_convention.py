"""Which convention a published pair of Dice and IoU can be, against pairs made of counts of pixels."""

from __future__ import annotations

import json

import pytest
from faults import refused
from hypothesis import given
from hypothesis import strategies as st
from runs import medvl

from medvl.metrics.convention import explain

COUNTS = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("verdict", "pairs"),
    [
        ("pooled", "89.78/81.45 90.88/83.28 90.46/82.58 80.50/67.37 90.59/82.81 92.35/85.8 0.9088/0.8328 100/100"),
        ("mean over images", "79.02/69.46 64.60/50.73 80.42/70.81 72.59/60.36 81.12/71.37 83.66/75.11 74.57/61.33"),
        ("mean over images", "83.40/74.62 74.56/61.15 85.22/77.00 77.48/65.07 84.75/76.30 83.88/75.29 83.97/75.48"),
        ("mean of nearly equal values", "92.15/85.8 79.98/66.83 80.36/67.31"),
        ("impossible", "92.07/80.93 75.11/83.66 90/80 50/60"),
    ],
)  # fmt: skip
def test_published_pairs(verdict: str, pairs: str) -> None:
    for pair in pairs.split():
        assert explain(*pair.split("/")).verdict == verdict, pair


@given(COUNTS)
def test_pairs_made_of_counts_are_what_they_are(counts: list[tuple[int, int, int]]) -> None:
    """(true positive, false positive, false negative) of each image."""
    tp, fp, fn = (sum(column) for column in zip(*counts, strict=True))
    assert explain(f"{200 * tp / (2 * tp + fp + fn):.2f}%", f"{100 * tp / (tp + fp + fn):.2f}%").verdict == "pooled"
    dice = sum(2 * t / (2 * t + p + n) for t, p, n in counts) / len(counts)
    iou = sum(t / (t + p + n) for t, p, n in counts) / len(counts)
    mean = explain(f"{dice:.4f}", f"{iou:.4f}")
    assert mean.verdict != "impossible" and mean.gap == pytest.approx(2 * iou / (1 + iou) - dice, abs=2e-4)


def test_the_spread_that_a_gap_needs_is_about_that_of_the_images() -> None:
    ious = [0.5, 0.7] * 50
    found = explain(f"{sum(2 * j / (1 + j) for j in ious):.4f}", f"{sum(ious):.4f}")
    assert found.iou_sd == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("dice", "iou", "kind"),
    [("a", "80", "malformed"), ("nan", "80", "malformed"), ("-1", "80", "out_of_range"), ("0.9", "80", "mismatch")],
)
def test_what_is_no_pair_is_refused(dice: str, iou: str, kind: str) -> None:
    with refused(kind):
        explain(dice, iou)


def test_the_command_line_explains_a_pair() -> None:
    done = medvl("metric", "explain", "90.88", "83.28%", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["verdict"] == "pooled"
