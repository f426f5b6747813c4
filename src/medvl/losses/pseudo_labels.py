"""Exponential pseudo-label iteration (EPI): P_t = beta P_{t-1} + (1 - beta) p_t, one soft label per unlabelled record.

LViT, section on semi-supervision; in no released program. The labels live outside the model, in a memory-mapped file on
the record's own grid (the image at model size BEFORE augmentation), so that every augmentation is applied to the pseudo
label exactly as to the image.

Shapes: K classes, H W the model's grid, n records at a time.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.core.errors import InputError
from medvl.core.files import write_bytes, write_json

Storage = Literal["float16", "uint8"]
FloatArray = NDArray[np.float32]
UNKNOWN = 0.5  # of a pixel that no view has shown yet; it is not above the threshold, hence background
CERTAIN = 30.0  # a logit whose cross entropy is 1e-13
_DROP_PAGES_EVERY = 32  # updates; bounds the resident part of the file


def beta_at(beta: float, num_visits: NDArray[np.integer[Any]], *, warmup: bool) -> FloatArray:
    """The weight of the past of pixels that were seen `num_visits` times (any shape; 0 = never: they have no past).

    With `warmup` it is min(beta, 1 - 1 / (visits + 1)): a plain mean of the predictions so far, until beta is reached.
    Without it, at beta 0.99, the first label still has 60 % of the weight after 50 visits.
    """
    past = 1 - 1 / (num_visits.astype(np.float64) + 1)  # 0 of what was never seen
    return np.asarray(np.minimum(beta, past) if warmup else np.where(num_visits > 0, beta, 0), dtype=np.float32)


class PseudoLabelStore:
    """Soft labels of n records in files under `folder`, keyed by record id.

    Values are rounded stochastically (seeded by record and visit, hence reproducible): at beta 0.99 plain rounding
    freezes, as a step of 1 % is smaller than half a unit of one byte, and later on of float16 too.

    A journal keeps what the labels were at the last checkpoint, so that a killed run resumes to the same bits: see
    `checkpoint` and `roll_back`. One process writes.
    """

    def __init__(self, folder: Path) -> None:
        """The labels in `folder` as they are; a run has them from `create` or `open`.

        Raises:
            InputError: no labels there, or those of a version without `pixel_visits`.
        """
        self.folder = folder
        if not (folder / "index.json").is_file():
            raise InputError.missing_file("no pseudo labels", file=folder, expected="the store of an interrupted run")
        if not (folder / "pixel_visits.npy").is_file():
            raise InputError.unsupported(
                "these pseudo labels do not say how often each pixel was seen: an older version wrote them",
                file=folder,
                remedy="start the run anew, without --resume",
            )
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.ids: tuple[str, ...] = tuple(index["ids"])
        self.shape: tuple[int, int, int] = tuple(index["shape"])
        self.storage: Storage = index["storage"]
        self.seed: int = index["seed"]
        self._row = {ident: row for row, ident in enumerate(self.ids)}
        self._labels, self._visits, self._pixel_visits = (
            np.lib.format.open_memmap(folder / f"{name}.npy", "r+") for name in ("labels", "visits", "pixel_visits")
        )
        self._journalled: set[int] = set()
        self._journal: Any = None
        self._num_updates = 0

    @classmethod
    def create(
        cls, folder: Path, ids: Sequence[str], shape: tuple[int, int, int], *, storage: Storage = "float16", seed: int
    ) -> PseudoLabelStore:
        """A new store; the files are sparse, so that an untouched record takes no room.

        Args:
            shape: (K, H, W) of one record.
        """
        if len(set(ids)) != len(ids):
            raise InputError.duplicate("a record id stands twice among the unlabelled records", file=folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "index.json", {"ids": list(ids), "shape": list(shape), "storage": storage, "seed": seed})
        arrays = {
            "labels": (np.dtype(storage), shape),
            "visits": (np.dtype(np.int32), ()),
            "pixel_visits": (np.dtype(np.uint16), shape[1:]),
        }
        for name, (dtype, of_record) in arrays.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (len(ids), *of_record)).flush()
        (folder / "journal.bin").unlink(missing_ok=True)
        store = cls(folder)
        store.checkpoint(0)
        return store

    @classmethod
    def open(cls, folder: Path, *, number: int) -> PseudoLabelStore:
        """The store of an interrupted run as it was at the checkpoint `number`."""
        store = cls(folder)
        store.roll_back(number)
        return store

    def __contains__(self, ident: str) -> bool:
        return ident in self._row

    def visits(self, ident: str) -> int:
        """How often a record was updated."""
        return int(self._visits[self._row[ident]])

    def pixel_visits(self, ident: str) -> NDArray[np.uint16]:
        """(H, W): how often each pixel was seen; a pixel outside a view was not."""
        visits: NDArray[np.uint16] = self._pixel_visits[self._row[ident]].copy()
        return visits

    def read(self, ident: str) -> FloatArray:
        """(K, H, W) in [0, 1]; `UNKNOWN` where nothing was predicted yet."""
        row = self._row[ident]
        if self._visits[row] == 0:
            return np.full(self.shape, UNKNOWN, dtype=np.float32)
        return np.where(self._pixel_visits[row] > 0, self._decode(self._labels[row]), np.float32(UNKNOWN))

    def update(
        self, ident: str, probs: FloatArray, seen: NDArray[np.bool_] | None, beta: float, *, warmup: bool
    ) -> None:
        """P = beta P + (1 - beta) probs where `seen`.

        Args:
            probs: (K, H, W) in [0, 1] on the record's grid.
            seen: (H, W) the pixels that the view showed; None = all.
        """
        row = self._row[ident]
        num_visits, pixel_visits = int(self._visits[row]), self.pixel_visits(ident)
        weight = beta_at(beta, pixel_visits, warmup=warmup)  # (H, W)
        old = self.read(ident)
        new = weight * old + (1 - weight) * np.asarray(probs, dtype=np.float32)
        if seen is not None:
            new = np.where(seen, new, old)
        self._remember(row, num_visits)
        rng = np.random.default_rng([self.seed, row, num_visits])
        self._labels[row] = self._encode(new, rng)
        self._visits[row] = num_visits + 1
        more = np.minimum(pixel_visits, np.uint16(np.iinfo(np.uint16).max - 1)) + np.uint16(1)
        self._pixel_visits[row] = more if seen is None else np.where(seen, more, pixel_visits)
        self._num_updates += 1
        if self._num_updates % _DROP_PAGES_EVERY == 0:
            self._drop_pages()

    def checkpoint(self, number: int) -> None:
        """Call after the run's state is on disk (its `number`-th save): now the journal leads back to here."""
        self._flush()
        self._drop_pages()
        if self._journal is not None:
            self._journal.close()
        write_bytes(self.folder / "journal.bin", np.int64(number).tobytes())
        self._journal = (self.folder / "journal.bin").open("ab", buffering=0)
        self._journalled.clear()

    def roll_back(self, number: int) -> None:
        """Undo what was written after the checkpoint `number`, then start from there.

        Raises:
            InputError: the journal is of a later checkpoint than the state, or of none.
        """
        path = self.folder / "journal.bin"
        data = path.read_bytes() if path.is_file() else b""
        if len(data) < 8:
            raise InputError.missing_file(
                "the journal of the pseudo labels is missing", file=path, remedy="start the run anew"
            )
        at = int(np.frombuffer(data[:8], np.int64)[0])
        if at > number:
            raise InputError.mismatch(
                f"the pseudo labels are of save {at}, the run's state is save {number}", file=path,
                remedy="start the run anew",
            )  # fmt: skip
        if at == number:  # else the run was killed between saving its state and renewing the journal: nothing to undo
            size = self._entry_size()
            for start in range(8, len(data) - size + 1, size):  # a torn last entry was never followed by its write
                row, num_visits = np.frombuffer(data[start : start + 16], np.int64)
                end = start + size - self._pixel_visits[0].nbytes
                self._labels[row] = np.frombuffer(data[start + 16 : end], self._labels.dtype).reshape(self.shape)
                seen = np.frombuffer(data[end : start + size], np.uint16)
                self._visits[row], self._pixel_visits[row] = num_visits, seen.reshape(self.shape[1:])
        self.checkpoint(number)

    def close(self) -> None:
        """Write everything to disk."""
        self._flush()
        if self._journal is not None:
            self._journal.close()

    def _flush(self) -> None:
        for array in (self._labels, self._visits, self._pixel_visits):
            array.flush()

    def _remember(self, row: int, num_visits: int) -> None:
        if row in self._journalled:
            return
        assert self._journal is not None
        head = np.array([row, num_visits], dtype=np.int64).tobytes()
        old = self._labels[row].tobytes() + self._pixel_visits[row].tobytes()
        self._journal.write(head + old)  # one write, before the label changes
        self._journalled.add(row)

    def _entry_size(self) -> int:
        return 16 + int(self._labels[0].nbytes) + int(self._pixel_visits[0].nbytes)

    def _decode(self, stored: NDArray[Any]) -> FloatArray:
        values: FloatArray = stored.astype(np.float32)
        return values / np.float32(255) if self.storage == "uint8" else values

    def _encode(self, values: FloatArray, rng: np.random.Generator) -> NDArray[Any]:
        noise = rng.random(values.shape, dtype=np.float32)
        if self.storage == "uint8":
            byte: NDArray[np.uint8] = np.floor(np.clip(values, 0, 1) * 255 + noise).clip(0, 255).astype(np.uint8)
            return byte
        near = values.astype(np.float16)
        error = values - near.astype(np.float32)
        other = np.nextafter(near, np.where(error > 0, np.float16(2), np.float16(-1)))  # the neighbour beyond the value
        gap = np.abs(other.astype(np.float32) - near.astype(np.float32))
        half: NDArray[np.float16] = np.where(noise * gap < np.abs(error), other, near)
        return half

    def _drop_pages(self) -> None:
        """Let the system take the pages back: what is on disk need not stay in memory."""
        for held in (self._labels, self._pixel_visits):
            pages: mmap.mmap | None = getattr(held, "_mmap", None)
            if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
                pages.madvise(mmap.MADV_DONTNEED)


def is_confident(soft: Tensor, least: float, mode: str) -> Tensor:
    """Where a pseudo label is at least `least` sure: (N, K, H, W) in [0, 1] -> the same shape, or (N, 1, H, W), bool.

    One sigmoid per class: P or 1 - P; "multiclass": the likeliest of background and classes.
    """
    if mode == "multiclass":
        return torch.maximum(soft.amax(dim=1, keepdim=True), 1 - soft.sum(dim=1, keepdim=True)) >= least
    return torch.maximum(soft, 1 - soft) >= least


def where_sure(logits: Tensor, target: Tensor, sure: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Logits and target in which the other pixels are background that the network knows: no loss, no gradient.

    A mean over pixels still divides by all of them, as in FixMatch's equation 4.
    """
    known = torch.full_like(logits, -CERTAIN)
    if mode == "multiclass":
        known[:, 0] = CERTAIN
    return torch.where(sure, logits, known), torch.where(sure, target, 0)
