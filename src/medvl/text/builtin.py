"""The built-in encoder: a vocabulary learned from the training texts and a small transformer over the words.

It needs no weights from elsewhere. Templated captions have a hundred words, and LViT's authors find an embedding layer
enough for them (reference: paper, "BERT-Embed"). Shapes: N texts, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medvl.errors import InputError
from medvl.files import write_json
from medvl.text.encoder import TextEncoder, Tokens

PAD, UNKNOWN, EMPTY = "[PAD]", "[UNK]", "[EMPTY]"
MIN_COUNT = 3  # rarer words become [UNK]: they cannot be learned, and might identify a patient
FILLERS = frozenset("a an the of in on at is are was were be there this that these its".split())
_WORD = re.compile(r"[a-z]+|\d+|[;,.]")


def words_of(text: str) -> list[str]:
    """Lower-case words, numbers and the separators , ; . without the fillers that carry no meaning in a caption."""
    found = [word for word in _WORD.findall(text.lower()) if word not in FILLERS]
    while found and found[-1] in ",;.":
        found.pop()
    return found


class BuiltinEncoder(TextEncoder):
    """Word embeddings and two pre-norm transformer layers with learned relative order.

    Positions are learned for the first `MAX_POSITIONS` words and shared beyond them.
    """

    MAX_POSITIONS = 128
    spec = "builtin"
    frozen = False

    def __init__(
        self, vocabulary: Sequence[str], *, dim: int = 128, max_tokens: int | None = None, p_unknown: float = 0.05
    ) -> None:
        super().__init__()
        if dim % 4:
            raise InputError(f"text.dim: {dim}", expected="a multiple of 4")
        self.vocabulary = tuple(vocabulary)
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}
        self.dim, self.max_tokens, self.p_unknown = dim, max_tokens, p_unknown
        self.embedding = nn.Embedding(len(self.vocabulary), dim, padding_idx=0)
        self.position = nn.Parameter(torch.zeros(self.MAX_POSITIONS, dim))
        layer = nn.TransformerEncoderLayer(
            dim, nhead=4, dim_feedforward=2 * dim, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.position, std=0.1)
        with torch.no_grad():
            self.embedding.weight[0].zero_()

    @classmethod
    def from_texts(
        cls, texts: Sequence[str], *, dim: int = 128, max_tokens: int | None = None, seed: int = 0
    ) -> BuiltinEncoder:
        """A new encoder whose vocabulary are the words of `texts`.

        Kept are words that stand in at least `MIN_COUNT` texts and numbers of at most two digits. The global random
        generator is left as it was.
        """
        counts = Counter(word for text in texts for word in set(words_of(text)))
        if not counts:
            raise InputError(
                "no training text for the built-in text encoder",
                expected="texts in the manifest's text column",
                remedy="set data.text_column, or text.encoder=none for a model without text",
            )
        kept = sorted(w for w, n in counts.items() if n >= MIN_COUNT and not (w.isdigit() and len(w) > 2))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls((PAD, UNKNOWN, EMPTY, *kept), dim=dim, max_tokens=max_tokens)

    @property
    def key(self) -> str:
        """Hash of vocabulary, weights and max_tokens."""
        digest = hashlib.sha256(json.dumps([self.vocabulary, self.max_tokens]).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return f"builtin-{digest.hexdigest()[:16]}"

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> ids; unknown words are [UNK], an empty text is [EMPTY]."""
        rows, num_truncated = [], 0
        for text in texts:
            words = words_of(text) or [EMPTY]
            if self.max_tokens is not None and len(words) > self.max_tokens:
                words = words[: self.max_tokens]
                num_truncated += 1
            rows.append([self.ids.get(word, 1) for word in words])
        length = max((len(row) for row in rows), default=1)
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long).view(len(rows), length)
        return Tokens(ids, ids != 0, num_truncated)

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words outside the vocabulary."""
        return Counter(word for text in texts for word in words_of(text) if word not in self.ids)

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """(N, L), (N, L) -> (N, L, D). In training some words are made [UNK], so that new wordings are read."""
        keep = ids != 0 if mask is None else mask
        if self.training and self.p_unknown:
            hidden = (torch.rand(ids.shape, device=ids.device) < self.p_unknown) & (ids > 2)
            ids = ids.masked_fill(hidden, 1)
        place = torch.arange(ids.shape[1], device=ids.device).clamp(max=self.MAX_POSITIONS - 1)
        x = self.embedding(ids) + self.position[place]  # (N, L, D)
        out: Tensor = self.norm(self.layers(x, src_key_padding_mask=~keep))
        return out * keep[:, :, None]

    def save(self, folder: Path) -> None:
        """Write encoder.json (with the vocabulary) and encoder.safetensors."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}, str(folder / WEIGHTS))
        stored = {"spec": "builtin", "dim": self.dim, "max_tokens": self.max_tokens, "vocabulary": self.vocabulary}
        write_json(folder / "encoder.json", stored)

    @classmethod
    def load(cls, folder: Path) -> BuiltinEncoder:
        """The encoder that `save` wrote, in eval mode."""
        from safetensors.torch import load_file

        stored = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        encoder = cls(stored["vocabulary"], dim=stored["dim"], max_tokens=stored["max_tokens"])
        encoder.load_state_dict(load_file(str(folder / WEIGHTS)))
        return encoder.eval()


WEIGHTS = "encoder.safetensors"
