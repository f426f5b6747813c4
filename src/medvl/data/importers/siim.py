"""SIIM-ACR pneumothorax (Kaggle competition of 2019): train-rle.csv and one DICOM file an image.

Columns `ImageId` (SOPInstanceUID) and `EncodedPixels`: -1 for no pneumothorax, else relative run lengths down the
columns of a 1024 x 1024 image (`shapes.relative_runs`). An image may stand in several rows, one for each lesion; its
mask is their union. The files `<SOPInstanceUID>.dcm` may lie anywhere below the folder.
Source: the competition's data page, siim-acr-pneumothorax-segmentation. The table was met whole (12,954 rows of 12,047
images, 2,669 with a pneumothorax); DICOM files of this set never.

Split: G2D publishes 8,433 / 1,807 / 1,807 images, not their names, and MGCA's script splits the rows of a table that
was never met. So the sizes are theirs and the members are ours: `train_val_test` (their two steps, random_state 0) over
the sorted ids of the images. Of a part of the set the same shares are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medvl.core.errors import Fault
from medvl.core.progress import track
from medvl.data.importers.cases import Case, Draft, ImportResult
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.published_splits import train_val_test
from medvl.data.importers.set_files import find_file, index_files, stream_csv
from medvl.data.importers.shapes import RelativeRuns

LABELS = get_layout("siim").labels
PUBLISHED = (12047, 3614)  # images, of which validation and test
TABLES = ("train-rle.csv", "stage_2_train.csv")


def import_siim(folder: str | Path, out: str | Path, *, canvas: int = 1024) -> ImportResult:
    """Write the manifest, masks/ and labels of SIIM-ACR.

    Args:
        canvas: side of the square images that the run lengths were made for; an image of another size is a fault.
    """
    draft = Draft("siim", Path(folder))
    table = find_file(draft.folder, TABLES)
    runs = read_runs(table, draft.faults)
    headers = _headers(runs, index_files(draft.folder, (".dcm",), stems=True))
    missing = [name for name in runs if name not in headers]
    draft.missing(f"of {len(runs)} images have no DICOM file", missing, table, "ImageId.dcm below it")
    split = split_of(list(runs))
    draft.cases = [
        Case(
            name,
            headers[name][0],
            split[name],
            masks={"mask": [RelativeRuns(text) for text in codes]},
            labels=LABELS if codes else (),
            patient=headers[name][1] or name,
            size=(canvas, canvas),
        )
        for name, codes in runs.items()
        if name in headers
    ]
    draft.counts.update(rows=sum(max(len(codes), 1) for codes in runs.values()), images=len(runs))
    draft.counts["positive"] = sum(bool(codes) for codes in runs.values())
    draft.note_patients_in_two_splits()
    return draft.write(out)


def read_runs(path: Path, faults: list[Fault]) -> dict[str, list[str]]:
    """ImageId -> its run lengths, [] for no pneumothorax, in the order of the table."""
    runs: dict[str, list[str]] = {}
    negative: set[str] = set()
    for line, row in stream_csv(path, ("ImageId", "EncodedPixels"), faults):
        name, code = row["ImageId"], row["EncodedPixels"]
        codes = runs.setdefault(name, [])
        if not code:
            faults.append(Fault.missing("no EncodedPixels", path, line, name, "-1 or run lengths"))
        elif code == "-1":
            negative.add(name)
        else:
            codes.append(code)
        if codes and name in negative:
            faults.append(Fault.conflict("both -1 and run lengths", path, line, name))
    return runs


def split_of(names: Sequence[str]) -> dict[str, str]:
    """Image -> train, val or test. Of another number than the published one the same shares are taken."""
    return train_val_test(names, round(len(names) * PUBLISHED[1] / PUBLISHED[0]))


def _headers(wanted: Iterable[str], files: dict[str, list[Path]]) -> dict[str, tuple[Path, str]]:
    """SOPInstanceUID -> (file, PatientID). Files of other names are opened only when an image is not found by name."""
    wanted = set(wanted)
    named = [(name, paths[0]) for name, paths in files.items() if name in wanted]
    others = [path for name, paths in files.items() if name not in wanted for path in paths]
    headers: dict[str, tuple[Path, str]] = {}
    for name, path in track(named, _READING, len(named)):
        headers[name] = (path, _tags(path)[1])
    if len(headers) < len(wanted):
        for path in track(others, _READING, len(others)):
            uid, patient = _tags(path)
            if uid in wanted:
                headers.setdefault(uid, (path, patient))
    return headers


_READING = "reading DICOM headers"


def _tags(path: Path) -> tuple[str, str]:
    """(SOPInstanceUID, PatientID), empty where absent or unreadable; whether it can be read is checked later."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "PatientID"])
    except (InvalidDicomError, OSError, ValueError, EOFError):
        return "", ""
    return str(header.get("SOPInstanceUID", "")), str(header.get("PatientID", "") or "").strip()
