"""A small made-up set (two half-plane "lungs" per image) and sources whose answers are known beforehand."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from medvl.config import make_config
from medvl.data.record import Manifest, Record
from medvl.data.records import load_manifest

SIZE = (40, 60)
PHRASES = ("right lung", "left lung", "both lungs")


def lung(text: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The patient's right lung stands at the viewer's left; a text that names neither side gives both, none nothing."""
    mask = np.zeros(SIZE, dtype=bool)
    words = text.lower()
    if words and not words.startswith("no "):
        if "left" not in words:
            mask[8:32, 6:24] = True
        if "right" not in words:
            mask[8:32, 36:54] = True
    return mask


@pytest.fixture
def phrases(tmp_path: Path) -> Manifest:
    """Six patients, one image each in three rows; val holds all but two patients; `kind` is a further column."""
    folder = tmp_path / "set"
    (folder / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        cv2.imwrite(str(folder / f"film{i}.png"), rng.integers(0, 255, SIZE, dtype=np.uint8))
        for phrase in PHRASES:
            name = f"film{i}_{phrase.split()[0]}"
            cv2.imwrite(str(folder / "masks" / f"{name}.png"), lung(phrase).astype(np.uint8) * 255)
            rows.append(
                {
                    "id": name, "image": f"film{i}.png", "text": phrase, "mask": f"masks/{name}.png",
                    "patient": f"p{i}", "split": "val" if i < 4 else "test" if i == 4 else "train",
                    "kind": "union" if phrase == "both lungs" else "one lung",
                }
            )  # fmt: skip
    return load_manifest(write_rows(folder / "manifest.csv", rows))


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Write a CSV manifest."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


class Listener:
    """Obeys the text it is asked with."""

    uses_text = True

    def check(self, records: Sequence[Record], classes: Sequence[str]) -> None:
        """Any record will do."""

    def probs(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, Any]]:
        """0.9 inside what the text names, 0.1 outside."""
        return [{"mask": np.where(self.answer(text), 0.9, 0.1).astype(np.float32)} for text in texts]

    def masks(self, records: Sequence[Record], texts: Sequence[str]) -> list[dict[str, Any]]:
        """What the text names."""
        return [{"mask": self.answer(text)} for text in texts]

    def answer(self, text: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """The mask for a text."""
        return lung(text)

    def spacing_mm(self, record: Record) -> tuple[float, float] | None:
        """Known, so that millimetres are reported."""
        return (0.5, 0.5)

    def describe(self) -> dict[str, Any]:
        """As a model would."""
        return {"model": type(self).__name__, "kind": "model", "seed": 1, "config": {"train": {"seed": 1}}}


class Deaf(Listener):
    """Gives both lungs whatever it is asked."""

    def answer(self, text: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Both lungs."""
        return lung("both lungs")


@dataclass
class FakePredictor:
    """Answers with a lung per class, and remembers what it was asked."""

    classes: tuple[str, ...] = ("mask",)
    uses_text: bool = True
    class_values: dict[str, list[int]] | None = None
    mode: str = "binary"
    context: None = None
    encoder: None = None
    context_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.images: list[Path] = []
        self.asked: list[str] = []
        self.config = make_config({"objective": {"mode": self.mode}, "data": {"laterality": "patient"}})
        self.card: dict[str, Any] = {"name": "fake <lvit>", "parameters": 1234, "text_encoder": "builtin"}

    def set_image(self, image: Path) -> FakePredictor:
        self.images.append(image)
        return self

    def segment_many(self, phrases: list[str], contexts: list[Any]) -> list[Any]:
        assert contexts == [{}] * len(phrases)
        self.asked += phrases
        return [SimpleNamespace(probs=self._probs(phrase), spacing_mm=(0.2, 0.2)) for phrase in phrases]

    def _probs(self, phrase: str) -> np.ndarray[Any, Any]:
        if len(self.classes) == 1:
            return lung(phrase if self.uses_text else "both").astype(np.float32)
        return np.stack([lung(name) for name in self.classes]).astype(np.float32) * 0.6
