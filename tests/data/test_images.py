"""PNG, JPEG, TIFF: values, sizes, damage."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faults import fault_of, refused
from PIL import Image as PILImage
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from medvl.core import limits
from medvl.data.image import Image
from medvl.data.images import image_size, num_slices, read_image, resample_map
from medvl.data.masks import read_labels, read_mask
from medvl.data.pictures import READABLE

GREY = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)  # fifths of 255
FIFTHS = [[0, 0.2, 0.4], [0.6, 0.8, 1]]
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)  # (2, 3, 3)


def read(path: Path, **options: Any) -> Image:
    """read_image, with what holds for every image."""
    image = read_image(path, **options)
    pixels = image.pixels
    assert pixels.dtype == np.float32 and pixels.flags["C_CONTIGUOUS"]
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert image_size(path) == pixels.shape[:2] and image.path == path and image.spacing_mm is None
    return image


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    picture = PILImage.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


def tiff_tags(**tags: int) -> ImageFileDirectory_v2:
    directory = ImageFileDirectory_v2()
    for name, value in tags.items():
        directory[{"orientation": 274, "photometric": 262}[name]] = value
    return directory


def raw_png(path: Path, size: tuple[int, int], bits: int, kind: int, rows: bytes) -> Path:
    """A PNG of a kind that no library at hand writes; `rows` each begin with a zero (no filter)."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", size[1], size[0], bits, kind, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


# 16 bits are scaled by their full range, not by what a file happens to hold: 12-bit data stay below 1 / 16.
DEEP = np.array([[0, 4095, 32768], [13107, 65534, 65535]], np.uint16)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        *((name, GREY) for name in ("a.png", "a.tif", "a.TIFF", "a.bmp", "named_otherwise.dat")),
        ("a.png", DEEP), ("a.tif", DEEP), ("big_endian.tif", DEEP.astype(">u2")),
        *((name, COLOUR) for name in ("a.png", "a.tif", "a.bmp")),
    ],
)  # fmt: skip
def test_values_of_8_and_16_bit(tmp_path: Path, name: str, array: np.ndarray) -> None:
    image = read(save(tmp_path / name, array, format="PNG" if name.endswith("dat") else None))
    np.testing.assert_allclose(image.pixels, array / np.iinfo(array.dtype).max, atol=1e-7)
    assert image.bits == 8 * array.dtype.itemsize and image.format in ("png", "tiff", "bmp")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_colour_of_16_bit_keeps_its_bits(tmp_path: Path, name: str) -> None:
    array = np.array([[[0, 1, 65535], [13107, 26214, 300]]], np.uint16)  # (1, 2, 3): red, green, blue
    cv2.imwrite(str(tmp_path / name), array[:, :, ::-1])
    image = read(tmp_path / name)
    assert image.bits == 16
    np.testing.assert_allclose(image.pixels, array / 65535, atol=1e-8)
    shown = read(tmp_path / name, window=(200, 400)).pixels
    np.testing.assert_allclose(shown[0, :, 2], [1, 0.75], atol=1e-6)


@pytest.mark.parametrize("levels", [(0.2, 0.2, 0.2), (0.8, 0.4, 0.2)])
def test_jpeg(tmp_path: Path, levels: tuple[float, ...]) -> None:
    array = np.broadcast_to(np.array(levels) * 255, (16, 24, 3)).astype(np.uint8)
    array = array[:, :, 0] if len(set(levels)) == 1 else array
    image = read(save(tmp_path / "a.jpg", array, quality=100, subsampling=0))
    assert image.format == "jpeg" and image.bits == 8 and image.pixels.shape == array.shape
    np.testing.assert_allclose(image.pixels, array / 255, atol=0.01)


