"""One interface for every text encoder: tokens in, one feature per token out.

Shapes: N texts, L tokens (the longest text of the batch), D width.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from medvl.core.errors import InputError, nearest

if TYPE_CHECKING:
    from medvl.config import TextConfig

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
        frozen: none of its weights are trained; features may be computed once and kept.
        prefix_frozen: `prefix` does not change in training, so that its output may be computed once and kept. True
            also for a frozen encoder, whose prefix is all of it.
        key: changes with weights, vocabulary and max_tokens.
        feature_key: the key of what `prefix` gives.
    """

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

    def save(self, folder: Path) -> None:
        """Write what `load_text_encoder` needs."""
        raise TypeError(f"{type(self).__name__} cannot be saved")


def build_text_encoder(
    spec: str,
    *,
    texts: Sequence[str] = (),
    patients: Sequence[str] | None = None,
    dim: int = 128,
    max_tokens: int | None = None,
    seed: int = 0,
    train_layers: int = 0,
    layers: int = 2,
    tokenizer: str | None = None,
    init: str | None = None,
) -> TextEncoder | None:
    """The encoder a configuration names; None for "none".

    Args:
        spec: "builtin", "minilm", "hf:ID-or-folder" (a transformers model; an ID is looked up in the local cache and,
            because the user named it, on the hub) or "none".
        texts: the training texts, one per row: the built-in encoder's vocabulary.
        patients: whose each text is; None = every text is of a patient of its own.
        dim: width of the built-in encoder; the others have their own.
        max_tokens: cut longer texts.
        train_layers: how many of the last layers of a pretrained encoder are trained.
        layers: depth of the built-in encoder.
        tokenizer: folder of `medvl tokenizer`: the built-in encoder reads its word pieces instead of words.
        init: folder of `medvl pretrain-text`: where the built-in encoder starts from.

    Raises:
        InputError: unknown spec, missing weights (the message says how to get them), no texts for a vocabulary, an
            option that this encoder does not have, or `init` of another shape.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"text.max_tokens: {max_tokens}", expected="at least 1")
    if spec != "none":  # a recipe without text may leave the other keys as they stand
        _check_options(spec, train_layers, layers, tokenizer, init)
    if spec == "none":
        return None
    if spec == "builtin":
        from medvl.text.builtin import BuiltinEncoder

        if init is not None:
            return BuiltinEncoder.from_folder(
                Path(init),
                texts=texts,
                patients=patients,
                dim=dim,
                layers=layers,
                max_tokens=max_tokens,
                tokenizer=tokenizer,
                seed=seed,
            )
        return BuiltinEncoder.from_texts(
            texts,
            patients=patients,
            dim=dim,
            layers=layers,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
            seed=seed,
        )
    if spec == "minilm" or spec.startswith("hf:"):
        from medvl.text.huggingface import PretrainedEncoder

        return PretrainedEncoder.from_spec(spec, max_tokens=max_tokens, train_layers=train_layers)
    like = nearest(spec, SPECS)
    raise InputError(
        f"unknown text encoder {spec!r}",
        expected=" | ".join(SPECS),
        remedy=f"did you mean {like}?" if like else None,
    )


def configured_encoder(
    config: TextConfig, texts: Sequence[str], seed: int, patients: Sequence[str] | None = None
) -> TextEncoder | None:
    """The encoder of the section `text` of a recipe; `texts` are the training texts, `patients` whose each is."""
    return build_text_encoder(
        config.encoder,
        texts=texts,
        patients=patients,
        dim=config.dim,
        max_tokens=config.max_tokens,
        seed=seed,
        train_layers=config.train_layers,
        layers=config.layers,
        tokenizer=config.tokenizer,
        init=config.init,
    )


def load_text_encoder(folder: Path, *, show_progress: bool = True) -> TextEncoder:
    """The encoder that `save` wrote; `show_progress`: with the bar over the loading of pretrained weights."""
    path = folder / "encoder.json"
    if not path.is_file():
        raise InputError("no text encoder here", file=path, expected="the text/ folder of a model")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if stored["spec"] == "builtin":
        from medvl.text.builtin import BuiltinEncoder

        return BuiltinEncoder.load(folder)
    from medvl.text.huggingface import PretrainedEncoder

    return PretrainedEncoder.load(folder, show_progress=show_progress)


def _check_options(spec: str, train_layers: int, layers: int, tokenizer: str | None, init: str | None) -> None:
    """An option that does nothing for this encoder is an error, not silence."""
    if train_layers < 0:
        raise InputError(f"text.train_layers: {train_layers}", expected="0 (wholly frozen) or more")
    if layers < 1:
        raise InputError(f"text.layers: {layers}", expected="at least 1")
    if spec == "builtin" and train_layers:
        raise InputError(
            f"text.train_layers: {train_layers} with text.encoder builtin",
            expected="a pretrained encoder (minilm, hf:ID-or-folder); of the built-in one everything is trained",
        )
    foreign = {"tokenizer": tokenizer, "init": init, "layers": None if layers == 2 else layers}
    for name, value in foreign.items():
        if spec != "builtin" and value is not None:
            raise InputError(f"text.{name}: {value} with text.encoder {spec}", expected="text.encoder: builtin")
