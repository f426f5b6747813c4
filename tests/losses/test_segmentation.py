"""Losses against their formulas written out, and what missing annotation and extreme logits may not do."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor

from medvl.core.errors import InputError
from medvl.losses import segmentation as overlap

BINARY: dict[str, Callable[..., Tensor]] = {
    "dice": overlap.dice_loss_from_logits,
    "balanced": overlap.class_balanced_bce_from_logits,
    "plain": overlap.bce_from_logits,
    "released": overlap.released_segmentation_loss,
    "batch_dice": overlap.batch_dice_loss_from_logits,
    "log_dice": partial(overlap.batch_dice_loss_from_logits, log=True),
    "focal": partial(overlap.bce_from_logits, focal_gamma=2.0),
    "balanced_focal": partial(overlap.class_balanced_bce_from_logits, focal_gamma=0.5),
}
MULTICLASS: dict[str, Callable[..., Tensor]] = {
    "dice": overlap.multiclass_dice_loss_from_logits,
    "plain": overlap.cross_entropy_from_logits,
    "balanced": lambda *args: overlap.cross_entropy_from_logits(*args, balanced=True),
    "batch_dice": partial(overlap.multiclass_dice_loss_from_logits, form="batch"),
    "log_dice": partial(overlap.multiclass_dice_loss_from_logits, form="log_batch"),
    "focal": partial(overlap.cross_entropy_from_logits, focal_gamma=2.0),
}
ALL = [("binary", name, loss, 0) for name, loss in BINARY.items()] + [
    ("multiclass", name, loss, 1) for name, loss in MULTICLASS.items()
]
each_loss = pytest.mark.parametrize(("loss", "extra"), [row[2:] for row in ALL], ids=["-".join(row[:2]) for row in ALL])


def example(extra: int, n: int = 3, k: int = 2, side: int = 4) -> tuple[Tensor, Tensor]:
    """Logits (n, k + extra, side, side) and a target of at most one class per pixel."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, k + extra, side, side, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, k + 1, (n, side, side), generator=generator)
    return logits, torch.stack([labels == i + 1 for i in range(k)], dim=1).double()


def test_dice_is_the_released_formula() -> None:
    logits, target = example(0)
    p, total = logits.sigmoid(), 0.0
    for n, k in product(range(3), range(2)):
        wp, wt = 0.5 * p[n, k], 0.5 * target[n, k]
        total += 1 - (2 * (wp * wt).sum() + 1e-5) / ((wp**2).sum() + (wt**2).sum() + 1e-5)
    assert overlap.dice_loss_from_logits(logits, target).item() == pytest.approx(float(total) / 6, rel=1e-12)


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, 3.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    p = [1 / (1 + math.exp(-x)) for x in (0.0, 2.0, -1.0, 3.0)]
    true = [p[0], p[1], 1 - p[2], 1 - p[3]]
    for gamma in (0.0, 0.5, 2.0):
        expected = sum(-((1 - q) ** gamma) * math.log(q) for q in true) / 4
        assert overlap.bce_from_logits(logits, target, focal_gamma=gamma).item() == pytest.approx(expected, rel=1e-12)
    two = torch.stack([torch.zeros_like(logits[:, 0]), logits[:, 0]], dim=1)  # a softmax over 0 and x is a sigmoid of x
    found = overlap.cross_entropy_from_logits(two, target, focal_gamma=2.0)
    torch.testing.assert_close(found, overlap.bce_from_logits(logits, target, focal_gamma=2.0))


