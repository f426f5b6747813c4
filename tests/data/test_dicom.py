"""DICOM: polarity, windows, rescaling, colour, frames, compressed syntaxes, spacing, damage."""

from __future__ import annotations

import gzip
import io
import logging
import math
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from faults import fault_of, refused
from imported import dicom_dataset as dataset
from imported import write_dicom as write
from PIL import Image as PILImage
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medvl.core import limits
from medvl.data.dicom import is_dicom
from medvl.data.image import Image
from medvl.data.images import image_orientation, image_size, read_image
from medvl.data.masks import read_labels, read_mask

RAMP = np.array([[0, 50, 75, 100], [110, 125, 150, 200]], np.uint16)


def lut(first: int, bits: int, entries: list[int]) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item


def read(path: Path, **options: Any) -> Image:
    """read_image, with what holds for every DICOM."""
    image = read_image(path, **options)
    assert image.format == "dicom" and image.path == path
    assert image.pixels.dtype == np.float32 and image.pixels.min() >= 0 and image.pixels.max() <= 1
    assert image_size(path) == image.pixels.shape[:2]
    return image


def shown(path: Path, **options: Any) -> list[float]:
    """The pixels one after the other, rounded so that they can be written here."""
    return [round(float(value), 4) for value in read(path, **options).pixels.ravel()]


def test_own_range_without_a_window(tmp_path: Path) -> None:
    image = read(write(tmp_path / "a.dcm", RAMP + np.uint16(300)))  # 300 to 500
    np.testing.assert_allclose(image.pixels, RAMP / 200, atol=1e-6)
    assert image.bits == 12 and image.spacing_mm is None
    assert shown(write(tmp_path / "signed.dcm", np.array([[-1000, 0, 1000]], np.int16))) == [0, 0.5, 1]
    assert shown(write(tmp_path / "flat.dcm", np.full((1, 2), 7, np.uint8))) == [0.5, 0.5]


def test_windows_by_hand(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5), so c = 100, w = 51 is (x - 74.5) / 50
    window = {"WindowCenter": 100, "WindowWidth": 51}
    assert shown(write(tmp_path / "a.dcm", RAMP, **window)) == [0, 0, 0.01, 0.51, 0.71, 1, 1, 1]
    # LINEAR_EXACT: (x - c) / w + 0.5
    exact = {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "LINEAR_EXACT"}
    assert shown(write(tmp_path / "b.dcm", RAMP, **exact)) == [0, 0, 0, 0.5, 0.7, 1, 1, 1]
    # SIGMOID: 1 / (1 + exp(-4 (x - c) / w))
    sigmoid = {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"}
    expected = [round(1 / (1 + math.exp(-4 * (int(x) - 100) / 50)), 4) for x in RAMP.ravel()]
    assert shown(write(tmp_path / "c.dcm", RAMP, **sigmoid)) == expected and expected[5] == 0.8808
    # a width of 1 is a step just below the centre
    step = {"WindowCenter": 100, "WindowWidth": 1}
    assert shown(write(tmp_path / "d.dcm", RAMP, **step)) == [0, 0, 0, 1, 1, 1, 1, 1]


def test_a_window_of_our_own_goes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP, WindowCenter=10, WindowWidth=5)
    assert shown(path, window=(100, 100)) == [0, 0, 0.25, 0.5, 0.6, 0.75, 1, 1]
    path = write(tmp_path / "b.dcm", RAMP, VOILUTSequence=[lut(0, 8, [9])], RescaleSlope=2, RescaleIntercept=-200)
    assert shown(path, window=(0, 200)) == [0, 0, 0.25, 0.5, 0.6, 0.75, 1, 1]


def test_the_first_of_several_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = {"WindowCenter": [100, 50], "WindowWidth": [51, 10]}
    assert shown(write(tmp_path / "a.dcm", RAMP, **several)) == [0, 0, 0.01, 0.51, 0.71, 1, 1, 1]
    assert "a.dcm: of several windows the first is shown" in capsys.readouterr().err


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 100, "WindowWidth": 0}, {"WindowCenter": 100}, {"WindowWidth": 100},
        {"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": 100, "WindowWidth": None, "VOILUTSequence": []},
    ],
)  # fmt: skip
def test_windows_that_say_nothing(tmp_path: Path, tags: dict[str, Any]) -> None:
    np.testing.assert_allclose(read(write(tmp_path / "a.dcm", RAMP, **tags)).pixels, RAMP / 200, atol=1e-6)


