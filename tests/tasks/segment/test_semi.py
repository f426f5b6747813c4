"""Semi-supervised training on phantoms: hidden masks stay hidden, views update the right pixels, kill and resume."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from faults import refused
from runs import assert_same, logged, weights

from medvl.config import Config, load_config
from medvl.core import errors
from medvl.data.dataset import Batch, Sample, SegmentDataset, collate
from medvl.data.geometry import fit
from medvl.data.labels import training_records
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest
from medvl.data.text_input import TextInput
from medvl.inference.model_folder import load_model
from medvl.losses import segmentation
from medvl.losses.pseudo_labels import PseudoLabelStore, is_confident, where_sure
from medvl.tasks.segment import semi as semi_segment
from medvl.tasks.segment.lv_bank import record_mask
from medvl.tasks.segment.model import build_segmenter
from medvl.tasks.segment.semi import SemiLearner
from medvl.train.plan import _label_lines
from medvl.train.run import prepare, train

SEMI = [
    "data.label_fraction=0.4", "semi.epi=labels", "semi.lv_bank=labelled", "train.epochs=2",
    "train.steps_per_epoch=3",
]  # fmt: skip


SIDES = {"right_lung": [1], "left_lung": [2]}


def make_task(
    config: Config, folder: Path, classes: dict[str, list[int]] | None = None
) -> tuple[SemiLearner, Manifest, frozenset[str]]:
    manifest = load_manifest(config.data.manifest, classes=classes)
    records, hidden, _ = training_records(manifest.split("train"), config)
    module, encoder = build_segmenter(config, len(manifest.classes), [r.text for r in records])
    text = TextInput(encoder, None, module.uses_text)
    task = SemiLearner(
        config, module, text, records=records, classes=manifest.classes, hidden=hidden, folder=folder, encoder=encoder
    )
    return task, manifest, hidden


def begun(
    tiny_recipe: Path, folder: Path, options: Sequence[str], classes: dict[str, list[int]] | None = None
) -> tuple[SemiLearner, PseudoLabelStore, SegmentDataset, SegmentDataset]:
    """A task that has begun, its store, and the unlabelled images as augmented views and plain, with their masks."""
    task, manifest, hidden = make_task(
        load_config(tiny_recipe, [*SEMI, "data.p_empty_text=0", *options]), folder, classes
    )
    task.begin(None, 0)
    assert task._store is not None
    records = [record for record in manifest.split("train") if record.id in hidden]
    data = task.config.data
    views, plain = (SegmentDataset(records, task.classes, data, seed=0, train=train) for train in (True, False))
    return task, task._store, views, plain


def unlabelled(sample: Sample) -> Batch:
    """A batch of one image whose masks are hidden."""
    return collate([replace(sample, target=np.full_like(sample.target, np.nan))])


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A semi-supervised run trained without interruption."""
    return train(load_config(tiny_recipe, SEMI), tmp_path_factory.mktemp("semi") / "whole")