def test_dice_of_the_batch_is_one_ratio_over_all_its_pixels() -> None:
    logits, target = example(0)
    p, dice = logits.sigmoid(), []
    for k in range(2):
        dice.append((2 * (p[:, k] * target[:, k]).sum() + 1) / (p[:, k].sum() + target[:, k].sum() + 1))
    expected = 1 - (dice[0] + dice[1]) / 2
    torch.testing.assert_close(overlap.batch_dice_loss_from_logits(logits, target), expected)
    expected = -(dice[0].log() + dice[1].log()) / 2
    torch.testing.assert_close(overlap.batch_dice_loss_from_logits(logits, target, log=True), expected)
    empty = overlap.batch_dice_loss_from_logits(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    assert empty.item() == pytest.approx(1 - 1 / 9)  # no foreground: half a pixel of probability in each of 16


def test_dice_of_the_batch_in_half_precision_does_not_overflow() -> None:
    logits = torch.full((2, 1, 300, 300), 5.0, dtype=torch.float16)  # sums of 180,000: above float16
    assert overlap.batch_dice_loss_from_logits(logits, torch.ones_like(logits)).item() == pytest.approx(0, abs=0.01)


def test_the_loss_of_mgca() -> None:
    logits, target = example(0, k=1)
    p = logits.sigmoid()
    true = torch.where(target > 0, p, 1 - p)
    focal = ((1 - true) ** 2 * -true.log()).mean()
    dice = (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    found = overlap.segmentation_loss(
        logits, target, dice_weight=1, ce_weight=10, ce_balance="plain", dice="log_batch", focal_gamma=2
    )
    torch.testing.assert_close(found["loss"], 10 * focal - dice.log())


def test_balanced_bce_is_the_released_formula_over_the_whole_batch() -> None:
    logits, target = example(0, k=1)
    target[0] = 0  # one image without foreground
    p = logits.sigmoid()
    bce = -(target * p.log() + (1 - target) * (1 - p).log())
    expected = 0.5 * bce[target == 1].mean() + 0.5 * bce[target == 0].mean()
    torch.testing.assert_close(overlap.class_balanced_bce_from_logits(logits, target), expected)


def test_balanced_bce_of_an_empty_batch_is_half_the_mean() -> None:
    logits, target = example(0, k=1)
    loss = overlap.class_balanced_bce_from_logits(logits, 0 * target)
    torch.testing.assert_close(loss, 0.5 * overlap.bce_from_logits(logits, 0 * target))


def test_cross_entropy_is_the_usual_one_when_all_is_annotated() -> None:
    logits, target = example(1)
    labels = (target * torch.tensor([1, 2])[None, :, None, None]).sum(1).long()
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(overlap.cross_entropy_from_logits(logits, target), expected)
    each = [torch.nn.functional.cross_entropy(logits, labels, reduction="none")[labels == k].mean() for k in range(3)]
    balanced = overlap.cross_entropy_from_logits(logits, target, balanced=True)
    torch.testing.assert_close(balanced, torch.stack(each).mean())


def test_cross_entropy_of_a_partly_annotated_row_sums_what_is_unknown() -> None:
    logits, target = example(1, n=1)
    annotated = torch.tensor([[True, False]])
    probs = logits.softmax(1)
    unknown = probs[:, 0] + probs[:, 2]
    expected = -torch.where(target[:, 0] > 0, probs[:, 1], unknown).log().mean()
    torch.testing.assert_close(overlap.cross_entropy_from_logits(logits, target, annotated), expected)


@each_loss
def test_a_perfect_prediction_costs_nothing_and_its_opposite_much(loss: Callable[..., Tensor], extra: int) -> None:
    _, target = example(extra)
    signs = 2 * target - 1
    if extra:
        signs = torch.cat([1 - 2 * target.sum(1, keepdim=True), signs], dim=1)
    assert loss(50 * signs, target).item() == pytest.approx(0, abs=1e-6)
    assert loss(-50 * signs, target).item() > 0.6


@each_loss
def test_poisoned_targets_where_nothing_is_annotated(loss: Callable[..., Tensor], extra: int) -> None:
    logits, target = example(extra)
    annotated = torch.tensor([[True, True], [True, False], [False, False]])
    results = []
    for poison in (0.0, 1.0, float("nan"), float("inf"), -7.0):
        given = torch.where(annotated[:, :, None, None], target, poison)
        x = logits.clone().requires_grad_()
        value = loss(x, given, annotated)
        value.backward()
        results.append((value.detach(), x.grad))
        assert torch.equal(results[0][0], results[-1][0]) and torch.equal(results[0][1], results[-1][1])
    value, gradient = results[0]
    assert value.isfinite() and gradient.isfinite().all()
    assert (gradient[2] == 0).all()  # a row that nobody annotated
    assert (gradient[0] != 0).any() and (gradient[1] != 0).any()
    if not extra:
        assert (gradient[1, 1] == 0).all()


@each_loss
def test_a_row_that_is_not_annotated_is_as_good_as_absent(loss: Callable[..., Tensor], extra: int) -> None:
    logits, target = example(extra)
    annotated = torch.tensor([[True, True], [False, False], [True, True]])
    torch.testing.assert_close(loss(logits, target, annotated), loss(logits[::2], target[::2]))


@each_loss
def test_nothing_annotated_is_zero_without_gradient(loss: Callable[..., Tensor], extra: int) -> None:
    logits, target = example(extra)
    x = logits.requires_grad_()
    value = loss(x, torch.full_like(target, float("nan")), torch.zeros(3, 2, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert (x.grad == 0).all()


@each_loss
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_extreme_logits_stay_finite(loss: Callable[..., Tensor], extra: int, scale: float) -> None:
    logits, target = example(extra)
    x = (scale * logits.float().sign()).requires_grad_()
    value = loss(x, target.float())
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()


@each_loss
def test_gradients_are_right(loss: Callable[..., Tensor], extra: int) -> None:
    logits, target = example(extra, n=2, side=2)
    annotated = torch.tensor([[True, True], [True, False]])
    assert torch.autograd.gradcheck(lambda x: loss(x, target, annotated), logits.requires_grad_())


@pytest.mark.parametrize(("mode", "extra"), [("binary", 0), ("multilabel", 0), ("multiclass", 1)])
@pytest.mark.parametrize("balance", ["balanced", "plain"])
def test_segmentation_loss_is_the_weighted_sum(mode: str, extra: int, balance: str) -> None:
    logits, target = example(extra)
    losses = MULTICLASS if extra else BINARY
    got = overlap.segmentation_loss(logits, target, mode=mode, dice_weight=0.3, ce_weight=2.0, ce_balance=balance)
    dice, ce = losses["dice"](logits, target), losses[balance](logits, target)
    torch.testing.assert_close(got["loss"], 0.3 * dice + 2.0 * ce)
    torch.testing.assert_close(got["dice_loss"], dice)
    torch.testing.assert_close(got["ce_loss"], ce)


def test_the_default_objective_is_the_released_loss() -> None:
    logits, target = example(0)
    expected = overlap.released_segmentation_loss(logits, target)
    torch.testing.assert_close(overlap.segmentation_loss(logits, target)["loss"], expected)


def test_deep_supervision_by_hand() -> None:
    assert overlap.deep_supervision_weights(1) == (1.0,)
    assert overlap.deep_supervision_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7), rel=1e-15)
    logits, target = example(0)
    heads = torch.stack([logits, -logits, 0 * logits], dim=1).requires_grad_()
    loss = partial(overlap.segmentation_loss, target=target)
    each = [loss(head) for head in heads.unbind(dim=1)]
    got = overlap.deep_supervision(loss, heads)
    for name in ("loss", "dice_loss", "ce_loss"):
        expected = (4 * each[0][name] + 2 * each[1][name] + each[2][name]) / 7
        torch.testing.assert_close(got[name], expected)
    got["loss"].backward()
    assert heads.grad is not None
    assert (heads.grad.flatten(2).abs().sum(2) > 0).all()  # of every row and head
    assert not got["dice_loss"].requires_grad


def test_deep_supervision_of_one_head_is_the_loss() -> None:
    logits, target = example(0)
    loss = partial(overlap.segmentation_loss, target=target)
    for given in (logits, logits[:, None]):
        assert torch.equal(overlap.deep_supervision(loss, given)["loss"], loss(logits)["loss"])
    with pytest.raises(InputError, match=r"expected \(N, K, H, W\) or \(N, S, K, H, W\)"):
        overlap.deep_supervision(loss, logits[0])
    with pytest.raises(InputError, match="at least 1"):
        overlap.deep_supervision(loss, logits[:, None][:, :0])


def test_wrong_shapes() -> None:
    logits, target = example(0)
    with pytest.raises(InputError, match="target of shape"):
        overlap.dice_loss_from_logits(logits, target[:, :1])
    with pytest.raises(InputError, match="annotated of shape"):
        overlap.dice_loss_from_logits(logits, target, torch.ones(3, 1, dtype=torch.bool))
