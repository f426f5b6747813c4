"""What the tests of importers share: small images, and what an imported manifest holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from medvl.cli import app
from medvl.data.images import image_size
from medvl.data.masks import read_mask
from medvl.data.record import Record
from medvl.data.records import load_manifest
from medvl.data.tables import write_table


def picture(path: Path, size: tuple[int, int] = (8, 10)) -> Path:
    """Write an image of `size` (H, W), with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(size[0] * size[1]).reshape(size).astype(np.uint8)).save(path)
    return path


def dicom_dataset(pixels: np.ndarray, bits: int = 12, **tags: Any) -> pydicom.FileDataset:
    """A small data set: (H, W), (H, W, 3) or with `NumberOfFrames`, frames first."""
    data = pydicom.FileDataset(None, {}, file_meta=pydicom.FileMetaDataset(), preamble=b"\0" * 128)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.PatientName = "Doe^Jane"
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = 8 if pixels.dtype.itemsize == 1 else bits
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def write_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    dicom_dataset(pixels, **tags).save_as(path, enforce_file_format=True)
    return path


def dicom(path: Path, pixels: np.ndarray, *, uid: str = "1.2.3", patient: str = "p", orientation: str = "L\\F") -> Path:
    """Write an 8-bit radiograph (H, W) as DICOM, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {"SOPInstanceUID": uid, "PatientID": patient, "PatientOrientation": orientation}
    return write_dicom(path, pixels.astype(np.uint8), **tags)


def data_import(*words: object) -> Result:
    """`medvl data import WORDS` in this process."""
    return CliRunner().invoke(app, ["data", "import", *map(str, words)])


def loaded(path: Path) -> dict[str, Record]:
    """The records of a manifest by their id; every file is read."""
    return {record.id: record for record in load_manifest(path, check_files="full").records}


def mask_of(record: Record, name: str = "mask") -> np.ndarray:
    """A mask as it was painted, (H, W) bool; all False where the class was looked for and is absent."""
    reference = record.masks[name]
    assert reference is not None
    if reference.path is None:
        return np.zeros(image_size(record.image), bool)
    with Image.open(reference.path) as image:
        assert image.mode == "L" and set(np.unique(np.asarray(image))) <= {0, 255}
    return read_mask(reference.path, reference.values)


def area(rows: slice, columns: slice, size: tuple[int, int] = (8, 10)) -> np.ndarray:
    """A mask (H, W) that is True in a rectangle."""
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


FOLDERS = {"train": "Train_Folder", "val": "Val_Folder", "test": "Test_Folder"}  # of LViT's layout


def lvit_layout(root: Path, rows: dict[str, list[tuple[str, str, str]]], combined: bool = False) -> Path:
    """rows: split -> (image name, mask name, sentence). Every file is a link to one small picture."""
    root.mkdir(exist_ok=True)
    Image.fromarray(np.arange(30, dtype=np.uint8).reshape(5, 6)).save(root / "pixel.png")
    tables: dict[Path, list[dict[str, str]]] = {}
    for split, triples in rows.items():
        folder = root / FOLDERS[split]
        for kind in ("img", "labelcol"):
            (folder / kind).mkdir(parents=True)
        name = "Train_Val" if combined and split in ("train", "val") else split.capitalize()
        table = (root / "Train_Folder" if combined and split == "val" else folder) / f"{name}_text.xlsx"
        for image, mask, text in triples:
            os.link(root / "pixel.png", folder / "img" / image)
            os.link(root / "pixel.png", folder / "labelcol" / mask)
            tables.setdefault(table, []).append({"Image": mask, "Description": text})
    for table, lines in tables.items():
        write_table(table, lines)
    return root


def lvit_rows(num: int, split: str) -> list[tuple[str, str, str]]:
    return [(f"{split}{i}.jpg", f"{split}{i}.png", f"The nuclei are {split} {i}.") for i in range(num)]
