"""DICOM: one frame as an image, shown as the file says (PS3.3 C.11: padding, modality LUT, VOI LUT or window); spacing.

Compressed syntaxes are decoded by pydicom's plugins (python-gdcm, pylibjpeg-openjpeg, pyjpegls). JPEG Extended with 12
bits, which no plugin decodes, goes through the GDCM inside SimpleITK: python-gdcm ends the whole process on damaged
data of this kind, SimpleITK raises. Errors name the file and never its patient.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.core.limits import check_size
from medvl.data.dicom_tags import Tags
from medvl.data.image import Image, Orientation, orientation_of, orientation_of_cosines
from medvl.data.mask_colours import StoredMask
from medvl.data.packed import head_of, open_plain

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
SPACING_MM = (1e-6, 1e4)  # of a pixel; anything else is no spacing


def is_dicom(path: Path) -> bool:
    """Whether the content is DICOM: the DICM prefix, or, without a preamble, a data set with an image size."""
    head = head_of(path, 132)
    if head[128:132] == b"DICM":
        return True
    # The first group of a data set, in either byte order, or of its meta information.
    if head[:2] not in (b"\x08\x00", b"\x00\x08", b"\x02\x00"):
        return False
    try:
        return "Rows" in _open(path, pixels=False)
    except InputError:
        return False


def read_dicom(path: Path, *, window: tuple[float, float] | None = None, frame: int | None = None) -> Image:
    """One frame as an Image in [0, 1].

    Stored values go through the modality LUT or rescale, then through `window` (centre, width), else the file's VOI LUT
    or first window, else their own minimum and maximum; MONOCHROME1 is inverted. Pixels of PixelPaddingValue (or its
    range) take no part in minimum and maximum and are background: 0. Colour is scaled by its bits. Functional groups,
    of the frame or shared, give window, rescale and spacing. `spacing_mm` is PixelSpacing, else ImagerPixelSpacing
    (divided by the magnification where it is given) or NominalScannedPixelSpacing.

    Raises:
        InputError: unreadable or undecodable pixels, no image, several frames and no `frame`, a rescaling or window
            that is infinite or makes pixels which are no number.
    """
    from pydicom.pixels.processing import apply_color_lut

    dataset = _open(path, pixels=True)
    with _damage_named(path):
        stored = _frame(dataset, path, frame)
        tags = Tags(dataset, path, frame or 0)
        kind = tags.word("PhotometricInterpretation") or "MONOCHROME2"
        bits = tags.whole("BitsStored", 8)
        if kind == "PALETTE COLOR":
            coloured = apply_color_lut(stored, dataset)
            pixels: NDArray[Any] = coloured.astype(np.float32) / np.iinfo(coloured.dtype).max
        elif stored.ndim == 3:  # RGB: pydicom converts YBR itself
            pixels = stored.astype(np.float32) / (2**bits - 1)
        else:
            pad = padding(stored, tags)
            values = modality_values(stored, tags)
            pixels = window_of(values, *window) if window is not None else shown(values, tags, pad)
            pixels = 1 - pixels if kind == "MONOCHROME1" else pixels
            if pad is not None:
                pixels = np.where(pad, np.float32(0), pixels)
        spacing = _spacing_mm(tags)
    if not np.isfinite(pixels).all():
        raise InputError.not_finite(
            "pixels that are not finite",
            file=path,
            expected="numbers in RescaleSlope, RescaleIntercept and WindowCenter",
            remedy="correct these tags, or export it again",
        )
    unit = np.ascontiguousarray(np.clip(pixels, 0, 1), dtype=np.float32)
    return Image(unit, spacing, path, bits=bits, format="dicom", orientation=_orientation(tags))


def read_dicom_mask(path: Path, *, frame: int | None = None) -> StoredMask:
    """A mask stored as DICOM: plain stored values; of a fractional segmentation also the value that means wholly."""
    dataset = _open(path, pixels=True)
    with _damage_named(path):
        values = _frame(dataset, path, frame)
        tags = Tags(dataset, path)
        full = tags.number("MaximumFractionalValue", 255) if tags.word("SegmentationType") == "FRACTIONAL" else None
    return StoredMask(path, values, full=full)


def dicom_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header."""
    dataset = _open(path, pixels=False)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise _without_image(path)
    with _damage_named(path):
        size = int(dataset.Rows), int(dataset.Columns)
    check_size(size, path)
    return size


def dicom_frames(path: Path) -> int:
    """How many frames there are, from the header."""
    return _num_frames(_open(path, pixels=False), path)


