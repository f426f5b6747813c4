"""Records -> samples, and the processes that read images."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader, Dataset, _utils

from medvl.config import DataConfig
from medvl.config.augment import AugmentConfig, StrongViewConfig
from medvl.core.errors import Fault, InputError
from medvl.data.dataset import SegmentDataset, collate, fit_image
from medvl.data.image import UPRIGHT
from medvl.data.records import load_manifest
from medvl.data.workers import clear_worker_errors, usable_workers


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = ["id,image,text,mask_a,mask_b,split"]
    for name, size, cells in (
        ("x", (40, 30), "x_m.png,none"),
        ("y", (20, 50), "none,y_m.png"),
        ("z", (24, 24), ",none"),
    ):
        Image.fromarray(np.full(size, 90, np.uint8)).save(tmp_path / f"{name}.png")
        mask = np.zeros(size, np.uint8)
        mask[: size[0] // 2] = 1
        Image.fromarray(mask).save(tmp_path / f"{name}_m.png")
        lines.append(f"{name},{name}.png,upper half,{cells},train")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "manifest.csv"


def config(**options: object) -> DataConfig:
    return DataConfig(image_size=(16, 16), in_channels=1, **options)  # type: ignore[arg-type]


def test_absent_masks_have_their_own_images_size(manifest: Path) -> None:
    found = load_manifest(manifest)
    dataset = SegmentDataset(found.records, found.classes, config(), seed=0, train=True)
    batch = collate([dataset[0, i] for i in range(3)])
    assert batch.annotated.tolist() == [[True, True], [True, True], [False, True]]
    assert batch.target[0, 1].sum() == batch.target[1, 0].sum() == 0
    assert batch.target[0, 0].mean() == pytest.approx(0.5, abs=0.15)


def test_hidden_masks_are_not_annotated(manifest: Path) -> None:
    found = load_manifest(manifest)
    dataset = SegmentDataset(found.records, found.classes, config(), seed=0, train=True, hidden=frozenset({"x"}))
    batch = collate([dataset[0, i] for i in range(2)])
    assert batch.annotated.tolist() == [[False, False], [True, True]]
    assert bool(batch.target[0].isnan().all()) and dataset.labelled() == [1, 2]


def test_an_empty_phrase_is_asked_only_where_its_answer_is_known(manifest: Path) -> None:
    found = load_manifest(manifest)
    hidden = frozenset({"x"})
    dataset = SegmentDataset(found.records, found.classes, config(p_empty_text=1.0), seed=0, train=True, hidden=hidden)
    batch = collate([dataset[0, i] for i in range(2)])
    assert batch.texts == ("upper half", "") and batch.source_texts == ("upper half", "upper half")
    assert batch.target[1].sum() == 0


@pytest.mark.parametrize("border", ["edge", "zero"])
def test_letterbox_pads_training_as_validation(manifest: Path, border: str) -> None:
    """x is 40 rows by 30 columns of 90: two columns of sixteen lie beyond it on either side, whoever reads it."""
    found = load_manifest(manifest)
    still = {"max_rotate_deg": 0, "max_shift": 0, "scale": (1, 1), "max_gamma": 0, "max_contrast": 0}
    augment = AugmentConfig(**still, max_brightness=0, max_noise=0)  # type: ignore[arg-type]
    data = config(resize="letterbox", border=border, normalize="none", augment=augment)
    train, val = (SegmentDataset(found.records, found.classes, data, seed=0, train=part) for part in (True, False))
    for index in range(3):
        np.testing.assert_allclose(train[5, index].image, val[index].image, atol=1e-6)
    assert val[0].image[0, :, 0] == pytest.approx(0 if border == "zero" else 90 / 255)
    assert fit_image((40, 30), UPRIGHT, data).border == val[0].affine.border == train[0, 0].affine.border == border


def test_strong_views_are_of_images_without_a_mask_and_change_nothing_else(manifest: Path) -> None:
    Image.fromarray(np.tile(np.arange(30, dtype=np.uint8), (40, 1))).save(manifest.parent / "x.png")
    found, hidden = load_manifest(manifest), frozenset({"x"})
    with_views, plain, again = (
        SegmentDataset(found.records, found.classes, config(), seed=0, train=True, hidden=hidden, strong=strong)
        for strong in (StrongViewConfig(), None, StrongViewConfig())
    )
    for index, group in enumerate(plain.groups):
        for epoch in (0, 1):
            one, same = with_views[epoch, index], plain[epoch, index]
            np.testing.assert_array_equal(one.image, same.image)
            np.testing.assert_array_equal(one.affine.matrix, same.affine.matrix)
            is_open = all(row.id in hidden for row in group)
            assert one.strong is not None and np.array_equal(one.strong, one.image) != is_open
            np.testing.assert_array_equal(one.strong, again[epoch, index].strong)
    assert collate([with_views[0, 0]]).strong is not None and collate([plain[0, 0]]).strong is None


@pytest.fixture(autouse=True)
def quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader waits that long for its workers to end, in seconds."""
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.1)


class Calls(Dataset[int]):
    """One item, which is what `call` gives."""

    def __init__(self, call: Callable[[], int]) -> None:
        self.call = call

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return self.call()


def refuse() -> int:
    raise InputError.damaged(
        "damaged (OSError: cut off)", file="a.png", record="c1", expected="a picture", remedy="copy it"
    )


def refuse_two() -> int:
    raise InputError([Fault.damaged("cut off", file="a.png"), Fault.missing_file("gone", file="b.png")])


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def fill_shared_memory() -> int:
    raise RuntimeError("unable to write to file </torch_123_456_0>: No space left on device (28)")


def be_wrong() -> int:
    raise RuntimeError("a defect")


def ask(call: Callable[[], int], num_workers: int = 1) -> InputError:
    with pytest.raises(InputError) as caught, clear_worker_errors():
        list(DataLoader(Calls(call), batch_size=None, num_workers=num_workers))
    return caught.value


@pytest.mark.parametrize("call", [refuse, refuse_two])
def test_an_error_of_a_worker_is_that_of_the_process_itself(call: Callable[[], int]) -> None:
    here, there = ask(call, num_workers=0), ask(call)
    assert str(there) == str(here) and there.kinds[0] == here.kinds[0]


def test_a_dead_worker_and_full_shared_memory() -> None:
    assert "a process that reads images ended" in str(ask(die))
    assert "shared memory" in str(ask(fill_shared_memory)) and "Traceback" not in str(ask(fill_shared_memory))


def test_a_defect_keeps_its_trace() -> None:
    with pytest.raises(RuntimeError, match="be_wrong"), clear_worker_errors():
        list(DataLoader(Calls(be_wrong), batch_size=None, num_workers=1))


@pytest.mark.parametrize(("wanted", "usable"), [(0, 0), (1, 1), (3, 3), (64, 3)])
def test_at_most_one_worker_a_processor(monkeypatch: pytest.MonkeyPatch, wanted: int, usable: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert usable_workers(wanted) == usable
