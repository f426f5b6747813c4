"""What every importer of a published layout gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medvl.errors import InputError

NEW_OUT = "a file that holds nothing of the source"


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The manifest that was written, and what became of the files that were found."""

    manifest: Path
    num_records: dict[str, int]  # by split
    counts: dict[str, int] = field(default_factory=dict)  # what each rule kept, cut or left out
    warnings: tuple[str, ...] = ()


def refuse_source(source: str | Path, out: str | Path) -> None:
    """InputError where `out` is the file `source`, by whatever name: writing would destroy what it is made of."""
    source, out = Path(source), Path(out)
    if source.resolve() == out.resolve() or (source.exists() and out.exists() and source.samefile(out)):
        raise InputError("--out is the source itself", file=out, expected=NEW_OUT, remedy="another --out")