def dicom_orientation(path: Path) -> Orientation:
    """How the stored rows and columns lie, from the header."""
    return _orientation(Tags(_open(path, pixels=False), path))


def _open(path: Path, *, pixels: bool) -> Any:
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with _damage_named(path), open_plain(path) as file:
        dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels)
        if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
            # Without a preamble: as pydicom found the data set to be encoded.
            implicit, little = dataset.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """pydicom converts a value when it is asked for, and raises whatever that does. Only the type is reported:
    the message, like those of its warnings, may quote the patient's data."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        what = f"unreadable DICOM ({type(error).__name__})"
        raise InputError.damaged(what, file=path, expected="a whole DICOM image", remedy="export it again") from None


def _without_image(path: Path) -> InputError:
    return InputError.unsupported("a DICOM without an image", file=path, expected="pixel data", remedy="leave it out")


def _num_frames(dataset: Any, path: Path) -> int:
    return max(1, Tags(dataset, path).whole("NumberOfFrames", 1))


def _frame(dataset: Any, path: Path, frame: int | None) -> NDArray[Any]:
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import JPEGExtended12Bit

    if not any(name in dataset for name in PIXELS):
        raise _without_image(path)
    num_frames = _num_frames(dataset, path)
    check_size((int(dataset.Rows), int(dataset.Columns)), path)
    if num_frames > 1 and frame is None:
        raise InputError.ambiguous(
            f"a DICOM of {num_frames} frames", file=path, expected=f"data.slice_index from 0 to {num_frames - 1}"
        )
    if frame is not None and not 0 <= frame < num_frames:
        raise InputError.out_of_range(f"frame {frame} of {num_frames}", file=path, expected=f"0 to {num_frames - 1}")
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        if syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
            return decode_jpeg12(dataset, frame or 0, num_frames)
        pixels: NDArray[Any] = np.asarray(pixel_array(dataset, index=frame or 0))
        return pixels
    except Exception as error:  # pydicom's decoders raise whatever their plugins do
        raise InputError.damaged(
            f"the pixels cannot be decoded ({type(error).__name__}, {syntax.name})",
            file=path,
            expected="whole pixel data in a syntax that pydicom, GDCM or OpenJPEG decodes",
            remedy="export it again, uncompressed",
        ) from None


def _spacing_mm(tags: Tags) -> tuple[float, float] | None:
    """(row, column); one that is no length is left out with a warning."""
    for name in SPACINGS:
        spacing = tags.numbers(name)
        if not spacing:
            continue
        factor = 1.0
        if name == "ImagerPixelSpacing":
            factor = tags.number("EstimatedRadiographicMagnificationFactor", 1.0) or 1.0
        sides = [value / factor for value in spacing]
        if len(sides) == 2 and all(SPACING_MM[0] <= side <= SPACING_MM[1] for side in sides):
            return sides[0], sides[1]
        warn(f"{name} is no row and column spacing in millimetres and left out", place=tags.path)
    return None


def _orientation(tags: Tags) -> Orientation:
    """PatientOrientation, or ImageOrientationPatient where it is absent.

    Tags such as FieldOfViewHorizontalFlip say how the stored pixels came about; what they show is given by these two.
    """
    with _damage_named(tags.path):
        words = tags.words("PatientOrientation")
        cosines = [] if any(words) else tags.numbers("ImageOrientationPatient")
    orientation = None
    if any(words) and tags.word("AnatomicalOrientationType") == "QUADRUPED":
        return Orientation(kind="sideless", source="of a quadruped")
    if any(words):
        orientation = orientation_of(words[0], words[1]) if len(words) == 2 else None
    elif cosines:
        orientation = orientation_of_cosines(cosines)
    if orientation is None and (any(words) or cosines):
        name = "PatientOrientation" if any(words) else "ImageOrientationPatient"
        warn(f"{name} is no two directions and left out: the image is taken as it is stored", place=tags.path)
    return orientation or Orientation(kind="absent")


Values = NDArray[Any]


def padding(stored: Values, tags: Tags) -> NDArray[np.bool_] | None:
    """(H, W): the pixels that PixelPaddingValue, alone or with PixelPaddingRangeLimit, takes out of the picture.

    None where there are none, or nothing else.
    """
    ends = [number for name in ("PixelPaddingValue", "PixelPaddingRangeLimit") for number in tags.numbers(name)[:1]]
    if not ends or not tags.numbers("PixelPaddingValue"):
        return None
    if stored.dtype.kind == "i":  # written as unsigned by some
        span = 2 ** (8 * stored.dtype.itemsize)
        ends = [end - span if end >= span // 2 else end for end in ends]
    inside: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return inside if inside.any() and not inside.all() else None


def modality_values(stored: Values, tags: Tags) -> Values:
    """Stored -> modality values (C.11.1)."""
    luts = tags.items("ModalityLUTSequence")
    if luts:
        return look_up(stored, luts[0], tags.dataset)
    slope, intercept = tags.usable("RescaleSlope"), tags.usable("RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise InputError.out_of_range(
            "a RescaleSlope of 0, which makes all pixels one value",
            file=tags.path,
            expected="numbers in RescaleSlope, RescaleIntercept and WindowCenter",
            remedy="correct this tag, or export it again",
        )
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def shown(values: Values, tags: Tags, pad: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Modality values -> [0, 1] as the file says (C.11.2); without a window the own range of what is no padding."""
    path: Path = tags.path
    luts = tags.items("VOILUTSequence")
    if luts:
        largest = 2 ** int(luts[0].LUTDescriptor[2]) - 1
        return np.asarray(look_up(values, luts[0], tags.dataset) / largest, dtype=np.float32)
    if len(tags.numbers("WindowCenter")) > 1:
        warn("of several windows the first is shown", place=path)
    centre, width = tags.usable("WindowCenter"), tags.usable("WindowWidth")
    if centre is not None and width is not None and width > 0:
        function = tags.word("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID":
            with np.errstate(over="ignore"):
                return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)), dtype=np.float32)
        if function == "LINEAR" and width >= 1:  # which maps centre - 0.5 to the middle, over width - 1
            return window_of(values, centre - 0.5, width - 1)
        return window_of(values, centre, width)
    if centre is not None or width is not None:
        warn("a window without a positive width is left out", place=path)
    known = values if pad is None else values[~pad]
    low, high = float(known.min()), float(known.max())
    return window_of(values, (low + high) / 2, high - low)


