"""An importer: a class label of each image is the name of its folder; a patient is what stands before the first "_".

It declares its layout in two_folders.yaml beside it. Both belong into src/medvl/data/importers/, and nothing else is
edited: `medvl data import two-folders FOLDER --out manifest.csv`.
"""

from __future__ import annotations

from pathlib import Path

from medvl.data.importers.cases import Case, Draft, ImportResult, unique_ids
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.set_files import matching


def import_two_folders(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest, without splits: `medvl data split` makes them."""
    draft = Draft("two-folders", Path(folder))
    labels = get_layout("two-folders").labels
    paths = matching(draft.folder, "normal/*.png", "abnormal/*.png")
    for name, path in zip(unique_ids(paths, draft.folder), paths, strict=True):
        case = Case(name, path, split="", patient=path.stem.partition("_")[0])
        case.labels = [label for label in labels if label == path.parent.name]  # [] = looked for and absent
        draft.cases.append(case)
    return draft.write(out, splits=())
