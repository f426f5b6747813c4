"""The built-in encoder: a vocabulary learned from the training texts and a small transformer over the words.

It needs no weights from elsewhere. Templated captions have a hundred words, and LViT's authors find an embedding layer
enough for them (reference: paper, "BERT-Embed"). Reports have thousands: word pieces (`medvl data tokenizer`) and a
start from masked language modelling (`medvl x pretrain-text`) help. Shapes: N texts, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medvl.core.errors import InputError, warn
from medvl.core.files import write_json
from medvl.text.base import TextEncoder, Tokens
from medvl.text.tokenizer import EMPTY, MIN_COUNT, PAD, SPECIAL, UNKNOWN, WordPieces, word_patients

WEIGHTS = "encoder.safetensors"
PAD_ID, UNKNOWN_ID, NUM_SPECIAL = SPECIAL.index(PAD), SPECIAL.index(UNKNOWN), len(SPECIAL)
FILLERS = frozenset("a an the of in on at is are was were be there this that these its".split())
_WORD = re.compile(r"[a-z]+|\d+|[;,.]")


def words_of(text: str) -> list[str]:
    """Lower-case words, numbers and the separators , ; . without the fillers that carry no meaning in a caption."""
    words = [word for word in _WORD.findall(text.lower()) if word not in FILLERS]
    while words and words[-1] in ",;.":
        words.pop()
    return words


def learn_vocabulary(texts: Sequence[str], patients: Sequence[str] | None = None) -> list[str]:
    """The words that stand in rows of at least `MIN_COUNT` patients, sorted, without numbers of more than two digits.

    Args:
        texts: one per row; equal texts of several rows count as often as they stand there.
        patients: whose each text is; None = every text is of a patient of its own.

    Raises:
        InputError: no text has a word, or no word stands in the rows of enough patients.
    """
    counts = word_patients((words_of(text) for text in texts), patients)
    if not counts:
        raise InputError.empty(
            "no training text for the built-in text encoder",
            expected="texts in the manifest's text column",
            remedy="set data.text_column, or text.encoder=none for a model without text",
        )
    vocabulary = sorted(w for w, n in counts.items() if n >= MIN_COUNT and not (w.isdigit() and len(w) > 2))
    if not vocabulary:
        raise InputError.empty(
            f"the vocabulary of the built-in text encoder is empty: no word stands in texts of {MIN_COUNT} patients",
            expected=f"words that at least {MIN_COUNT} training patients share (rarer ones might identify a patient)",
            remedy="more training rows, text.encoder=minilm (it knows every word), or text.tokenizer=FOLDER",
        )
    return vocabulary


class BuiltinEncoder(TextEncoder):
    """Word (or word piece) embeddings and pre-norm transformer layers with learned relative order.

    Positions are learned for the first `MAX_POSITIONS` tokens and shared beyond them.
    """

    MAX_POSITIONS = 128
    takes = frozenset({"layers", "tokenizer", "init"})
    spec = "builtin"
    frozen = False

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        dim: int = 128,
        max_tokens: int | None = None,
        p_unknown: float = 0.05,
        layers: int = 2,
        pieces: WordPieces | None = None,
    ) -> None:
        """`pieces` None: the vocabulary is of words; else it is that of the word pieces."""
        super().__init__()
        if dim % 4:
            raise InputError.out_of_range(f"text.dim: {dim}", expected="a multiple of 4")
        self.vocabulary, self.pieces = tuple(vocabulary), pieces
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}
        self.dim, self.max_tokens, self.p_unknown, self.num_layers = dim, max_tokens, p_unknown, layers
        self.embedding = nn.Embedding(len(self.vocabulary), dim, padding_idx=PAD_ID)
        self.position = nn.Parameter(torch.zeros(self.MAX_POSITIONS, dim))
        layer = nn.TransformerEncoderLayer(
            dim, nhead=4, dim_feedforward=2 * dim, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.position, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD_ID].zero_()

    @classmethod
    def build(cls, spec: str, *, init: str | None = None, **given: Any) -> BuiltinEncoder:
        """A new encoder, or one that starts from the folder `init`."""
        return cls.from_texts(**given) if init is None else cls.from_folder(Path(init), **given)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        *,
        patients: Sequence[str] | None = None,
        dim: int = 128,
        max_tokens: int | None = None,
        seed: int = 0,
        layers: int = 2,
        tokenizer: str | Path | None = None,
    ) -> BuiltinEncoder:
        """A new encoder whose vocabulary are the words of `texts`, or the word pieces in the folder `tokenizer`.

        Words are kept as `learn_vocabulary` says. The global random generator is left as it was.
        """
        pieces = None if tokenizer is None else WordPieces.load(Path(tokenizer))
        vocabulary = (*SPECIAL, *learn_vocabulary(texts, patients)) if pieces is None else pieces.vocabulary
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(vocabulary, dim=dim, max_tokens=max_tokens, layers=layers, pieces=pieces)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        texts: Sequence[str],
        patients: Sequence[str] | None = None,
        dim: int,
        layers: int,
        max_tokens: int | None,
        tokenizer: str | Path | None = None,
        seed: int = 0,
    ) -> BuiltinEncoder:
        """The pretrained encoder in `folder` as a start, to be trained on.

        Words of `texts` that it does not know are appended to its vocabulary with new vectors and counted in a note;
        word pieces need no new entries.

        Raises:
            InputError: not a built-in encoder, or of another width, depth or tokenizer than asked for.
        """
        if not (folder / "encoder.json").is_file():
            raise InputError.missing_file(
                "no text encoder here", file=folder, expected="a folder that medvl x pretrain-text wrote"
            )
        if json.loads((folder / "encoder.json").read_text(encoding="utf-8"))["spec"] != cls.spec:
            raise InputError.malformed(
                "text.init is no built-in encoder", file=folder, remedy="text.encoder: hf:FOLDER"
            )
        encoder = cls.load(folder)
        for name, present, wanted in (("dim", encoder.dim, dim), ("layers", encoder.num_layers, layers)):
            if present != wanted:
                raise InputError.mismatch(
                    f"text.init has {name} {present}, text.{name} is {wanted}",
                    file=folder,
                    remedy=f"set text.{name}: {present}",
                )
        if tokenizer is not None:
            wanted_pieces = WordPieces.load(Path(tokenizer)).vocabulary
            if encoder.pieces is None or wanted_pieces != encoder.pieces.vocabulary:
                raise InputError.mismatch(
                    "text.init was pretrained with another tokenizer than text.tokenizer names",
                    file=folder,
                    remedy="leave text.tokenizer out: text.init brings its own",
                )
        encoder.max_tokens = max_tokens
        if encoder.pieces is None:
            new = [word for word in learn_vocabulary(texts, patients) if word not in encoder.ids]
            if new:
                warn(f"{folder}: {len(new)} words of the training texts are new to text.init, e.g. {new[0]!r}; added")
                encoder._extend(new, seed)
        return encoder.train()

    def _extend(self, words: Sequence[str], seed: int) -> None:
        """Append entries with vectors as long as the learned ones."""
        old = self.embedding.weight.detach()
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(len(words), self.dim, generator=generator) * old[NUM_SPECIAL:].std()
        self.vocabulary = (*self.vocabulary, *words)
        self.ids = {word: i for i, word in enumerate(self.vocabulary)}
        self.embedding = nn.Embedding(len(self.vocabulary), self.dim, padding_idx=PAD_ID)
        self.embedding.weight = nn.Parameter(torch.cat([old, rows]))

    @property
    def vocabulary_size(self) -> int:
        """Words or pieces without the special entries."""
        return len(self.vocabulary) - NUM_SPECIAL

    @property
    def key(self) -> str:
        """Hash of vocabulary, weights and max_tokens."""
        digest = hashlib.sha256(json.dumps([self.vocabulary, self.max_tokens]).encode())
        if self.pieces is not None:
            digest.update(self.pieces.to_json().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return f"builtin-{digest.hexdigest()[:16]}"

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts -> ids; unknown words are [UNK], an empty text is [EMPTY]."""
        rows, num_truncated = [], 0
        for row in self._rows(texts):
            row = row or [SPECIAL.index(EMPTY)]
            if self.max_tokens is not None and len(row) > self.max_tokens:
                row = row[: self.max_tokens]
                num_truncated += 1
            rows.append(row)
        length = max((len(row) for row in rows), default=1)
        padded = [row + [PAD_ID] * (length - len(row)) for row in rows]
        ids = torch.tensor(padded, dtype=torch.long).view(len(rows), length)
        return Tokens(ids, ids != PAD_ID, num_truncated)

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        if self.pieces is not None:
            return self.pieces.encode(texts)
        return [[self.ids.get(word, UNKNOWN_ID) for word in words_of(text)] for text in texts]

    def words(self, text: str) -> list[str]:
        """The words of a text as the vocabulary counts them."""
        return words_of(text) if self.pieces is None else self.pieces.words(text)

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words outside the vocabulary, or of which no pieces are known."""
        if self.pieces is not None:
            return self.pieces.unknown_words(texts)
        return Counter(word for text in texts for word in words_of(text) if word not in self.ids)

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """(N, L), (N, L) -> (N, L, D). In training some words are made [UNK], so that new wordings are read."""
        keep = ids != PAD_ID if mask is None else mask
        if self.training and self.p_unknown:
            hidden = (torch.rand(ids.shape, device=ids.device) < self.p_unknown) & (ids >= NUM_SPECIAL)
            ids = ids.masked_fill(hidden, UNKNOWN_ID)
        place = torch.arange(ids.shape[1], device=ids.device).clamp(max=self.MAX_POSITIONS - 1)
        x = self.embedding(ids) + self.position[place]  # (N, L, D)
        out: Tensor = self.norm(self.layers(x, src_key_padding_mask=~keep))
        return out * keep[:, :, None]

    def save(self, folder: Path) -> None:
        """Write encoder.json (with the vocabulary), encoder.safetensors and, of word pieces, tokenizer.json."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}, str(folder / WEIGHTS))
        stored: dict[str, Any] = {"spec": "builtin", "dim": self.dim, "max_tokens": self.max_tokens}
        if self.num_layers != 2:
            stored["layers"] = self.num_layers
        if self.pieces is None:
            stored["vocabulary"] = self.vocabulary
        else:
            self.pieces.save(folder)
            stored["pieces"] = len(self.pieces)
        write_json(folder / "encoder.json", stored)

    @classmethod
    def load(cls, folder: Path, *, show_progress: bool = True) -> BuiltinEncoder:
        """The encoder that `save` wrote, in eval mode."""
        from safetensors.torch import load_file

        stored = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        pieces = WordPieces.load(folder) if "pieces" in stored else None
        vocabulary = stored["vocabulary"] if pieces is None else pieces.vocabulary
        if pieces is not None and len(pieces) != stored["pieces"]:
            expected = f"the encoder's {stored['pieces']}"
            raise InputError.mismatch(f"{len(pieces)} word pieces", file=folder / "tokenizer.json", expected=expected)
        encoder = cls(
            vocabulary,
            dim=stored["dim"],
            max_tokens=stored["max_tokens"],
            layers=stored.get("layers", 2),
            pieces=pieces,
        )
        encoder.load_state_dict(load_file(str(folder / WEIGHTS)))
        return encoder.eval()
