"""Whole volumes as cases: masks of all slices of a file, (n, H, W), from any source of masks of slices.

A file of one slice stays (H, W). The order of the slices is that of `--slice 0`, `1`, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medvl.data.images import image_size, read_image, slices_of
from medvl.data.record import Record
from medvl.data.volume import NiftiSlice
from medvl.evaluation.prediction_sources import BoolArray, FolderSource, PredictorSource, ProbArray

Array = TypeVar("Array", bound=NDArray[Any])


class VolumeSource:
    """A folder of mask volumes, read slice by slice. A `MaskSource`."""

    def __init__(self, source: FolderSource | PredictorSource) -> None:
        self.source = source

    def check(self, records: Sequence[Record], classes: Sequence[str]) -> None:
        """As the source of slices."""
        self.source.check(records, classes)

    def masks(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, BoolArray]]:
        """Per record {class: (n, H, W) bool}."""
        return self._stacked(records, lambda: self.source.masks(records, texts))

    def spacing_mm(self, record: Record) -> tuple[float, ...] | None:
        """(slice, row, column) size of a voxel; None where the distance of the slices is not known."""
        first, *others = slices_of(record.image, "all")
        image = read_image(record.image, slice_index=first)
        if not others or image.spacing_mm is None:
            return image.spacing_mm
        reference = image.reference
        if not isinstance(reference, NiftiSlice):
            return None  # frames may be of one place at several times
        return (reference.thickness_mm, *image.spacing_mm)

    def describe(self) -> dict[str, Any]:
        """As the source of slices."""
        return self.source.describe()

    def _stacked(self, records: Sequence[Record], ask: Callable[[], list[dict[str, Array]]]) -> list[dict[str, Array]]:
        parts = []
        for index in slices_of(records[0].image, "all"):
            self.source.set_slice(index)
            parts.append(ask())
        if len(parts) == 1:
            return parts[0]
        return [{name: np.stack([part[i][name] for part in parts]) for name in row} for i, row in enumerate(parts[0])]  # type: ignore[misc]


class VolumeProbSource(VolumeSource):
    """A medvl model, read slice by slice. A `ProbSource`."""

    source: PredictorSource

    @property
    def is_exclusive(self) -> bool:
        """As the model."""
        return self.source.is_exclusive

    def probs(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, ProbArray]]:
        """Per record {class: (n, H, W) float32 in [0, 1]}."""
        return self._stacked(records, lambda: self.source.probs(records, texts))


def volumes_of(source: FolderSource | PredictorSource) -> VolumeSource:
    """A source of slices as one of whole volumes."""
    return VolumeProbSource(source) if isinstance(source, PredictorSource) else VolumeSource(source)


def native_shape(path: Path, *, volumes: bool) -> tuple[int, ...]:
    """(H, W) of an image, with `volumes` (n, H, W) of a file of several slices."""
    num = len(slices_of(path, "all")) if volumes else 1
    size = image_size(path)
    return (num, *size) if num > 1 else size
