"""COVIDx CXR (COVID-Net), version 9A: train_COVIDx9A.txt, test_COVIDx9A.txt, and the images in train/ and test/.

A line is "PATIENT FILE CLASS SOURCE" with spaces between; the classes are normal, pneumonia and COVID-19. Source: the
COVID-Net repository (docs/COVIDx.md, labels/); the first lines of the training list were read there, the images never.

Split (MGCA, G2D: 23,988 / 5,998 / 400): test as published; train_test_split(train_size=0.8, random_state=0) over the
lines of the training list. That is a split of images: patients who stand in both parts are counted and reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvl.core.errors import FaultKind, InputError
from medvl.core.files import read_text
from medvl.data.importers.cases import Case, Draft, ImportResult, safe_id
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.published_splits import shuffle_split
from medvl.data.importers.set_files import find_file

LABELS = get_layout("covidx").labels


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a list."""

    patient: str  # with its source: the sources number their patients each for themselves
    file: str
    label: str
    source: str


def import_covidx(folder: str | Path, out: str | Path) -> ImportResult:
    """Write the manifest of COVIDx 9A with one of three labels an image."""
    draft = Draft("covidx", Path(folder))
    lists = {name: find_file(draft.folder, (f"{name}_COVIDx9A.txt",), what="list") for name in ("train", "test")}
    entries = {name: read_list(path, draft) for name, path in lists.items()}
    split = split_of(len(entries["train"]))
    for name, path in lists.items():
        base = path.parent / name
        if not base.is_dir():
            raise InputError.missing_file(
                "no folder of images", file=base, expected=f"the images that {path.name} names"
            )
        ids = _ids(name, entries[name])
        for i, entry in enumerate(entries[name]):
            case = Case(ids[i], base / entry.file, split[i] if name == "train" else "test", labels=(entry.label,))
            case.patient, case.extra = entry.patient, {"source": entry.source}
            draft.cases.append(case)
    draft.counts.update({f"label_{label}": sum(case.labels == (label,) for case in draft.cases) for label in LABELS})
    draft.note_patients_in_two_splits()
    return draft.write(out)


def read_list(path: Path, draft: Draft) -> list[Entry]:
    """The lines of a list, in its order. File names may hold spaces."""
    entries: list[Entry] = []
    wrong = []
    seen: set[str] = set()
    twice = []
    for line, text in enumerate(read_text(path, "a list of images").splitlines(), start=1):
        if not text.strip():
            continue
        patient, _, rest = text.strip().partition(" ")
        parts = rest.rsplit(" ", 2)
        if len(parts) != 3 or parts[1] not in LABELS:
            wrong.append(f"line {line}")
            continue
        file, label, source = parts
        if file in seen:
            twice.append(file)
        seen.add(file)
        entries.append(Entry(f"{source}-{patient}", file, label, source))
    draft.fault_of(FaultKind.MALFORMED, "lines are not understood", wrong, path, f"PATIENT FILE CLASS SOURCE; {LABELS}")
    draft.fault_of(FaultKind.DUPLICATE, "files stand twice", twice, path)
    return entries


def split_of(num: int) -> list[str]:
    """train or val for each line of the training list."""
    num_train = num * 4 // 5
    val = set(shuffle_split(num, num - num_train, 0)[1])
    return ["val" if i in val else "train" for i in range(num)]


def _ids(name: str, entries: Sequence[Entry]) -> list[str]:
    """The list's name and the file's stem; the whole file name where stems stand twice."""
    stems = [safe_id(Path(entry.file).stem) for entry in entries]
    counts = Counter(stems)
    whole = [safe_id(entry.file) for entry in entries]
    return [f"{name}_{stem if counts[stem] == 1 else file}" for stem, file in zip(stems, whole, strict=True)]
