"""What masks without labels are learned from: the LV loss and its bank; EPI's updates, and the store on disk."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import refused

from medvl.data.reports import findings, mirror_text
from medvl.data.tables import read_table
from medvl.losses.language_vision import ContrastiveBank, caption_bank, lv_loss
from medvl.losses.pseudo_labels import PseudoLabelStore, Storage, beta_at
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
    lv_loss(probs, target, counted).backward()
    assert probs.grad[0, 1].abs().sum() == 0 and probs.grad[0, 0].abs().sum() > 0


def test_empty_masks_and_empty_predictions_are_finite() -> None:
    probs = torch.zeros(1, 1, 2, 2, requires_grad=True)
    full = torch.ones(1, 1, 2, 2)
    loss = lv_loss(probs, full, ALL)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1) and probs.grad is not None and torch.isfinite(probs.grad).all()
    assert float(lv_loss(torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), ALL)) == 0  # no direction to follow
    assert float(lv_loss(torch.rand(1, 1, 2, 2), full, ~ALL)) == 0


def test_ties_give_the_mean_of_their_masks_in_any_order() -> None:
    texts, masks = ["x", "x", "y"], [mask([1, 0]), mask([1, 1]), mask([0, 1])]
    for order in ([0, 1, 2], [2, 1, 0]):
        bank = ContrastiveBank([texts[i] for i in order], [masks[i] for i in order])
        bank.retrieve(["q"], torch.full((1, 2), 0.7))
        np.testing.assert_allclose(bank.mask("q"), mask([2 / 3, 2 / 3]), atol=1e-6)
        similarity = torch.tensor([[0.9 if text == "x" else 0.1 for text in bank.texts]])
        bank.retrieve(["q"], similarity)
        np.testing.assert_allclose(bank.mask("q"), mask([1, 0.5]), atol=1e-6)


def test_the_most_similar_text_gives_the_mask_if_any_is_similar() -> None:
    bank = ContrastiveBank(["none seen", "right lung", "left lung"], [mask([0, 0]), mask([1, 0]), mask([0, 1])])
    assert bank.texts == ("right lung", "left lung")  # without those of empty masks
    bank.retrieve(["a", "b", "little", "not"], torch.tensor([[0.9, 0.2], [0.1, 0.3], [0.01, 0.0], [0.0, 0.0]]))
    for text, expected in (("a", [1, 0]), ("b", [0, 1]), ("little", [1, 0])):
        np.testing.assert_array_equal(bank.mask(text), mask(expected))
    assert bank.mask("not") is None and bank.mask("never asked") is None
    with refused("empty"):
        ContrastiveBank(["none seen"], [mask([0, 0])])


def sides(drawing: np.ndarray, laterality: str) -> set[str]:
    """On which sides (1, H, W) is drawn; "left" is the left half of the picture unless it is the patient's."""
    half = drawing.shape[2] // 2
    left, right = ("right", "left") if laterality == "patient" else ("left", "right")
    return {side for side, part in ((left, drawing[..., :half]), (right, drawing[..., half:])) if part.any()}


@pytest.mark.shared
@pytest.mark.parametrize("laterality", ["viewer", "patient"])
def test_real_captions_get_a_drawing_of_the_lungs_that_they_name(shared_data: Path, laterality: str) -> None:
    """383 distinct captions of QaTa-COV19, most of which tie between several of the fourteen drawings or fit none."""
    rows = read_table(shared_data / "qata-texts" / "captions.csv").rows
    captions = sorted({row["Description"] for _, row in rows})
    texts, masks = caption_bank((64, 64), laterality)
    bank = ContrastiveBank(texts, masks)
    bank.retrieve(captions, findings_similarity(captions, bank.texts))
    for text in captions:
        drawing = bank.mask(text)
        assert drawing is not None, text
        spelt = mirror_text(mirror_text(text, left_right=True), left_right=True)
        assert sides(drawing, laterality) == {side for side in ("left", "right") if side in spelt}, text
    assert len(captions) == 383 and any(len(entries) > 1 for entries in bank.nearest.values())


