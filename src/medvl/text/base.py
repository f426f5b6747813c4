"""One interface for every text encoder: tokens in, one feature per token out.

Shapes: N texts, L tokens (the longest text of the batch), D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Tokens:
    """`ids` (N, L) int64 and `mask` (N, L) bool, True = a real token; `num_truncated` texts were cut."""

    ids: Tensor
    mask: Tensor
    num_truncated: int


class TextEncoder(nn.Module):
    """What every encoder is: `tokenize`, then `forward`.

    Attributes:
        takes: keys of the section `text` beside those of every encoder (`registry.OPTIONS`).
        spec: its name in a recipe ("builtin", "minilm", "hf:...").
        dim: D.
        max_tokens: longer texts are cut to this, and counted; None = never.
        frozen: none of its weights are trained; features may be computed once and kept.
        prefix_frozen: `prefix` does not change in training, so that its output may be computed once and kept. True
            also for a frozen encoder, whose prefix is all of it.
        key: changes with weights, vocabulary and max_tokens.
        feature_key: the key of what `prefix` gives.
    """

    takes: ClassVar[frozenset[str]] = frozenset()
    spec: str
    dim: int
    max_tokens: int | None
    frozen: bool
    prefix_frozen: bool = False

    @property
    def key(self) -> str:
        """Identifies what features depend on."""
        raise TypeError(f"{type(self).__name__} has no key")

    @property
    def vocabulary_size(self) -> int | None:
        """How many words or pieces it has learned from the user's texts; None where it came with its own."""
        return None

    @property
    def feature_key(self) -> str:
        """Identifies what the output of `prefix` depends on."""
        return self.key

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> ids padded to the longest of them. An empty text is one special token, never none."""
        raise TypeError(f"{type(self).__name__} cannot tokenize")

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """(N, L), (N, L) -> (N, L, D)."""
        raise TypeError(f"{type(self).__name__} cannot encode")

    def prefix(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The part that is never trained, of encoders with `prefix_frozen`: (N, L), (N, L) -> (N, L, D)."""
        raise TypeError(f"{type(self).__name__} has no frozen part")

    def suffix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The part that is trained, from the output of `prefix`: (N, L, D), (N, L) -> (N, L, D)."""
        raise TypeError(f"{type(self).__name__} has no frozen part")

    def words(self, text: str) -> list[str]:
        """The words of a text as the vocabulary counts them."""
        return []

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words it has no entry for, with how often they occur; word-piece encoders know every word."""
        return Counter()

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> features (N, L, D) and mask (N, L)."""
        device = next(self.parameters()).device
        tokens = self.tokenize(texts)
        mask = tokens.mask.to(device)
        return self(tokens.ids.to(device), mask), mask

    @classmethod
    def build(cls, spec: str, **given: Any) -> TextEncoder:
        """A new encoder, called with `texts`, `patients`, `dim`, `max_tokens`, `seed` (see
        `registry.build_text_encoder`) and what it `takes`.
        """
        raise TypeError(f"{cls.__name__} cannot be built")

    def save(self, folder: Path) -> None:
        """Write what `load` needs: encoder.json, with `spec`, and the weights as *.safetensors."""
        raise TypeError(f"{type(self).__name__} cannot be saved")

    @classmethod
    def load(cls, folder: Path, *, show_progress: bool = True) -> TextEncoder:
        """The encoder that `save` wrote, in eval mode."""
        raise TypeError(f"{cls.__name__} cannot be loaded")
