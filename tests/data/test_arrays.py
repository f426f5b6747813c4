"""NPY, NPZ, NRRD and MetaImage: values, stacks, spacing, orientation, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
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


VOXELS = np.arange(2 * 5 * 7, dtype=np.int16).reshape(2, 5, 7) * 3  # z, y, x


def itk(
    voxels: np.ndarray = VOXELS, spacing: tuple[float, ...] = (0.5, 0.7, 3.0), vector: bool = False
) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(voxels, isVector=vector)
    image.SetSpacing(spacing)
    return image


@pytest.mark.parametrize("name, turned", [("a.nrrd", True), ("a.nhdr", False), ("a.mha", False), ("a.mhd", True)])
def test_as_the_nifti_of_the_same_volume(tmp_path: Path, name: str, turned: bool) -> None:
    """SimpleITK writes both: whatever the directions, both are displayed alike and masks of one fit the other."""
    image = itk()
    if turned:
        image.SetDirection([0, 0, 1, -1, 0, 0, 0, -1, 0])
        image.SetOrigin([3, -4, 5])
    SimpleITK.WriteImage(image, str(tmp_path / name))
    SimpleITK.WriteImage(image, str(tmp_path / "same.nii.gz"))
    for axis in range(3):
        num = num_slices(tmp_path / "same.nii.gz", axis)
        assert num_slices(tmp_path / name, axis) == num
        for index in {0, num - 1}:
            mine = read_image(tmp_path / name, slice_index=index, slice_axis=axis)
            other = read_image(tmp_path / "same.nii.gz", slice_index=index, slice_axis=axis)
            np.testing.assert_array_equal(mine.pixels, other.pixels)
            assert mine.spacing_mm == pytest.approx(other.spacing_mm) and mine.size == image_size(
                tmp_path / name, slice_axis=axis
            )
            labels = read_labels(tmp_path / name, slice_index=index, slice_axis=axis)
            assert (labels == read_labels(tmp_path / "same.nii.gz", slice_index=index, slice_axis=axis)).all()
            np.testing.assert_allclose(mine.reference.affine, other.reference.affine, atol=1e-5)


def test_a_picture_by_hand(tmp_path: Path) -> None:
    plane = VOXELS[0]
    SimpleITK.WriteImage(itk(plane, (0.5, 0.7)), str(tmp_path / "a.nrrd"))
    image = read_image(tmp_path / "a.nrrd")
    low, high = np.percentile(plane, (0.5, 99.5))
    np.testing.assert_allclose(image.pixels, np.clip((plane - low) / (high - low), 0, 1), atol=1e-6)  # as stored
    assert image.spacing_mm == pytest.approx((0.7, 0.5)) and image.bits == 16 and image.format == "nrrd"
    colour = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    for name in ("c.nrrd", "c.mha"):
        SimpleITK.WriteImage(itk(colour, (1.0, 1.0), vector=True), str(tmp_path / name))
        np.testing.assert_allclose(read_image(tmp_path / name).pixels, colour / 255, atol=1e-6)
    mask = (plane > 40).astype(np.uint8)
    SimpleITK.WriteImage(itk(mask, (1.0, 1.0)), str(tmp_path / "m.mha"))
    assert (read_mask(tmp_path / "m.mha") == (mask > 0)).all()
    packed = tmp_path / "a.nrrd.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.nrrd").read_bytes()))
    np.testing.assert_array_equal(read_image(packed).pixels, image.pixels)
    (tmp_path / "bare.nrrd").write_bytes(
        b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 2 2\nencoding: raw\n\n\x00\x01\x02\x03"
    )
    assert read_image(tmp_path / "bare.nrrd").spacing_mm is None  # nothing says it
    values = np.where(plane > 20, plane, np.nan).astype(np.float32)
    SimpleITK.WriteImage(itk(values, (1.0, 1.0)), str(tmp_path / "n.nrrd"))
    assert (read_image(tmp_path / "n.nrrd").pixels[plane <= 20] == 0).all()


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_damage(tmp_path: Path, name: str) -> None:
    SimpleITK.WriteImage(itk(), str(tmp_path / name))
    content = (tmp_path / name).read_bytes()
    for broken in (b"", b"NRRD0004\n", content[:40], content[:-20], content.replace(b" 5 ", b" 99999999 ")):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name, slice_index=1)
        assert caught.value.faults[0].file == tmp_path / name
    SimpleITK.WriteImage(itk(), str(tmp_path / "b.mhd"))
    (tmp_path / "b.raw").unlink()
    with refused("damaged"):
        read_image(tmp_path / "b.mhd", slice_index=0)


def test_colour_of_nifti(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (20, 17, 3)).astype(np.uint8)  # x, y, channel
    expected = colour.transpose(1, 0, 2)[::-1, ::-1] / 255
    structured = np.zeros((20, 17, 1), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    for i, letter in enumerate("RGB"):
        structured[letter][..., 0] = colour[..., i]
    for name, array in {"last": colour, "fourth": colour[:, :, None], "typed": structured}.items():
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
        np.testing.assert_allclose(read_image(path).pixels, expected, atol=1e-6)
        assert image_size(path) == (17, 20) and num_slices(path) == 1
        assert read_image(path).reference.to_volume(np.ones((17, 20), np.uint8)).size == 340
    assert read_image(tmp_path / "last.nii.gz", slice_index=1).pixels.shape == (17, 20)  # three slices, if asked
