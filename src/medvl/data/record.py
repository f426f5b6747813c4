"""Record and manifest: one row per (image, text, mask).

Columns: `id, image, text, mask | mask_NAME, mask_values, boxes, labels, patient, study, view, split, licence` and any
further one. Paths are relative to the manifest. `group` is read as patient and `label` as labels; `labels` and
`mask_values` are separated by `|`; label values are whole numbers or, of a mask in colours, `#rrggbb`. Boxes stand in
the column `boxes` or in a `boxes.csv` (see `data/box_table.py`).

An empty mask, boxes or labels cell means NOT ANNOTATED: no loss, not scored. The word `none` means looked for and
absent: an empty mask, no box, no label.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from medvl.core.errors import InputError
from medvl.data.box_table import Box
from medvl.data.hashes import HashStore
from medvl.data.mask_colours import LabelValue

ABSENT = "none"
SPLITS = ("train", "val", "test", "holdout")
NOT_A_MASK = {"mask_values", "mask_kind"}  # mask_kind: a remark in published tables, no path


@dataclass(frozen=True, slots=True)
class MaskRef:
    """Where a mask is. `path` None: looked for and absent.

    `values`: label values, or colours such as `#ff0000`; None: what the file means is decided by its values.
    """

    path: Path | None
    values: tuple[LabelValue, ...] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One row: an image, a text, and what the text refers to."""

    id: str
    image: Path
    text: str  # "" = no text
    masks: Mapping[str, MaskRef | None]  # class name -> reference; None = not annotated
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]
    patient: str
    study: str | None
    view: str | None
    split: str | None
    licence: str | None
    extra: Mapping[str, str]  # every other column
    line: int
    context: Mapping[str, str] = field(default_factory=dict)  # of data.context_columns; see data/context.py
    boxes_absent: bool = False  # boxes were looked for and there is none; without boxes False = not annotated
    labels_absent: bool = False  # labels were looked for and there is none; without labels False = not annotated


@dataclass(frozen=True, slots=True)
class Manifest:
    """The records of one file, in its order."""

    path: Path
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)  # `data.columns` by which the table was read

    def split(self, name: str) -> tuple[Record, ...]:
        """The records of one split. InputError when there is none, naming the splits there are."""
        rows = tuple(record for record in self.records if record.split == name)
        if not rows:
            counts = Counter(record.split or "(none)" for record in self.records)
            choices = ", ".join(f"{key} ({number})" for key, number in sorted(counts.items()))
            raise InputError.unknown(
                f"no record in split {name}",
                file=self.path,
                expected=f"one of: {choices}",
                remedy=f"medvl data split {self.path} --out FILE makes the splits; or write {name} into a column split",
            )
        return rows

    def content_hash(self, files: Mapping[str, str | None] | None = None) -> str:
        """sha256 of all rows and of the bytes of their images and masks. Moving the folder does not change it.

        Args:
            files: what `file_hashes` gave; None reads every file.
        """
        digest = hashlib.sha256()
        for row in self._rows():
            digest.update(row)
        for name, sha256 in (self.file_hashes() if files is None else files).items():
            digest.update(name.encode())
            digest.update(b"missing" if sha256 is None else bytes.fromhex(sha256))
        return digest.hexdigest()

    def file_hashes(self, store: HashStore | None = None) -> dict[str, str | None]:
        """sha256 of every image and mask by its path relative to the manifest, sorted; None where it is missing."""
        masks = (mask.path for row in self.records for mask in row.masks.values() if mask and mask.path)
        hashes = (store or HashStore()).hashes([*(row.image for row in self.records), *masks])
        return dict(sorted((self._name(path), sha256) for path, sha256 in hashes.items()))

    def rows_hash(self) -> str:
        """sha256 of all rows without their files."""
        return hashlib.sha256(b"\n".join(self._rows())).hexdigest()

    def split_hash(self) -> str:
        """sha256 of the sorted (id, patient, split): equal for equal splits, whatever else the table holds."""
        keys = sorted((record.id, record.patient, record.split or "") for record in self.records)
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()

    def _rows(self) -> Iterator[bytes]:
        for record in sorted(self.records, key=lambda record: record.id):
            masks = {name: self._mask_row(mask) for name, mask in sorted(record.masks.items())}
            boxes = [[box.label, box.x0, box.y0, box.x1, box.y1] for box in record.boxes]
            boxes += [[ABSENT]] if record.boxes_absent else []
            row: list[object] = [
                record.id,
                self._name(record.image),
                record.text,
                masks,
                boxes,
                record.labels,
                record.patient,
            ]
            row += [[ABSENT]] if record.labels_absent else []
            row += [record.study, record.view, record.split, record.licence, dict(sorted(record.extra.items()))]
            yield json.dumps(row).encode()

    def _name(self, path: Path) -> str:
        return _relative(str(path), str(self.path.parent))

    def _mask_row(self, mask: MaskRef | None) -> list[object] | None:
        return None if mask is None else [mask.path and self._name(mask.path), mask.values]


@lru_cache(maxsize=65536)  # the same image and mask stand in many rows
def _relative(path: str, folder: str) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