def test_rescale(tmp_path: Path) -> None:
    # stored 0..200 -> -1000..-600; the window is in rescaled values: (x + 900.5) / 200 + 0.5
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": -900, "WindowWidth": 201}
    assert shown(write(tmp_path / "a.dcm", RAMP, **rescale)) == [0.0025, 0.5025, 0.7525, 1, 1, 1, 1, 1]
    steep = {"RescaleSlope": -1, "RescaleIntercept": 0}
    np.testing.assert_allclose(read(write(tmp_path / "b.dcm", RAMP, **steep)).pixels, 1 - RAMP / 200, atol=1e-6)
    # values of a slope below 1 in a window narrower than 1, where the whole-number formula has no meaning
    fine = {"RescaleSlope": 0.01, "RescaleIntercept": 0, "WindowCenter": 1, "WindowWidth": 0.5}
    assert shown(write(tmp_path / "c.dcm", RAMP, **fine)) == [0, 0, 0, 0.5, 0.7, 1, 1, 1]


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_allclose(read(write(tmp_path / "a.dcm", RAMP, **inverse)).pixels, 1 - RAMP / 200, atol=1e-6)
    windowed = write(tmp_path / "b.dcm", RAMP, **inverse, WindowCenter=100, WindowWidth=51)
    assert shown(windowed) == [1, 1, 0.99, 0.49, 0.29, 0, 0, 0]
    assert shown(windowed, window=(100, 100)) == [1, 1, 0.75, 0.5, 0.4, 0.25, 0, 0]


def test_voi_lut(tmp_path: Path) -> None:
    stored = np.array([[0, 9, 10, 11, 12, 50]], np.uint16)
    # entries of 12 bits for the values 10, 11 and 12; those outside get the first or last entry; the LUT goes before
    # the window
    tags = {"VOILUTSequence": [lut(10, 12, [0, 1365, 4095])], "WindowCenter": 1, "WindowWidth": 2}
    assert shown(write(tmp_path / "a.dcm", stored, **tags)) == [0, 0, 0, 0.3333, 1, 1]
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    assert shown(write(tmp_path / "b.dcm", stored, **tags, **inverse)) == [1, 1, 1, 0.6667, 0, 0]
    # after a rescale the LUT is in rescaled values: 2 x - 10 is 10 at 10, 12 at 11
    rescaled = {"VOILUTSequence": [lut(10, 12, [0, 1365, 4095])], "RescaleSlope": 2, "RescaleIntercept": -10}
    assert shown(write(tmp_path / "c.dcm", stored, **rescaled)) == [0, 0, 0, 1, 1, 1]
    # more than 256 entries of 8 bits
    steps = [i // 16 for i in range(4096)]
    coarse = np.array([[0, 255, 256, 2048, 4095]], np.uint16)
    path = write(tmp_path / "d.dcm", coarse, VOILUTSequence=[lut(0, 8, steps)])
    assert shown(path) == [round(x / 255, 4) for x in (0, 15, 16, 128, 255)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_lut_as_words(tmp_path: Path, order: str) -> None:
    """LUT Data may be stored as OW: 16-bit words in the byte order of the file."""
    item = lut(10, 12, [0, 1365, 4095])
    item.add_new("LUTData", "OW", np.array([0, 1365, 4095], f"{order}u2").tobytes())
    found = dataset(np.array([[10, 11, 12]], f"{order}u2"), VOILUTSequence=[item])
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if order == "<" else ExplicitVRBigEndian
    dcmwrite(tmp_path / "a.dcm", found, enforce_file_format=True)
    assert shown(tmp_path / "a.dcm") == [0, 0.3333, 1]


def test_modality_lut(tmp_path: Path) -> None:
    stored = np.array([[0, 1, 2, 3]], np.uint8)
    tags: dict[str, Any] = {"ModalityLUTSequence": [lut(0, 16, [1000, 3000, 2000, 5000])]}
    assert shown(write(tmp_path / "a.dcm", stored, **tags)) == [0, 0.5, 0.25, 1]
    # the window is in the LUT's values: (x - 1499.5) / 1000
    tags |= {"WindowCenter": 2000, "WindowWidth": 1001}
    assert shown(write(tmp_path / "b.dcm", stored, **tags)) == [0, 1, 0.5005, 1]


COLOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[51, 102, 204], [10, 20, 30]]], np.uint8)


