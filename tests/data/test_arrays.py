"""NPY and NPZ as images and as masks: values, stacks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faults import refused

from medvl.core import limits
from medvl.core.errors import InputError
from medvl.data.images import image_size, num_slices, read_image
from medvl.data.masks import read_labels, read_mask

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_values(tmp_path: Path) -> None:
    for dtype, full in ((np.uint8, 255), (np.uint16, 65535), (np.int64, 255), (">u2", 65535)):
        path = save(tmp_path / "a.npy", GREY.astype(dtype))
        np.testing.assert_allclose(read_image(path).pixels, GREY / full, atol=1e-7)
        assert image_size(path) == (4, 5) and num_slices(path) == 1
        assert (read_labels(path) == GREY).all()
    deep = GREY.astype(np.int32) * 100
    np.testing.assert_allclose(read_image(save(tmp_path / "a.npy", deep)).pixels, deep / 65535, atol=1e-7)
    unit = save(tmp_path / "a.npy", (GREY / 255).astype(np.float64))
    np.testing.assert_allclose(read_image(unit).pixels, GREY / 255, atol=1e-7)
    signed = save(tmp_path / "a.npy", np.linspace(-1000, 1000, 20001).reshape(1, -1).astype(np.int16))
    low, high = np.percentile(np.load(signed), (0.5, 99.5))
    expected = np.clip((np.load(signed) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(read_image(signed).pixels, expected, atol=1e-5)
    np.testing.assert_allclose(read_image(signed, window=(0, 1000)).pixels[0, ::5000], [0, 0, 0.5, 1, 1], atol=1e-6)
    colour = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
    np.testing.assert_allclose(read_image(save(tmp_path / "a.npy", colour)).pixels, colour / 255, atol=1e-7)
    for shape in ((1, 4, 5), (4, 5, 1)):
        assert read_image(save(tmp_path / "a.npy", GREY.reshape(shape))).pixels.shape == (4, 5)
    assert read_image(save(tmp_path / "b.npy", np.asfortranarray(GREY))).pixels.ravel()[1] == GREY[0, 1] / np.float32(
        255
    )


def test_stacks(tmp_path: Path) -> None:
    stack = np.stack([GREY, GREY[::-1], GREY[:, ::-1]])
    path = save(tmp_path / "a.npy", stack)
    assert num_slices(path) == 3 and image_size(path) == (4, 5)
    for i in range(3):
        np.testing.assert_allclose(read_image(path, slice_index=i).pixels, stack[i] / 255, atol=1e-7)
        assert (read_labels(path, slice_index=i) == stack[i]).all()
    for index, kind in ((None, "ambiguous"), (3, "out_of_range")):
        with refused(kind, file=path):
            read_image(path, slice_index=index)


def test_archives(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "case.npz", image=GREY, mask=GREY > 100)
    np.testing.assert_allclose(read_image(tmp_path / "case.npz").pixels, GREY / 255, atol=1e-7)
    assert (read_mask(tmp_path / "case.npz") == (GREY > 100)).all()
    np.savez(tmp_path / "one.npz", whatever=GREY)
    assert image_size(tmp_path / "one.npz") == (4, 5)
    np.savez(tmp_path / "two.npz", a=GREY, b=GREY)
    with refused("ambiguous"):
        read_image(tmp_path / "two.npz")


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    save(tmp_path / "words.npy", np.array([["a", "b"]]))
    save(tmp_path / "line.npy", np.arange(5))
    save(tmp_path / "infinite.npy", np.array([[0, np.inf]]))
    (tmp_path / "text.npy").write_text("id,image\n")
    (tmp_path / "cut.npy").write_bytes(save(tmp_path / "whole.npy", GREY).read_bytes()[:-3])
    for name in ("objects", "words", "line", "infinite", "text", "cut"):
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / f"{name}.npy")
        assert caught.value.faults[0].file == tmp_path / f"{name}.npy" and caught.value.faults[0].expected
    monkeypatch.setattr(limits, "_allowed", 1e-5)  # ten pixels
    for function in (read_image, read_mask, image_size):
        with refused("too_large"):
            function(tmp_path / "whole.npy")
