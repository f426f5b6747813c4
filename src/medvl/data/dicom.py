"""DICOM: one frame as an image, shown as the file says (modality LUT, VOI LUT or window, MONOCHROME1); spacing.

Compressed syntaxes are decoded by pydicom's plugins (python-gdcm, pylibjpeg-openjpeg, pyjpegls). Errors name the file
and never its patient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError, warn
from medvl.core.limits import check_size
from medvl.data.dicom_jpeg12 import decode_jpeg12
from medvl.data.dicom_shown import modality_values, padding, shown, window_of
from medvl.data.dicom_tags import Tags
from medvl.data.image import Image
from medvl.data.mask_colours import StoredMask
from medvl.data.orientation import Orientation, orientation_of, orientation_of_cosines
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
    """pydicom converts a value when it is asked for, and raises whatever that does. Only the type is told: the message,
    like those of its warnings, may quote the patient's data."""
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

    Tags such as FieldOfViewHorizontalFlip say how the stored pixels came about; what they show is said by these two.
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
