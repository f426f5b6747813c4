"""Average precision: by hand, against faster-coco-eval, and its intervals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.metrics.detection import (
    COCO_IOUS,
    PUBLISHED_IOUS,
    ImageBoxes,
    Ranking,
    average_precision,
    coco_ap,
    image_row,
    match,
    mean_ap,
    score,
)

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def image(
    true: list[list[float]], found: list[tuple[list[float], float]], name: str = "i", kinds: tuple[int, ...] = ()
) -> ImageBoxes:
    """`kinds`: classes of the true boxes, then of the detections; 0 where not given."""
    padded = [*kinds, *[0] * (len(true) + len(found) - len(kinds))]
    return ImageBoxes(
        name, name, np.array(true, dtype=np.float64).reshape(-1, 4), np.array(padded[: len(true)], dtype=np.int64),
        np.array([box for box, _ in found], dtype=np.float64).reshape(-1, 4),
        np.array([score for _, score in found], dtype=np.float64), np.array(padded[len(true) :], dtype=np.int64),
    )  # fmt: skip


def ap(images: list[ImageBoxes], iou: float = 0.5, num_classes: int = 1) -> float:
    return float(mean_ap(average_precision(images, (iou,), num_classes)))


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([(A, 0.9), (B, 0.8)], 1),
        # Right, wrong, right: precision 1 up to recall 1/2, then 2/3. The second detection of a box is wrong, too.
        ([(A, 0.9), (C, 0.8), (B, 0.7)], (51 + 50 * 2 / 3) / 101),
        ([(A, 0.9), (A, 0.8), (B, 0.7)], (51 + 50 * 2 / 3) / 101),
        ([(A, 0.7), (C, 0.8), (B, 0.6)], 2 / 3),  # the wrong one first: precision 2/3 throughout
        ([(A, 0.9)], 51 / 101),  # recall 1/2, nothing beyond
        ([], 0),
    ],
)
def test_by_hand(detections: list[tuple[list[float], float]], expected: float) -> None:
    assert ap([image([A, B], detections)]) == pytest.approx(expected)
    assert math.isnan(ap([image([], detections)]))  # nothing to find


def test_the_threshold_is_met_from_the_iou_on() -> None:
    half = [0, 0, 10, 5]
    assert ap([image([A], [(half, 0.9)])], 0.5) == 1 and ap([image([A], [(half, 0.9)])], 0.55) == 0
    assert match(image([A], [(half, 0.9), (C, 0.2)]), (0.5,))[1].tolist() == [0.5, 0]


def test_images_without_boxes_count_in_one_convention_only() -> None:
    hit, unsure = image([A], [(A, 0.9)], "hit"), image([A], [(A, 0.3)], "too unsure")
    images = [hit, image([], [(B, 0.95)], "nothing there"), unsure]
    found = score(images, ("x",), 0.5, num_draws=20).metrics()
    assert found["map_published"]["mean"] == 1 and found["map_published"]["num"] == 1
    # The wrong one first, then right: precision 1/2 up to recall 1/2.
    assert found["map"]["mean"] == pytest.approx(0.5 * 51 / 101) and found["map"]["num"] == 3
    assert found["coco_ap50"]["mean"] == pytest.approx(2 / 3)  # all scores: wrong, right, right
    assert (found["recall50"]["mean"], found["recall50"]["num"]) == (0.5, 2)
    assert (found["precision50"]["mean"], found["precision50"]["num"]) == (0.5, 2)


corner = st.integers(0, 12)
box = st.tuples(corner, corner, st.integers(2, 9), st.integers(2, 9)).map(
    lambda v: [float(n) for n in (v[0], v[1], v[0] + v[2], v[1] + v[3])]
)


@st.composite
def images_of_two_classes(draw: st.DrawFn) -> list[ImageBoxes]:
    number = iter(draw(st.permutations(range(60))))  # different scores: COCO does not say what stands first of equals
    result = []
    for i in range(draw(st.integers(1, 5))):
        true, detected = draw(st.lists(box, max_size=4)), draw(st.lists(box, max_size=6))
        kinds = tuple(draw(st.integers(0, 1)) for _ in range(len(true) + len(detected)))
        result.append(image(true, [(own, (next(number) + 1) / 64) for own in detected], f"i{i}", kinds))
    return result


@settings(max_examples=60, deadline=None)
@given(images_of_two_classes())
def test_ours_is_that_of_faster_coco_eval(images: list[ImageBoxes]) -> None:
    whole, at_half = coco_ap(images, 2)
    published = coco_ap(images, 2, PUBLISHED_IOUS)[0]
    for ious, expected in (((0.5,), at_half), (COCO_IOUS, whole), (PUBLISHED_IOUS, published)):
        actual = float(mean_ap(average_precision(images, ious, 2)))
        assert actual == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(0)
    images = [
        image([A, B], [([x, y, x + 10, y + 10], s) for x, y, s in rng.random((4, 3)) * (25, 3, 1)], f"i{i}")
        for i in range(4)
    ]
    weights = np.array([2.0, 0, 1, 3])
    repeated = [one for one, times in zip(images, weights, strict=True) for _ in range(int(times))]
    ranking = Ranking(images, PUBLISHED_IOUS, 1)
    found = ranking.ap(np.stack([weights, np.ones(4), np.zeros(4)]))  # (3, K, T)
    assert found[0] == pytest.approx(average_precision(repeated, PUBLISHED_IOUS, 1), abs=0.02)
    assert found[1] == pytest.approx(average_precision(images, PUBLISHED_IOUS, 1)) and np.isnan(found[2]).all()
    assert ranking.mean_over(weights[None])[0] == pytest.approx(found[0].mean())


def test_intervals_are_by_patient_and_repeatable() -> None:
    images = [image([A, B], [(A, 0.9), (B if i % 2 else C, 0.8)], f"p{i}") for i in range(12)]
    first = score(images, ("x",), 0.5, num_draws=100, seed=1).metrics()
    assert first == score(images, ("x",), 0.5, num_draws=100, seed=1).metrics()
    for name, value in first.items():
        assert value["lo"] < value["mean"] < value["hi"], name
    of_one = [replace(one, patient="p") for one in images]
    alone = score(of_one, ("x",), 0.5, num_draws=10).metrics()
    assert all(value["lo"] is None for value in alone.values()) and alone["map"]["mean"] == first["map"]["mean"]


def test_the_images_of_a_patient_are_drawn_together() -> None:
    found = [[(A, 0.9), (B if i % 3 else C, 0.8), (C, 0.6 + 0.02 * i)][: 3 - i % 2] for i in range(8)]
    once = [image([A, B], boxes, f"p{i}") for i, boxes in enumerate(found)]
    twice = [replace(one, id=f"{one.patient}-{k}") for one in once for k in range(2)]
    apart = [replace(one, patient=one.id) for one in twice]
    a, b, other = (score(images, ("x",), 0.5, num_draws=400, seed=1).metrics() for images in (once, twice, apart))
    for name in ("recall50", "precision50"):  # the same images twice: the same patients and ratios in every draw
        assert (b[name]["lo"], b[name]["hi"]) == pytest.approx((a[name]["lo"], a[name]["hi"]))
    for name in ("map", "coco_ap", "recall50"):
        width, narrower = (found[name]["hi"] - found[name]["lo"] for found in (b, other))
        assert narrower < 0.85 * width, name


def test_a_lead_is_paired_by_patient() -> None:
    good = [image([A, B], [(A, 0.9), (B if i % 3 else C, 0.8)], f"p{i}") for i in range(12)]
    bad = [image([A, B], [(A, 0.9)], f"p{i}") for i in range(12)]
    both = [score(images, ("x",), 0.5, num_draws=100) for images in (good, bad)]
    found = both[0].lead(both[1])
    for name in ("map", "coco_ap"):
        assert found[name]["mean"] == pytest.approx(both[0].estimates[name] - both[1].estimates[name])
        assert 0 < found[name]["lo"] < found[name]["mean"] < found[name]["hi"]
    assert both[0].lead(both[0])["map"] == {"mean": 0, "lo": 0, "hi": 0, "num": 12}


def test_the_row_of_an_image_and_its_way_to_another_process() -> None:
    one = image([A, B], [(A, 0.9), (C, 0.6), (B, 0.2)])
    assert image_row(one, 0.5) == {
        "num_true": 2, "num_pred": 2, "matched50": 1, "recall50": 0.5, "ap": pytest.approx(51 / 101),
    }  # fmt: skip
    assert math.isnan(image_row(image([], [(A, 0.9)]), 0.5)["ap"])
    back = ImageBoxes.from_json(one.to_json())
    assert back.to_json() == one.to_json() and back.scores.dtype == np.float64 and back.boxes.shape == (3, 4)
    assert ImageBoxes.from_json(image([], []).to_json()).boxes.shape == (0, 4)
    assert PUBLISHED_IOUS[0] == 0.4 and PUBLISHED_IOUS[-1] == 0.75
