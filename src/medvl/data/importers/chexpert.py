"""CheXpert-v1.0(-small): train.csv, valid.csv with Path, Frontal/Lateral, AP/PA and 14 observations.

A cell is 1.0 (positive), 0.0 (negative), -1.0 (uncertain) or empty (not mentioned). Paths begin with the name of the
release ("CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"); the folder may be that release or the one
that holds it. Source: Irvin et al., AAAI 2019, and the header of train.csv, which was met whole (223,414 rows, 191,027
of them frontal); valid.csv and the images never.

Uncertain cells, by `uncertain`: "g2d" is the rule of MGCA and G2D for the five competition labels (Atelectasis, Edema,
Pleural Effusion positive, Cardiomegaly, Consolidation negative) and unknown for the other nine, of which they say
nothing; "positive", "negative", "unknown" hold for all. Cells without a mention, by `unmentioned`: "negative" (G2D) or
"unknown".

Split: test is valid.csv (202 frontal), validation 5,000 of the 191,027 frontal images of train.csv, as G2D's table
counts them. Which 5,000 was not published: ours are whole patients, drawn by `draw_groups` with seed 0. The 1,000
images of GLoRIA's 5x200 set, a list that was not met, stay where they are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from medvl.core.errors import Fault, InputError
from medvl.data.importers.cases import Case, Draft, ImportResult, safe_id
from medvl.data.importers.layouts import get_layout
from medvl.data.importers.published_splits import draw_groups
from medvl.data.importers.set_files import find_file, stream_csv

LABELS = get_layout("chexpert").labels
PUBLISHED = (191027, 5000)  # frontal images of train.csv, of which validation
Uncertain = Literal["g2d", "positive", "negative", "unknown"]
Unmentioned = Literal["negative", "unknown"]
_POSITIVE, _NEGATIVE, _UNKNOWN = "positive", "negative", "unknown"
_G2D = {
    "Atelectasis": _POSITIVE,
    "Edema": _POSITIVE,
    "Pleural Effusion": _POSITIVE,
    "Cardiomegaly": _NEGATIVE,
    "Consolidation": _NEGATIVE,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One frontal image of a table."""

    path: str  # below the release: train/patient00001/study1/view1_frontal.jpg
    positive: tuple[str, ...]
    unknown: tuple[str, ...]
    view: str

    @property
    def patient(self) -> str:
        """patient00001"""
        return self.path.split("/")[1]


def import_chexpert(
    folder: str | Path, out: str | Path, *, uncertain: Uncertain = "g2d", unmentioned: Unmentioned = "negative"
) -> ImportResult:
    """Write the manifest of CheXpert's frontal images with labels and labels_unknown; see the rules above."""
    draft = Draft("chexpert", Path(folder))
    for value, kind, name in ((uncertain, Uncertain, "uncertain"), (unmentioned, Unmentioned, "unmentioned")):
        if value not in get_args(kind):
            raise InputError.unknown(f"--{name} is {value}", expected=" or ".join(get_args(kind)))
    tables = {name: find_file(draft.folder, (f"{name}.csv",)) for name in ("train", "valid")}
    for name, table in tables.items():
        entries = read_entries(table, draft.faults, draft.counts, uncertain=uncertain, unmentioned=unmentioned)
        splits = split_of(entries) if name == "train" else ["test"] * len(entries)
        for entry, split in zip(entries, splits, strict=True):
            _, patient, study, *_ = entry.path.split("/")
            draft.cases.append(
                Case(
                    safe_id("_".join(Path(entry.path).with_suffix("").parts[1:])),
                    table.parent / entry.path,
                    split,
                    labels=entry.positive,
                    labels_unknown=entry.unknown,
                    patient=patient,
                    study=f"{patient}_{study}",
                    view=entry.view,
                )
            )
    return draft.write(out, columns=("labels_unknown",))


def read_entries(
    path: Path, faults: list[Fault], counts: Counter[str], *, uncertain: Uncertain, unmentioned: Unmentioned
) -> list[Entry]:
    """The frontal images of train.csv or valid.csv. `counts` takes up lateral, uncertain and unmentioned cells."""
    rules = {label: _G2D.get(label, _UNKNOWN) if uncertain == "g2d" else uncertain for label in LABELS}
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # few label sets stand in many rows: one object for each
    entries = []
    for line, row in stream_csv(path, ("Path", "Frontal/Lateral", "AP/PA", *LABELS), faults):
        if row["Frontal/Lateral"] == "Lateral":
            counts["lateral_left_out"] += 1
            continue
        parts = row["Path"].split("/")
        if len(parts) < 4 or row["Frontal/Lateral"] != "Frontal":
            faults.append(
                Fault.malformed(f"Path {row['Path']!r}, view {row['Frontal/Lateral']!r}", path, line, expected=_PATH)
            )
            continue
        state = {}
        for label in LABELS:
            cell = row[label]
            if cell in _STATES:
                state[label] = _STATES[cell]
            elif cell in ("-1.0", "-1"):
                state[label] = rules[label]
                counts[f"uncertain_taken_as_{rules[label]}"] += 1
            elif not cell:
                state[label] = unmentioned
                counts["not_mentioned"] += 1
            else:
                faults.append(Fault.malformed(f"{label} is {cell!r}", path, line, expected="1.0, 0.0, -1.0 or nothing"))
        positive = tuple(label for label in LABELS if state.get(label) == _POSITIVE)
        unknown = tuple(label for label in LABELS if state.get(label) == _UNKNOWN)
        positive, unknown = shared.setdefault(positive, positive), shared.setdefault(unknown, unknown)
        entries.append(Entry("/".join(parts[-4:]), positive, unknown, row["AP/PA"]))
    return entries


_PATH = "RELEASE/train/PATIENT/STUDY/VIEW.jpg, Frontal or Lateral"
_STATES = {"1.0": _POSITIVE, "1": _POSITIVE, "0.0": _NEGATIVE, "0": _NEGATIVE}


def split_of(entries: Sequence[Entry]) -> list[str]:
    """train or val for each entry of train.csv."""
    val = draw_groups([entry.patient for entry in entries], round(len(entries) * PUBLISHED[1] / PUBLISHED[0]), 0)
    return ["val" if i in val else "train" for i in range(len(entries))]