def window_of(values: Values, centre: float, width: float) -> NDArray[np.float32]:
    """Linear from centre - width / 2 to centre + width / 2."""
    scaled = (values.astype(np.float64) - centre) / max(width, 1e-12) + 0.5
    return np.clip(scaled, 0, 1).astype(np.float32)


def look_up(values: Values, item: Any, dataset: Any) -> Values:
    """The entries of a LUT for `values`; those outside get its first or last."""
    num, first = int(item.LUTDescriptor[0]) or 2**16, int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):  # OW: words, or bytes where so few are there
        order = "<" if dataset.original_encoding[1] else ">"
        entries = np.frombuffer(data, np.uint8 if len(data) < 2 * num else f"{order}u2")[:num]
    else:
        entries = np.asarray(data, dtype=np.uint16)
    places = np.rint(values).astype(np.int64) - first
    return np.asarray(entries[np.clip(places, 0, len(entries) - 1)])


END_OF_JPEG = b"\xff\xd9"
PIXEL_TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")


def decode_jpeg12(dataset: Any, frame: int, num_frames: int) -> NDArray[Any]:
    """(H, W): the stored values of one frame.

    Raises:
        ValueError: the frame is cut off.
        RuntimeError: SimpleITK cannot decode it.
    """
    import SimpleITK
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate, generate_frames
    from pydicom.uid import UID, JPEGExtended12Bit, SecondaryCaptureImageStorage

    content = next(islice(generate_frames(dataset.PixelData, number_of_frames=num_frames), frame, None))
    if not content.rstrip(b"\0\xff").endswith(END_OF_JPEG):
        raise ValueError("a frame that is cut off")  # the decoder would fill it with grey
    # A file of this frame and nothing else: no rescale is applied, and no value of the patient leaves the original.
    single = Dataset()
    single.file_meta = FileMetaDataset()
    single.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    single.SOPClassUID = single.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    single.SOPInstanceUID = single.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    for name in PIXEL_TAGS:
        setattr(single, name, int(dataset[name].value))
    single.PhotometricInterpretation = "MONOCHROME2"
    single.PixelData = encapsulate([content])
    single["PixelData"].is_undefined_length = True
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as folder, _silence():
        path = Path(folder) / "frame.dcm"
        single.save_as(path, enforce_file_format=True)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        values: NDArray[Any] = SimpleITK.GetArrayFromImage(reader.Execute())  # (1, H, W)
    return np.asarray(values.reshape(int(dataset.Rows), int(dataset.Columns)))


@contextmanager
def _silence() -> Iterator[None]:
    """The decoder tries 8 bits first and prints that they do not fit."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
