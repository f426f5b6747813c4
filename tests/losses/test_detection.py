"""YOLOv3's targets and loss, by hand; overlap and suppression of boxes by hand and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from medvl.config.sections import DetectConfig
from medvl.losses.detection import assign, box_iou, detection_loss, nms, size_iou
from medvl.models.yolo import YOLO

GRIDS = [(32, 2, 2), (16, 4, 4), (8, 8, 8)]  # 64 px: 12 + 48 + 192 places
ANCHORS = torch.tensor([[[40.0, 40], [60, 20], [20, 60]], [[16, 16], [24, 12], [12, 24]], [[6, 6], [10, 4], [4, 10]]])
PLAIN = DetectConfig()


def batch(*boxes: tuple[float, ...], padding: int = 1) -> torch.Tensor:
    return torch.tensor([[*map(list, boxes), *[[-1.0, 0, 0, 0, 0]] * padding]])


def place(level: int, row: int, column: int, anchor: int) -> int:
    before = sum(3 * h * w for _, h, w in GRIDS[:level])
    return before + 3 * (row * GRIDS[level][2] + column) + anchor


def test_a_single_box() -> None:
    """Centre (37, 22), 24 x 12: the second anchor of the middle map fits exactly."""
    boxes = batch((1, 25, 16, 49, 28))
    target = assign(boxes, ANCHORS, GRIDS, how="best")
    at = place(1, 1, 2, 1)
    assert target.object.nonzero().tolist() == [[0, at]]
    assert target.box[0, at].tolist() == pytest.approx([37 / 16 - 2, 22 / 16 - 1, 0, 0], abs=1e-6)
    assert target.class_index[0, at] == 1 and target.class_index.sum() == 1 and target.num_taken == 0
    assert not target.no_object[0, at] and target.no_object.shape == (1, 252)


def test_each_map_has_its_best_anchor() -> None:
    target = assign(batch((0, 25, 16, 49, 28)), ANCHORS, GRIDS)
    # 24 x 12 = 288. Coarse: 40x40 288/1600, 60x20 288/1200, 20x60 240/1248: the second. Fine: 10x4 40/288 is the best.
    expected = [place(0, 0, 1, 1), place(1, 1, 2, 1), place(2, 2, 4, 1)]
    assert target.object[0].nonzero().flatten().tolist() == expected
    box = [37 / 32 - 1, 22 / 32, math.log(24 / 60), math.log(12 / 20)]
    assert target.box[0, expected[0]].tolist() == pytest.approx(box, rel=1e-5)


def test_the_ignored_places_are_the_other_anchors_that_fit() -> None:
    """18 x 14: 16x16 fits with 224/284 = 0.79, 24x12 with 216/324 = 0.67, 12x24 with 168/372 = 0.45."""
    row, column = 27 // 16, 19 // 16
    for ignore_iou, ignored in ((0.5, [1]), (0.4, [1, 2])):
        target = assign(batch((0, 10, 20, 28, 34)), ANCHORS, GRIDS, how="best", ignore_iou=ignore_iou)
        assert target.object[0, place(1, row, column, 0)]
        neither = (~target.object & ~target.no_object)[0].nonzero().flatten().tolist()
        assert neither == [place(1, row, column, anchor) for anchor in ignored]


def test_no_boxes_at_all() -> None:
    target = assign(batch(), ANCHORS, GRIDS)
    assert not target.object.any() and target.no_object.all() and target.num_taken == 0
    logits = torch.randn(1, 252, 7, dtype=torch.float64, requires_grad=True)
    losses = detection_loss(logits, batch(), ANCHORS, GRIDS, PLAIN)
    means = [F.softplus(part).mean() for part in logits[..., 4].split([12, 48, 192], dim=1)]
    assert float(losses["loss"].detach()) == pytest.approx(0.5 * float(sum(means).detach()))  # only the no-object term
    losses["loss"].backward()
    assert logits.grad is not None and logits.grad[..., 4].abs().min() > 0
    assert logits.grad[..., :4].abs().max() == 0 and logits.grad[..., 5:].abs().max() == 0


def test_two_boxes_in_one_cell() -> None:
    same, other = (0.0, 9.0, 9, 23, 25), (1.0, 10.0, 8, 26, 26)  # both fit 16x16 best, both centres in cell (1, 1)
    wide = (0.0, 8.0, 12, 32, 24)  # 24x12 in the same cell
    target = assign(batch(same, other, wide), ANCHORS, GRIDS, how="best")
    assert target.object[0].nonzero().flatten().tolist() == [place(1, 1, 1, 0), place(1, 1, 1, 1)]
    assert target.class_index[0, place(1, 1, 1, 0)] == 0  # the first has it
    assert target.num_taken == 1
    swapped = assign(batch(other, same, wide), ANCHORS, GRIDS, how="best")
    assert swapped.class_index[0, place(1, 1, 1, 0)] == 1 and swapped.num_taken == 1
    both = assign(torch.cat([batch(same), batch(other)]), ANCHORS, GRIDS, how="best")  # of two images
    assert both.object.sum() == 2 and both.num_taken == 0


def test_the_loss_is_what_the_formula_says() -> None:
    boxes = batch((1, 25, 16, 49, 28))
    logits = torch.randn(1, 252, 7, dtype=torch.float64)
    config = DetectConfig(assign="best", lambda_xy=2, lambda_wh=3, lambda_conf=5, lambda_cls=7, lambda_noobj=0.25)
    at, num = place(1, 1, 2, 1), 48
    x, y, w, h, confidence, first, second = logits[0, at]
    tx, ty = torch.tensor([37 / 16 - 2, 22 / 16 - 1], dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    xy = (bce(x, tx) + bce(y, ty)) / num
    wh = (w**2 + h**2) / num
    conf = F.softplus(-confidence) / num
    keep = torch.ones(252, dtype=torch.bool)
    keep[at] = False  # 16x16 fits 24x12 with 192/352 = 0.545 > 0.5: ignored
    keep[place(1, 1, 2, 0)] = False
    for start, stop in ((0, 12), (12, 60), (60, 252)):
        part = logits[0, start:stop, 4][keep[start:stop]]
        conf = conf + 0.25 * F.softplus(part).sum() / (stop - start)
    cls = (F.softplus(first) + F.softplus(-second)) / 2 / num
    losses = detection_loss(logits, boxes, ANCHORS, GRIDS, config)
    for name, value in (("xy", xy), ("wh", wh), ("conf", conf), ("cls", cls)):
        assert float(losses[name]) == pytest.approx(float(value), rel=1e-6), name
    assert float(losses["loss"]) == pytest.approx(float(2 * xy + 3 * wh + 5 * conf + 7 * cls), rel=1e-6)


@pytest.mark.parametrize("how", ["each_scale", "best"])
def test_the_targets_are_what_decodes_to_the_boxes(how: str) -> None:
    model = YOLO("resnet18_nano", image_size=64, num_classes=2)
    boxes = batch((1, 25, 16, 49, 28), (0, 0, 30, 9, 64), (1, 50, 40, 63, 50))
    target = assign(boxes, model.anchors, model.grids(64, 64), how=how)  # type: ignore[arg-type]
    logits = torch.zeros(1, 252, 7)
    logits[..., :2] = torch.logit(target.box[..., :2].clamp(1e-6, 1 - 1e-6))
    logits[..., 2:4] = target.box[..., 2:]
    decoded = model.decode_boxes(logits, 64, 64)[0][target.object]
    true = boxes[0, :3, 1:]
    distance = (decoded[:, None] - true[None]).abs().amax(dim=2)  # (n, 3)
    assert distance.amin(dim=1).max() < 1e-3 and distance.amin(dim=0).max() < 1e-3
    assert len(decoded) == (9 if how == "each_scale" else 3)


def test_gradients_are_right() -> None:
    torch.manual_seed(0)
    boxes, grids = batch((1, 25, 16, 49, 28), (0, 3, 3, 9, 9)).double(), [(32, 2, 2)]
    anchors, logits = ANCHORS[:1].double(), torch.randn(1, 12, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: detection_loss(x, boxes, anchors, grids, PLAIN)["loss"], logits)
    logits = torch.full((1, 252, 6), 500.0, requires_grad=True)  # extreme ones stay finite
    losses = detection_loss(logits, batch((0, 25, 16, 49, 28)), ANCHORS, GRIDS, PLAIN)
    losses["loss"].backward()
    assert losses["loss"].isfinite() and logits.grad is not None and logits.grad.isfinite().all()


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


def suppressed(boxes: list[list[float]], scores: list[float], classes: list[int], limit: float) -> list[int]:
    corners, probs = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), torch.tensor(scores, dtype=torch.float64)
    return nms(corners, probs, torch.tensor(classes, dtype=torch.int64), limit).tolist()


def test_suppression_by_hand() -> None:
    boxes = [[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 0, 10, 10], [20.0, 0, 30, 10]]
    scores, classes = [0.5, 0.9, 0.4, 0.9, 0.1], [0, 0, 0, 1, 0]
    # 1 beats 0 and 2 (IoU 1/2 is enough); 3 is another class and, of equal score, stands after 1; 4 is elsewhere.
    for limit, kept in ((0.5, [1, 3, 4]), (0.51, [1, 3, 2, 4])):
        assert suppressed(boxes, scores, classes, limit) == plain_nms(boxes, scores, classes, limit) == kept


corner = st.integers(0, 6)
box = st.tuples(corner, corner, st.integers(1, 5), st.integers(1, 5)).map(lambda v: [*v[:2], v[0] + v[2], v[1] + v[3]])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(box, st.sampled_from([0.25, 0.5, 0.75]), st.integers(0, 1)), max_size=14),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_suppression_is_that_of_plain_loops(rows: list[tuple[list[float], float, int]], limit: float) -> None:
    boxes, scores, classes = ([row[i] for row in rows] for i in range(3))
    assert suppressed(boxes, scores, classes, limit) == plain_nms(boxes, scores, classes, limit)
