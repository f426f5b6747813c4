"""DICOM: one frame as an image, shown as the file says (modality LUT, VOI LUT or window, MONOCHROME1); spacing.

Compressed syntaxes are decoded by pydicom's plugins (python-gdcm, pylibjpeg-openjpeg, pyjpegls). Errors name the file
and never its patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvl.errors import InputError, warn

if TYPE_CHECKING:
    from medvl.data.images import Image
    from medvl.data.mask_colours import StoredMask


def is_dicom(path: Path) -> bool:
    """Whether the content is DICOM: the DICM prefix, or, without a preamble, a data set with an image size."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False  # whoever reads it says why not
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
    or first window, else their own minimum and maximum; MONOCHROME1 is inverted. Colour is scaled by its bits.
    `spacing_mm` is PixelSpacing, else ImagerPixelSpacing divided by the magnification where it is given.

    Raises:
        InputError: unreadable or undecodable pixels, no image, several frames and no `frame`, a rescaling or window
            that makes pixels which are no number.
    """
    from pydicom.pixels.processing import apply_color_lut

    from medvl.data.images import Image

    dataset = _open(path, pixels=True)
    with _damage_named(path):
        stored = _frame(dataset, path, frame)
        kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
        bits = int(dataset.get("BitsStored", 8))
        if kind == "PALETTE COLOR":
            coloured = apply_color_lut(stored, dataset)
            pixels: NDArray[Any] = coloured.astype(np.float32) / np.iinfo(coloured.dtype).max
        elif stored.ndim == 3:  # RGB: pydicom converts YBR itself
            pixels = stored.astype(np.float32) / (2**bits - 1)
        else:
            values = _modality_values(stored, dataset)
            shown = _window(values, *window) if window is not None else _shown(values, dataset, path)
            pixels = 1 - shown if kind == "MONOCHROME1" else shown
        spacing = _spacing_mm(dataset)
    if not np.isfinite(pixels).all():  # stored are integers: it is what they go through
        raise InputError(
            "pixels that are not finite",
            file=path,
            expected="numbers in RescaleSlope, RescaleIntercept and WindowCenter",
            remedy="correct these tags, or export it again",
        )
    unit = np.ascontiguousarray(np.clip(pixels, 0, 1), dtype=np.float32)
    return Image(unit, spacing, path, bits=bits, format="dicom")


def read_dicom_mask(path: Path, *, frame: int | None = None) -> StoredMask:
    """A mask stored as DICOM: plain stored values; of a fractional segmentation also the value that means wholly."""
    from medvl.data.mask_colours import StoredMask

    dataset = _open(path, pixels=True)
    with _damage_named(path):
        values = _frame(dataset, path, frame)
        fractional = str(dataset.get("SegmentationType", "")) == "FRACTIONAL"
        full = float(dataset.get("MaximumFractionalValue") or 255) if fractional else None
    return StoredMask(path, values, full=full)


def dicom_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header."""
    dataset = _open(path, pixels=False)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise _without_image(path)
    with _damage_named(path):
        return int(dataset.Rows), int(dataset.Columns)


def dicom_frames(path: Path) -> int:
    """How many frames there are, from the header."""
    dataset = _open(path, pixels=False)
    with _damage_named(path):
        return int(dataset.get("NumberOfFrames", 1) or 1)


def _open(path: Path, *, pixels: bool) -> Any:
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with _damage_named(path):
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
        if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
            # Without a preamble: as pydicom found the data set to be encoded.
            implicit, little = dataset.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """pydicom converts a value when it is asked for, and raises whatever that does. Only the type is told: the message
    may quote the patient's data."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        what = f"unreadable DICOM ({type(error).__name__})"
        raise InputError(what, file=path, expected="a whole DICOM image", remedy="export it again") from None


def _without_image(path: Path) -> InputError:
    return InputError("a DICOM without an image", file=path, expected="pixel data", remedy="leave it out")


def _frame(dataset: Any, path: Path, frame: int | None) -> NDArray[Any]:
    from pydicom.pixels.utils import pixel_array

    num_frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if "PixelData" not in dataset:
        raise _without_image(path)
    if num_frames > 1 and frame is None:
        raise InputError(
            f"a DICOM of {num_frames} frames", file=path, expected=f"data.slice_index from 0 to {num_frames - 1}"
        )
    if frame is not None and not 0 <= frame < num_frames:
        raise InputError(f"frame {frame} of {num_frames}", file=path, expected=f"0 to {num_frames - 1}")
    try:
        return np.asarray(pixel_array(dataset, index=frame or 0))
    except Exception as error:  # pydicom's decoders raise whatever their plugins do
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise InputError(
            f"the pixels cannot be decoded ({type(error).__name__}, {syntax})",
            file=path,
            expected="whole pixel data in a syntax that pydicom, GDCM or OpenJPEG decodes",
            remedy="export it again, uncompressed",
        ) from None


def _modality_values(stored: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Stored -> modality values (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(stored, dataset.ModalityLUTSequence[0], dataset)
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def _shown(values: NDArray[Any], dataset: Any, path: Path) -> NDArray[np.float32]:
    """Modality values -> [0, 1] as the file says (PS3.3 C.11.2)."""
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        largest = 2 ** int(item.LUTDescriptor[2]) - 1
        return np.asarray(_look_up(values, item, dataset) / largest, dtype=np.float32)
    centres, widths = (_numbers(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if len(centres) > 1:
        warn("of several windows the first is shown", place=path)
    if centres and widths and widths[0] > 0:
        centre, width = centres[0], widths[0]
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        if function == "SIGMOID":
            return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)), dtype=np.float32)
        if function == "LINEAR" and width >= 1:  # which maps centre - 0.5 to the middle, over width - 1
            return _window(values, centre - 0.5, width - 1)
        return _window(values, centre, width)
    if centres or widths:
        warn("a window without a positive width is left out", place=path)
    low, high = float(values.min()), float(values.max())
    return _window(values, (low + high) / 2, high - low)


def _numbers(value: Any) -> list[float]:
    """A DICOM value of none, one or several numbers."""
    several = [] if value is None else value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [float(number) for number in several if str(number).strip()]


def _look_up(values: NDArray[Any], item: Any, dataset: Any) -> NDArray[Any]:
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


def _window(values: NDArray[Any], centre: float, width: float) -> NDArray[np.float32]:
    """Linear from centre - width / 2 to centre + width / 2."""
    shown: NDArray[np.float32] = np.clip((values.astype(np.float32) - centre) / max(width, 1e-12) + 0.5, 0, 1)
    return shown


def _spacing_mm(dataset: Any) -> tuple[float, float] | None:
    spacing, factor = _numbers(dataset.get("PixelSpacing")), 1.0
    if not spacing:
        spacing = _numbers(dataset.get("ImagerPixelSpacing"))
        factor = float(dataset.get("EstimatedRadiographicMagnificationFactor") or 1)
    if len(spacing) != 2:
        return None
    row, column = spacing[0] / factor, spacing[1] / factor
    return (row, column) if row > 0 and column > 0 else None