def test_colour(tmp_path: Path) -> None:
    image = read(write(tmp_path / "a.dcm", COLOUR))
    assert image.pixels.shape == (2, 2, 3) and image.bits == 8
    np.testing.assert_allclose(image.pixels, COLOUR / 255, atol=1e-6)
    planes = write(tmp_path / "b.dcm", COLOUR, PixelData=COLOUR.transpose(2, 0, 1).tobytes(), PlanarConfiguration=1)
    np.testing.assert_allclose(read(planes).pixels, COLOUR / 255, atol=1e-6)
    deep = COLOUR.astype(np.uint16) * 16
    np.testing.assert_allclose(read(write(tmp_path / "c.dcm", deep)).pixels, deep / 4095, atol=1e-6)
    with refused("ambiguous", naming="a.dcm"):
        read_labels(tmp_path / "a.dcm")


def test_ybr_is_converted_once(tmp_path: Path) -> None:
    # PS3.3 C.7.6.3.1.2: red is Y 76, CB 85, CR 255 (rounded)
    ybr = convert_color_space(COLOUR, "RGB", "YBR_FULL")
    assert ybr[0, 0].tolist() == [76, 85, 255]
    found = dataset(ybr, PhotometricInterpretation="YBR_FULL")
    found.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read(tmp_path / "a.dcm").pixels, COLOUR / 255, atol=0.01)
    found.compress(RLELossless)
    found.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read(tmp_path / "b.dcm").pixels, COLOUR / 255, atol=0.01)


