"""Written masks and overlays are read back as they were, whole or not at all."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image as PILImage

from medvl.data.image import Image, Orientation, Turn
from medvl.data.images import image_size, read_image
from medvl.data.masks import read_labels, read_mask
from medvl.inference.writers import PREDICTED, TRUE, slug, write_boxes, write_mask_nifti, write_mask_png, write_overlay

MASK = np.zeros((5, 7), bool)
MASK[1:3, 2:6] = MASK[4, 0] = True  # not symmetric, so that no flip or turn goes unseen


def image(shape: tuple[int, ...] = MASK.shape, spacing_mm: tuple[float, float] | None = None) -> Image:
    pixels = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return Image(pixels, spacing_mm, None, 8, "png")


def test_mask_png(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    for mask in (MASK, ~MASK, np.zeros_like(MASK)):
        write_mask_png(path, mask)
        assert (read_mask(path) == mask).all() and (read_mask(path, (255,)) == mask).all()
        assert (read_labels(path) == np.where(mask, 255, 0)).all() and image_size(path) == MASK.shape
    with PILImage.open(path) as picture:
        assert picture.mode == "L" and picture.format == "PNG"


@pytest.mark.parametrize("spacing_mm", [None, (0.5, 0.25)])
@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz"])
def test_mask_nifti_of_another_image(tmp_path: Path, name: str, spacing_mm: tuple[float, float] | None) -> None:
    write_mask_nifti(tmp_path / name, MASK, image(spacing_mm=spacing_mm))
    found = read_image(tmp_path / name, window=(0.5, 1))
    assert (found.pixels == MASK).all() and (read_mask(tmp_path / name) == MASK).all()
    assert found.spacing_mm == (spacing_mm or (1, 1)) and image_size(tmp_path / name) == MASK.shape
    file = nibabel.load(tmp_path / name)
    assert file.get_data_dtype() == np.uint8 and file.shape == (7, 5, 1)
    assert file.header.get_xyzt_units()[0] == "mm"
    assert np.unique(np.asarray(file.dataobj)).tolist() == [0, 1]
    assert (tmp_path / name).read_bytes()[:2] == (b"\x1f\x8b" if name.endswith("gz") else b"\x5c\x01")


def affines() -> list[np.ndarray]:
    """Some orders of storage, flips, an oblique one, and an origin."""
    found = []
    for order, flips in zip(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3), strict=False):
        affine = np.eye(4)
        affine[:3, :3] = 0
        affine[list(order), range(3)] = np.array(flips) * [0.5, 2.0, 4.0]
        affine[:3, 3] = [-30, 12.5, 7]
        found.append(affine)
    oblique = np.diag([1.5, 1.5, 3, 1])
    oblique[:2, :2] = [[1.5, -0.25], [0.25, 1.5]]
    return [*found, oblique]


@pytest.mark.parametrize("affine", affines())
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mask_goes_back_into_its_slice(tmp_path: Path, affine: np.ndarray, axis: int) -> None:
    volume = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    source = nibabel.Nifti1Image(volume, affine)
    source.header.set_xyzt_units("micron")
    nibabel.save(source, tmp_path / "ct.nii")
    place: dict[str, Any] = {"slice_index": 2, "slice_axis": axis}
    ct = read_image(tmp_path / "ct.nii", window=(60, 119), **place)
    mask = ct.pixels > np.median(ct.pixels)  # so that each voxel's value says whether it belongs to the mask
    write_mask_nifti(tmp_path / "m.nii.gz", mask, ct)

    file = nibabel.load(tmp_path / "m.nii.gz")
    assert (file.affine == nibabel.load(tmp_path / "ct.nii").affine).all() and file.shape == volume.shape
    limit = np.median(read_labels(tmp_path / "ct.nii", **place))
    inside = np.isin(volume, read_labels(tmp_path / "ct.nii", **place)) & (volume > limit)
    assert (np.asarray(file.dataobj) == inside).all() and inside.sum() == mask.sum() > 5

    assert (read_mask(tmp_path / "m.nii.gz", **place) == mask).all()
    assert read_image(tmp_path / "m.nii.gz", **place).spacing_mm == ct.spacing_mm
    for other in (0, 1, 3):
        assert not read_mask(tmp_path / "m.nii.gz", slice_index=other, slice_axis=axis).any()


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 1, 5), (7, 5, 1, 1)])
def test_mask_of_a_single_slice(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.diag([-2.0, 3.0, 4.0, 1.0])), tmp_path / "film.nii")
    film = read_image(tmp_path / "film.nii")
    assert film.pixels.shape == MASK.shape
    write_mask_nifti(tmp_path / "m.nii", MASK, film)
    assert (read_mask(tmp_path / "m.nii") == MASK).all()
    file = nibabel.load(tmp_path / "m.nii")
    assert file.shape == shape and (file.affine == np.diag([-2.0, 3.0, 4.0, 1.0])).all()


def overlay(path: Path) -> np.ndarray:
    with PILImage.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "RGB"
        return np.asarray(picture)


def num_of(colour: tuple[int, int, int], picture: np.ndarray) -> int:
    return int((picture == colour).all(axis=2).sum())


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (600, 520)])
def test_overlay(tmp_path: Path, shape: tuple[int, ...]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    pred = (y - 15) ** 2 + (x - 20) ** 2 < 60
    true = (y - 25) ** 2 + (x - 40) ** 2 < 60
    path = tmp_path / "o.png"
    write_overlay(path, image(shape), pred, true)
    both = overlay(path)
    scale = {40: 9, 600: 1}[shape[0]]  # the longer side is brought to 512 at least, by a whole number
    assert both.shape == (shape[0] * scale, shape[1] * scale, 3)
    assert num_of(PREDICTED, both) > 30 and num_of(TRUE, both) > 30
    rows, columns = np.nonzero((both == PREDICTED).all(axis=2))
    assert abs(rows.mean() / scale - 15) < 1 and abs(columns.mean() / scale - 20) < 1
    rows, columns = np.nonzero((both == TRUE).all(axis=2))
    assert abs(rows.mean() / scale - 25) < 1 and abs(columns.mean() / scale - 40) < 1
    # inside a contour the image is seen
    middle = both[15 * scale, 20 * scale]
    expected = 255 * np.atleast_3d(image(shape).pixels)[15, 20]
    assert np.abs(middle - expected).max() < 12

    write_overlay(path, image(shape), pred)
    assert num_of(PREDICTED, overlay(path)) > 30 and num_of(TRUE, overlay(path)) == 0
    write_overlay(path, image(shape), np.zeros_like(pred), np.zeros_like(pred))
    assert num_of(PREDICTED, overlay(path)) == num_of(TRUE, overlay(path)) == 0


def test_overlay_of_masks_that_agree(tmp_path: Path) -> None:
    """A perfect prediction does not hide the truth."""
    mask = np.zeros((30, 30), bool)
    mask[8:20, 5:25] = True
    write_overlay(tmp_path / "o.png", image(mask.shape), mask, mask.copy())
    picture = overlay(tmp_path / "o.png")
    assert num_of(PREDICTED, picture) > 100 and num_of(TRUE, picture) > 100


def test_caption(tmp_path: Path) -> None:
    write_overlay(tmp_path / "plain.png", image((30, 30)), np.zeros((30, 30), bool))
    write_overlay(tmp_path / "o.png", image((30, 30)), np.zeros((30, 30), bool), caption="Lungenödem, links\n" * 20)
    plain, captioned = overlay(tmp_path / "plain.png"), overlay(tmp_path / "o.png")
    assert captioned.shape == (plain.shape[0] + 28, plain.shape[1], 3)
    assert (captioned[: len(plain)] == plain).all()
    bar = captioned[len(plain) :]
    assert bar.max() == 255 and (bar == 0).mean() > 0.5


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writers: dict[str, Any] = {
        "m.png": lambda path: write_mask_png(path, MASK),
        "m.nii": lambda path: write_mask_nifti(path, MASK, image()),
        "m.nii.gz": lambda path: write_mask_nifti(path, MASK, image()),
        "o.png": lambda path: write_overlay(path, image(), MASK, ~MASK),
    }
    for name, writer in writers.items():
        writer(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(writers)  # no temporary file stays
    before = {name: (tmp_path / name).read_bytes() for name in writers}

    def cut_off(target: Any, *_: object, **__: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PILImage.Image, "save", lambda self, target, **_: cut_off(target))
    monkeypatch.setattr(nibabel, "save", lambda _, target: cut_off(target))
    for name, writer in writers.items():
        for path in (tmp_path / name, tmp_path / f"new_{name}"):
            with pytest.raises(OSError, match="No space left"):
                writer(path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_slugs() -> None:
    assert slug("the right lung") == slug("The Right LUNG") == "the-right-lung"
    marked = {slug(phrase) for phrase in ("right lung.", "right-lung", "right  lung", "right lung?", "правое лёгкое")}
    assert len(marked) == 5 and "right-lung" not in marked
    assert slug("правое") != slug("левое") and slug("правое") == slug("правое")
    long = [slug("opacity " * 20 + end) for end in ("left", "right")]
    assert long[0] != long[1] and all(len(name) <= 48 for name in long)
    for name in (*marked, *long, slug("../../etc"), slug("")):
        assert name and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("turn", [Turn(left_right=True), Turn(transpose=True, up_down=True)])
def test_overlays_are_in_standard_display(tmp_path: Path, turn: Turn) -> None:
    """Of one picture, stored upright and stored turned."""
    rng = np.random.default_rng(0)
    upright = rng.random((20, 30)).astype(np.float32)
    mask = np.zeros((20, 30), bool)
    mask[3:9, 2:8] = True
    standard = Image(upright, None, None, 8, "png")
    stored = Image(turn.undo(upright), None, None, 8, "dicom", orientation=Orientation(turn, "standard", "R/F"))
    write_overlay(tmp_path / "a.png", standard, mask)
    write_overlay(tmp_path / "b.png", stored, turn.undo(mask))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    rows, columns = np.nonzero(turn.undo(mask))
    corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    write_boxes(tmp_path / "c.png", standard, [((2, 3, 8, 9), "x")])
    write_boxes(tmp_path / "d.png", stored, [(corners, "x")])
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "d.png").read_bytes()
