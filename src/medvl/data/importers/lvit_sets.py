"""The three sets that LViT published its layout for: QaTa-COV19-v2, MosMedData+ and MoNuSeg. See `lvit`.

Source: README of LViT's repository; the captions of QaTa-COV19 and the images and captions of MoNuSeg were met, of
MosMedData+ never a file.
"""

from __future__ import annotations

from pathlib import Path

from medvl.data.importers.lvit import import_lvit
from medvl.data.importers.result import ImportResult


def import_lvit_set(folder: str | Path, out: str | Path) -> ImportResult:
    """`import_lvit` with the result that all layouts share."""
    found = import_lvit(folder, out)
    counts = {"sentences": found.num_sentences, "named_patients": found.num_named_patients}
    return ImportResult(found.manifest, found.num_records, counts, found.warnings)
