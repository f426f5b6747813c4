"""NIfTI: which way a slice is shown, its spacing and window, labels, and what is refused."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import faults
import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff

from medvl.data.image import Image
from medvl.data.images import image_size, read_image
from medvl.data.masks import read_labels, read_mask

VOLUME = np.arange(24).reshape(2, 3, 4)  # x to the patient's right, y to the front, z up: 12 x + 4 y + z
WINDOW = (11.5, 23)  # makes 0..23 of it 0..1
RAS = np.diag([2.0, 3.0, 5.0, 1.0])
fault_of = partial(faults.fault_of, remedy=False)


def write(path: Path, volume: np.ndarray, affine: np.ndarray = RAS, unit: str | None = None) -> Path:
    if volume.dtype == np.int64:
        volume = volume.astype(np.int16)
    image = nibabel.Nifti1Image(volume, affine)
    if unit:
        image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


def read(path: Path, *, slice_axis: int = 2, **options: Any) -> Image:
    """read_image, with what holds for every NIfTI."""
    image = read_image(path, slice_axis=slice_axis, **options)
    assert image.format == "nifti" and image.path == path
    assert image.pixels.dtype == np.float32 and image.pixels.min() >= 0 and image.pixels.max() <= 1
    assert image_size(path, slice_axis=slice_axis) == image.pixels.shape
    return image


def values(path: Path, index: int | None, axis: int = 2) -> list[list[int]]:
    """The slice in the values of VOLUME."""
    pixels = read(path, slice_index=index, slice_axis=axis, window=WINDOW).pixels
    shown = np.rint(pixels * 23)
    np.testing.assert_allclose(shown / 23, pixels, atol=1e-6)
    return [[int(value) for value in row] for row in shown]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_slices_by_hand(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, VOLUME)
    # axial: the front on top, the patient's right (x = 1) on the viewer's left
    assert values(path, 0) == [[20, 8], [16, 4], [12, 0]]
    assert values(path, 3) == [[23, 11], [19, 7], [15, 3]]
    # coronal: up on top, the patient's right on the viewer's left
    assert values(path, 0, axis=1) == [[15, 3], [14, 2], [13, 1], [12, 0]]
    # sagittal: up on top, the front on the viewer's left
    assert values(path, 1, axis=0) == [[23, 19, 15], [22, 18, 14], [21, 17, 13], [20, 16, 12]]
    spacings = [read(path, slice_index=0, slice_axis=axis).spacing_mm for axis in range(3)]
    assert spacings == [(5, 3), (5, 2), (3, 2)]  # (row, column)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_however_the_file_is_stored(tmp_path: Path, order: tuple[int, int, int]) -> None:
    """The same anatomy in all 48 orders of storage shows the same slices, spacings and sizes, and a mask goes back."""
    path = tmp_path / "a.nii"
    expected = {axis: values(write(path, VOLUME), 1, axis) for axis in range(3)}
    spacings = {axis: read(path, slice_index=1, slice_axis=axis).spacing_mm for axis in range(3)}
    for flips in itertools.product([1, -1], repeat=3):
        # file axis i runs along RAS axis order[i], forwards or backwards
        turn = np.array([[order[i], flips[i]] for i in range(3)], float)
        back = np.array([[i, turn[i, 1]] for i in np.argsort(turn[:, 0])], float)
        stored = apply_orientation(VOLUME, back)
        write(path, stored, RAS @ inv_ornt_aff(back, VOLUME.shape))
        # the affine takes each voxel of the file to where it lies: its value says where that is
        place = nibabel.Nifti1Image.from_filename(path).affine @ [0, 0, 0, 1]
        x, y, z = np.rint(place[:3] / [2, 3, 5]).astype(int)
        assert stored[0, 0, 0] == 12 * x + 4 * y + z
        for axis in range(3):
            assert values(path, 1, axis) == expected[axis]
            image = read(path, slice_index=1, slice_axis=axis, window=WINDOW)
            assert image.spacing_mm == spacings[axis]
            volume = image.reference.to_volume(np.rint(image.pixels * 23).astype(np.int16) + 1)
            chosen = np.take(VOLUME, 1, axis)
            assert volume.shape == stored.shape
            assert (volume == np.where(np.isin(stored, chosen), stored + 1, 0)).all()


def test_oblique_and_mirrored(tmp_path: Path) -> None:
    turned = RAS.copy()
    angle = np.radians(20)
    turned[:2, :2] = [[2 * np.cos(angle), -3 * np.sin(angle)], [2 * np.sin(angle), 3 * np.cos(angle)]]
    path = write(tmp_path / "a.nii", VOLUME, turned)
    assert values(path, 0) == [[20, 8], [16, 4], [12, 0]]
    assert read(path, slice_index=0).spacing_mm == pytest.approx((3, 2))
    radiological = write(tmp_path / "b.nii", VOLUME, np.diag([-2.0, 3.0, 5.0, 1.0]))  # x to the patient's left
    assert values(radiological, 0) == [[8, 20], [4, 16], [0, 12]]


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("unknown", 1), ("micron", 0.001), ("meter", 1000)])
def test_units(tmp_path: Path, unit: str, factor: float) -> None:
    path = write(tmp_path / "a.nii", VOLUME, unit=unit)
    assert read(path, slice_index=0).spacing_mm == pytest.approx((3 * factor, 2 * factor))


def test_percentiles_or_window(tmp_path: Path) -> None:
    ramp = np.arange(1001, dtype=np.float32)[:, None, None]  # percentiles 0.5 and 99.5 are 5 and 995
    image = read(write(tmp_path / "a.nii", ramp))
    assert image.pixels.shape == (1, 1001) and image.bits == 32
    pixels = image.pixels[0, ::-1]  # x runs to the viewer's left
    np.testing.assert_allclose(pixels[[0, 5, 500, 995, 1000]], [0, 0, 0.5, 1, 1], atol=1e-6)
    pixels = read(tmp_path / "a.nii", window=(500, 400)).pixels[0, ::-1]
    np.testing.assert_allclose(pixels[[300, 400, 500, 700, 900]], [0, 0.25, 0.5, 1, 1], atol=1e-6)
    assert not read(write(tmp_path / "flat.nii", np.full((2, 3, 1), 7))).pixels.any()


def test_scaled_values(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.array([-1000, -600], np.float32).reshape(2, 1, 1), RAS)
    image.header.set_data_dtype(np.uint8)  # which nibabel fills with a slope and an intercept
    nibabel.save(image, tmp_path / "a.nii")
    found = read(tmp_path / "a.nii", window=(-800, 800))
    np.testing.assert_allclose(found.pixels, [[0.75, 0.25]], atol=1e-6)
    assert found.bits == 8  # of the file, not of the numbers that scaling makes


def test_slice_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", VOLUME)
    for axis, num in ((0, 2), (1, 3), (2, 4)):
        for function in (read_image, read_mask):
            fault = fault_of(function, path, slice_axis=axis)
            assert fault.kind == "ambiguous" and f"data.slice_index from 0 to {num - 1}" in str(fault.expected)
    for index, axis in ((4, 2), (-1, 2), (2, 0)):
        for function in (read_image, read_mask, read_labels):
            assert fault_of(function, path, slice_index=index, slice_axis=axis).kind == "out_of_range"
    for function in (read_image, read_mask, image_size):
        assert fault_of(function, path, slice_axis=3).kind == "out_of_range"


def test_two_dimensions(tmp_path: Path) -> None:
    flat = VOLUME[:, :, 0]
    for volume in (flat, flat[:, :, None], flat[:, :, None, None]):
        path = write(tmp_path / "a.nii", volume)
        assert values(path, None) == values(path, 0) == [[20, 8], [16, 4], [12, 0]]
        assert read(path).spacing_mm == (3, 2)
        assert read(path).reference.to_volume(np.ones((3, 2), np.uint8)).shape == volume.shape
    # a film stored upright: its only slice is the coronal one
    path = write(tmp_path / "b.nii", VOLUME[:, :1])
    assert values(path, None) == [[15, 3], [14, 2], [13, 1], [12, 0]] and read(path).spacing_mm == (5, 2)
    assert fault_of(read_image, path, slice_index=1).what == "slice 1 of 1"


def patch(path: Path, **fields: Any) -> Path:
    """Header fields as other programs leave them and nibabel would not write them."""
    content = path.read_bytes()
    header = np.frombuffer(content[:348], nibabel.Nifti1Header.template_dtype).copy()
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.tobytes() + content[348:])
    return path


@pytest.mark.parametrize(
    "fields",
    [{"srow_z": [0, 0, 0, 0]}, {"sform_code": 0, "qform_code": 1}, {"sform_code": 0}],
    ids=["sform", "qform", "neither"],
)
def test_two_dimensions_without_a_thickness(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = write(tmp_path / "a.nii", VOLUME[:, :, 0])
    patch(path, **fields, pixdim=[1, 2, 3, 0, 0, 0, 0, 0])
    shown = values(path, None)
    if "sform_code" in fields and "qform_code" not in fields:  # nibabel then takes x to run to the patient's left
        shown = [row[::-1] for row in shown]
    assert shown == [[20, 8], [16, 4], [12, 0]] and read(path).spacing_mm == (3, 2)
    assert np.linalg.det(read(path).reference.affine) != 0  # a mask of it can be written


@pytest.mark.parametrize("fields", [{"srow_z": [0, 0, 0, 0]}, {"srow_y": [0, np.nan, 0, 0]}])
def test_affines_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = patch(write(tmp_path / "a.nii", VOLUME), **fields)
    for function in (read_image, read_mask, image_size):
        assert "does not say how the volume lies" in fault_of(function, path).what


def test_shapes_and_types_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "time.nii", np.zeros((2, 3, 4, 5), np.int16))
    for function in (read_image, read_mask, image_size):
        assert str(fault_of(function, path)).endswith(
            "a NIfTI of shape (2, 3, 4, 5); expected one volume of up to three axes"
        )
    one_volume = write(tmp_path / "one.nii", VOLUME[..., None])
    assert values(one_volume, 0) == [[20, 8], [16, 4], [12, 0]]
    assert read(one_volume, slice_index=0).reference.to_volume(np.ones((3, 2))).shape == (2, 3, 4, 1)
    path = write(tmp_path / "complex.nii", np.zeros((2, 3, 1), np.complex64))
    for function in (read_image, read_mask):
        assert fault_of(function, path).expected == "one number a voxel, or a colour"


def test_labels(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        path = write(tmp_path / "a.nii.gz", (VOLUME % 5).astype(dtype))
        labels = read_labels(path, slice_index=1)
        assert labels.tolist() == [[1, 4], [2, 0], [3, 1]] and labels.dtype.kind in "iu"
        assert read_mask(path, slice_index=1).tolist() == [[True, True], [True, False], [True, True]]
        assert read_mask(path, (1, 3), slice_index=1).tolist() == [[True, False], [False, False], [True, True]]
        # the mask of a slice along another axis is that of its image
        sagittal = read_labels(path, slice_index=1, slice_axis=0)
        assert sagittal.tolist() == (np.array([[23, 19, 15], [22, 18, 14], [21, 17, 13], [20, 16, 12]]) % 5).tolist()


def test_masks_refused(tmp_path: Path) -> None:
    for value, what in ((-1, "negative values"), (0.5, "not whole numbers"), (np.inf, "no finite number")):
        volume = np.zeros((2, 3, 4), np.float32)
        volume[0, 0, 1] = value
        path = write(tmp_path / "a.nii", volume)
        for function in (read_labels, read_mask) if value != 0.5 else (read_labels,):
            fault = fault_of(function, path, slice_index=1)
            assert what in fault.what and fault.remedy
        assert not read_mask(path, slice_index=0).any()  # only the slice asked for counts


def test_nan_is_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = np.arange(300, 320, dtype=np.float32).reshape(4, 5, 1)
    low, high = np.percentile(volume[1:3], (0.5, 99.5))  # of what is no background
    expected = np.clip((volume - low) / (high - low), 0, 1)
    volume[[0, 3]] = expected[[0, 3]] = np.nan
    image = read_image(write(tmp_path / "a.nii.gz", volume))
    np.testing.assert_allclose(image.pixels, np.nan_to_num(expected[..., 0].T[::-1, ::-1]), atol=1e-5)
    assert "a.nii.gz: NaN in the image is read as background" in capsys.readouterr().err
    for bad in (np.inf, 3e38, np.nan):
        fault_of(read_image, write(tmp_path / "b.nii.gz", np.full((4, 5, 1), bad, np.float32)))


def test_nan_outside_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume = np.full((4, 5, 1), np.nan, np.float32)
    volume[1:3, 1:4], volume[2, 2] = 0, 1
    path = write(tmp_path / "a.nii", volume)
    assert read_mask(path).sum() == 1 and "NaN" in capsys.readouterr().err
    assert read_labels(path).sum() == 1


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_broken_files(tmp_path: Path, name: str) -> None:
    volume = np.random.default_rng(0).integers(0, 2**15, (16, 17, 3)).astype(np.int16)
    content = write(tmp_path / name, volume).read_bytes()
    path = tmp_path / name
    flipped = bytearray(content)
    flipped[60:80] = b"\xff" * 20
    broken = {"empty": b"", "text": b"id,image\n" * 50, "head": content[:100], "flipped": bytes(flipped)}
    for what, data in broken.items():
        path.write_bytes(data)
        for function in (read_image, read_mask, image_size):
            fault = fault_of(function, path)
            assert fault.what.startswith(("unreadable NIfTI", "a NIfTI of shape")), what
    path.write_bytes(content[:-600])
    for function in (read_image, read_mask):
        fault = fault_of(function, path, slice_index=2)
        assert fault.what.startswith("unreadable NIfTI") and fault.remedy == "export or copy it again"
