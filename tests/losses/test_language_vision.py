"""The LV loss and its bank: by hand, gradient, ties, empty masks, one entry, laterality of the drawn captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from faults import refused

from medvl.data.reports import findings, mirror_text
from medvl.data.tables import read_table
from medvl.losses.language_vision import ContrastiveBank, caption_bank, lv_loss
from medvl.tasks.segment.lv_bank import findings_similarity

ALL = torch.ones(1, 1, dtype=torch.bool)


def mask(*rows: list[float]) -> np.ndarray:
    return np.array([rows], dtype=np.float32)  # (1, H, W)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_by_hand(scale: float) -> None:
    probs = scale * torch.tensor([[[[0.6, 0.8], [0.0, 0.0]]]])
    target = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert float(lv_loss(probs, target, ALL)) == pytest.approx(1 - 0.6, abs=1e-4)  # p.m / |p| / |m| = 0.6
    assert float(lv_loss(scale * target, target, ALL)) == pytest.approx(0, abs=1e-4)
    assert float(lv_loss(scale * (1 - target), target, ALL)) == pytest.approx(1, abs=1e-4)


def test_gradient() -> None:
    torch.manual_seed(0)
    probs = torch.rand(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 2, 3, 3, dtype=torch.float64) > 0.5).double()
    counted = torch.tensor([[True, False], [True, True]])
    assert torch.autograd.gradcheck(lambda p: lv_loss(p, target, counted), (probs,))
    lv_loss(probs, target, counted).backward()  # type: ignore[no-untyped-call]
    assert probs.grad is not None
    assert probs.grad[0, 1].abs().sum() == 0 and probs.grad[0, 0].abs().sum() > 0


def test_empty_masks_and_empty_predictions_are_finite() -> None:
    probs = torch.zeros(1, 1, 2, 2, requires_grad=True)
    full = torch.ones(1, 1, 2, 2)
    loss = lv_loss(probs, full, ALL)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(1) and probs.grad is not None and torch.isfinite(probs.grad).all()
    assert float(lv_loss(torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), ALL)) == 0  # no direction to follow
    assert float(lv_loss(torch.rand(1, 1, 2, 2), full, ~ALL)) == 0


def test_the_most_similar_text_gives_the_mask() -> None:
    bank = ContrastiveBank(["right lung", "left lung"], [mask([1, 0]), mask([0, 1])])
    bank.retrieve(["a", "b"], torch.tensor([[0.9, 0.2], [0.1, 0.3]]))
    assert bank.mask("a").tolist() == mask([1, 0]).tolist()  # type: ignore[union-attr]
    assert bank.mask("b").tolist() == mask([0, 1]).tolist()  # type: ignore[union-attr]


def test_ties_give_the_mean_of_their_masks_in_any_order() -> None:
    texts, masks = ["x", "x", "y"], [mask([1, 0]), mask([1, 1]), mask([0, 1])]
    for order in ([0, 1, 2], [2, 1, 0]):
        bank = ContrastiveBank([texts[i] for i in order], [masks[i] for i in order])
        bank.retrieve(["q"], torch.full((1, 2), 0.7))
        np.testing.assert_allclose(bank.mask("q"), mask([2 / 3, 2 / 3]), atol=1e-6)
        similarity = torch.tensor([[0.9 if text == "x" else 0.1 for text in bank.texts]])
        bank.retrieve(["q"], similarity)
        np.testing.assert_allclose(bank.mask("q"), mask([1, 0.5]), atol=1e-6)


def test_one_entry_and_no_similarity() -> None:
    bank = ContrastiveBank(["only"], [mask([1, 0])])
    bank.retrieve(["q", "unlike"], torch.tensor([[0.01], [0.0]]))
    assert bank.mask("q") is not None
    assert bank.mask("unlike") is None and bank.mask("never asked") is None


def test_empty_masks_are_left_out_of_the_bank() -> None:
    bank = ContrastiveBank(["none seen", "left lung"], [mask([0, 0]), mask([0, 1])])
    assert bank.texts == ("left lung",)
    with refused("empty"):
        ContrastiveBank(["none seen"], [mask([0, 0])])


@pytest.mark.shared
@pytest.mark.parametrize("laterality", ["viewer", "patient"])
def test_real_captions_get_a_drawing_of_the_lungs_that_they_name(shared_data: Path, laterality: str) -> None:
    """383 distinct captions of QaTa-COV19, most of which tie between several of the fourteen drawings or fit none."""
    rows = read_table(shared_data / "qata-texts" / "captions.csv").rows
    captions = sorted({row["Description"] for _, row in rows})
    texts, masks = caption_bank((64, 64), laterality)
    bank = ContrastiveBank(texts, masks)
    bank.retrieve(captions, findings_similarity(captions, bank.texts))
    halves = {"left": slice(32), "right": slice(32, None)}
    if laterality == "patient":
        halves = {"left": halves["right"], "right": halves["left"]}
    for text in captions:
        drawing = bank.mask(text)
        assert drawing is not None, text
        spelt = mirror_text(mirror_text(text, left_right=True), left_right=True)
        for side, half in halves.items():
            assert drawing[0, :, half].any() == (side in spelt), text
    assert len(captions) == 383 and any(len(entries) > 1 for entries in bank.nearest.values())


@pytest.mark.parametrize("laterality", ["viewer", "image", "patient"])
def test_fourteen_captions_are_drawn_on_the_side_they_name(laterality: str) -> None:
    texts, masks = caption_bank((96, 80), laterality)
    assert len(texts) == len(set(texts)) == 14
    for text, drawing in zip(texts, masks, strict=True):
        assert drawing.shape == (1, 96, 80) and set(np.unique(drawing)) == {0, 1}
        halves = {"left": drawing[0, :, :40].any(), "right": drawing[0, :, 40:].any()}  # of the picture
        if laterality == "patient":
            halves = {"left": halves["right"], "right": halves["left"]}
        for side in ("left", "right"):
            assert halves[side] == (f"{side} lung" in text), text
        named = {finding.side for finding in findings(text)}
        assert named == {side for side in ("left", "right") if halves[side]}


def test_drawn_areas_are_where_they_are_named() -> None:
    texts, masks = caption_bank((96, 96), "viewer")
    two_left = masks[texts.index("Unilateral pulmonary infection, two infected areas, upper lower left lung.")]
    rows = np.flatnonzero(two_left[0].any(axis=1))
    assert rows.min() < 0.25 * 96 and rows.max() > 0.75 * 96 and not two_left[0, 45:52].any()
    assert all(0.03 < drawing.mean() < 0.25 for drawing in masks)  # the published drawings: 8 to 23 %
