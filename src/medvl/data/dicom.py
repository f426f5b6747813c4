"""DICOM: one frame as an image, shown as the file says (modality LUT, VOI LUT or window, MONOCHROME1); spacing.

Compressed syntaxes are decoded by pydicom's plugins (python-gdcm, pylibjpeg-openjpeg, pyjpegls). Errors name the file
and never its patient.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvl.errors import InputError, warn

if TYPE_CHECKING:
    from medvl.data.images import Image


def is_dicom(path: Path) -> bool:
    """Whether the content is DICOM: the DICM prefix, or, without a preamble, a data set with an image size."""
    with path.open("rb") as file:
        head = file.read(132)
    if head[128:132] == b"DICM":
        return True
    if head[:2] not in (b"\x08\x00", b"\x02\x00"):  # the first group of a data set or of its meta information
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
        InputError: unreadable or undecodable pixels, no image, several frames and no `frame`.
    """
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space

    from medvl.data.images import Image

    dataset = _open(path, pixels=True)
    stored = _frame(dataset, path, frame)
    kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    bits = int(dataset.get("BitsStored", 8))
    if kind == "PALETTE COLOR":
        coloured = apply_color_lut(stored, dataset)
        pixels: NDArray[Any] = coloured.astype(np.float32) / np.iinfo(coloured.dtype).max
    elif stored.ndim == 3:
        if kind.startswith("YBR"):
            # Decoders of compressed syntaxes already return RGB; only raw YBR is left to convert.
            raw = not dataset.file_meta.TransferSyntaxUID.is_compressed
            stored = convert_color_space(stored, kind, "RGB") if raw else stored
        pixels = stored.astype(np.float32) / (2**bits - 1)
    else:
        values = np.asarray(apply_modality_lut(stored, dataset))
        if window is not None:
            shown = _window(values, *window)
        elif "VOILUTSequence" in dataset or "WindowCenter" in dataset:
            if dataset.get("WindowCenter") is not None and getattr(dataset.WindowCenter, "__len__", None):
                warn(f"{path}: {len(dataset.WindowCenter)} windows; the first is shown")
            shown = _unit(np.asarray(apply_voi_lut(values, dataset, index=0), dtype=np.float32), dataset)
        else:
            shown = _window(values, *_full_window(values))
        pixels = 1 - shown if kind == "MONOCHROME1" else shown
    unit = np.ascontiguousarray(np.clip(pixels, 0, 1), dtype=np.float32)
    return Image(unit, _spacing_mm(dataset), path, bits=bits, format="dicom")


def read_dicom_labels(path: Path) -> NDArray[Any]:
    """A mask stored as DICOM: its (H, W) plain stored values."""
    labels = _frame(_open(path, pixels=True), path, None)
    if labels.ndim != 2:
        raise InputError("a mask in colour", file=path, expected="one value a pixel")
    return labels


def dicom_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header."""
    dataset = _open(path, pixels=False)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise InputError("a DICOM without an image", file=path, expected="pixel data")
    return int(dataset.Rows), int(dataset.Columns)


def _open(path: Path, *, pixels: bool) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"unreadable DICOM ({type(error).__name__})", file=path, remedy="export it again") from None
    if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
        # Without a preamble: the standard's default.
        dataset.file_meta = getattr(dataset, "file_meta", None) or pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    return dataset


def _frame(dataset: Any, path: Path, frame: int | None) -> NDArray[Any]:
    num_frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if "PixelData" not in dataset:
        raise InputError("a DICOM without an image", file=path, expected="pixel data")
    if num_frames > 1 and frame is None:
        raise InputError(
            f"a DICOM of {num_frames} frames", file=path, expected=f"data.slice_index from 0 to {num_frames - 1}"
        )
    if frame is not None and not 0 <= frame < num_frames:
        raise InputError(f"frame {frame} of {num_frames}", file=path, expected=f"0 to {num_frames - 1}")
    try:
        array = np.asarray(dataset.pixel_array)
    except Exception as error:  # pydicom's decoders raise whatever their plugins do
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise InputError(
            f"the pixels cannot be decoded ({type(error).__name__}, {syntax})", file=path, remedy="export it again"
        ) from None
    return np.asarray(array[frame]) if num_frames > 1 and frame is not None else array


def _full_window(values: NDArray[Any]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low + high) / 2, high - low


def _window(values: NDArray[Any], centre: float, width: float) -> NDArray[np.float32]:
    """Linear from centre - width / 2 to centre + width / 2."""
    shown: NDArray[np.float32] = np.clip((values.astype(np.float32) - centre) / max(width, 1e-12) + 0.5, 0, 1)
    return shown


def _unit(shown: NDArray[np.float32], dataset: Any) -> NDArray[np.float32]:
    """pydicom's VOI output -> [0, 1]: of a LUT its entries' bits, of a window the range it maps to."""
    if "VOILUTSequence" in dataset and dataset.VOILUTSequence:
        return np.asarray(shown / (2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1), dtype=np.float32)
    # pydicom maps a window onto the range that the stored bits can reach after rescaling.
    slope = float(dataset.get("RescaleSlope", 1) or 1)
    intercept = float(dataset.get("RescaleIntercept", 0) or 0)
    bits = int(dataset.get("BitsStored", 8))
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low_value, high_value = sorted((low * slope + intercept, high * slope + intercept))
    return np.asarray((shown - low_value) / max(high_value - low_value, 1e-12), dtype=np.float32)


def _spacing_mm(dataset: Any) -> tuple[float, float] | None:
    spacing, factor = dataset.get("PixelSpacing"), 1.0
    if not spacing:
        spacing = dataset.get("ImagerPixelSpacing")
        factor = float(dataset.get("EstimatedRadiographicMagnificationFactor", 1) or 1)
    if not spacing or len(spacing) != 2:
        return None
    row, column = float(spacing[0]) / factor, float(spacing[1]) / factor
    return (row, column) if row > 0 and column > 0 else None
