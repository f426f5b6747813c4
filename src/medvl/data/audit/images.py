"""Images and masks for the audit: how they were read, turned and coded, and what about them is suspicious."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as PILImage

from medvl.core.errors import InputError
from medvl.data.file_checks import checked_slices
from medvl.data.images import SliceChoice, image_orientation, kind_of, read_image
from medvl.data.mask_meaning import BoolArray, MaskReading, MaskRule, Note, decide
from medvl.data.masks import stored_mask
from medvl.data.packed import open_file
from medvl.data.record import MaskRef, Record
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


MANY = 16  # values that are listed one by one
Severity = Literal["warning", "info"]
_MESSAGES: dict[Note, tuple[Severity, str]] = {  # note -> severity, message after the number of masks
    "void": (
        "warning",
        "hold 255 beside class numbers: it is read as void, not as mask; name the values that count in mask_values",
    ),
    "noise": ("warning", "are JPEG with values of at most 8 of 255: they are read as empty"),
    "jpeg": ("warning", "are JPEG, or made of one, which is not exact: they are cut at half of their largest value"),
    "grey": ("warning", "hold grey values: they are cut at half of the largest value"),
    "picture": ("warning", "are grey in over a quarter of their pixels: are these images, not masks?"),
    "faint": ("warning", "hold shares or probabilities of which none reaches one half: they are read as empty"),
    "nan": ("warning", "hold NaN, which is read as background"),
    "labels": ("info", "hold several labels, which all count as mask; mask_values or data.classes distinguish them"),
    "palette": ("info", "are palette images: their colours count, not their indices"),
    "alpha": ("info", "are of one colour: the mask is read from their alpha channel"),
    "colour": ("info", "are one colour on black or white"),
}


@dataclass(frozen=True, slots=True)
class MaskSummary:
    """One selection of a mask file, as it is read."""

    rule: str
    values: tuple[str, ...]
    share: float  # of foreground, 0 to 1
    notes: frozenset[Note]
    inverted: bool  # most of the image and all its borders


def mask_summaries(
    records: Sequence[Record], slices: SliceChoice = None, rule: MaskRule = "area"
) -> dict[MaskRef, MaskSummary]:
    """Read every mask of the records, each file once. Those that cannot be read are left out: they are faults."""
    by_path: dict[Path, set[MaskRef]] = defaultdict(set)
    for reference in _references(records):
        if reference.path is not None:
            by_path[reference.path].add(reference)
    summaries: dict[MaskRef, MaskSummary] = {}
    for path, references in by_path.items():
        try:
            parts = [stored_mask(path, slice_index=index) for index in checked_slices(path, slices)]
            for reference in references:
                summaries[reference] = _summary([decide(stored, reference.values, rule) for stored in parts])
        except InputError:
            continue
    return summaries


def mask_counts(records: Sequence[Record], name: str, summaries: Mapping[MaskRef, MaskSummary]) -> dict[str, Any]:
    """Of one class: distinct masks, how many each rule read, the values of the files, the shares of foreground."""
    chosen = [summaries[reference] for reference in dict.fromkeys(_references(records, name)) if reference in summaries]
    rules = Counter(summary.rule for summary in chosen)
    if len(rules) > MANY:  # one selection of label values per row
        rules = Counter(summary.rule.split(" ")[0] for summary in chosen)
    values = sorted({value for summary in chosen for value in summary.values}, key=lambda value: (len(value), value))
    shares = [summary.share for summary in chosen]
    return {
        "masks": len(chosen),
        "rules": dict(rules.most_common()),
        "values": values if len(values) <= MANY else [values[0], "...", values[-1]],
        "foreground": {"mean": float(np.mean(shares)), "min": min(shares), "max": max(shares)} if shares else None,
    }


def mask_line(name: str, counts: Mapping[str, Any]) -> str:
    """`mask_counts` for a terminal."""
    rules = ", ".join(f"{rule} ({number})" for rule, number in counts["rules"].items())
    share = counts["foreground"]
    return (
        f"masks of {name}: {counts['masks']} read by {rules}; values {', '.join(counts['values'])}; foreground "
        f"{share['mean']:.1%} ({share['min']:.1%} to {share['max']:.1%})"
    )


def mask_remarks(
    records: Sequence[Record], name: str, summaries: Mapping[MaskRef, MaskSummary]
) -> Iterator[tuple[str, Severity, tuple[str, ...], str]]:
    """Of one class: kind of finding, severity, record ids, message."""
    rows = [
        (record.id, reference, summaries[reference])
        for record in records
        if (reference := record.masks.get(name)) is not None and reference in summaries
    ]
    inverted = [(ident, reference) for ident, reference, summary in rows if summary.inverted]
    if inverted:
        number = len({reference for _, reference in inverted})
        text = f"{number} masks of {name} cover most of the image and all its borders: inverted?"
        yield "inverted_mask", "warning", tuple(ident for ident, _ in inverted), text
    for note, (severity, message) in _MESSAGES.items():
        noted = [(ident, reference) for ident, reference, summary in rows if note in summary.notes]
        if noted:
            text = f"{len({reference for _, reference in noted})} masks of {name} {message}"
            yield f"{note}_mask", severity, tuple(ident for ident, _ in noted), text


def _references(records: Sequence[Record], name: str | None = None) -> Iterator[MaskRef]:
    for record in records:
        for key, reference in record.masks.items():
            if reference is not None and name in (None, key):
                yield reference


def _summary(readings: Sequence[MaskReading]) -> MaskSummary:
    """Of one selection of a file, over the slices that are read."""
    return MaskSummary(
        Counter(reading.rule for reading in readings).most_common(1)[0][0],
        tuple(dict.fromkeys(value for reading in readings for value in reading.values)),
        float(np.mean([reading.mask.mean() for reading in readings])),
        frozenset(note for reading in readings for note in reading.notes),
        any(_inverted(reading.mask) for reading in readings),
    )


def _inverted(mask: BoolArray) -> bool:
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(mask.mean() > 0.5 and border.mean() >= 0.95)