def test_a_view_updates_the_right_pixels(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped and turned view that predicts "bright pixels" must leave the bright pixels in the store."""
    moved = ["p_flip_lr=1", "max_rotate_deg=15", "max_gamma=0", "max_contrast=0", "max_brightness=0", "max_noise=0"]
    options = ["data.normalize=none", *(f"data.augment.{one}" for one in moved)]
    task, store, views, plain = begun(tiny_recipe, tmp_path, options)
    for index in range(3):
        batch = unlabelled(views[0, index])
        assert all(affine.left_right for affine in batch.affines)
        logits = 40 * (batch.image[batch.image_index] - 0.5)  # bright = foreground
        monkeypatch.setattr(task, "logits", lambda batch, module=None, logits=logits: logits)
        task.training_step(batch)
        task._flush()
        bright = plain[index].image[0] > 0.5
        for ident in batch.ids:
            stored = store.read(ident)[0]
            certain = np.abs(stored - 0.5) > 0.3
            assert certain.mean() > 0.7
            assert ((stored > 0.5) == bright)[certain].mean() > 0.97


def test_pseudo_labels_of_a_flipped_view_are_those_of_the_other_side(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flipped views that predict the true masks leave them in the store, and get them back, each under its name."""
    still = [f"data.augment.{one}" for one in ("max_rotate_deg=0", "max_shift=0", "scale=[1, 1]", "p_flip_lr=1")]
    task, store, views, plain = begun(tiny_recipe, tmp_path, [*still, "objective.mode=multilabel"], SIDES)
    assert task.classes == tuple(SIDES)
    batch, still_batch = collate([views[0, 0]]), collate([plain[0]])
    assert all(affine.left_right for affine in batch.affines)
    true, flipped = still_batch.target, batch.target  # (N, 2, H, W): the right lung is on the picture's left
    assert true[:, 0, :, :16].sum() > 20 and true[:, 0, :, 18:].sum() == 0 and not torch.equal(true, flipped)
    for _ in range(2):
        target = task._pseudo_labels(batch, 40 * (flipped - 0.5))
        task._flush()
        torch.testing.assert_close(target, flipped, atol=2e-3, rtol=0)
    for n, ident in enumerate(batch.ids):
        np.testing.assert_allclose(store.read(ident), true[n], atol=2e-3)
    target = task._pseudo_labels(still_batch, 40 * (true - 0.5))
    torch.testing.assert_close(target, true, atol=2e-3, rtol=0)
    assert task._bank is not None
    monkeypatch.setattr(task._bank, "mask", lambda text: true[0].numpy())
    torch.testing.assert_close(task._retrieved(batch)[0], flipped[0], atol=1e-4, rtol=0)


def test_pseudo_labels_of_one_class_a_pixel_are_the_likeliest(tiny_recipe: Path, tmp_path: Path) -> None:
    """Softmax .3 background, .3, .4: no class is above one half, and the second is the likeliest."""
    options = ["objective.mode=multiclass", "semi.ramp=0", "semi.lv_bank=none"]
    task, _, views, _ = begun(tiny_recipe, tmp_path, options, SIDES)
    batch = unlabelled(views[0, 0])
    logits = torch.tensor([0.3, 0.3, 0.4]).log()[None, :, None, None].expand(len(batch.ids), 3, 32, 32)
    task.logits = lambda *_: logits  # type: ignore[method-assign, assignment]
    assert task.training_step(batch)["pseudo_fraction"].item() == pytest.approx(0.5)  # all of one class of two


def test_the_label_is_the_mixture_of_what_each_view_shows(tiny_recipe: Path, tmp_path: Path) -> None:
    """0.8; 0.75 * 0.8 + 0.25 * 0.2 = 0.65; 0.75 * 0.65 + 0.25 * 0.4 = 0.5875. A last view, moved to the right by a
    quarter, predicts 0.2 (0.75 * 0.5875 + 0.25 * 0.2 = 0.490625) and does not show the record's right quarter."""
    options = ["semi.beta_warmup=false", "semi.beta=0.75", "data.augment.scheme=none"]
    task, store, views, _ = begun(tiny_recipe, tmp_path, options)
    batch = unlabelled(views[0, 0])
    height, width = task.config.data.image_size
    step = np.array([[1, 0, width // 4], [0, 1, 0], [0, 0, 1.0]])
    plain = [fit(affine.source_size, (height, width), task.config.data.resize) for affine in batch.affines]
    moved = tuple(replace(one, matrix=(step @ np.vstack([one.matrix, (0, 0, 1)]))[:2]) for one in plain)
    for probs, expected in (0.8, 0.8), (0.2, 0.65), (0.4, 0.5875):
        logits = torch.full((len(batch.ids), 1, height, width), float(np.log(probs / (1 - probs))))
        assert torch.allclose(task._pseudo_labels(batch, logits), torch.tensor(expected), atol=2e-3)
        task._flush()
    task._pseudo_labels(replace(batch, affines=moved), torch.full_like(logits, float(np.log(0.25))))
    task._flush()
    for ident in batch.ids:
        np.testing.assert_allclose(store.read(ident)[0, :, : 3 * width // 4], 0.490625, atol=2e-3)
        np.testing.assert_allclose(store.read(ident)[0, :, 3 * width // 4 :], 0.5875, atol=2e-3)


def test_the_teacher_gives_the_target_and_follows(tiny_recipe: Path, tmp_path: Path) -> None:
    task, batch, _ = half_unlabelled(tiny_recipe, tmp_path, ["semi.epi=weights", "semi.beta=0.9"])
    assert task._teacher is not None
    started = [p.detach().clone() for p in task.module.parameters()]
    with torch.no_grad():
        before = task.logits(batch, task.module.eval()).sigmoid()
        for parameter in task.module.parameters():
            parameter.add_(0.05)
        student = task.logits(batch)
    target = task._pseudo_labels(batch, student)
    torch.testing.assert_close(target, before)
    assert (target - student.sigmoid()).abs().min() > 0.01
    # Step 5 keeps min(0.9, 6 / 15) = 0.4 of the teacher, step 1000 min(0.9, 1001 / 1010) = 0.9: 0.6, 0.6 + 0.1 * 0.4.
    for step, gone in (5, 0.6), (1000, 0.64):
        task.after_step(step)
        for weight, start in zip(task._teacher.parameters(), started, strict=True):
            torch.testing.assert_close(weight, start + gone * 0.05, rtol=1e-5, atol=1e-5)
    assert (task._pseudo_labels(batch, student) - before).abs().min() > 0.01


@pytest.mark.parametrize("options", [["semi.epi=labels", "semi.beta=0"], ["semi.epi=weights"]])
def test_the_network_learns_of_the_strong_view_what_the_plain_one_shows(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Sequence[str]
) -> None:
    """Bright = foreground of what is shown: P is that of the plain views, the loss that of the strong ones."""
    task, batch, _ = half_unlabelled(tiny_recipe, tmp_path, [*options, "semi.ramp=0"])
    batch = replace(batch, strong=-batch.image)
    by_brightness = lambda batch, module=None: 3 * batch.image[batch.image_index]  # noqa: E731
    monkeypatch.setattr(task, "logits", by_brightness)
    plain, is_open = by_brightness(batch), ~batch.annotated
    losses = task.training_step(batch)
    expected = segmentation.segmentation_loss(-plain, (plain > 0).float(), is_open, terms=task.terms_of_unlabelled)
    torch.testing.assert_close(losses["unsup_loss"], expected["loss"])
    with refused("conflict"):
        load_config(tiny_recipe, ["semi.view=strong"])


def test_pixels_that_are_not_sure_carry_no_loss(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P = .96, .9, .1, .04 in quarters, p = .8: sure at .95 are the first (true) and the last (false).

    CE = (-ln .8 - ln .2 + 0 + 0) / 4 = .458145; Dice = 1 - 2 * .8 / (2 * .64 + 1) = .298246; half of each.
    """
    options = ["semi.epi=labels", "semi.min_confidence=0.95", "semi.ramp=0", "semi.weight=0.5"]
    task, batch, _ = half_unlabelled(tiny_recipe, tmp_path, options)
    label, logits = torch.empty_like(batch.target), torch.full_like(batch.target, math.log(4)).requires_grad_()
    for part, value in zip(label.chunk(4, dim=2), (0.96, 0.9, 0.1, 0.04), strict=True):
        part[:] = value
    monkeypatch.setattr(task, "_pseudo_labels", lambda *_: label)
    monkeypatch.setattr(task, "logits", lambda *_: logits)
    losses = task.training_step(replace(batch, annotated=torch.zeros_like(batch.annotated)))
    assert losses["unsup_loss"].item() == pytest.approx((0.458145 + 0.298246) / 2, abs=1e-5)
    assert losses["confident_fraction"].item() == 0.5
    losses["loss"].backward()
    assert logits.grad is not None
    assert [bool(part.any()) for part in logits.grad.chunk(4, dim=2)] == [True, False, False, True]
    softmax = torch.tensor([0.2, 0.7, 0.1])[None, 1:, None, None]  # background .2
    assert not is_confident(softmax, 0.75, "multiclass").any() and is_confident(softmax, 0.7, "multiclass").all()
    moved, target = where_sure(
        torch.zeros(1, 3, 1, 1), torch.ones(1, 2, 1, 1), torch.zeros(1, 1, 1, 1).bool(), "multiclass"
    )
    assert moved.softmax(dim=1).flatten().tolist() == pytest.approx([1, 0, 0]) and not target.any()


@pytest.mark.parametrize("poison", ["other", "never opened"])
def test_hidden_masks_do_not_reach_the_weights(
    finished: Path, tiny_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poison: str
) -> None:
    """NaN in the log; other pixels behind the hidden masks, or none of them opened: the weights stay the same."""
    folder = Path(shutil.copytree(tiny_manifest.parent, tmp_path / "copy"))
    config = load_config(folder / "recipe.yaml", SEMI)
    records, hidden, counts = training_records(load_manifest(folder / "manifest.csv").split("train"), config)
    assert counts["labelled_patients"] == 3 and len(hidden) == 10
    paths = {r.masks["mask"].path for r in records if r.id in hidden}  # type: ignore[union-attr]
    for path in paths:
        assert path is not None
        if poison == "other":
            path.write_bytes((folder / "m0.png").read_bytes())

    def nans(*_: object) -> np.ndarray:
        return np.full(config.data.image_size, np.nan)

    monkeypatch.setattr(semi_segment, "hidden_mask", nans)
    if poison == "never opened":
        real = SegmentDataset._mask

        def guarded(self: SegmentDataset, record: object, name: str) -> object:
            mask = real(self, record, name)  # type: ignore[arg-type]
            assert mask is None or record.id not in hidden  # type: ignore[attr-defined]
            return mask

        monkeypatch.setattr(SegmentDataset, "_mask", guarded)
    run = train(config, tmp_path / "run")
    assert_same(finished, run)
    assert np.isnan([row["store_dice"] for row in logged(run, "task")]).all()


def test_quality_of_the_store_is_logged(finished: Path) -> None:
    last = logged(finished, "task")[-1]
    assert 0 <= last["store_dice"] <= 1 and 0 < last["store_visited"] <= 1 and last["lv_loss"] > 0
    plan = json.loads((finished / "plan.json").read_text())["labels"]
    assert plan["labelled_patients"] == 3 and plan["hidden_masks"] == 10 and plan["unlabelled_without_text"] == 0


def test_the_quality_of_the_store_by_hand(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask: columns 0-7. Labels above .5: columns 4-19, Dice 2 * 4 / (8 + 16) = 1/3; columns 0-7, Dice 1."""
    config = load_config(tiny_recipe, SEMI)
    task, _, hidden = make_task(config, tmp_path)
    task.begin(None, 0)
    assert task._store is not None and task._quality() == {}
    true = np.zeros(config.data.image_size, dtype=bool)
    true[:, :8] = True
    monkeypatch.setattr(semi_segment, "hidden_mask", lambda *_: true)
    for ident, columns, num_visits in zip(sorted(hidden), (slice(4, 20), slice(0, 8)), (1, 3), strict=False):
        probs = np.full(task._store.shape, 0.4, np.float32)
        probs[..., columns] = 0.6
        for _ in range(num_visits):
            task._store.update(ident, probs, None, 0.9, warmup=True)
    want = {"store_dice": 2 / 3, "store_visited": 2 / 10, "store_visits": 4 / 10}
    assert task._quality() == pytest.approx(want)


def test_own_masks_are_never_in_the_bank(tiny_recipe: Path, tmp_path: Path) -> None:
    task, _, hidden = make_task(load_config(tiny_recipe, SEMI), tmp_path)
    task.begin(None, 0)
    assert task._bank is not None and hidden
    assert {r.id for r in task._labelled} & hidden == set()
    assert sum(task._bank._counts) == len(task._labelled) == 6


def test_interrupted_run_resumes_to_the_same_bits(
    finished: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = SemiLearner.training_step, [0]

    def interrupted(self: SemiLearner, *args: object) -> dict[str, torch.Tensor]:
        calls[0] += not self._is_twin
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(SemiLearner, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(load_config(tiny_recipe, SEMI), tmp_path / "run")
    # What a kill leaves behind: labels newer than the saved state.
    store = PseudoLabelStore.open(tmp_path / "run/semi/pseudo_labels", number=1)
    for ident in store.ids:
        store.update(ident, np.ones(store.shape, np.float32), None, 0.5, warmup=True)
    monkeypatch.setattr(SemiLearner, "training_step", original)
    with (tmp_path / "run/metrics.jsonl").open("a") as log:
        log.write('[}\n{"step": 1, "ki')  # and half a line
    train(None, tmp_path / "run", resume=True)
    assert_same(finished, tmp_path / "run")
    labels = [np.load(run / "semi/pseudo_labels/labels.npy") for run in (finished, tmp_path / "run")]
    assert np.array_equal(labels[0], labels[1])
    assert logged(finished) == logged(tmp_path / "run")  # the means of the epoch that was interrupted too


@pytest.mark.parametrize(
    "options",
    [
        ["semi.epi=weights"],
        ["semi.epi=labels", "semi.update=epoch", "semi.start=predict", "semi.storage=uint8"],
        ["semi.lv_bank=captions", "semi.lv_similarity=findings"],
        ["semi.epi=labels", "semi.start=predict", "text.encoder=none", "data.laterality=null"],
        ["semi.epi=labels", "semi.lv_bank=labelled", "data.classes={r: [1], l: [2]}", "objective.mode=multilabel"],
        ["semi.epi=labels", "semi.lv_bank=labelled", "data.classes={r: [1], l: [2]}", "objective.mode=multiclass"],
        ["semi.epi=labels", "model.name=dynunet"],
        ["semi.epi=labels", "semi.beta=0", "semi.view=strong", "semi.min_confidence=0.95", "model.name=dynunet"],
    ],
)
def test_every_mode_trains_and_resumes_nothing(tiny_recipe: Path, tmp_path: Path, options: Sequence[str]) -> None:
    base = ["data.label_fraction=0.4", "train.max_steps=3", "train.steps_per_epoch=2"]
    run = train(load_config(tiny_recipe, [*base, *options]), tmp_path / "run")
    task = logged(run, "task")[-1]
    assert np.isfinite([value for value in task.values() if isinstance(value, float)]).all()
    assert ("unsup_loss" in task) == any("epi" in option for option in options)
    assert ("lv_loss" in task) == any("lv_bank" in option for option in options)
    if "semi.start=predict" in options:
        assert task["store_visited"] == 1 and task["store_visits"] >= 2


def test_other_records_are_refused_when_a_run_goes_on(tiny_recipe: Path, tmp_path: Path) -> None:
    task, _, _ = make_task(load_config(tiny_recipe, SEMI), tmp_path)
    task.begin(None, 0)
    state = task.state_dict()
    task.begin(state, 0)
    other, _, _ = make_task(load_config(tiny_recipe, [*SEMI, "data.label_seed=3"]), tmp_path)
    with refused("mismatch"):
        other.begin(state, 0)


def test_start_from_a_labelled_only_model(finished: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    still = [*SEMI, f"init={finished}", "train.lr=0", "train.weight_decay=0"]
    run = train(load_config(tiny_recipe, still), tmp_path / "run")
    started, after = load_model(finished)[0].state_dict(), weights(run)
    parameters = [name for name in started if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(started[name], after[f"module.{name}"]) for name in parameters)
    with refused("mismatch", naming="dim=16"):
        train(load_config(tiny_recipe, [*SEMI, f"init={finished}", "text.dim=16"]), tmp_path / "other")


def test_semi_without_unlabelled_records(tiny_recipe: Path, tmp_path: Path) -> None:
    with refused("empty", naming="data.label_fraction"):
        train(load_config(tiny_recipe, ["semi.epi=labels"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("options", "kind", "key"),
    [
        (["semi.lv_bank=labelled", "text.encoder=none"], "conflict", "semi.lv_similarity"),
        (["semi.lv_bank=captions", "data.classes={r: [1], l: [2]}", "objective.mode=multilabel"], "conflict",
         "semi.lv_bank"),
        (["semi.lv_bank=labelled", "data.manifest=silent.csv"], "empty", "semi.lv_bank"),
        (["semi.epi=labels", "objective.terms=[{name: dise}]"], "unknown", "objective.terms"),
        (["semi.epi=labels", "data.balance=siim"], "conflict", "data.balance"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_said_before_there_is_a_run(
    tiny_recipe: Path, tmp_path: Path, options: Sequence[str], kind: str, key: str, dry_run: bool
) -> None:
    table = (tiny_recipe.parent / "manifest.csv").read_text()
    plain = load_config(tiny_recipe, ["data.label_fraction=0.4"])
    records, _, _ = training_records(load_manifest(plain.data.manifest).split("train"), plain)
    for record in records:  # the labelled ones lose their text
        table = table.replace(f"{record.id},{record.image.name},{record.text},", f"{record.id},{record.image.name},,")
    silent = tiny_recipe.parent / "silent.csv"
    silent.write_text(table)
    words = [word.replace("silent.csv", str(silent)) for word in options]
    config = load_config(tiny_recipe, ["data.label_fraction=0.4", *words])
    with refused(kind, naming=key):
        train(config, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [[*SEMI, "train.steps_per_epoch=null"], ["train.steps_per_epoch=3"]])
def test_semi_and_steps_per_epoch_run_on_one_device(tiny_recipe: Path, tmp_path: Path, options: Sequence[str]) -> None:
    config = load_config(tiny_recipe, options)
    two = SimpleNamespace(world_size=2, global_rank=0, device=torch.device("cpu"))
    with refused("unsupported", naming="train.devices"):
        prepare(config, load_manifest(config.data.manifest), two, tmp_path / "run")  # type: ignore[arg-type]


def test_semi_without_init_warns(
    finished: Path,
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for options, warns in ([], True), ([f"init={finished}"], False):
        monkeypatch.setattr(errors, "_warned", set())
        train(load_config(tiny_recipe, [*SEMI, *options]), tmp_path / "run", dry_run=True)
        assert ("semi without init" in capsys.readouterr().err) == warns


def test_unlabelled_records_without_text_are_counted(tiny_recipe: Path, tmp_path: Path) -> None:
    config = load_config(tiny_recipe, SEMI)
    manifest = load_manifest(config.data.manifest)
    records, hidden, _ = training_records(manifest.split("train"), config)
    records = [replace(r, text="" if r.id in hidden and i % 2 else r.text) for i, r in enumerate(records)]
    module, encoder = build_segmenter(config, 1, [r.text for r in records])
    task = SemiLearner(
        config, module, TextInput(encoder, None, True), records=records, classes=("mask",), hidden=hidden,
        folder=tmp_path, encoder=encoder,
    )  # fmt: skip
    task.begin(None, 0)
    assert task.num_without_text == sum(not r.text for r in records) > 0
    batch = collate([SegmentDataset(records, ("mask",), config.data, seed=0, train=True, hidden=hidden)[0, 7]])
    shown = task._retrieved(batch).flatten(1).any(dim=1).tolist()
    assert shown == [bool(r.text) and r.id in hidden for r in records if r.id in batch.ids]


def half_unlabelled(tiny_recipe: Path, folder: Path, options: Sequence[str]) -> tuple[SemiLearner, Batch, list[Record]]:
    """A task that has begun, one batch of the whole training split, labelled rows and unlabelled, and its records."""
    config = load_config(tiny_recipe, ["data.label_fraction=0.4", "data.p_empty_text=0", *options])
    task, manifest, hidden = make_task(config, folder)
    task.begin(None, 0)
    records, _, _ = training_records(manifest.split("train"), config)
    dataset = SegmentDataset(records, ("mask",), config.data, seed=0, train=True, hidden=hidden)
    batch = collate([dataset[0, place] for place in range(len(dataset))])
    by_id = {r.id: r for r in records}
    return task, batch, [by_id[ident] for ident in batch.ids]


@pytest.mark.parametrize(("progress", "ramp", "factor"), [(0.05, 0.1, 0.5), (0, 0.1, 0), (0.4, 0.1, 1), (0, 0, 1)])
@pytest.mark.parametrize(("balance", "entropy"), [("plain", 0.916291), ("balanced", 0.685242)])
def test_the_total_by_hand(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    balance: str,
    entropy: float,
    progress: float,
    ramp: float,
    factor: float,
) -> None:
    """p = .8 in the upper quarter A, .2 below. Masks: A; pseudo labels: the upper 3/4; the bank's masks: the lower 1/2.

    L_sup = (1 - 2(.25 * .8) / (.25 * .64 + .75 * .04 + .25)) / 2 + -ln .8 / 2 = .5 / 11 + .5 * .223144 = .157026.
    Dice = 1 - 2(.25 * .8 + .5 * .2) / (.19 + .75) = .361702. In the cross entropy a third of the pseudo foreground
    costs -ln .8, the other two thirds -ln .2 = 1.609438, the background -ln .8: plain (2 * .223144 + 2 * 1.609438) / 4
    = .916291, balanced ((.223144 + 2 * 1.609438) / 3 + .223144) / 2 = .685242. LV = 1 - (.5 * .2) / sqrt(.19 * .5)
    = .675557.
    """
    options = ["semi.epi=labels", "semi.lv_bank=labelled", "semi.weight=0.7", "semi.lv_alpha=0.1"]
    task, batch, _ = half_unlabelled(
        tiny_recipe, tmp_path, [*options, f"semi.ramp={ramp}", f"semi.ce_balance={balance}"]
    )
    assert batch.annotated.any() and not batch.annotated.all()
    height = batch.target.shape[-2]
    upper, most, lower = (torch.zeros_like(batch.target) for _ in range(3))
    upper[..., : height // 4, :] = 1
    is_open = ~batch.annotated[:, :, None, None]
    most[..., : 3 * height // 4, :] = 0.9
    lower[..., height // 2 :, :] = 1
    batch = replace(batch, target=torch.where(is_open, torch.nan, upper))
    probs = 0.2 + 0.6 * upper
    # For rows with a mask both have what would change the loss if it were counted.
    monkeypatch.setattr(task, "_pseudo_labels", lambda *_: torch.where(is_open, most, lower))
    monkeypatch.setattr(task, "_retrieved", lambda *_: torch.where(is_open, lower, upper))
    monkeypatch.setattr(task, "logits", lambda *_: probs.logit())
    task.progress = progress
    losses = {name: value.item() for name, value in task.training_step(batch).items()}
    assert losses["sup_loss"] == pytest.approx(0.157026, abs=2e-5)
    assert losses["unsup_loss"] == pytest.approx(0.7 * (0.361702 + entropy), abs=2e-5)
    assert losses["lv_loss"] == pytest.approx(0.675557, abs=2e-5)
    assert losses["pseudo_fraction"] == pytest.approx(0.75)
    want = 0.157026 + factor * (0.7 * (0.361702 + entropy) + 0.1 * 0.675557)
    assert losses["loss"] == pytest.approx(want, abs=2e-5)


@pytest.mark.parametrize("move", ["flip", "turn"])
def test_the_original_text_retrieves_and_its_mask_moves_with_the_row(
    tiny_recipe: Path, tmp_path: Path, move: str
) -> None:
    options = ["semi.lv_bank=labelled", "semi.lv_similarity=findings", "data.augment.p_flip_lr=1"]
    still = ["data.augment.max_rotate_deg=0", "data.augment.max_shift=0", "data.augment.scale=[1, 1]"]
    task, batch, records = half_unlabelled(tiny_recipe, tmp_path, [*options, *still])
    assert all(affine.left_right for affine in batch.affines)
    assert all(new != old == r.text for new, old, r in zip(batch.texts, batch.source_texts, records, strict=True))
    size = task.config.data.image_size
    if move == "turn":  # a quarter, (x, y) -> (H - 1 - y, x), after the plain resize
        step = np.array([[0, -1, size[0] - 1], [1, 0, 0], [0, 0, 1.0]])
        moved = []
        for affine in batch.affines:
            plain = fit(affine.source_size, size)
            moved.append(replace(plain, matrix=(step @ np.vstack([plain.matrix, (0, 0, 1)]))[:2]))
        batch = replace(batch, affines=tuple(moved))
    masks = {}
    for side in ("left", "right"):
        known = [r for r in task._labelled if r.text == f"the {side} lung"]
        masks[side] = np.mean([record_mask(r, "mask", task.config) for r in known], axis=0)
    assert masks["left"][:, : size[1] // 2].sum() == 0 < masks["right"][:, : size[1] // 2].sum()
    retrieved = task._retrieved(batch).numpy()
    for n, record in enumerate(records):
        mask = masks["left" if "left" in record.text else "right"]
        want = mask[:, ::-1] if move == "flip" else np.rot90(mask, -1)
        np.testing.assert_allclose(retrieved[n, 0], want if record.id in task._ids else 0, atol=1e-4)


@pytest.fixture
def focal_tversky(example: Callable[[str], ModuleType]) -> Callable[..., torch.Tensor]:
    """The loss that docs/examples adds: Abraham and Khan, arXiv 1810.07842."""
    loss: Callable[..., torch.Tensor] = example("loss").focal_tversky_loss
    return loss


def test_focal_tversky_by_brute_force(focal_tversky: Callable[..., torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 3, 3, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 2, 3, 3, generator=generator) < 0.4).double()
    expected = []
    for n, k in ((0, 0), (0, 1), (1, 0)):
        hit = missed = false = 1e-5 / 2
        for x, t in zip(logits[n, k].flatten().tolist(), target[n, k].flatten().tolist(), strict=True):
            p = 1 / (1 + np.exp(-x))
            hit, missed, false = hit + p * t, missed + (1 - p) * t, false + p * (1 - t)
        expected.append((1 - (hit + 5e-6) / (hit + 0.6 * (missed - 5e-6) + 0.2 * (false - 5e-6) + 5e-6)) ** 0.5)
    target[1, 1] = torch.nan
    annotated = torch.tensor([[True, True], [True, False]])
    actual = focal_tversky(logits, target, annotated, alpha=0.6, beta=0.2, gamma=2.0)
    assert actual.item() == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize(("heads", "balances"), [(1, ("plain", "balanced")), (2, ("balanced", "plain"))])
def test_pseudo_labels_are_trained_with_the_terms_of_the_objective(
    tiny_recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    focal_tversky: Callable[..., torch.Tensor],
    heads: int,
    balances: tuple[str, str],
) -> None:
    """With the ratio of their weights and a balance of their own: a balanced loss would make pseudo labels grow."""
    options = ["semi.epi=labels", "semi.ramp=0", "semi.weight=0.7", f"semi.ce_balance={balances[1]}"]
    entropy = f"{{name: cross_entropy, weight: 0.1, focal_gamma: 2, balance: {balances[0]}}}"
    terms = f"objective.terms=[{{name: focal_tversky, weight: 0.3, alpha: 0.9}}, {entropy}]"
    task, batch, _ = half_unlabelled(tiny_recipe, tmp_path, [*options, terms])
    label = torch.zeros_like(batch.target)
    label[..., :12, :20] = 1
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((len(label), heads, *label.shape[1:]), generator=generator)
    monkeypatch.setattr(task, "_pseudo_labels", lambda *_: 0.9 * label)
    monkeypatch.setattr(task, "logits", lambda *_: logits[:, 0] if heads == 1 else logits)
    losses = task.training_step(batch)

    def expected(head: torch.Tensor, target: torch.Tensor, pairs: torch.Tensor, balance: str) -> torch.Tensor:
        entropy = segmentation.cross_entropy_loss(head, target, pairs, balance=balance, focal_gamma=2.0)
        return 0.3 * focal_tversky(head, target, pairs, alpha=0.9) + 0.1 * entropy

    of_heads = [expected(head, batch.target, batch.annotated, balances[0]) for head in logits.unbind(1)]
    sup = of_heads[0] if heads == 1 else (2 * of_heads[0] + of_heads[1]) / 3
    unsup = expected(logits[:, 0], label, ~batch.annotated, balances[1]) * 2 / 0.4 * 0.7  # the mean weight is 0.7
    torch.testing.assert_close(losses["sup_loss"], sup)
    torch.testing.assert_close(losses["unsup_loss"], unsup)
    torch.testing.assert_close(losses["loss"], sup + unsup)


def test_a_run_keeps_the_terms_that_it_is_trained_with(
    tiny_recipe: Path, tmp_path: Path, focal_tversky: Callable[..., torch.Tensor]
) -> None:
    last = []
    for alpha in (0.7, 0.2):
        terms = f"objective.terms=[{{name: focal_tversky, alpha: {alpha}}}]"
        still = ["train.max_steps=3", "semi.ramp=0", "semi.lv_bank=none", "train.epochs=1"]
        run = train(load_config(tiny_recipe, [*SEMI, *still, terms]), tmp_path / str(alpha))
        last.append(logged(run, "task")[-1])
        assert load_config(run / "config.yaml").objective.terms[0].options == {"alpha": alpha}
    assert all(0 < row["unsup_loss"] < 1 for row in last)
    assert last[0]["unsup_loss"] != pytest.approx(last[1]["unsup_loss"], rel=1e-3)


@pytest.mark.shared
def test_several_labels_of_real_lesions_train_with_epi_and_lv(shared_data: Path, tmp_path: Path) -> None:
    """Five overlapping classes, texts of people, half of the patients' masks hidden."""
    recipe = Path(__file__).resolve().parents[3] / "recipes" / "lvit_semi.yaml"
    manifest = shared_data / "cxr-lesion" / "manifest.csv"
    words = [
        f"data.manifest={manifest}", "data.classes=[ggo,consolidation,left_lung,right_lung,heart]",
        "data.empty_means_absent=[ggo,consolidation]", "data.rows_per_image=null", "data.phrases_per_image=1",
        "data.val_phrases_per_image=null", "data.label_fraction=0.5", "objective.mode=multilabel", "train.batch_size=4",
        "semi.lv_similarity=encoder", "train.max_steps=3", "train.accelerator=cpu",
    ]  # fmt: skip
    config = load_config(recipe, words)
    run = train(config, tmp_path / "run")
    last = logged(run, "task")[-1]
    for name in ("sup_loss", "unsup_loss", "lv_loss", "store_dice"):
        assert np.isfinite(last[name]) and last[name] > 0, name
    index = json.loads((run / "semi" / "pseudo_labels" / "index.json").read_text())
    assert index["shape"] == [5, 64, 64]
    labels = json.loads((run / "plan.json").read_text())["labels"]
    assert len(index["ids"]) == labels["unlabelled_records"] >= labels["hidden_masks"] > 0
    retrieved = json.loads((run / "semi" / "lv_bank.json").read_text())
    assert retrieved and all(entries for entries in retrieved.values())


def test_the_plan_writes_small_fractions_out() -> None:
    counts = dict.fromkeys(("labelled_records", "labelled_images", "unlabelled_records", "left_out_records"), 3)
    entry = {**counts, "labelled_patients": 2, "label_seed": 0, "label_by": "patient", "hidden_masks": 0}
    for fraction, words in (0.002, "0.2%:"), (0.1, "10%:"):
        assert words in _label_lines({**entry, "label_fraction": fraction})[0].split()