def test_palette_colour(tmp_path: Path) -> None:
    tables = {"Red": [0, 65535, 0], "Green": [0, 0, 13107], "Blue": [65535, 0, 0]}
    found = dataset(np.array([[0, 1], [2, 0]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for name, entries in tables.items():
        setattr(found, f"{name}PaletteColorLookupTableDescriptor", [3, 0, 16])
        setattr(found, f"{name}PaletteColorLookupTableData", np.array(entries, "<u2").tobytes())
    found.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    pixels = read(tmp_path / "a.dcm").pixels
    np.testing.assert_allclose(pixels, [[[0, 0, 1], [1, 0, 0]], [[0, 0.2, 0], [0, 0, 1]]], atol=1e-6)
    assert read_labels(tmp_path / "a.dcm").tolist() == [[0, 1], [2, 0]]


def test_frames(tmp_path: Path) -> None:
    stack = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
    path = write(tmp_path / "a.dcm", stack, NumberOfFrames=3)
    with refused("ambiguous", naming="data.slice_index"):
        read_image(path)
    assert image_size(path) == (2, 4)
    for i, frame in enumerate(stack):
        np.testing.assert_allclose(read(path, slice_index=i).pixels, frame / 200, atol=1e-6)
        assert (read_labels(path, slice_index=i) == frame).all()
        assert (read_mask(path, (200,), slice_index=i) == (frame == 200)).all()
    for index in (3, -1):
        for function in (read_image, read_labels):
            with refused("out_of_range", naming=str(index)):
                function(path, slice_index=index)
    single = write(tmp_path / "one.dcm", RAMP)
    assert (read(single, slice_index=0).pixels == read(single).pixels).all()
    with refused("out_of_range"):
        read_image(single, slice_index=1)
    colours = write(tmp_path / "c.dcm", np.stack([COLOUR, COLOUR[::-1]]), NumberOfFrames=2)
    np.testing.assert_allclose(read(colours, slice_index=1).pixels, COLOUR[::-1] / 255, atol=1e-6)


SMOOTH = (np.add.outer(np.arange(32), np.arange(41)) * 30).astype(np.uint16)  # 0 to 2130, in 12 bits


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_syntaxes(tmp_path: Path, syntax: str) -> None:
    for i, array in enumerate((SMOOTH, (SMOOTH // 16).astype(np.uint8), np.stack([SMOOTH, SMOOTH[::-1]]))):
        found = dataset(array, **({"NumberOfFrames": 2} if array.ndim == 3 else {}))
        found.compress(syntax)
        found.save_as(tmp_path / f"{i}.dcm", enforce_file_format=True)
        frame = 1 if array.ndim == 3 else None
        stored = array if frame is None else array[frame]
        assert (read_labels(tmp_path / f"{i}.dcm", slice_index=frame) == stored).all()
        expected = stored.astype(float) / stored.max()
        np.testing.assert_allclose(read(tmp_path / f"{i}.dcm", slice_index=frame).pixels, expected, atol=1e-6)
    found = dataset(COLOUR.repeat(16, 0).repeat(16, 1))
    if syntax == JPEG2000Lossless:
        found.PhotometricInterpretation = "YBR_RCT"
    found.compress(syntax)
    found.save_as(tmp_path / "c.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read(tmp_path / "c.dcm").pixels[::16, ::16], COLOUR / 255, atol=1e-6)


def transcoded(path: Path, syntax: str) -> Path:
    """The file in a syntax of GDCM."""
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
    return path


def test_lossless_jpeg(tmp_path: Path) -> None:
    """JPEG Lossless, the syntax of many archives; only GDCM writes it."""
    path = transcoded(write(tmp_path / "a.dcm", SMOOTH), "JPEGLosslessProcess14_1")
    assert dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    np.testing.assert_allclose(read(path).pixels, SMOOTH / 2130, atol=1e-6)


def test_near_lossless_jpeg_ls(tmp_path: Path) -> None:
    found = dataset(SMOOTH, WindowCenter=1065.5, WindowWidth=2131)
    found.compress(JPEGLSNearLossless, jls_error=3)
    found.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read(tmp_path / "a.dcm").pixels, SMOOTH / 2130, atol=3.5 / 2130)


@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_baseline(tmp_path: Path, colour: bool) -> None:
    array = COLOUR.repeat(16, 0).repeat(16, 1) if colour else (SMOOTH // 16).astype(np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(array).save(buffer, format="JPEG", quality=95, subsampling=0)
    found = dataset(array)
    if colour:
        found.PhotometricInterpretation = "YBR_FULL_422"
    found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    found.PixelData = encapsulate([buffer.getvalue()])
    found["PixelData"].VR = "OB"
    found.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    pixels = read(tmp_path / "a.dcm").pixels
    if colour:
        np.testing.assert_allclose(pixels[8::16, 8::16], COLOUR / 255, atol=0.02)
    else:
        np.testing.assert_allclose(pixels, array / array.max(), atol=0.02)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("preamble", [True, False])
def test_byte_orders_with_and_without_preamble(tmp_path: Path, syntax: str, preamble: bool) -> None:
    big = syntax == ExplicitVRBigEndian
    found = dataset(RAMP.astype(">u2") if big else RAMP, PixelSpacing=[0.25, 0.5])
    path = tmp_path / "image"  # known by its content, as files of archives have no suffix
    if preamble:
        found.file_meta.TransferSyntaxUID = syntax
        dcmwrite(path, found, enforce_file_format=True)
    else:
        del found.file_meta, found.preamble
        dcmwrite(path, found, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=not big)
    assert (path.read_bytes()[128:132] == b"DICM") == preamble and is_dicom(path)
    image = read(path)
    np.testing.assert_allclose(image.pixels, RAMP / 200, atol=1e-6)
    assert image.spacing_mm == (0.25, 0.5)


def test_what_is_no_dicom(tmp_path: Path) -> None:
    for name, content in {"a": b"", "b": b"\x08\x00", "c": b"\x08\x00 and so on" * 20, "d": b"id,image\n" * 30}.items():
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name)
        assert fault_of(read_image, tmp_path / name).what == "unreadable image: not an image"
    assert not is_dicom(tmp_path / "gone")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [1, 1]}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.4, 0.6]}, (0.4, 0.6)),
        ({"ImagerPixelSpacing": [0.4, 0.6], "EstimatedRadiographicMagnificationFactor": 2}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.4, 0.6], "EstimatedRadiographicMagnificationFactor": None}, (0.4, 0.6)),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.4, 0.6]}, (0.4, 0.6)),
        ({"PixelSpacing": [0, 0]}, None), ({"PixelSpacing": None}, None), ({}, None),
    ],
)  # fmt: skip
def test_spacing(tmp_path: Path, tags: dict[str, Any], expected: tuple[float, float] | None) -> None:
    found = read(write(tmp_path / "a.dcm", RAMP, **tags)).spacing_mm
    assert found is None if expected is None else found == pytest.approx(expected)  # (row, column)


