"""What every importer of a published layout gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The manifest that was written, and what became of the files that were found."""

    manifest: Path
    num_records: dict[str, int]  # by split
    counts: dict[str, int] = field(default_factory=dict)  # what each rule kept, cut or left out
    warnings: tuple[str, ...] = ()
