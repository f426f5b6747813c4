"""Values of a DICOM's tags, of the frame where functional groups hold them; an unreadable tag costs no image.

Errors and warnings name the file and the tag, and never a value that may be the patient's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvl.core.errors import InputError, warn

# Sequence of the functional groups that holds a tag (PS3.3 C.7.6.16.2).
GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "VOILUTFunction": "FrameVOILUTSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PatientOrientation": "PatientOrientationInFrameSequence",
}
LARGEST = 1e12  # of a rescaling or window; beyond it the pixels of any detector are one value
FACTORS = ("RescaleSlope", "WindowWidth")
COMMA = re.compile(r"[+-]?\d*,\d+")


class Tags:
    """The tags of one frame of a data set."""

    def __init__(self, dataset: Any, path: Path, frame: int = 0) -> None:
        self.dataset, self.path = dataset, path
        self._groups = [
            group
            for name, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0))
            if (group := self._item(dataset, name, index)) is not None
        ]

    def holder(self, name: str) -> Any:
        """The data set or item that holds a tag of the frame: its own group, the shared one, or the file's data set."""
        sequence = GROUPS.get(name)
        if sequence is not None:
            for group in self._groups:
                item = self._item(group, sequence, 0)
                if item is not None and name in item:
                    return item
        return self.dataset

    def numbers(self, name: str) -> list[float]:
        """The numbers of a tag; none where it is absent, empty or, with a warning, unreadable.

        A decimal comma is read as a point, with a warning: it cannot stand in a number otherwise.
        """
        holder = self.holder(name)
        if name not in holder:
            return []
        try:
            value = holder[name].value
            if isinstance(value, bytes):  # another value representation
                return self._spelled(name, value)
            several = [] if value is None else [value] if isinstance(value, str) or not _many(value) else list(value)
            return [float(number) for number in several if str(number).strip()]
        except Exception:  # pydicom converts a value when it is asked for, and raises whatever that does
            return self._spelled(name, getattr(holder.get_item(name), "value", None))

    def number(self, name: str, default: float) -> float:
        """The first number of a tag, or `default`."""
        numbers = self.numbers(name)
        return numbers[0] if numbers else default

    def whole(self, name: str, default: int) -> int:
        """The first number of a tag as an integer; `default` where it is absent or no whole number."""
        number = self.number(name, default)
        if math.isfinite(number) and number == int(number):
            return int(number)
        self._lost(name)
        return default

    def usable(self, name: str) -> float | None:
        """A number that pixels are computed with; None where it is absent.

        Raises:
            InputError: it is not finite or absurdly large, or it is a factor and absurdly small.
        """
        numbers = self.numbers(name)
        if not numbers:
            return None
        small = name in FACTORS and 0 < abs(numbers[0]) < 1 / LARGEST
        if not math.isfinite(numbers[0]) or abs(numbers[0]) > LARGEST or small:
            raise InputError.out_of_range(
                f"a {name} that is {'absurdly small' if small else 'not finite or absurdly large'}",
                file=self.path,
                expected="numbers in RescaleSlope, RescaleIntercept, WindowCenter and WindowWidth",
                remedy="correct these tags, or export it again",
            )
        return numbers[0]

    def word(self, name: str) -> str:
        """A tag as text; empty where it is absent or unreadable."""
        try:
            return str(self.holder(name).get(name) or "").strip().upper()
        except Exception:
            self._lost(name)
            return ""

    def words(self, name: str) -> list[str]:
        """A tag of several words."""
        try:
            value = self.holder(name).get(name)
        except Exception:
            self._lost(name)
            return []
        several = [] if value is None else value.split("\\") if isinstance(value, str) else list(value)
        return [str(word).strip().upper() for word in several]

    def items(self, name: str) -> Any:
        """The items of a sequence of the frame (VOI LUT) or of the file; none where it is unreadable."""
        for place in (*self._voi_groups(name), self.dataset):
            try:
                value = place.get(name)
            except Exception:
                self._lost(name)
                continue
            if value:
                return value
        return []

    def _voi_groups(self, name: str) -> list[Any]:
        sequence = {"VOILUTSequence": "FrameVOILUTSequence"}.get(name)
        return (
            []
            if sequence is None
            else [item for group in self._groups if (item := self._item(group, sequence, 0)) is not None]
        )

    def _item(self, holder: Any, name: str, index: int) -> Any:
        try:
            sequence = holder.get(name)
            return sequence[index] if sequence and index < len(sequence) else None
        except Exception:
            self._lost(name)
            return None

    def _spelled(self, name: str, raw: Any) -> list[float]:
        """Numbers out of the bytes or text of a tag that pydicom cannot convert."""
        parts = raw if _many(raw) and not isinstance(raw, (str, bytes)) else [raw]
        text = "\\".join(part.decode("ascii", "replace") if isinstance(part, bytes) else str(part) for part in parts)
        words = [word.strip(" \0") for word in text.split("\\")]
        try:
            numbers = [float(word.replace(",", ".") if COMMA.fullmatch(word) else word) for word in words if word]
        except ValueError:
            numbers = []
        if not numbers:
            self._lost(name)
        elif "," in text:
            warn(f"{name} has decimal commas, which are read as points", place=self.path)
        else:
            warn(f"{name} is stored as another kind of value than DICOM says", place=self.path)
        return numbers

    def _lost(self, name: str) -> None:
        warn(f"the tag {name} is unreadable and left out", place=self.path)


def _many(value: Any) -> bool:
    return isinstance(value, Sequence) or (hasattr(value, "__iter__") and not isinstance(value, str))
