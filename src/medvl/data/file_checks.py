"""The files behind a manifest: are they there, can they be read, does each mask fit its image?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import Fault, FaultKind, InputError
from medvl.data.box_table import Box
from medvl.data.images import SliceChoice, image_size, kind_of, read_image, slices_of
from medvl.data.masks import read_meaning
from medvl.data.packed import is_file
from medvl.data.record import MaskRef, Record
from medvl.data.volumes import volume_grid

_REMEDY = "write the mask on the grid of its image (resample it with nearest neighbours)"


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the pixels of a file lie, from its header."""

    size: tuple[int, int]  # (H, W)
    affine: NDArray[np.float64] | None = None  # (4, 4) of a volume, voxel -> mm
    sides: tuple[int, int, int] | None = None  # of a volume, in voxels
    is_picture: bool = False  # a volume whose third axis is its colours

    @classmethod
    def of(cls, path: Path) -> Grid:
        """Read the header of an image or mask. InputError as `image_size`."""
        if kind_of(path) == "volume":
            return cls(image_size(path), *volume_grid(path))
        return cls(image_size(path))

    def difference(self, image: Grid) -> tuple[str, str] | None:
        """What is otherwise in this mask than in its image, and what was expected; None where they fit.

        Two volumes must agree in voxels, orientation and spacing, and lie in the same place to a tenth of a voxel.
        """
        if self.size != image.size:
            return f"is {_text(self.size)}", _text(image.size)
        if self.affine is None or self.sides is None or image.affine is None or image.sides is None:
            return None
        order, wanted_order = (_orientation(affine) for affine in (self.affine, image.affine))
        if order != wanted_order:
            return f"has its voxels in the order {order}", wanted_order
        # A picture whose third axis is its colours has a mask without that axis.
        is_flat = image.is_picture and self.sides == (*image.sides[:2], 1)
        if self.sides != image.sides and not is_flat:
            return f"has {_times(self.sides)} voxels", _times(image.sides)
        mine, wanted = _spacing(self.affine), _spacing(image.affine)
        num = 2 if is_flat else 3
        if (np.abs(mine - wanted) > 1e-3 * wanted)[:num].any():
            return f"has a spacing of {_times(mine)} mm", f"{_times(wanted)} mm"
        corners = np.stack(np.meshgrid(*([0, side - 1] for side in self.sides), [1], indexing="ij"), axis=-1)
        away = corners.reshape(-1, 4) @ (self.affine - image.affine)[:3].T  # (8, 3) mm
        farthest = float(np.sqrt((away**2).sum(axis=1)).max())
        if farthest > 0.1 * wanted.min():
            return f"lies up to {farthest:.3g} mm away (another affine)", "the same affine"
        return None


def file_faults(
    manifest: Path,
    records: Sequence[Record],
    *,
    full: bool = False,
    slices: SliceChoice = None,
    window: tuple[float, float] | None = None,
) -> list[Fault]:
    """Open each distinct image and mask once (header and size; with `full` every pixel, of a volume those of `slices`).

    A fault stands at the first row that names the file and counts the others. Boxes must lie in their image.
    """
    faults: list[Fault] = []
    uses = Counter(record.image for record in records)
    uses.update(mask.path for record in records for mask in record.masks.values() if mask and mask.path)
    grids: dict[Path, Grid | None] = {}
    compared: set[tuple[Path, Path]] = set()

    def fault(
        kind: FaultKind, what: str, record: Record, expected: str | None = None, remedy: str | None = None
    ) -> None:
        faults.append(Fault(what, manifest, record.line, record.id, expected, remedy, kind=kind))

    def opened(path: Path, kind: str, record: Record, mask: MaskRef | None = None) -> Grid | None:
        if path in grids:
            return grids[path]
        grids[path] = None
        more = f" (and {uses[path] - 1} more rows)" if uses[path] > 1 else ""
        if not is_file(path):
            fault(FaultKind.MISSING_FILE, f"{kind} {path} is missing{more}", record)
            return None
        try:
            grid = Grid.of(path)
            if full:
                for index in checked_slices(path, slices):
                    if mask is None:
                        read_image(path, window=window, slice_index=index)
                    else:
                        read_meaning(path, mask.values, slice_index=index)
            grids[path] = grid
        except InputError as error:
            first = error.faults[0]
            fault(first.kind, f"{kind} {path} cannot be read{more}: {first.what}", record, first.expected, first.remedy)
        return grids[path]

    for record in records:
        native = opened(record.image, "image", record)
        for mask in record.masks.values():
            if mask is None or mask.path is None or (record.image, mask.path) in compared:
                continue
            compared.add((record.image, mask.path))
            grid = opened(mask.path, "mask", record, mask)
            difference = None if native is None or grid is None else grid.difference(native)
            if difference:
                expected = f"{difference[1]}, as its image {record.image}"
                fault(FaultKind.MISMATCH, f"mask {mask.path} {difference[0]}", record, expected, _REMEDY)
        outside = next((box for box in record.boxes if native and not _inside(box, native.size)), None)
        if native and outside:
            fault(FaultKind.OUT_OF_RANGE, f"{outside} leaves the image", record, _text(native.size))
    return faults


def checked_slices(path: Path, slices: SliceChoice) -> tuple[int | None, ...]:
    """Which slices of a file are read; a number as in training, where a file of one slice must have it too."""
    return (slices,) if isinstance(slices, int) else slices_of(path, slices)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} rows x {size[1]} columns"


def _times(numbers: Any) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _spacing(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) mm along the axes as they are stored."""
    return np.asarray(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))


def _orientation(affine: NDArray[np.float64]) -> str:
    """Where the stored axes run to, e.g. LPS."""
    from nibabel.orientations import aff2axcodes

    return "".join(str(code) for code in aff2axcodes(affine))


def _inside(box: Box, size: tuple[int, int]) -> bool:
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[1] and box.y1 <= size[0]
