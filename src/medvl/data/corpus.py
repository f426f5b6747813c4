"""The texts of a manifest, for what needs no image: a tokenizer, masked language modelling."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvl.core.errors import Fault, InputError, nearest, warn
from medvl.core.files import new_folder
from medvl.data.cells import CellKind, CleanCells
from medvl.data.columns import read_columns
from medvl.data.record import SPLITS
from medvl.data.tables import read_table
from medvl.text.tokenizer import WordPieces

VAL_ONE_IN = 10  # where a manifest names no validation rows, that share of its texts, by their hash


@dataclass(frozen=True, slots=True)
class Corpus:
    """The rows that have a text: (text, split or ""), and the patient of each; () = each of a patient of its own."""

    path: Path
    rows: tuple[tuple[str, str], ...]
    num_empty: int
    row_patients: tuple[str, ...] = ()

    def texts(self, split: str) -> list[str]:
        """The texts of one split, one per row; "all", or a manifest without splits, gives every text.

        Raises:
            InputError: no such text; the message names the splits there are.
        """
        if split == "all" or not self.has_splits:
            return [text for text, _ in self.rows]
        texts = [text for text, split_of_row in self.rows if split_of_row == split]
        if not texts:
            counts = Counter(split_of_row or "(none)" for _, split_of_row in self.rows)
            choices = ", ".join(f"{name} ({number})" for name, number in sorted(counts.items()))
            raise InputError.empty(f"no text in split {split}", file=self.path, expected=f"one of: {choices}, all")
        return texts

    def patients(self, split: str) -> list[str] | None:
        """The patient of each of `texts(split)`; None where the manifest names none."""
        if not self.row_patients:
            return None
        every = split == "all" or not self.has_splits
        pairs = zip(self.rows, self.row_patients, strict=True)
        return [patient for (_, name), patient in pairs if every or name == split]

    def rows_of(self, texts: Iterable[str]) -> tuple[list[str], list[str] | None]:
        """All rows that say one of `texts` (whatever their case and white space), and their patients."""
        kept = set(_distinct(texts))
        numbers = [n for n, (text, _) in enumerate(self.rows) if _plain(text) in kept]
        patients = [self.row_patients[n] for n in numbers] if self.row_patients else None
        return [self.rows[n][0] for n in numbers], patients

    @property
    def has_splits(self) -> bool:
        """Whether any row names its split."""
        return any(split for _, split in self.rows)

    def train_and_val(self) -> tuple[list[str], list[str], str]:
        """Distinct training and validation texts without overlap, and how they were distinguished.

        By the manifest's splits train and val; where there is no val, one in `VAL_ONE_IN` of the texts (of the split
        train, if there are splits), by their hash. Rows of other splits take no part. A text counts as the same
        whatever its case and white space; a validation text that is also a training text is left out of validation.
        """
        train = _distinct(self.texts("train"))
        val = _distinct(text for text, split in self.rows if split == "val")
        if val:
            return list(train.values()), [text for same, text in val.items() if same not in train], "split"
        held_out = {same for same in train if hashlib.sha256(same.encode()).digest()[0] % VAL_ONE_IN == 0}
        rest = [text for same, text in train.items() if same not in held_out]
        return rest, [train[same] for same in sorted(held_out)], "hash"


def read_corpus(manifest: str | Path, text_column: str = "text", columns: Mapping[str, str] | None = None) -> Corpus:
    """Read texts and splits of a manifest, with `data.columns`. Unlike training, it asks for no image.

    Raises:
        InputError: not a table, no such column, an unknown split, or no text at all.
    """
    table = read_columns(manifest, columns) if columns else read_table(manifest, needed=(text_column,))
    if text_column not in table.columns:
        like = nearest(text_column, table.columns)
        choices = f"one of the columns: {', '.join(table.columns)}"
        remedy = f"did you mean {like}? --text-column names the column" if like else "--text-column names the column"
        raise InputError.missing_column(
            f"no column {text_column}", file=table.path, line=1, expected=choices, remedy=remedy
        )
    faults = list(table.faults)
    rows, patients, num_empty = [], [], 0
    patient_column = next((name for name in ("patient", "group") if name in table.columns), None)
    kinds: dict[str, CellKind] = {text_column: "value", "split": "value", "patient": "group", "group": "group"}
    cleaned = CleanCells({name: kind for name, kind in kinds.items() if name in table.columns})
    for line, cells in table.rows:
        row = cleaned.row(cells)
        split = row.get("split", "")
        if split and split not in SPLITS:
            faults.append(Fault.unknown(f"unknown split {split}", table.path, line, row.get("id"), ", ".join(SPLITS)))
        if row[text_column].strip():
            rows.append((row[text_column], split))
            patients.append((row[patient_column] if patient_column else "") or f"line {line}")
        else:
            num_empty += 1
    if faults:
        raise InputError(faults)
    if not rows:
        raise InputError.empty(f"no text in column {text_column}", file=table.path, expected="report texts")
    for note in (*table.notes, *(f"{table.path}: {note}" for note in cleaned.notes())):
        warn(note)
    return Corpus(table.path, tuple(rows), num_empty, tuple(patients))


def learn_word_pieces(
    manifest: str | Path,
    out: Path,
    *,
    vocab_size: int,
    text_column: str = "text",
    split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Learn word pieces from the texts of one split (or "all") into the new folder `out`; returns what was learned.

    Raises:
        InputError: as `read_corpus`; the folder is not empty.
    """
    corpus = read_corpus(manifest, text_column, columns)
    texts = corpus.texts(split)
    pieces = WordPieces.train(texts, vocab_size, corpus.patients(split))
    new_folder(out)
    lengths = [len(row) for row in pieces.encode(texts)]
    card: dict[str, Any] = {
        "derives_from": "report texts",
        "texts": len(texts),
        "split": split if corpus.has_splits else "all (the manifest has no splits)",
        "rows_without_text": corpus.num_empty,
        "pieces": len(pieces),
        "mean_pieces_per_text": round(sum(lengths) / len(lengths), 2),
        "longest_text": max(lengths),
        "words_without_pieces": pieces.unknown_words(texts).total(),
    }
    pieces.save(out, card)
    return {"folder": str(out), **card}


def _distinct(texts: Iterable[str]) -> dict[str, str]:
    """{text without case and extra white space: its first form}."""
    distinct: dict[str, str] = {}
    for text in texts:
        distinct.setdefault(_plain(text), text)
    return distinct


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
