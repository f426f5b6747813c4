"""Overlap and suppression against what one writes down by hand, and against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.losses.boxes import box_iou, nms, size_iou


def iou(a: list[float], b: list[float]) -> float:
    width, height = (min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1))
    common = max(0.0, width) * max(0.0, height)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - common
    return common / union if union > 0 else 0.0


def plain_nms(boxes: list[list[float]], scores: list[float], classes: list[int], limit: float) -> list[int]:
    left = sorted(range(len(boxes)), key=lambda i: -scores[i])  # Python's sort is stable
    kept = []
    while left:
        first, *left = left
        kept.append(first)
        left = [i for i in left if classes[i] != classes[first] or iou(boxes[i], boxes[first]) < limit]
    return kept


def test_overlap_by_hand() -> None:
    first = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 9]])
    second = torch.tensor([[1.0, 0, 3, 2], [0, 0, 2, 2], [2, 0, 4, 2], [5, 5, 5, 9]])
    assert box_iou(first, second)[0].tolist() == pytest.approx([1 / 3, 1, 0, 0])
    assert box_iou(first, second)[1].tolist() == [0, 0, 0, 0]  # without area
    assert size_iou(torch.tensor([[4.0, 2]]), torch.tensor([[4.0, 2], [2, 4], [8, 2]])).tolist() == [
        pytest.approx([1, 4 / 12, 0.5])
    ]


def test_suppression_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10], [20, 0, 30, 10]])
    scores = torch.tensor([0.5, 0.9, 0.4, 0.9, 0.1])
    classes = torch.tensor([0, 0, 0, 1, 0])
    # 1 beats 0 and 2 (IoU 1/2 is enough); 3 is another class and, of equal score, stands after 1; 4 is elsewhere.
    assert nms(boxes, scores, classes, 0.5).tolist() == [1, 3, 4]
    assert nms(boxes, scores, classes, 0.51).tolist() == [1, 3, 2, 4]
    assert nms(boxes[:0], scores[:0], classes[:0], 0.5).tolist() == []


corner = st.integers(0, 6)
box = st.tuples(corner, corner, st.integers(1, 5), st.integers(1, 5)).map(lambda v: [*v[:2], v[0] + v[2], v[1] + v[3]])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(box, st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 1)), max_size=14),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_suppression_is_that_of_plain_loops(rows: list[tuple[list[float], float, int]], limit: float) -> None:
    boxes, scores, classes = ([row[i] for row in rows] for i in range(3))
    found = nms(
        torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(classes, dtype=torch.int64),
        limit,
    )
    assert found.tolist() == plain_nms(boxes, scores, classes, limit)
