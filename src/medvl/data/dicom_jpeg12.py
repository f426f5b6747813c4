"""JPEG Extended with 12 bits, which pydicom decodes with no plugin: by the GDCM inside SimpleITK.

python-gdcm ends the whole process on damaged data of this kind; SimpleITK raises.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
