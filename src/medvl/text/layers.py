"""A transformers text model cut in two: embeddings and first layers (prefix), last layers (suffix).

Shapes: N texts, L word pieces, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medvl.core.errors import InputError

_STACKS = ("encoder.layer", "transformer.layer", "encoder.layers")  # BERT and its kin; DistilBERT; CLIP
_FINAL_NORM = "final_layer_norm"  # of CLIP's text tower
_TOLERANCE = 1e-5  # of the check against the whole model, relative to the largest feature; right halves are bit-equal


class SplitLayers:
    """The two halves of a model; it holds references into the model and no weights of its own.

    Layers are called as BERT, RoBERTa, ELECTRA, DistilBERT and CLIP call theirs: hidden states, then an additive
    attention mask. Whether that is right for the model at hand is measured when it is cut, not believed.
    """

    def __init__(self, model: Any, num_trained: int, spec: str) -> None:
        """Cut so that the last `num_trained` layers are the suffix.

        Raises:
            InputError: more layers than there are, or a model whose halves together are not the model.
        """
        self._check = f"text encoder {spec!r}"
        self.stack = self._stack(model)
        if not 1 <= num_trained <= len(self.stack):
            raise InputError.out_of_range(
                f"text.train_layers: {num_trained}; {self._check} has {len(self.stack)} layers",
                expected=f"0 (wholly frozen) to {len(self.stack)}",
            )
        self.model, self.first_trained = model, len(self.stack) - num_trained
        self.norm: nn.Module | None = getattr(model, _FINAL_NORM, None)
        self.causal = self.norm is not None  # CLIP's towers read from left to right
        self._compare()

    @property
    def trained(self) -> list[nn.Module]:
        """The modules of the suffix."""
        layers = list(self.stack)[self.first_trained :]
        return layers if self.norm is None else [*layers, self.norm]

    def prefix(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids (N, L), mask (N, L) bool -> what the first trained layer takes: (N, L, D)."""
        hidden = self.model.embeddings(input_ids=ids)
        if (project := getattr(self.model, "embeddings_project", None)) is not None:  # ELECTRA
            hidden = project(hidden)
        return self._run(list(self.stack)[: self.first_trained], hidden, mask)

    def suffix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(N, L, D), (N, L) bool -> the model's last hidden state (N, L, D)."""
        hidden = self._run(list(self.stack)[self.first_trained :], hidden, mask)
        return hidden if self.norm is None else self.norm(hidden)

    def _run(self, layers: list[nn.Module], hidden: Tensor, mask: Tensor) -> Tensor:
        length, lowest = hidden.shape[1], torch.finfo(hidden.dtype).min
        allowed = mask[:, None, None, :]  # (N, 1, 1, L)
        if self.causal:
            allowed = allowed & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()  # (N, 1, L, L)
        additive = torch.zeros_like(allowed, dtype=hidden.dtype).masked_fill_(~allowed, lowest)
        for layer in layers:
            found = layer(hidden, additive)
            hidden = found[0] if isinstance(found, tuple) else found  # older versions of transformers give a tuple
        return hidden

    def _stack(self, model: Any) -> Any:
        for path in _STACKS:
            node = model
            for name in path.split("."):
                node = getattr(node, name, None)
            if isinstance(node, nn.ModuleList) and len(node) and hasattr(model, "embeddings"):
                return node
        raise self._cannot(type(model).__name__)

    @torch.no_grad()
    def _compare(self) -> None:
        """Both halves against the whole model on two short rows, one of them padded."""
        device = next(self.model.parameters()).device
        length = min(12, int(getattr(self.model.config, "max_position_embeddings", 12)) - 2)
        ids = torch.arange(5, 5 + 2 * length, device=device).view(2, length) % int(self.model.config.vocab_size)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[1, length // 2 :] = False
        try:
            ours = self.suffix(self.prefix(ids, mask), mask)[mask]
            whole = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
        except Exception as error:  # whatever a foreign layer raises when it is called in a way it does not know
            raise self._cannot(f"{type(self.model).__name__}: {error}") from None
        if ours.shape != whole.shape or (ours - whole).abs().max() > _TOLERANCE * whole.abs().max().clamp(min=1):
            raise self._cannot(f"{type(self.model).__name__}: its halves give other features than the whole")

    def _cannot(self, why: str) -> InputError:
        return InputError.unsupported(
            f"text.train_layers: {self._check}: this model's layers cannot be told apart ({why})",
            expected="BERT, RoBERTa, ELECTRA, DistilBERT or a CLIP text tower",
            remedy="text.train_layers: 0 (wholly frozen)",
        )


def drop_frozen(owner: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Hook after `owner.state_dict()`: keep the suffix only. The rest is found again by its reference."""
    for name in frozen_names(owner):
        state.pop(prefix + name, None)


def fill_frozen(owner: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook before `owner.load_state_dict()`: what `drop_frozen` left out stays as it is."""
    own = dict(owner.named_parameters())
    for name in frozen_names(owner):
        state.setdefault(prefix + name, own[name].detach())


def frozen_names(owner: nn.Module) -> list[str]:
    """Names of the parameters outside the suffix of an encoder that has one (attribute `split`)."""
    split: Any = owner.split
    trained = {id(parameter) for module in split.trained for parameter in module.parameters()}
    return [name for name, parameter in owner.named_parameters() if id(parameter) not in trained]
