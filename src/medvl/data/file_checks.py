"""The files behind a manifest: are they there, can they be read, does each mask fit its image?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvl.data.images import image_size, read_image
from medvl.data.masks import read_mask
from medvl.data.records import Box, Record
from medvl.data.slices import SliceChoice, slices_of
from medvl.errors import Fault, InputError


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
    sizes: dict[Path, tuple[int, int] | None] = {}
    compared: set[tuple[Path, Path]] = set()

    def fault(what: str, record: Record, expected: str | None = None, remedy: str | None = None) -> None:
        faults.append(Fault(what, manifest, record.line, record.id, expected, remedy))

    def size(path: Path, kind: str, record: Record) -> tuple[int, int] | None:
        if path in sizes:
            return sizes[path]
        sizes[path] = None
        more = f" (and {uses[path] - 1} more rows)" if uses[path] > 1 else ""
        if not path.is_file():
            fault(f"{kind} {path} is missing{more}", record)
            return None
        try:
            found = image_size(path)
            if full:
                # A number is read as in training, where a file of one slice must have it too.
                for index in (slices,) if isinstance(slices, int) else slices_of(path, slices):
                    if kind == "image":
                        read_image(path, window=window, slice_index=index)
                    else:
                        read_mask(path, slice_index=index)
            sizes[path] = found
        except InputError as error:
            first = error.faults[0]
            fault(f"{kind} {path} cannot be read{more}: {first.what}", record, first.expected, first.remedy)
        return sizes[path]

    for record in records:
        native = size(record.image, "image", record)
        for mask in record.masks.values():
            if mask is None or mask.path is None or (record.image, mask.path) in compared:
                continue
            compared.add((record.image, mask.path))
            other = size(mask.path, "mask", record)
            if native is not None and other is not None and native != other:
                what = f"mask {mask.path} is {_text(other)}"
                fault(what, record, f"{_text(native)}, as its image {record.image}")
        outside = next((box for box in record.boxes if native and not _inside(box, native)), None)
        if native and outside:
            fault(f"{outside} leaves the image", record, _text(native))
    return faults


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} rows x {size[1]} columns"


def _inside(box: Box, size: tuple[int, int]) -> bool:
    return box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[1] and box.y1 <= size[0]