@pytest.mark.parametrize("laterality", ["viewer", "image", "patient"])
def test_fourteen_captions_are_drawn_on_the_side_they_name(laterality: str) -> None:
    texts, masks = caption_bank((96, 80), laterality)
    assert len(texts) == len(set(texts)) == 14
    for text, drawing in zip(texts, masks, strict=True):
        assert drawing.shape == (1, 96, 80) and set(np.unique(drawing)) == {0, 1}
        named = {side for side in ("left", "right") if f"{side} lung" in text}
        assert sides(drawing, laterality) == named == {finding.side for finding in findings(text)}, text


def test_drawn_areas_are_where_they_are_named() -> None:
    texts, masks = caption_bank((96, 96), "viewer")
    two_left = masks[texts.index("Unilateral pulmonary infection, two infected areas, upper lower left lung.")]
    rows = np.flatnonzero(two_left[0].any(axis=1))
    assert rows.min() < 0.25 * 96 and rows.max() > 0.75 * 96 and not two_left[0, 45:52].any()
    assert all(0.03 < drawing.mean() < 0.25 for drawing in masks)  # the published drawings: 8 to 23 %


# --- EPI: the labels that its updates make, and their store


ONE = (1, 1, 1)


def store_of(folder: Path, storage: Storage = "float16", shape: tuple[int, int, int] = ONE) -> PseudoLabelStore:
    return PseudoLabelStore.create(folder, ["a", "b"], shape, storage=storage, seed=0)


def value(number: float) -> np.ndarray:
    return np.full(ONE, number, dtype=np.float32)


def test_warm_up_is_the_mean_until_beta_is_reached() -> None:
    assert beta_at(0.75, np.arange(6), warmup=True).tolist() == [0, 0.5, pytest.approx(2 / 3), 0.75, 0.75, 0.75]
    assert beta_at(0.75, np.arange(3), warmup=False).tolist() == [0, 0.75, 0.75]


@pytest.mark.parametrize("storage", ["float16", "uint8"])
def test_a_pixel_is_driven_from_half_to_six_tenths(tmp_path: Path, storage: Storage) -> None:
    """Plain rounding would freeze one byte at once (a step of 0.001 is a quarter of a unit) and float16 at 0.58."""
    store = store_of(tmp_path, storage, (1, 16, 16))
    store.update("a", np.full((1, 16, 16), 0.5, np.float32), None, 0.99, warmup=False)
    for _ in range(600):
        store.update("a", np.full((1, 16, 16), 0.6, np.float32), None, 0.99, warmup=False)
    # 0.6 - 0.1 * 0.99 ** 600 = 0.5998; the mean of 256 pixels averages the rounding out
    assert float(store.read("a").mean()) == pytest.approx(0.5998, abs=2e-3)


def test_rounding_is_a_function_of_record_and_visit(tmp_path: Path) -> None:
    shape = (1, 8, 8)
    first, second = (store_of(tmp_path / name, "uint8", shape) for name in "xy")
    first.update("b", np.full(shape, 0.9, np.float32), None, 0.9, warmup=False)  # another record in between
    for store in (first, second):
        store.update("a", np.full(shape, 0.301, np.float32), None, 0.9, warmup=False)
    assert np.array_equal(first.read("a"), second.read("a"))


def test_only_seen_pixels_change(tmp_path: Path) -> None:
    store = store_of(tmp_path, shape=(2, 1, 2))
    store.update("a", np.array([[[1, 1]], [[0, 0]]], np.float32), np.array([[True, False]]), 0.9, warmup=False)
    assert store.read("a").tolist() == [[[1, 0.5]], [[0, 0.5]]]


