"""How the DICOM images of a manifest lie, for the audit: which are turned, which do not say, which have no sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medvl.core.errors import InputError
from medvl.data.images import image_orientation
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
