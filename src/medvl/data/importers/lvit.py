"""LViT's published layout: {Train,Val,Test}_Folder/{img,labelcol}/ and *_text.xlsx with columns Image, Description.

`Image` names the mask file. Two rules name masks: MoNuSeg's (the image's name as PNG) and QaTa-COV19's (`mask_X.png`
for image `X.png`). One table `Train_Folder/Train_Val_text.xlsx` may serve train and val. Sentences are kept letter by
letter, typing errors included.

Source: the README of LViT's repository, which publishes the layout for QaTa-COV19-v2, MosMedData+ and MoNuSeg. The
captions of QaTa-COV19 and the images and captions of MoNuSeg were met, of MosMedData+ never a file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvl.core.errors import Fault, InputError, nearest, warn
from medvl.data.cells import is_missing
from medvl.data.file_checks import file_faults
from medvl.data.importers.cases import ImportResult
from medvl.data.importers.set_files import belongs, matching
from medvl.data.record import MaskRef, Record
from medvl.data.records import write_manifest
from medvl.data.tables import SUFFIXES, read_table

FOLDERS = {"train": "Train", "val": "Val", "test": "Test"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_COMBINED = "Train_Val_text"
# Names that carry the patient: BIDS subjects (QaTa-COV19), TCGA barcodes (MoNuSeg).
_PATIENT = re.compile(r"sub-([A-Za-z0-9]+)|(TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4})")


def import_lvit(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest of a folder in LViT's layout. All faults are raised together and nothing is written then.

    `counts` of the result: sentences (distinct), named_patients (records whose file name carries the patient; the
    others are their own patient).

    Faults: a missing folder, table or column, an image without mask or sentence, a mask without image, a sentence
    without mask, a name that stands twice, an unreadable file, a mask of another size than its image.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise InputError.missing_file(
            "no such folder", file=folder, expected="Train_Folder, Val_Folder, Test_Folder in it"
        )
    reader = _Reader(folder)
    records = reader.records()
    faults = list(reader.faults)
    for table, rows in reader.by_table.items():
        faults += file_faults(table, rows)
    if faults:
        raise InputError(faults)
    for message in reader.warnings:
        warn(message)
    write_manifest(out, [_row(record, out.parent) for record in records], _COLUMNS)
    splits = {split: sum(record.split == split for record in records) for split in reader.splits}
    counts = {"sentences": len({record.text for record in records})}
    counts["named_patients"] = sum(_PATIENT.search(record.image.stem) is not None for record in records)
    return ImportResult(out, splits, counts, tuple(reader.warnings))


_COLUMNS = ("id", "image", "text", "mask", "patient", "split")


def _row(record: Record, base: Path) -> dict[str, str]:
    reference = record.masks["mask"]
    assert reference is not None and reference.path is not None  # an image without mask was a fault
    image, mask = (Path(os.path.relpath(path, base)).as_posix() for path in (record.image, reference.path))
    values = (record.id, image, record.text, mask, record.patient, record.split or "")
    return dict(zip(_COLUMNS, values, strict=True))


_Pair = tuple[str, Path, Path, Path, str, int]  # split, table, image, mask, text, line of the table


@dataclass
class _Reader:
    folder: Path
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # table names whose image or mask is reported already
    by_table: dict[Path, list[Record]] = field(default_factory=dict)

    def records(self) -> list[Record]:
        self.splits = [split for split, name in FOLDERS.items() if (self.folder / f"{name}_Folder").is_dir()]
        if not self.splits:
            raise InputError.missing_file(
                "not LViT's layout", file=self.folder, expected="Train_Folder, Val_Folder, Test_Folder, each with img/"
            )
        for split in sorted(set(FOLDERS) - set(self.splits)):
            self.warnings.append(f"{self.folder}: no {FOLDERS[split]}_Folder, so no {split} split")
        tables: dict[Path, dict[str, tuple[int, str]]] = {}
        used: dict[Path, set[str]] = {}
        pairs: list[_Pair] = []
        for split in self.splits:
            table = self._table_path(split)
            if table is not None and table not in tables:
                tables[table], used[table] = self._read(table), set()
            for image, mask in self._pairs(split):
                if table is None:
                    continue
                name = next((name for name in (mask.name, image.name) if name in tables[table]), None)
                if name is None:
                    self.faults.append(
                        Fault.mismatch("image without a sentence", image, expected=f"a row {mask.name} in {table}")
                    )
                    continue
                used[table].add(name)
                line, text = tables[table][name]
                pairs.append((split, table, image, mask, text, line))
        for table, rows in tables.items():
            for name in sorted(set(rows) - used[table]):
                if name not in self.broken:
                    self.faults.append(Fault.mismatch(f"sentence without image and mask: {name}", table, rows[name][0]))
        return self._number(pairs)

    def _table_path(self, split: str) -> Path | None:
        folder = self.folder / f"{FOLDERS[split]}_Folder"
        tables = [path for path in matching(folder, "*_text.*") if path.suffix.lower() in SUFFIXES]
        exact = [path for path in tables if path.stem.lower() == f"{FOLDERS[split]}_text".lower()]
        if not exact and len(tables) > 1:
            names = ", ".join(path.name for path in tables)
            self.faults.append(
                Fault.ambiguous(f"several tables: {names}", folder, expected=f"{FOLDERS[split]}_text.xlsx")
            )
            return None
        if exact or tables:
            return (exact or tables)[0]
        combined = self.folder / "Train_Folder" / f"{_COMBINED}.xlsx"
        if split == "val" and combined.is_file():
            return combined
        also = f", or {combined}" if split == "val" else ""
        self.faults.append(
            Fault.missing_file("no table of sentences", folder, expected=f"{FOLDERS[split]}_text.xlsx{also}")
        )
        return None

    def _read(self, path: Path) -> dict[str, tuple[int, str]]:
        table = read_table(path, needed=("Image", "Description"))
        self.faults += table.faults
        for note in table.notes:
            warn(note)
        absent = [name for name in ("Image", "Description") if name not in table.columns]
        for name in absent:
            like = nearest(name, table.columns)
            remedy = f"did you mean {like}?" if like else None
            self.faults.append(
                Fault.missing_column(f"no column {name}", path, 1, expected="Image, Description", remedy=remedy)
            )
        rows: dict[str, tuple[int, str]] = {}
        for line, row in table.rows if not absent else ():
            name, text = row["Image"], row["Description"]
            text = "" if is_missing(text) else text
            if name in rows:
                self.faults.append(Fault.duplicate(f"{name} again, first on line {rows[name][0]}", path, line))
            elif not text:
                self.faults.append(Fault.missing(f"no Description of {name}", path, line))
                self.broken.add(name)
            rows.setdefault(name, (line, text))
        return rows

    def _pairs(self, split: str) -> list[tuple[Path, Path]]:
        """(image, mask) by the two naming rules."""
        folder = self.folder / f"{FOLDERS[split]}_Folder"
        files: dict[str, dict[str, Path]] = {"img": {}, "labelcol": {}}
        for kind, stems in files.items():
            if not (folder / kind).is_dir():
                self.faults.append(Fault.missing_file("missing folder", folder / kind))
                continue
            for path in sorted((folder / kind).iterdir()):
                if not belongs(path, folder):
                    continue
                if path.suffix.lower() not in IMAGE_SUFFIXES:
                    self.faults.append(Fault.unsupported("not an image", path, expected=", ".join(IMAGE_SUFFIXES)))
                elif path.stem in stems:
                    self.faults.append(Fault.duplicate(f"the same name as {stems[path.stem].name}", path))
                else:
                    stems[path.stem] = path
        images, masks = files["img"], files["labelcol"]
        pairs = []
        taken: set[str] = set()
        for stem, image in images.items():
            names = [name for name in (stem, f"mask_{stem}") if name in masks]
            if len(names) == 1:
                pairs.append((image, masks[names[0]]))
                taken.add(names[0])
                continue
            expected = f"labelcol/{stem}.png or labelcol/mask_{stem}.png"
            if names:
                self.faults.append(Fault.ambiguous("two masks", image, expected=expected))
            else:
                self.faults.append(Fault.missing_file("image without a mask", image, expected=expected))
            self.broken |= {image.name, f"{stem}.png", f"mask_{stem}.png"}
            taken.update(names)
        for stem in sorted(set(masks) - taken):
            self.faults.append(
                Fault.mismatch("mask without an image", masks[stem], expected=f"one in {folder / 'img'}")
            )
            self.broken.add(masks[stem].name)
        return pairs

    def _number(self, pairs: Sequence[_Pair]) -> list[Record]:
        counts = Counter(image.stem for _, _, image, _, _, _ in pairs)
        twice = sorted(stem for stem, count in counts.items() if count > 1)
        if twice:
            self.warnings.append(
                f"{self.folder}: {len(twice)} file names stand in more than one split, e.g. {twice[0]}; "
                "their ids begin with the split"
            )
        records = []
        for split, table, image, mask, text, line in pairs:
            name = image.stem if counts[image.stem] == 1 else f"{split}-{image.stem}"
            match = _PATIENT.search(image.stem)
            patient = (match[1] or match[2]) if match else name
            masks = {"mask": MaskRef(mask)}
            record = Record(name, image, text, masks, (), (), patient, None, None, split, None, {}, line)
            records.append(record)
            self.by_table.setdefault(table, []).append(record)
        return records