@pytest.mark.parametrize("warmup", [True, False])
def test_a_pixel_outside_the_view_was_not_visited(tmp_path: Path, warmup: bool) -> None:
    """Left: seen three times. Right: seen by the third view alone, which has no past there."""
    store = store_of(tmp_path, shape=(1, 1, 2))
    for probs, right in ((0.9, False), (0.3, False), (0.6, True)):
        seen = np.array([[True, right]])
        store.update("a", np.full((1, 1, 2), probs, np.float32), seen, 0.75, warmup=warmup)
    # the mean of three; or .75 * (.75 * .9 + .25 * .3) + .25 * .6
    assert store.read("a")[0, 0] == pytest.approx([0.6 if warmup else 0.7125, 0.6], abs=1.5e-3)
    assert store.pixel_visits("a").tolist() == [[3, 1]] and store.visits("a") == 3


@pytest.mark.parametrize("storage", ["float16", "uint8"])
def test_a_killed_run_goes_back_to_its_checkpoint(tmp_path: Path, storage: Storage) -> None:
    store = store_of(tmp_path, storage)
    store.update("a", value(0.2), None, 0.9, warmup=False)
    store.checkpoint(7)
    kept = store.read("a").copy()
    for probs in (0.9, 0.8):
        store.update("a", value(probs), None, 0.9, warmup=False)
    store.update("b", value(0.7), None, 0.9, warmup=False)
    # No close: the process is gone. What it wrote is in the files.
    again = PseudoLabelStore.open(tmp_path, number=7)
    assert np.array_equal(again.read("a"), kept) and again.visits("a") == again.pixel_visits("a") == 1
    assert again.visits("b") == 0 and again.read("b")[0, 0, 0] == 0.5


def test_killed_between_the_state_and_the_journal(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.checkpoint(7)
    store.update("a", value(0.9), None, 0.9, warmup=False)  # belongs to step 9, whose state is on disk already
    again = PseudoLabelStore.open(tmp_path, number=9)
    assert again.visits("a") == 1


def test_a_torn_journal_entry_is_not_applied(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    store.update("a", value(0.9), None, 0.9, warmup=False)
    path = tmp_path / "journal.bin"
    path.write_bytes(path.read_bytes() + b"\x01\x00\x00")
    assert PseudoLabelStore.open(tmp_path, number=0).visits("a") == 0


@pytest.mark.parametrize(
    ("lost", "kind"),
    [("index.json", "missing_file"), ("pixel_visits.npy", "unsupported"), ("journal.bin", "missing_file")],
)
def test_labels_without_one_of_their_files_are_refused(tmp_path: Path, lost: str, kind: str) -> None:
    """An older version wrote no pixel_visits.npy."""
    store_of(tmp_path).close()
    PseudoLabelStore.open(tmp_path, number=0).close()
    (tmp_path / lost).unlink()
    with refused(kind):
        PseudoLabelStore.open(tmp_path, number=0)


def test_a_journal_of_a_later_step_is_refused(tmp_path: Path) -> None:
    store_of(tmp_path).checkpoint(12)
    with refused("mismatch"):
        PseudoLabelStore.open(tmp_path, number=3)


def test_ten_thousand_images_stay_on_disk(tmp_path: Path) -> None:
    """1 GB on paper: the file is sparse, and what was touched is given back, between checkpoints too."""
    ids = [str(i) for i in range(10_000)]
    store = PseudoLabelStore.create(tmp_path, ids, (1, 224, 224), storage="float16", seed=0)
    assert (tmp_path / "labels.npy").stat().st_size > 1_000_000_000
    before = _resident_mb()
    probs = np.full((1, 224, 224), 0.7, np.float32)
    for ident in ids[:: len(ids) // 300]:
        store.update(ident, probs, None, 0.99, warmup=True)  # 30 MB of labels
    held = _resident_mb()
    assert held - before < 15  # 2 MB of the last updates
    store.checkpoint(1)
    assert _resident_mb() < held - 2
    assert store.visits(ids[0]) == 1


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