def test_further_modes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    palette = PILImage.fromarray(np.array([[0, 1], [2, 0]], np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 51, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png")
    pixels = read(tmp_path / "palette.png").pixels
    np.testing.assert_allclose(pixels, [[[1, 0, 0], [0, 0.2, 0]], [[0, 0, 1], [1, 0, 0]]], atol=1e-7)

    image = read(save(tmp_path / "bit.png", GREY > 120))
    assert image.bits == 1 and image.pixels.tolist() == [[0, 0, 0], [1, 1, 1]]

    alpha = np.dstack([COLOUR, np.full_like(GREY, 7)])
    assert (read(save(tmp_path / "alpha.png", alpha)).pixels == np.float32(COLOUR) / 255).all()
    assert "alpha.png: the alpha channel is left out" in capsys.readouterr().err
    grey = read(save(tmp_path / "grey_alpha.png", np.dstack([GREY, np.full_like(GREY, 9)])))
    np.testing.assert_allclose(grey.pixels, FIFTHS, atol=1e-7)

    rows = b"".join(b"\0" + struct.pack(">4H", *row) for row in ([1, 9, 13107, 9], [65535, 9, 300, 9]))
    path = raw_png(tmp_path / "deep_alpha.png", (2, 2), 16, 4, rows)  # grey and alpha
    np.testing.assert_allclose(read(path).pixels, np.array([[1, 13107], [65535, 300]]) / 65535, atol=1e-8)
    assert read_labels(path).tolist() == [[1, 13107], [65535, 300]]

    deep = np.array([[0, 13107, 65535]], np.uint16)
    np.testing.assert_allclose(read(save(tmp_path / "i.tif", deep.astype(np.int32))).pixels, [[0, 0.2, 1]], atol=1e-7)
    fault = fault_of(read_image, save(tmp_path / "signed.tif", np.array([[-5, 70000]], np.int32)))
    assert "integers from -5 to 70000" in fault.what


def test_white_is_zero(tmp_path: Path) -> None:
    tags = tiff_tags(photometric=0)
    deep = save(tmp_path / "deep.tif", np.array([[0, 13107, 65535]], np.uint16), tiffinfo=tags)
    np.testing.assert_allclose(read(deep).pixels, [[1, 0.8, 0]], atol=1e-7)


def test_floating_point_tiff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = save(tmp_path / "unit.tif", np.array([[0.25, 0.5]], np.float32))
    assert read(unit).pixels.tolist() == [[0.25, 0.5]] and not capsys.readouterr().err
    wide = save(tmp_path / "wide.tif", np.array([[-100, 0, 300]], np.float32))
    assert read(wide).pixels.tolist() == [[0, 0.25, 1]]
    assert "wide.tif: floating-point pixels below 0 or above 1 are scaled" in capsys.readouterr().err
    np.testing.assert_allclose(read(wide, window=(100, 800)).pixels, [[0.25, 0.375, 0.75]], atol=1e-7)
    bad = save(tmp_path / "bad.tif", np.array([[np.nan, np.inf, 0]], np.float32))
    assert "1 pixels are not finite" in fault_of(read_image, bad).what


def test_colours_in_floating_point_numbers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    cv2.imwrite(str(path), np.zeros((4, 5, 3), np.float32))
    assert "floating-point" in fault_of(read_image, path).what and "NPY" in str(fault_of(image_size, path).remedy)


def test_nan_is_background(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.array([[np.nan, 0, 100], [400, np.nan, 200]], np.float32)
    np.save(tmp_path / "a.npy", values)
    for path in (save(tmp_path / "a.tif", values), tmp_path / "a.npy"):
        assert read(path).pixels.tolist() == [[0, 0, 0.25], [1, 0, 0.5]]
    assert "NaN in the image is read as background" in capsys.readouterr().err
    np.save(tmp_path / "nothing.npy", np.full((2, 2), np.nan))
    assert "4 pixels are not finite" in fault_of(read_image, tmp_path / "nothing.npy").what


@pytest.mark.parametrize("colour", [(0, 0, 0), (10, 200, 50)])
def test_one_colour_is_blank(tmp_path: Path, colour: tuple[int, int, int], capsys: pytest.CaptureFixture[str]) -> None:
    read_image(save(tmp_path / f"{colour[0]}.png", np.full((4, 5, 3), colour, np.uint8)))
    assert "a blank image" in capsys.readouterr().err


def test_window_is_in_the_values_of_the_file(tmp_path: Path) -> None:
    # Centre 102, width 204: from 0 to 204.
    image = read(save(tmp_path / "a.png", GREY), window=(102, 204))
    np.testing.assert_allclose(image.pixels, [[0, 0.25, 0.5], [0.75, 1, 1]], atol=1e-6)
    image = read(save(tmp_path / "b.png", np.array([[0, 1000, 1500, 3000]], np.uint16)), window=(1500, 1000))
    np.testing.assert_allclose(image.pixels, [[0, 0, 0.5, 1]], atol=1e-6)


TURNED = {  # what EXIF says to do with [[1, 2, 3], [4, 5, 6]], from its definition of where row 0 and column 0 lie
    1: [[1, 2, 3], [4, 5, 6]], 2: [[3, 2, 1], [6, 5, 4]], 3: [[6, 5, 4], [3, 2, 1]], 4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]], 6: [[4, 1], [5, 2], [6, 3]], 7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}  # fmt: skip


@pytest.mark.parametrize("orientation", TURNED)
def test_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    array = np.array(TURNED[1], np.uint8) * 40
    expected = np.array(TURNED[orientation], np.uint8) * 40
    exif = PILImage.Exif()
    exif[274] = orientation
    tags = tiff_tags(orientation=orientation)
    for compression in (None, "tiff_lzw"):
        path = save(tmp_path / f"{compression}.tif", array, compression=compression, tiffinfo=tags)
        assert (np.rint(read(path).pixels * 255) == expected).all()
        assert (read_labels(path) == expected).all()
    blocks = np.kron(array, np.ones((8, 8), np.uint8))
    pixels = read(save(tmp_path / "a.jpg", blocks, quality=100, exif=exif)).pixels[4::8, 4::8] * 255
    np.testing.assert_allclose(pixels, expected, atol=2)
    path = save(tmp_path / "a.png", array, exif=exif)
    assert (np.rint(read(path).pixels * 255) == expected).all() and (read_labels(path) == expected).all()
    late = path.read_bytes()  # the same with its EXIF behind the pixels
    start = late.index(b"eXIf") - 4
    length = 12 + struct.unpack(">I", late[start : start + 4])[0]
    chunk, rest = late[start : start + length], late[:start] + late[start + length :]
    path.write_bytes(rest[:-12] + chunk + rest[-12:])
    assert (np.rint(read(path).pixels * 255) == expected).all()
    deep = np.stack([array.astype(np.uint16) * 100] * 3, axis=2)  # of which Pillow keeps 8 bits
    cv2.imwrite(str(path), deep)
    plain = path.read_bytes()
    path.write_bytes(plain[:33] + chunk + plain[33:])
    assert (np.rint(read(path).pixels[:, :, 1] * 65535) == expected.astype(int) * 100).all()


def test_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = PILImage.fromarray(np.zeros((5, 5), np.uint8))
    path = save(tmp_path / "pages.tif", GREY, save_all=True, append_images=[other])
    np.testing.assert_allclose(read(path).pixels, FIFTHS, atol=1e-7)
    assert "pages.tif: of several pages of different sizes the first is read" in capsys.readouterr().err


def test_pages_of_one_size_are_slices(tmp_path: Path) -> None:
    pages = [GREY, GREY[::-1], GREY[:, ::-1]]
    for name in ("a.tif", "a.gif"):
        others = [PILImage.fromarray(page) for page in pages[1:]]
        path = save(tmp_path / name, GREY, save_all=True, append_images=others)
        assert num_slices(path) == 3 and image_size(path) == GREY.shape
        for i, page in enumerate(pages):
            pixels = read_image(path, slice_index=i).pixels
            np.testing.assert_allclose(pixels if pixels.ndim == 2 else pixels[..., 0], page / 255, atol=0.01)
            assert (read_mask(path, slice_index=i, rule="any") == (page > 0)).all()
        for function in (read_image, read_mask):
            assert "slice_index" in str(fault_of(function, path).expected)
    deep = np.stack([np.stack([page.astype(np.uint16) * 257] * 3, axis=2) for page in pages])
    cv2.imwritemulti(str(tmp_path / "deep.tif"), list(deep))
    third = read_image(tmp_path / "deep.tif", slice_index=2).pixels[..., 1]
    np.testing.assert_allclose(third, pages[2] / 255, atol=1e-7)
    assert num_slices(save(tmp_path / "one.png", GREY)) == 1


def test_the_limit_of_megapixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", GREY)  # six pixels
    monkeypatch.setattr(limits, "_allowed", 5e-6)
    for function in (read_image, read_mask, image_size):
        fault = fault_of(function, path)
        assert "megapixels" in fault.what and "max_megapixels" in str(fault.remedy)
    limits.allow_megapixels(6e-6)
    np.testing.assert_allclose(read(path).pixels, FIFTHS, atol=1e-7)
    limits.allow_megapixels(1e-6)  # never lowered
    read(path)


def test_channels() -> None:
    grey = Image(np.array([[0, 0.5]], np.float32), None, None, 8, "png")
    assert grey.as_channels(1).tolist() == [[[0, 0.5]]]
    assert grey.as_channels(3).tolist() == [[[0, 0.5]]] * 3
    pixels = np.eye(3, dtype=np.float32)[None]  # (1, 3, 3): a red, a green, a blue pixel
    colour = Image(pixels, None, None, 8, "png")
    np.testing.assert_allclose(colour.as_channels(1), [[[0.299, 0.587, 0.114]]], atol=1e-7)
    assert (colour.as_channels(3) == pixels.transpose(2, 0, 1)).all() and colour.as_channels(3).shape == (3, 1, 3)
    with refused("malformed"):
        grey.as_channels(2)


def test_resample_map_by_hand() -> None:
    ramp = np.array([[0, 1, 2, 3]], np.float32)
    assert resample_map(ramp, (1, 2)).tolist() == [[0.5, 2.5]]
    assert resample_map(ramp[:, :2], (1, 4)).tolist() == [[0, 0.25, 0.75, 1]]
    both = resample_map(ramp.reshape(2, 2), (1, 4))  # rows averaged to [1, 2], columns interpolated
    assert both.tolist() == [[1, 1.25, 1.75, 2]] and both.dtype == np.float32


NOISE = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "lzw.tif", "deep.png", "deep_colour.png"])
@pytest.mark.parametrize("function", [read_image, read_mask, image_size])
def test_broken_files(tmp_path: Path, name: str, function: Callable[[Path], object]) -> None:
    path = tmp_path / name
    if name == "deep_colour.png":
        cv2.imwrite(str(path), np.dstack([NOISE.astype(np.uint16) * 257] * 3))
    elif name == "deep.png":
        save(path, NOISE.astype(np.uint16) * 257)
    else:
        save(path, NOISE, compression="tiff_lzw") if "lzw" in name else save(path, NOISE)
    content = path.read_bytes()
    function(path)
    broken = {"empty": b"", "text": b"id,image\n1,a.png\n", "rubbish": b"\x00\xff" * 400, "cut": content[:12]}
    for what, data in broken.items():
        path.write_bytes(data)
        fault = fault_of(function, path)
        assert fault.expected == READABLE, what
        assert str(fault.remedy).startswith("export or copy it again"), what
    if function is not image_size:  # which reads no pixels
        path.write_bytes(content[: len(content) * 2 // 3])
        assert "unreadable image: " in fault_of(function, path).what


def test_a_huge_image_is_refused(tmp_path: Path) -> None:
    """A header of 100,000 x 100,000 pixels: no memory is taken for it."""
    raw_png(tmp_path / "huge.png", (100_000, 100_000), 8, 0, b"")
    for function in (read_image, read_mask, image_size):
        assert "megapixels" in fault_of(function, tmp_path / "huge.png").what


def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (read_image, read_mask, read_labels, image_size):
        with refused("missing_file", naming="gone.png"):
            function(tmp_path / "gone.png")
        with refused("missing_file"):
            function(tmp_path)
    for name in ("a.png", "locked"):
        path = save(tmp_path / name, GREY, format="PNG")

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            for function in (read_image, read_mask, image_size):
                assert fault_of(function, path).what == "unreadable image: Permission denied"
