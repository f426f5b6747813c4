"""Which text encoder a configuration or a saved folder means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.core.errors import InputError, nearest
from medvl.text.base import TextEncoder
from medvl.text.builtin import BuiltinEncoder
from medvl.text.huggingface import PretrainedEncoder

if TYPE_CHECKING:
    from medvl.config import TextConfig

SPECS = ("builtin", "minilm", "none", "hf:ID-or-folder")


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
        tokenizer: folder of `medvl data tokenizer`: the built-in encoder reads its word pieces instead of words.
        init: folder of `medvl x pretrain-text`: where the built-in encoder starts from.

    Raises:
        InputError: unknown spec, missing weights (the message says how to get them), no texts for a vocabulary, an
            option that this encoder does not have, or `init` of another shape.
    """
    if max_tokens is not None and max_tokens < 1:
        raise InputError.out_of_range(f"text.max_tokens: {max_tokens}", expected="at least 1")
    if spec != "none":  # a recipe without text may leave the other keys as they stand
        _check_options(spec, train_layers, layers, tokenizer, init)
    if spec == "none":
        return None
    if spec == "builtin":
        options: dict[str, Any] = {"texts": texts, "patients": patients, "dim": dim, "layers": layers, "seed": seed}
        options |= {"max_tokens": max_tokens, "tokenizer": tokenizer}
        return (
            BuiltinEncoder.from_texts(**options) if init is None else BuiltinEncoder.from_folder(Path(init), **options)
        )
    if spec == "minilm" or spec.startswith("hf:"):
        return PretrainedEncoder.from_spec(spec, max_tokens=max_tokens, train_layers=train_layers)
    like = nearest(spec, SPECS)
    raise InputError.unknown(
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
        raise InputError.missing_file("no text encoder here", file=path, expected="the text/ folder of a model")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if stored["spec"] == "builtin":
        return BuiltinEncoder.load(folder)
    return PretrainedEncoder.load(folder, show_progress=show_progress)


def _check_options(spec: str, train_layers: int, layers: int, tokenizer: str | None, init: str | None) -> None:
    """An option that does nothing for this encoder is an error, not silence."""
    if train_layers < 0:
        raise InputError.out_of_range(f"text.train_layers: {train_layers}", expected="0 (wholly frozen) or more")
    if layers < 1:
        raise InputError.out_of_range(f"text.layers: {layers}", expected="at least 1")
    if spec == "builtin" and train_layers:
        raise InputError.conflict(
            f"text.train_layers: {train_layers} with text.encoder builtin",
            expected="a pretrained encoder (minilm, hf:ID-or-folder); of the built-in one everything is trained",
        )
    foreign = {"tokenizer": tokenizer, "init": init, "layers": None if layers == 2 else layers}
    for name, value in foreign.items():
        if spec != "builtin" and value is not None:
            raise InputError.conflict(
                f"text.{name}: {value} with text.encoder {spec}", expected="text.encoder: builtin"
            )
