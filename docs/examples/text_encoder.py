"""A text encoder without a vocabulary: each word has the vector of its hash, so that no word is unknown.

Its name is `text.encoder: hashed`. Inside medvl: a file in text/, a line in its registry.py. N texts, L words, D width.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medvl.text.base import TextEncoder, Tokens
from medvl.text.registry import TEXT_ENCODERS

NUM_WORDS = 1009  # rows of the table, behind row 0 for padding


class HashedEncoder(TextEncoder):
    """A table of vectors that is trained, and the row of each word by its CRC."""

    spec, frozen = "hashed", False

    def __init__(self, dim: int, max_tokens: int | None) -> None:
        super().__init__()
        self.dim, self.max_tokens, self.table = dim, max_tokens, nn.Embedding(1 + NUM_WORDS, dim, padding_idx=0)

    @classmethod
    def build(cls, spec: str, *, dim: int = 128, max_tokens: int | None = None, **given: object) -> TextEncoder:
        return cls(dim, max_tokens)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        words = [text.lower().split() or [""] for text in texts]
        rows = [torch.tensor([1 + zlib.crc32(word.encode()) % NUM_WORDS for word in row]) for row in words]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, : self.max_tokens]  # (N, L)
        return Tokens(ids, ids != 0, num_truncated=sum(len(row) > ids.shape[1] for row in rows))

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        return self.table(ids)  # (N, L, D)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "encoder.safetensors")
        stored = json.dumps({"spec": self.spec, "dim": self.dim, "max_tokens": self.max_tokens})
        (folder / "encoder.json").write_text(stored)

    @classmethod
    def load(cls, folder: Path, *, show_progress: bool = True) -> TextEncoder:
        stored = json.loads((folder / "encoder.json").read_text())
        encoder = cls(stored["dim"], stored["max_tokens"]).eval()
        encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
        return encoder


TEXT_ENCODERS["hashed"] = HashedEncoder
