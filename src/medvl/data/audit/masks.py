"""What the audit says about masks: which rule read them, their values, their share of foreground, and what is odd."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medvl.core.errors import InputError
from medvl.data.file_checks import checked_slices
from medvl.data.images import SliceChoice
from medvl.data.mask_meaning import BoolArray, MaskReading, MaskRule, Note, decide
from medvl.data.masks import stored_mask
from medvl.data.record import MaskRef, Record

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
    "labels": ("info", "hold several labels, which all count as mask; mask_values or data.classes tell them apart"),
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
