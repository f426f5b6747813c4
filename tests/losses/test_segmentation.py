"""Losses against their formulas written out, and what missing annotation and extreme logits may not do."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, get_args

import pytest
import torch
from faults import refused
from torch import Tensor

from medvl.config import make_config
from medvl.losses import segmentation
from medvl.losses.segmentation import (
    cross_entropy_loss,
    deep_supervision,
    deep_supervision_weights,
    dice_loss,
    loss_term,
    segmentation_loss,
    weighted_terms,
)

LOSSES: dict[str, Callable[..., Tensor]] = {
    "dice": dice_loss, "batch_dice": partial(dice_loss, form="batch"),
    "log_dice": partial(dice_loss, form="log_batch"), "plain": partial(cross_entropy_loss, balance="plain"),
    "balanced": cross_entropy_loss, "focal": partial(cross_entropy_loss, balance="plain", focal_gamma=2.0),
    "balanced_focal": partial(cross_entropy_loss, focal_gamma=0.5),
    "sum": lambda *args, mode: segmentation_loss(*args, mode=mode)["loss"],
}  # fmt: skip
each_loss = pytest.mark.parametrize(
    ("loss", "extra"),
    [
        pytest.param(partial(loss, mode=mode), extra, id=f"{mode}-{name}")
        for mode, extra in (("binary", 0), ("multiclass", 1))
        for name, loss in LOSSES.items()
    ],
)


def terms_of(*terms: dict[str, Any], mode: str = "binary") -> tuple[segmentation.WeightedTerm, ...]:
    return weighted_terms(make_config({"objective": {"mode": mode, "terms": list(terms)}}).objective)


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
    assert dice_loss(logits, target).item() == pytest.approx(float(total) / 6, rel=1e-12)


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([0.0, 2.0, -1.0, 3.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    target = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    p = [1 / (1 + math.exp(-x)) for x in (0.0, 2.0, -1.0, 3.0)]
    true = [p[0], p[1], 1 - p[2], 1 - p[3]]
    two = torch.stack([torch.zeros_like(logits[:, 0]), logits[:, 0]], dim=1)  # a softmax over 0 and x is a sigmoid of x
    for gamma in (0.0, 0.5, 2.0):
        expected = sum(-((1 - q) ** gamma) * math.log(q) for q in true) / 4
        for given, mode in (logits, "binary"), (two, "multiclass"):
            actual = cross_entropy_loss(given, target, mode=mode, balance="plain", focal_gamma=gamma)
            assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_dice_of_the_batch_is_one_ratio_over_all_its_pixels() -> None:
    logits, target = example(0)
    p, dice = logits.sigmoid(), []
    for k in range(2):
        dice.append((2 * (p[:, k] * target[:, k]).sum() + 1) / (p[:, k].sum() + target[:, k].sum() + 1))
    torch.testing.assert_close(dice_loss(logits, target, form="batch"), 1 - (dice[0] + dice[1]) / 2)
    torch.testing.assert_close(dice_loss(logits, target, form="log_batch"), -(dice[0].log() + dice[1].log()) / 2)
    empty = dice_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), form="batch")
    assert empty.item() == pytest.approx(1 - 1 / 9)  # no foreground: half a pixel of probability in each of 16


def test_the_loss_of_mgca() -> None:
    logits, target = example(0, k=1)
    p = logits.sigmoid()
    true = torch.where(target > 0, p, 1 - p)
    focal = ((1 - true) ** 2 * -true.log()).mean()
    dice = (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    terms = weighted_terms(make_config({"protocol": "mgca_segmentation"}).objective)
    torch.testing.assert_close(segmentation_loss(logits, target, terms=terms)["loss"], 10 * focal - dice.log())


def test_balanced_bce_is_the_released_formula_over_the_whole_batch() -> None:
    logits, target = example(0, k=1)
    target[0] = 0  # one image without foreground
    p = logits.sigmoid()
    bce = -(target * p.log() + (1 - target) * (1 - p).log())
    expected = 0.5 * bce[target == 1].mean() + 0.5 * bce[target == 0].mean()
    torch.testing.assert_close(cross_entropy_loss(logits, target), expected)
    torch.testing.assert_close(cross_entropy_loss(logits, 0 * target), -0.5 * (1 - p).log().mean())  # an empty batch


def test_cross_entropy_is_the_usual_one_when_all_is_annotated() -> None:
    logits, target = example(1)
    labels = (target * torch.tensor([1, 2])[None, :, None, None]).sum(1).long()
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy_loss(logits, target, mode="multiclass", balance="plain"), each.mean())
    expected = torch.stack([each[labels == k].mean() for k in range(3)]).mean()
    torch.testing.assert_close(cross_entropy_loss(logits, target, mode="multiclass"), expected)


def test_cross_entropy_of_a_partly_annotated_row_sums_what_is_unknown() -> None:
    logits, target = example(1, n=1)
    annotated = torch.tensor([[True, False]])
    probs = logits.softmax(1)
    unknown = probs[:, 0] + probs[:, 2]
    expected = -torch.where(target[:, 0] > 0, probs[:, 1], unknown).log().mean()
    actual = cross_entropy_loss(logits, target, annotated, mode="multiclass", balance="plain")
    torch.testing.assert_close(actual, expected)


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
def test_rows_without_annotation_are_as_good_as_absent(loss: Callable[..., Tensor], extra: int) -> None:
    logits, target = example(extra)
    annotated = torch.tensor([[True, True], [False, False], [True, True]])
    torch.testing.assert_close(loss(logits, target, annotated), loss(logits[::2], target[::2]))
    value = loss(logits.requires_grad_(), torch.full_like(target, float("nan")), torch.zeros(3, 2, dtype=torch.bool))
    value.backward()
    assert value.item() == 0 and (logits.grad == 0).all()


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
def test_segmentation_loss_is_the_weighted_sum(mode: Any, extra: int) -> None:
    logits, target = example(extra)
    entropies = [{"name": "cross_entropy", "weight": 2, "balance": balance} for balance in ("balanced", "plain")]
    terms = terms_of({"name": "dice", "weight": 0.3}, *entropies, mode=mode)
    losses = segmentation_loss(logits, target, mode=mode, terms=terms)
    expected = [LOSSES[name](logits, target, mode=mode) for name in ("dice", "balanced", "plain")]
    torch.testing.assert_close(losses.pop("loss"), 0.3 * expected[0] + 2.0 * (expected[1] + expected[2]))
    assert losses == dict(zip(("dice_loss", "ce_loss", "ce_2_loss"), expected, strict=True))
    if mode == "binary":  # the default is the released loss
        assert torch.equal(segmentation_loss(logits, target)["loss"], 0.5 * expected[0] + 0.5 * expected[1])


def choices() -> list[Any]:
    """Every registered term with every choice that its options have, in every mode that it is for."""
    cases = []
    for term in segmentation.TERMS.values():
        fields = {name: get_args(one.annotation) for name, one in term.options.model_fields.items()}
        words = {name: values for name, values in fields.items() if values and isinstance(values[0], str)}
        for mode, *values in product(term.modes, *words.values()):
            options = dict(zip(words, values, strict=True))
            cases.append(pytest.param(term, mode, options, id=" ".join((term.name, mode, *values))))
    return cases


@pytest.mark.parametrize(("term", "mode", "options"), choices())
def test_a_term_pools_the_batch_or_not_as_it_says(term: segmentation.LossTerm, mode: str, options: Any) -> None:
    logits, target = example(mode == "multiclass")
    target[0, :, 1:] = 0
    rows = [term.loss(logits[n : n + 1], target[n : n + 1], mode=mode, **options) for n in range(len(logits))]
    is_mean = torch.isclose(term.loss(logits, target, mode=mode, **options), torch.stack(rows).mean(), rtol=1e-9)
    assert bool(is_mean) != term.pools_batch(options)


def test_a_registered_term_has_typed_options_and_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "TERMS", dict(segmentation.TERMS))

    @loss_term("brier", modes=("binary", "multilabel"), log_name="squares")
    def brier(logits: Tensor, target: Tensor, annotated: Any = None, *, mode: str = "", hard: bool = False) -> Tensor:
        return ((logits.sigmoid().round() if hard else logits.sigmoid()) - target).square().mean()

    logits, target = example(0)
    for hard in (False, True):
        losses = segmentation_loss(logits, target, terms=terms_of({"name": "brier", "weight": 3, "hard": hard}))
        torch.testing.assert_close(losses["loss"], 3 * brier(logits, target, hard=hard))
        torch.testing.assert_close(losses["squares_loss"], brier(logits, target, hard=hard))
    with refused("unsupported", naming="multiclass"):
        terms_of({"name": "brier"}, mode="multiclass")
    with refused("malformed", naming="hard"):
        terms_of({"name": "brier", "hard": 3})


@pytest.mark.parametrize(
    ("term", "kind", "naming"),
    [
        ({"name": "dise"}, "unknown", "dice"),
        ({"name": "cross_entropy", "focal_gama": 2}, "unknown_key", "focal_gamma"),
        ({"name": "dice", "form": "round"}, "unknown", "log_batch"),
        ({"name": "cross_entropy", "focal_gamma": -1}, "out_of_range", "focal_gamma"),
        ({"name": "cross_entropy", "focal_gamma": True}, "malformed", "focal_gamma"),
        ({"name": "cross_entropy", "focal_gamma": float("nan")}, "not_finite", "objective.terms"),
    ],
)
def test_a_wrong_term_is_refused(term: dict[str, Any], kind: str, naming: str) -> None:
    with refused(kind, naming=naming):
        terms_of(term)


def test_deep_supervision_by_hand() -> None:
    assert deep_supervision_weights(1) == (1.0,)
    assert deep_supervision_weights(3) == pytest.approx((4 / 7, 2 / 7, 1 / 7), rel=1e-15)
    logits, target = example(0)
    heads = torch.stack([logits, -logits, 0 * logits], dim=1).requires_grad_()
    loss = partial(segmentation_loss, target=target)
    each = [loss(head) for head in heads.unbind(dim=1)]
    losses = deep_supervision(loss, heads)
    for name in ("loss", "dice_loss", "ce_loss"):
        expected = (4 * each[0][name] + 2 * each[1][name] + each[2][name]) / 7
        torch.testing.assert_close(losses[name], expected)
    losses["loss"].backward()
    assert (heads.grad.flatten(2).abs().sum(2) > 0).all()  # of every row and head
    assert not losses["dice_loss"].requires_grad
    for one_head in (logits, logits[:, None]):
        assert torch.equal(deep_supervision(loss, one_head)["loss"], each[0]["loss"])


def test_wrong_shapes() -> None:
    logits, target = example(0)
    for wrong in ((target[:, :1],), (target, torch.ones(3, 1, dtype=torch.bool))):
        with refused("wrong_shape"):
            dice_loss(logits, *wrong)
    for heads, kind in (logits[0], "wrong_shape"), (logits[:, None][:, :0], "out_of_range"):
        with refused(kind):
            deep_supervision(partial(segmentation_loss, target=target), heads)
