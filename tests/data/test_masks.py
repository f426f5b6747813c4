"""What mask files mean, in every form that masks come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest
from faults import fault_of
from imported import write_dicom
from PIL import Image as PILImage
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pydicom.uid import SegmentationStorage

from medvl.data.geometry import fit
from medvl.data.images import image_size
from medvl.data.masks import read_labels, read_mask, read_meaning

Y, X = np.mgrid[:48, :64]
DISC = (Y - 20) ** 2 + (X - 25) ** 2 < 200
SQUARE = (Y > 30) & (X > 45)
LABELS = np.array([[0, 1, 2], [3, 255, 2]], np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    PILImage.fromarray(array).save(path, **options)
    return path


def save_palette(path: Path, indices: np.ndarray, colours: list[tuple[int, int, int]], **options: Any) -> Path:
    picture = PILImage.fromarray(indices.astype(np.uint8), mode="P")
    picture.putpalette([level for colour in colours for level in colour])
    picture.save(path, **options)
    return path


def painted(mask: np.ndarray, colour: tuple[int, ...], background: tuple[int, ...]) -> np.ndarray:
    return np.where(mask[:, :, None], colour, background).astype(np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "deep.png", "deep.tif", "float.tif", "palette.png", "grey_rgb.png"])
def test_labels_by_value(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if "deep" in name:
        save(path, LABELS.astype(np.uint16))
    elif "float" in name:
        save(path, LABELS.astype(np.float32))
    elif "palette" in name:
        save_palette(path, LABELS, [(200, 0, 0)] * 256)  # colours that tell nothing apart: the indices do
    else:
        save(path, np.dstack([LABELS] * 3) if "rgb" in name else LABELS)
    assert read_labels(path).tolist() == LABELS.tolist() and read_labels(path).dtype.kind in "iu"
    assert read_mask(path).tolist() == [[False, True, True], [True, False, True]]  # 255 beside classes is void
    assert read_mask(path, rule="any").tolist() == [[False, True, True], [True, True, True]]
    assert read_mask(path, (2, 3)).tolist() == [[False, False, True], [True, False, True]]
    assert read_mask(path, (255,)).tolist() == [[False, False, False], [False, True, False]]
    assert read_mask(path, (9,)).dtype == bool and not read_mask(path, (9,)).any()
    assert image_size(path) == (2, 3)


def test_label_of_16_bit_colour_keeps_its_low_bits(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([LABELS.astype(np.uint16)] * 3))
    assert read_labels(tmp_path / "a.png").tolist() == LABELS.tolist()


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_one_bit_mask_is_where_it_is_white(tmp_path: Path, white_is_zero: bool) -> None:
    tags = ImageFileDirectory_v2()
    tags[262] = int(not white_is_zero)
    for path in (save(tmp_path / "a.png", DISC), save(tmp_path / "a.tif", DISC, tiffinfo=tags)):
        assert (read_mask(path) == DISC).all() and (read_mask(path, (1,)) == DISC).all()
    content = (tmp_path / "a.tif").read_bytes()
    assert content.find(np.packbits(DISC ^ white_is_zero, axis=1).tobytes()) > 0  # as the file stores it


BLACK, WHITE, RED, GREEN = (0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 128, 0)


def test_white_of_one_bit_is_1_and_255(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", DISC)
    assert (read_mask(path, (255,)) == DISC).all() and (read_mask(path, (1,)) == DISC).all()
    assert not read_mask(path, (2,)).any()


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.bmp", "a.tif"])
@pytest.mark.parametrize("first", [BLACK, WHITE])
def test_palette_by_colour(tmp_path: Path, name: str, first: tuple[int, int, int]) -> None:
    second = WHITE if first == BLACK else BLACK
    path = save_palette(tmp_path / name, DISC ^ (first == WHITE), [first, second])
    assert (read_mask(path) == DISC).all()  # the white pixels, whatever their index
    assert (read_mask(path, (255,)) == DISC).all() and (read_mask(path, ("#ffffff",)) == DISC).all()


@pytest.mark.parametrize("background", [0, 1, 3])
@pytest.mark.parametrize("colour", [BLACK, WHITE])
def test_palette_of_several_colours(tmp_path: Path, background: int, colour: tuple[int, int, int]) -> None:
    colours = [RED, GREEN, (0, 0, 255)]
    colours.insert(background, colour)
    disc, square = (colours.index(one) for one in (RED, GREEN))
    indices = np.full(DISC.shape, background)
    indices[DISC], indices[SQUARE] = disc, square
    path = save_palette(tmp_path / "a.png", indices, colours)
    assert (read_mask(path) == DISC | SQUARE).all()
    assert (read_mask(path, (square,)) == SQUARE).all() if square else True  # declared numbers are indices
    assert (read_mask(path, ("#008000",)) == SQUARE).all()


def test_palette_of_voc(tmp_path: Path) -> None:
    """255 in its own colour round each object."""
    colours = [BLACK] * 256
    colours[15], colours[255] = (192, 128, 128), (224, 224, 192)
    ring = cv2.dilate(DISC.astype(np.uint8), np.ones((5, 5), np.uint8)) > DISC
    path = save_palette(tmp_path / "a.png", np.where(DISC, 15, np.where(ring, 255, 0)), colours)
    assert (read_mask(path) == DISC).all()


def test_mask_in_alpha(tmp_path: Path) -> None:
    shape = np.where(DISC, 255, 0)
    for level in (0, 77, 255):  # of the one colour
        grey = np.dstack([np.full(DISC.shape, level), shape]).astype(np.uint8)
        colour = np.dstack([np.full((*DISC.shape, 2), level), np.full(DISC.shape, 9), shape]).astype(np.uint8)
        for i, array in enumerate((grey, colour)):
            assert (read_mask(save(tmp_path / f"{level}_{i}.png", array)) == DISC).all()
    erased = np.dstack([painted(DISC, RED, BLACK), np.where(DISC, 130, 0)]).astype(np.uint8)
    assert (read_mask(save(tmp_path / "erased.png", erased)) == DISC).all()
    assert not read_mask(save(tmp_path / "empty.png", np.full((4, 5, 4), (255, 255, 255, 0), np.uint8))).any()


@pytest.mark.parametrize("alpha", [255, 9])
def test_even_alpha_says_nothing(tmp_path: Path, alpha: int) -> None:
    grey = np.dstack([np.where(DISC, 255, 0), np.full(DISC.shape, alpha)]).astype(np.uint8)
    colour = np.dstack([painted(DISC, WHITE, BLACK), np.full(DISC.shape, alpha)]).astype(np.uint8)
    for i, array in enumerate((grey, colour)):
        assert (read_mask(save(tmp_path / f"{i}.png", array)) == DISC).all()


@pytest.mark.parametrize("how", ["shrunk", "grown", "blurred", "cubic"])
@pytest.mark.parametrize("top", [255, 127, 65535, 1.0])
def test_grey_edges_are_cut_at_half(tmp_path: Path, how: str, top: float) -> None:
    fine = cv2.resize(DISC.astype(np.float32), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    soft = {
        "shrunk": cv2.resize(fine, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA),
        "grown": cv2.resize(DISC.astype(np.float32), None, fx=2.3, fy=2.3, interpolation=cv2.INTER_LINEAR),
        "blurred": cv2.GaussianBlur(fine, (0, 0), 3),
        "cubic": cv2.resize(DISC.astype(np.float32), None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC).clip(0, 1),
    }[how]
    kind = np.float32 if top == 1 else np.uint8 if top < 256 else np.uint16
    stored = (soft * top).astype(kind) if top == 1 else np.rint(soft * top).astype(kind)
    path = save(tmp_path / ("a.tif" if top == 1 else "a.png"), stored)
    assert (read_mask(path) == (stored >= stored.max() / 2)).all()
    expected = DISC.mean()
    assert read_mask(path).mean() == pytest.approx(expected, rel=0.03) and (stored > 0).mean() > 1.03 * expected


def test_grey_edges_of_a_rectangle_have_few_values(tmp_path: Path) -> None:
    for share in (0.1, 0.3, 0.6):  # of an edge pixel that the rectangle covers
        soft = np.zeros((30, 40))
        soft[5:20, 8:30] = share
        soft[6:19, 9:29] = 1
        path = save(tmp_path / "a.png", np.rint(soft * 255).astype(np.uint8))
        assert (read_mask(path) == (soft >= 0.5)).all(), share


def test_probabilities(tmp_path: Path) -> None:
    soft = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), 2)
    assert (read_mask(save(tmp_path / "a.tif", soft)) == (soft >= 0.5)).all()
    assert not read_mask(save(tmp_path / "b.tif", soft * 0.4)).any()  # none reaches one half
    whole = save(tmp_path / "c.tif", DISC.astype(np.float32))
    assert (read_mask(whole) == DISC).all() and (read_mask(whole, (1,)) == DISC).all()
    assert "not whole numbers" in fault_of(read_mask, tmp_path / "a.tif", (1,)).what


@pytest.mark.parametrize("num", [3, 40, 400])
def test_instances_stay_labels(tmp_path: Path, num: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((300, 300), np.uint16)
    for label in rng.permutation(num) + 1:
        cv2.circle(labels, rng.integers(0, 300, 2).tolist(), int(rng.integers(3, 12)), int(label), -1)
    assert (read_mask(save(tmp_path / "a.png", labels)) == (labels > 0)).all()


@pytest.mark.parametrize("levels", [(85, 170, 255), (128, 255), (60, 120, 180, 240), (60, 180), (1000, 2000, 3000)])
def test_spread_labels_stay_labels(tmp_path: Path, levels: tuple[int, ...]) -> None:
    bands = np.digitize(X, np.linspace(0, 64, len(levels) + 1)[1:-1])
    labels = np.where(DISC | SQUARE, np.array(levels)[bands], 0).astype(np.uint8 if max(levels) < 256 else np.uint16)
    assert (read_mask(save(tmp_path / "a.png", labels)) == (labels > 0)).all()


@pytest.mark.parametrize("classes", [(1,), (15,), (1, 2, 3), (7, 150)])
def test_void_beside_classes(tmp_path: Path, classes: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    ring = cv2.dilate((DISC | SQUARE).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    labels = np.where(DISC, classes[0], np.where(SQUARE, classes[-1], np.where(ring, 255, 0))).astype(np.uint8)
    path = save(tmp_path / "a.png", labels)
    assert (read_mask(path) == DISC | SQUARE).all() and "a.png: " in capsys.readouterr().err
    assert (read_mask(path, classes) == DISC | SQUARE).all()
    assert (read_mask(path, (classes[0], 255)) == np.isin(labels, (classes[0], 255))).all()
    assert read_meaning(path).rule == "labels, 255 is void" and "void" in read_meaning(path).notes


def test_jpeg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "m.jpg", np.where(DISC, 255, 0).astype(np.uint8), quality=75)
    assert ((read_labels(path) > 0) & ~DISC).sum() > 20  # JPEG leaves grey around the edge
    assert (read_mask(path) == DISC).all() and (read_mask(path, (255,)) == DISC).all()
    assert "m.jpg: " in capsys.readouterr().err
    small = np.zeros((64, 64), np.uint8)
    small[20:23, 30:33] = 255
    assert (read_mask(save(tmp_path / "small.jpg", small, quality=90)) == (small > 0)).all()
    in_tiff = save(tmp_path / "m.tif", np.where(DISC, 255, 0).astype(np.uint8), compression="jpeg")
    assert (read_mask(in_tiff) == DISC).all() and "jpeg" in read_meaning(in_tiff).notes
    again = save(tmp_path / "m.png", np.asarray(PILImage.open(path)))  # a PNG made of the JPEG
    assert (read_mask(again) == DISC).all()


@pytest.mark.parametrize("largest", [0, 2, 8])
def test_empty_jpeg(tmp_path: Path, largest: int) -> None:
    noise = np.random.default_rng(0).integers(0, largest + 1, (6, 8)).astype(np.uint8)
    path = save(tmp_path / "a.jpg", np.kron(noise, np.ones((8, 8), np.uint8)), quality=100)
    assert read_labels(path).max() == largest
    assert not read_mask(path).any()
    assert ("noise" in read_meaning(path).notes) == (largest > 0)


def test_labels_in_jpeg(tmp_path: Path) -> None:
    labels = np.where(DISC, 85, np.where(SQUARE, 200, 0)).astype(np.uint8)
    path = save(tmp_path / "a.jpg", labels, quality=90)
    assert "areas near 0, 85, 200" in fault_of(read_mask, path).what
    assert (read_mask(path, (85,)) != DISC).mean() < 0.02 and (read_mask(path, (200,)) != SQUARE).mean() < 0.01
    swapped = save(tmp_path / "b.jpg", np.where(DISC, 100, np.where(SQUARE, 200, 0)).astype(np.uint8), quality=90)
    assert "areas near 0, 100, 200" in fault_of(read_mask, swapped).what  # the larger label in the middle
    assert "blurs them" in fault_of(read_mask, path, (1, 2)).what
    png = save(tmp_path / "c.png", np.asarray(PILImage.open(path)))  # no less blurred for that
    assert "areas near 0, 85, 200" in fault_of(read_mask, png).what
    assert (read_mask(png, (200,)) != SQUARE).mean() < 0.01


@pytest.mark.parametrize("quality", [99, 100])
def test_png_of_a_good_jpeg_has_no_void(tmp_path: Path, quality: int) -> None:
    """0, 1, 2 and 255: the small values are what the JPEG left, not classes beside a void."""
    y, x = np.mgrid[:200, :240]
    disc = ((y - 90) / 55) ** 2 + ((x - 80) / 40) ** 2 <= 1
    jpeg = save(tmp_path / "a.jpg", np.uint8(255) * disc, quality=quality)
    png = save(tmp_path / "a.png", np.asarray(PILImage.open(jpeg)))
    assert (read_mask(png) == disc).mean() > 0.999


def test_dark_mask_in_jpeg(tmp_path: Path) -> None:
    """The edges of a JPEG reach beyond the value of its area: half of that value counts."""
    mask = (Y > 10) & (X < 40)
    assert (read_mask(save(tmp_path / "a.jpg", np.uint8(40) * mask, quality=75)) == mask).mean() > 0.99
    ring = np.where(DISC, 100, 0) + 155 * ((Y - 20) ** 2 + (X - 25) ** 2 < 30)
    fault_of(read_mask, save(tmp_path / "b.jpg", ring.astype(np.uint8), quality=90))
    specks = np.where(np.random.default_rng(0).random((48, 64)) < 0.1, 12, 0).astype(np.uint8)
    assert "neither one label nor empty" in fault_of(read_mask, save(tmp_path / "c.jpg", specks, quality=95)).what


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize("background", [BLACK, WHITE])
@pytest.mark.parametrize("colour", [RED, GREEN, (255, 255, 0)])
def test_one_colour(tmp_path: Path, name: str, background: tuple[int, ...], colour: tuple[int, ...]) -> None:
    path = save(tmp_path / name, painted(DISC, colour, background), quality=95, subsampling=0)
    assert (read_mask(path) == DISC).all()


def test_one_colour_with_soft_edges(tmp_path: Path) -> None:
    soft = cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), 2)
    path = save(tmp_path / "a.png", (soft[:, :, None] * np.array(RED)).astype(np.uint8))
    assert read_mask(path).mean() == pytest.approx((soft >= 0.5).mean(), rel=0.02)


def test_soft_edges_of_a_palette(tmp_path: Path) -> None:
    soft = np.rint(cv2.GaussianBlur(DISC.astype(np.float32), (0, 0), 2) * 255).astype(np.uint8)
    path = save(tmp_path / "a.gif", soft)
    assert PILImage.open(path).mode in ("P", "L") and (read_mask(path) == (soft >= 128)).all()


def test_one_colour_with_the_noise_of_jpeg(tmp_path: Path) -> None:
    blocks = np.kron(DISC, np.ones((4, 4), bool))
    path = save(tmp_path / "a.jpg", painted(blocks, RED, BLACK), quality=75)  # its colour is stored at half size
    again = save(tmp_path / "a.png", np.asarray(PILImage.open(path)))
    for one in (path, again):
        assert (read_mask(one) != blocks).mean() < 0.005
    nodule = np.where((Y < 7) & (X < 7), 1, 0)[:, :, None] * np.array((0, 255, 0))
    two = painted(DISC, RED, BLACK) + nodule.astype(np.uint8)
    for name in ("b.png", "b.jpg"):  # a second colour is none of it, however small
        assert "several colours" in fault_of(read_mask, save(tmp_path / name, two, quality=95, subsampling=0)).what


def test_nearly_grey(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-3, 4, (*DISC.shape, 3))
    noisy = (painted(DISC, WHITE, BLACK) + noise).clip(0, 255).astype(np.uint8)
    for name in ("a.png", "a.jpg"):
        assert (read_mask(save(tmp_path / name, noisy)) == DISC).all()


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.jpg"])
def test_table_of_colours(tmp_path: Path, name: str) -> None:
    picture = painted(DISC, RED, BLACK)
    picture[SQUARE] = (0, 0, 255)
    path = save(tmp_path / name, picture, quality=95, subsampling=0)
    if name != "a.gif":  # a palette names its labels itself
        fault = fault_of(read_mask, path)
        assert "several colours" in fault.what and "#ff0000" in fault.remedy
    near = 0.01 if name == "a.jpg" else 0
    for colours, mask in ((("#ff0000",), DISC), (("#0000ff",), SQUARE), (("#ff0000", "#0000ff"), DISC | SQUARE)):
        assert (read_mask(path, colours) != mask).mean() <= near
    assert not read_mask(path, ("#00ff00",)).any()


def test_colours_with_soft_edges(tmp_path: Path) -> None:
    large = cv2.resize(painted(DISC, RED, BLACK) + painted(SQUARE, (0, 200, 0), BLACK), None, fx=3, fy=3)
    path = save(tmp_path / "a.png", large)
    for colour, mask in (("#ff0000", DISC), ("#00c800", SQUARE)):
        assert read_mask(path, (colour,)).mean() == pytest.approx(mask.mean(), rel=0.03)


def test_masks_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3)).astype(np.uint8)
    assert "several colours" in fault_of(read_mask, save(tmp_path / "a.png", noise)).what
    for value, what in ((np.inf, "no finite number"), (-1, "negative values")):
        path = save(tmp_path / "f.tif", np.array([[0, value, value]], np.float32))
        for function in (read_mask, read_labels):
            assert what in fault_of(function, path).what
    assert "not whole numbers" in fault_of(read_labels, save(tmp_path / "f.tif", np.array([[0, 0.5]], np.float32))).what
    path = save(tmp_path / "i.tif", np.array([[0, -5, 3]], np.int32))
    assert "down to -5" in fault_of(read_mask, path).what


def test_nan_is_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.array([[0, 2, np.nan]], np.float32)
    np.save(tmp_path / "a.npy", values)
    for path in (save(tmp_path / "a.tif", values), tmp_path / "a.npy"):
        assert read_mask(path).tolist() == [[False, True, False]] and read_labels(path).tolist() == [[0, 2, 0]]
    assert "NaN in a mask is read as background" in capsys.readouterr().err


def test_slices_are_read_as_their_volume_says(tmp_path: Path) -> None:
    volume = np.zeros((6, 6, 3), np.float32)
    volume[2:4, 2:4] = (100, 255, 0)
    volume[0, 0, 1] = 200
    path = tmp_path / "soft.nii"
    nibabel.save(nibabel.Nifti1Image(volume + np.float32(0.25) * (volume > 0), np.eye(4)), path)
    assert not read_mask(path, slice_index=0).any()  # 100 is below half of what the volume holds
    assert read_mask(path, slice_index=1).sum() == 5
    labels = np.zeros((6, 6, 2), np.uint8)
    labels[2:4, 2:4, 0], labels[:2, :2, 1] = 1, 255
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "void.nii")
    assert read_mask(tmp_path / "void.nii", slice_index=0).sum() == 4
    assert not read_mask(tmp_path / "void.nii", slice_index=1).any()  # alone in its slice, void all the same


@pytest.mark.parametrize("full", [255, 100])
def test_fractional_segmentation(tmp_path: Path, full: int) -> None:
    values = np.array([[0, full // 4, full // 2 + 1], [full, 1, full // 2 - 1]], np.uint8)
    tags = {"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": full}
    write_dicom(tmp_path / "a.dcm", values, SOPClassUID=SegmentationStorage, **tags)
    assert read_mask(tmp_path / "a.dcm").tolist() == [[False, False, True], [True, False, False]]


@pytest.mark.parametrize("size", [(20, 30), (13, 64), (100, 90), (48, 64)])
@pytest.mark.parametrize("turned", [False, True])
def test_the_released_rule(tmp_path: Path, size: tuple[int, int], turned: bool) -> None:
    """`mask_rule: any`: OpenCV's bilinear resizing, then above 0, then the turns and flips of augmentation."""
    from medvl.config import DataConfig
    from medvl.data.dataset import mask_on_grid

    mask = np.random.default_rng(0).random(DISC.shape) < 0.05
    released = cv2.resize(np.where(mask, 255, 0).astype(np.uint8), size[::-1]) > 0
    base = fit(DISC.shape, size)
    config = DataConfig(mask_rule="any", image_size=size)
    if not turned:
        assert (mask_on_grid(mask, base, config) == released).all()
        return
    flip = np.array([[-1, 0, size[1] - 1], [0, 1, 0]], float) @ np.vstack([base.matrix, (0, 0, 1)])
    flipped = type(base)(flip, base.source_size, base.target_size, left_right=True)
    assert (mask_on_grid(mask, flipped, config) == released[:, ::-1]).all()


@pytest.mark.shared
def test_real_masks_read_as_before(shared_data: Path) -> None:
    """Masks of 0 and 255; and the shares of foreground that LViT's released program trains on (MoNuSeg, 224)."""
    for folder in ("breast-usg/masks", "cxr-lesion/masks_ggo", "btxrd-lvit/masks", "monuseg-lvit/masks"):
        for path in sorted((shared_data / folder).glob("*.png"))[:4]:
            assert (read_mask(path) == (np.asarray(PILImage.open(path)) > 0)).all()
    paths = sorted((shared_data / "monuseg-lvit/masks").glob("*.png"))
    masks = [read_mask(path, rule="any") for path in paths]
    assert len(paths) == 36 and np.mean([mask.mean() for mask in masks]) == pytest.approx(0.268, abs=5e-4)
    dilated = [fit((mask.shape[0], mask.shape[1]), (224, 224)).touched(mask) for mask in masks]
    assert np.mean([mask.mean() for mask in dilated]) == pytest.approx(0.325, abs=5e-4)
