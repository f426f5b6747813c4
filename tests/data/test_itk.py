"""NRRD and MetaImage against SimpleITK and NIfTI: values, spacing, orientation, masks, damage."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from faults import refused

from medvl.core.errors import InputError
from medvl.data.images import image_size, num_slices, read_image
from medvl.data.masks import read_labels, read_mask

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
