"""Images for the audit: how many are turned for display, and how many of the 16 bits of a file are used."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image as PILImage

from medvl.core.errors import InputError
from medvl.data.images import image_orientation, kind_of, read_image
from medvl.data.packed import open_file
from medvl.data.record import Record
from medvl.data.reports import names_side

Remark = tuple[str, Literal["warning", "info"], tuple[str, ...], str]


def orientation_remarks(records: Sequence[Record]) -> list[Remark]:
    """(kind, severity, ids of the first record of each image, message). Unreadable images are faults already."""
    first: dict[Path, Record] = {}
    for record in records:
        first.setdefault(record.image, record)
    ids: dict[str, list[str]] = defaultdict(list)
    for path, record in first.items():
        try:
            orientation = image_orientation(path)
        except InputError:
            continue
        ids["turned" if orientation.turn else orientation.kind].append(record.id)
    remarks: list[Remark] = []
    if ids["absent"]:
        message = (
            f"{len(ids['absent'])} DICOM images do not say how their rows and columns lie (PatientOrientation): "
            "they are taken as stored"
        )
        remarks.append(("no_orientation", "info", tuple(ids["absent"]), message))
    if ids["turned"]:
        message = (
            f"{len(ids['turned'])} DICOM images are stored otherwise than they are displayed: they are turned for the "
            "model; their masks and boxes are taken to be in stored pixels"
        )
        remarks.append(("turned_image", "info", tuple(ids["turned"]), message))
    if ids["sideless"]:
        sideless = set(ids["sideless"])
        images = {first[path].image for path in first if first[path].id in sideless}
        num = sum(names_side(record.text) for record in records if record.image in images)
        message = f"{len(sideless)} DICOM images are lateral or oblique and are not turned"
        message += f"; {num} of their texts name a side" if num else ""
        remarks.append(("lateral_image", "warning" if num else "info", tuple(ids["sideless"]), message))
    return remarks


FEW_BITS = 14  # a quarter of the range or less


@dataclass(frozen=True, slots=True)
class DarkImages:
    """16-bit images of `num` that use few of their bits: the ids of their first records, and how many use how many."""

    num: int
    ids: tuple[str, ...]
    by_bits: dict[int, int]

    @property
    def message(self) -> str:
        """For the audit."""
        parts = [f"{number} use{'s' if number == 1 else ''} {bits} of 16 bits" for bits, number in self.by_bits.items()]
        return (
            f"{len(self.ids)} of {self.num} 16-bit images: {', '.join(parts)}. Read as they are they are dark; "
            "data.normalize: zscore (the default) makes them alike to the model, data.window=[centre, width] to the eye"
        )


def dark_images(records: Sequence[Record]) -> DarkImages:
    """Decode the 16-bit PNG and TIFF files. What cannot be read is a fault already, and left out."""
    first: dict[Path, str] = {}
    for record in records:
        first.setdefault(record.image, record.id)
    used = {path: bits for path in first if (bits := used_bits(path)) is not None}
    few = {path: bits for path, bits in used.items() if bits <= FEW_BITS}
    by_bits = Counter(few.values())
    return DarkImages(len(used), tuple(first[path] for path in few), {n: by_bits[n] for n in sorted(by_bits)[::-1]})


def used_bits(path: Path) -> int | None:
    """The bits that the range of a 16-bit image needs (highest minus lowest value); None of other files."""
    try:
        if kind_of(path) != "picture":
            return None
        with open_file(path) as file, PILImage.open(file) as image:
            if not (image.mode.startswith("I") or ";16" in str(getattr(image, "tile", ""))):
                return None
        decoded = read_image(path)
    except (InputError, OSError, ValueError, SyntaxError, PILImage.DecompressionBombError):
        return None
    span = float(decoded.pixels.max()) - float(decoded.pixels.min())
    return round(span * (2**16 - 1)).bit_length() if decoded.bits == 16 else None
