"""Text encoders by name: a new one is a file beside this one and a line here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.core.errors import InputError, nearest
from medvl.text.base import TextEncoder
from medvl.text.builtin import BuiltinEncoder
from medvl.text.huggingface import PretrainedEncoder

if TYPE_CHECKING:
    from medvl.config import TextConfig

# Name, or prefix of a name -> the class that builds and loads it.
TEXT_ENCODERS: dict[str, type[TextEncoder]] = {
    "builtin": BuiltinEncoder,
    "minilm": PretrainedEncoder,
    "hf:": PretrainedEncoder,
}
# Keys of the section `text` that only some encoders have, with their defaults; see `TextEncoder.takes`.
OPTIONS: dict[str, Any] = {"train_layers": 0, "layers": 2, "tokenizer": None, "init": None}


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
    if spec == "none":  # a recipe without text may leave the other keys as they stand
        return None
    given = {"train_layers": train_layers, "layers": layers, "tokenizer": tokenizer, "init": init}
    kind = _find(spec)
    _check_options(spec, kind, given)
    options = {name: value for name, value in given.items() if name in kind.takes}
    return kind.build(spec, texts=texts, patients=patients, dim=dim, max_tokens=max_tokens, seed=seed, **options)


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
    return _find(stored["spec"]).load(folder, show_progress=show_progress)


def _find(spec: str) -> type[TextEncoder]:
    """The class of a name. InputError, with the nearest one, where there is none."""
    prefix, colon, _ = spec.partition(":")
    if prefix + colon in TEXT_ENCODERS:
        return TEXT_ENCODERS[prefix + colon]
    names = [*(f"{name}ID-or-folder" if name.endswith(":") else name for name in TEXT_ENCODERS), "none"]
    like = nearest(spec, names)
    raise InputError.unknown(
        f"unknown text encoder {spec!r}",
        expected=" | ".join(names),
        remedy=f"did you mean {like}?" if like else None,
    )


def _check_options(spec: str, kind: type[TextEncoder], given: Mapping[str, Any]) -> None:
    """An option that does nothing for this encoder is an error, not silence."""
    for name, lowest in (("train_layers", 0), ("layers", 1)):
        if given[name] < lowest:
            raise InputError.out_of_range(f"text.{name}: {given[name]}", expected=f"{lowest} or more")
    for name, value in given.items():
        if name not in kind.takes and value != OPTIONS[name]:
            others = " | ".join(other for other, taker in TEXT_ENCODERS.items() if name in taker.takes)
            raise InputError.conflict(
                f"text.{name}: {value} with text.encoder {spec}", expected=f"text.encoder: {others}"
            )
