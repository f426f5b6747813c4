"""One interface for every text encoder: tokens in, one feature per token out.

Shapes: N texts, L tokens (the longest text of the batch), D width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medvl.errors import InputError, nearest

SPECS = ("builtin", "minilm", "none", "hf:ID-or-folder")


@dataclass(frozen=True, slots=True)
class Tokens:
    """`ids` (N, L) int64 and `mask` (N, L) bool, True = a real token; `num_truncated` texts were cut."""

    ids: Tensor
    mask: Tensor
    num_truncated: int


class TextEncoder(nn.Module):
    """What every encoder is: `tokenize`, then `forward`.

    Attributes:
        spec: how it was asked for ("builtin", "minilm", "hf:...").
        dim: D.
        max_tokens: longer texts are cut to this, and counted; None = never.
        frozen: its weights are not trained; features may be computed once and kept.
        key: changes with weights, vocabulary and max_tokens: the key of stored features.
    """

    spec: str
    dim: int
    max_tokens: int | None
    frozen: bool

    @property
    def key(self) -> str:
        """Identifies what features depend on."""
        raise TypeError(f"{type(self).__name__} has no key")

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> ids padded to the longest of them. An empty text is one special token, never none."""
        raise TypeError(f"{type(self).__name__} cannot tokenize")

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """(N, L), (N, L) -> (N, L, D)."""
        raise TypeError(f"{type(self).__name__} cannot encode")

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words it has no entry for, with how often they occur; word-piece encoders know every word."""
        return Counter()

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> features (N, L, D) and mask (N, L)."""
        device = next(self.parameters()).device
        tokens = self.tokenize(texts)
        mask = tokens.mask.to(device)
        return self(tokens.ids.to(device), mask), mask

    def save(self, folder: Path) -> None:
        """Write what `load_text_encoder` needs."""
        raise TypeError(f"{type(self).__name__} cannot be saved")


def build_text_encoder(
    spec: str,
    *,
    texts: Sequence[str] = (),
    dim: int = 128,
    max_tokens: int | None = None,
    seed: int = 0,
) -> TextEncoder | None:
    """The encoder a configuration names; None for "none".

    Args:
        spec: "builtin", "minilm", "hf:ID-or-folder" (a transformers model; an ID is looked up in the local cache and,
            because the user named it, on the hub) or "none".
        texts: the training texts: the built-in encoder's vocabulary.
        dim: width of the built-in encoder; the others have their own.
        max_tokens: cut longer texts.

    Raises:
        InputError: unknown spec, missing weights (the message says how to get them), no texts for a vocabulary.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"text.max_tokens: {max_tokens}", expected="at least 1")
    if spec == "none":
        return None
    if spec == "builtin":
        from medvl.text.builtin import BuiltinEncoder

        return BuiltinEncoder.from_texts(texts, dim=dim, max_tokens=max_tokens, seed=seed)
    if spec == "minilm" or spec.startswith("hf:"):
        from medvl.text.pretrained import PretrainedEncoder

        return PretrainedEncoder.from_spec(spec, max_tokens=max_tokens)
    like = nearest(spec, SPECS)
    raise InputError(
        f"unknown text encoder {spec!r}",
        expected=" | ".join(SPECS),
        remedy=f"did you mean {like}?" if like else None,
    )


def load_text_encoder(folder: Path) -> TextEncoder:
    """The encoder that `save` wrote."""
    path = folder / "encoder.json"
    if not path.is_file():
        raise InputError("no text encoder here", file=path, expected="the text/ folder of a model")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if stored["spec"] == "builtin":
        from medvl.text.builtin import BuiltinEncoder

        return BuiltinEncoder.load(folder)
    from medvl.text.pretrained import PretrainedEncoder

    return PretrainedEncoder.from_spec(stored["spec"], max_tokens=stored["max_tokens"], expected_key=stored["key"])