def test_masks(tmp_path: Path) -> None:
    """Stored values, whatever the file says about showing them."""
    labels = np.array([[0, 1, 2], [3, 2, 0]], np.uint8)
    tags = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 1, "WindowWidth": 1, "RescaleIntercept": 5}
    path = write(tmp_path / "a.dcm", labels, **tags, RescaleSlope=2)
    assert (read_labels(path) == labels).all() and image_size(path) == (2, 3)
    assert (read_mask(path) == (labels > 0)).all() and (read_mask(path, (1, 3)) == np.isin(labels, (1, 3))).all()


@pytest.fixture
def quiet() -> Any:
    """pydicom logs what it meets in damaged files."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    for syntax in (None, RLELossless, JPEGLSLossless, JPEG2000Lossless):
        found = dataset(SMOOTH, PixelSpacing=[0.5, 0.5])
        if syntax:
            found.compress(syntax)
        found.save_as(path, enforce_file_format=True)
        content = path.read_bytes()
        for length in (140, 400, len(content) - 700 if syntax is None else (len(content) + 400) // 2):
            path.write_bytes(content[:length])
            for function in (read_image, read_labels):
                assert fault_of(function, path).what, (syntax, length)
    path.write_bytes(content[:400])
    fault_of(image_size, path)
    spoilt = content.replace(b"0.5\\0.5", b"x.5\\0.5")
    assert spoilt != content
    path.write_bytes(spoilt)
    assert read(path).spacing_mm is None  # one unreadable tag is that tag's loss


def test_a_dicom_without_an_image(tmp_path: Path) -> None:
    found = dataset(RAMP)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(found, name)
    found.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    for function in (read_image, read_labels, image_size):
        assert fault_of(function, tmp_path / "report.dcm").what == "a DICOM without an image"


@pytest.mark.usefixtures("quiet")
def test_undecodable_pixels_name_the_syntax(tmp_path: Path) -> None:
    found = dataset(SMOOTH)
    found.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.51"  # 12-bit JPEG, which nothing here decodes
    found.PixelData = encapsulate([b"\xff\xd8 no JPEG"])
    found["PixelData"].VR = "OB"
    found.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    fault = fault_of(read_image, tmp_path / "a.dcm")
    assert "cannot be decoded" in fault.what and "JPEG Extended (Process 2 and 4)" in fault.what


def tags(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def group(**sequences: Dataset) -> Dataset:
    """An item of functional groups: {name of a sequence: its item}."""
    return tags(**{name: [inner] for name, inner in sequences.items()})


def test_padding_is_no_part_of_the_window(tmp_path: Path) -> None:
    stored = np.array([[65535, 100, 150, 200], [65535, 65535, 110, 190]], np.uint16)
    expected = [0, 0, 0.5, 1, 0, 0, 0.1, 0.9]  # of 100 to 200
    pad = {"BitsStored": 16, "PixelPaddingValue": 65535}
    assert shown(write(tmp_path / "a.dcm", stored, **pad)) == expected
    inverse = {"PhotometricInterpretation": "MONOCHROME1"}
    assert shown(write(tmp_path / "b.dcm", stored, **pad, **inverse)) == [0, 1, 0.5, 0, 0, 0, 0.9, 0.1]
    windowed = {"WindowCenter": 150.5, "WindowWidth": 101}
    assert shown(write(tmp_path / "c.dcm", stored, **pad, **windowed)) == expected
    near = np.where(stored == 65535, np.array([[65000, 0, 0, 0], [65100, 65535, 0, 0]]), stored).astype(np.uint16)
    limit = {"BitsStored": 16, "PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 65000}
    assert shown(write(tmp_path / "d.dcm", near, **limit)) == expected
    scaled = {"RescaleSlope": 2, "RescaleIntercept": -1000}  # padding is a stored value
    assert shown(write(tmp_path / "e.dcm", stored, **pad, **scaled)) == expected
    signed = np.where(stored == 65535, -2000, stored.astype(np.int32)).astype(np.int16)
    assert shown(write(tmp_path / "f.dcm", signed, PixelPaddingValue=-2000, BitsStored=16)) == expected
    found = dataset(signed, BitsStored=16)
    found.add_new("PixelPaddingValue", "US", 65536 - 2000)  # as some write it
    found.save_as(tmp_path / "g.dcm", enforce_file_format=True)
    assert shown(tmp_path / "g.dcm") == expected
    flat = write(tmp_path / "h.dcm", np.full((1, 2), 7, np.uint8), PixelPaddingValue=7)
    assert shown(flat) == [0.5, 0.5]  # nothing else is there


def test_functional_groups(tmp_path: Path) -> None:
    stack = np.stack([RAMP, RAMP])
    shared = group(
        PixelMeasuresSequence=tags(PixelSpacing=[0.2, 0.3]),
        PixelValueTransformationSequence=tags(RescaleSlope=2, RescaleIntercept=-1000),
    )
    frames = [group(FrameVOILUTSequence=tags(WindowCenter=centre, WindowWidth=201)) for centre in (-900, -700)]
    values = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    path = write(tmp_path / "a.dcm", stack, NumberOfFrames=2, WindowCenter=1, WindowWidth=2, **values)
    for index, centre in enumerate((-900, -700)):
        image = read(path, slice_index=index)
        expected = np.clip((RAMP * 2.0 - 1000 - (centre - 0.5)) / 200 + 0.5, 0, 1)
        np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
        assert image.spacing_mm == (0.2, 0.3)
    lateral = group(PlaneOrientationSequence=tags(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]))
    path = write(tmp_path / "b.dcm", RAMP, SharedFunctionalGroupsSequence=[lateral])
    assert read(path).orientation.kind == "sideless"


def test_orientation_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frontal, mirrored = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, {"PatientOrientation": ["R", "F"]}
    cases: dict[str, tuple[dict[str, Any], str, str]] = {  # the last: transpose, left-right, up-down
        "absent": ({}, "absent", ""), "empty": ({"PatientOrientation": ["", ""]}, "absent", ""),
        "plain": ({"PatientOrientation": ["L", "F"]}, "standard", ""), "mirrored": (mirrored, "standard", "l"),
        "flipped": ({**mirrored, "FieldOfViewHorizontalFlip": "YES"}, "standard", "l"),
        "head": ({"PatientOrientation": ["L", "H"]}, "standard", "u"),
        "lying": ({"PatientOrientation": ["F", "L"]}, "standard", "t"),
        "lateral": ({"PatientOrientation": ["A", "F"]}, "sideless", ""),
        "axial": ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, "standard", "lu"),
        "both": (mirrored | frontal, "standard", "l"),
        "nonsense": ({"PatientOrientation": ["L", "R"]}, "absent", ""),
        "animal": ({"PatientOrientation": ["L", "D"], "AnatomicalOrientationType": "QUADRUPED"}, "sideless", ""),
    }  # fmt: skip
    for name, (values, kind, turn) in cases.items():
        path = write(tmp_path / f"{name}.dcm", RAMP, **values)
        image = read(path)
        assert image.orientation.kind == kind and image.orientation == image_orientation(path), name
        flags = image.orientation.turn
        assert (flags.transpose, flags.left_right, flags.up_down) == tuple(flag in turn for flag in "tlu"), name
        np.testing.assert_allclose(image.pixels, RAMP / 200, atol=1e-6)  # as stored, whatever it says
        assert (read_labels(path) == RAMP).all()
    assert "nonsense.dcm: PatientOrientation is no two directions" in capsys.readouterr().err
    mirrored = read(tmp_path / "mirrored.dcm").displayed()
    np.testing.assert_allclose(mirrored.pixels, RAMP[:, ::-1] / 200, atol=1e-6)
    assert not mirrored.orientation.turn and mirrored.displayed().pixels is not None


def test_one_unreadable_tag_is_not_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.dcm"
    plain = write(path, RAMP, PixelSpacing=["0.25", "0.75"], WindowCenter="70.5", WindowWidth="41").read_bytes()
    expected = (0.25, 0.75)
    old, comma = b"0.25\\0.75", b"0,25\\0,75"
    for new in (comma, b"0,25 mm  ", b"abcd\\efgh", b"inf \\inf ", b"nan \\0.75", b"0.00\\0.75", b"0,2,5\\0,7"):
        assert len(old) == len(new) and old in plain
        path.write_bytes(plain.replace(old, new))
        image = read(path)
        assert image.spacing_mm == (expected if new == comma else None), new
        np.testing.assert_allclose(image.pixels, np.clip((RAMP - 70.0) / 40 + 0.5, 0, 1), atol=1e-6)
    assert "PixelSpacing" in capsys.readouterr().err
    path.write_bytes(plain.replace(b"70.5", b"soft"))
    np.testing.assert_allclose(read(path).pixels, RAMP / 200, atol=1e-6)  # no window that can be read
    path.write_bytes(plain.replace(b"70.5", b"70,5"))
    np.testing.assert_allclose(read(path).pixels, np.clip((RAMP - 70.0) / 40 + 0.5, 0, 1), atol=1e-6)
    for kind, value in (("LO", ["0.25", "0.75"]), ("FD", [0.25, 0.75]), ("UT", "0.25\\0.75"), ("OB", b"0.25\\0.75 ")):
        found = dataset(RAMP)
        found.add_new("PixelSpacing", kind, value)
        found.save_as(path, enforce_file_format=True)
        assert read(path).spacing_mm == expected, kind
    film = write(path, RAMP, NominalScannedPixelSpacing=[0.1, 0.2])
    assert read(film).spacing_mm == (0.1, 0.2)


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"])
@pytest.mark.parametrize("value", [b"inf   ", b"-inf  ", b"nan   ", b"1e+300"])
def test_absurd_numbers_are_refused(tmp_path: Path, name: str, value: bytes) -> None:
    values = {"RescaleSlope": 1, "RescaleIntercept": 1, "WindowCenter": 70, "WindowWidth": 41, name: "123456"}
    path = write(tmp_path / "a.dcm", RAMP, **values)
    read(path)
    path.write_bytes(path.read_bytes().replace(b"123456", value))
    assert name in fault_of(read_image, path).what
    for tags in ({"RescaleSlope": 0}, {"RescaleSlope": "1e-30"}, {"WindowCenter": "0", "WindowWidth": "1e-30"}):
        fault_of(read_image, write(path, RAMP, **tags))


def test_dicom_by_content_and_in_gzip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write(tmp_path / "a.dcm", RAMP).read_bytes()
    for name in ("a.png", "IM0001", "a.nii.gz", "a.jpg", "a.mha", "a.npy"):
        for data in (content, gzip.compress(content)):
            (tmp_path / name).write_bytes(data)
            np.testing.assert_allclose(read(tmp_path / name).pixels, RAMP / 200, atol=1e-6)
    picture = tmp_path / "p.dcm"  # the other way round
    PILImage.fromarray(RAMP.astype(np.uint8)).save(picture, format="PNG")
    np.testing.assert_allclose(read_image(picture).pixels, RAMP / 255, atol=1e-6)
    bomb = tmp_path / "bomb.dcm.gz"
    bomb.write_bytes(gzip.compress(content + bytes(10**6)))
    monkeypatch.setattr(limits, "_allowed", 0.1)
    assert "unpacks to more" in fault_of(read_image, bomb).what
    bomb.write_bytes(gzip.compress(content)[:-20])
    assert "gzip" in fault_of(read_image, bomb).what
    monkeypatch.setattr(limits, "_allowed", 1e-6)
    for function in (read_image, image_size):
        assert "megapixels" in fault_of(function, tmp_path / "a.dcm").what


def test_other_encodings(tmp_path: Path) -> None:
    found = dataset(RAMP)
    found.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    found.save_as(tmp_path / "deflated.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read(tmp_path / "deflated.dcm").pixels, RAMP / 200, atol=1e-6)
    big = dataset(RAMP.astype(">u2"), PixelSpacing=[0.25, 0.75])
    big.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(tmp_path / "big.dcm", big, enforce_file_format=True)
    image = read(tmp_path / "big.dcm")
    np.testing.assert_allclose(image.pixels, RAMP / 200, atol=1e-6)
    assert image.spacing_mm == (0.25, 0.75)


def test_blank_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read(write(tmp_path / "flat.dcm", np.full((1, 2), 7, np.uint8)))
    assert "flat.dcm: a blank image" in capsys.readouterr().err


def test_jpeg_of_12_bits(tmp_path: Path) -> None:
    """JPEG Extended, which only GDCM writes and decodes; damaged data must not end the process."""
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 2031, "WindowWidth": 4261}
    path = transcoded(write(tmp_path / "a.dcm", SMOOTH, **tags), "JPEGExtendedProcess2_4")
    assert dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.51"
    assert np.abs(read_labels(path).astype(int) - SMOOTH).max() <= 8  # stored values, before any rescale
    np.testing.assert_allclose(read(path).pixels, SMOOTH / 2130, atol=0.01)
    content = path.read_bytes()
    for damage in (content[:-900], content.replace(b"\xff\xda", b"\x00\x00")):
        path.write_bytes(damage)
        fault_of(read_image, path)
