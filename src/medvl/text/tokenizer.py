"""Word pieces learned from the user's own reports (WordPiece, by the tokenizers library).

What is kept must not identify anyone: only words that stand in reports of at least 3 patients are learned from, so
every piece is part of such a word; a number of more than two digits is one sign, whatever it was.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.core.errors import InputError
from medvl.core.files import write_json, write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, UNKNOWN, EMPTY = "[PAD]", "[UNK]", "[EMPTY]"
SPECIAL = (PAD, UNKNOWN, EMPTY)  # ids 0, 1, 2, as in the word vocabulary
MIN_COUNT = 3  # patients; rarer words cannot be learned, and might identify a patient
LONG_NUMBER = "#"  # stands for every number of three or more digits
MIN_VOCABULARY = 100
FILE, CARD = "tokenizer.json", "tokenizer_card.json"
NOTICE = (
    "Word pieces learned from report texts by medvl: the vocabulary derives from these reports. It holds no number of\n"
    f"more than two digits, and only parts of words that stand in reports of at least {MIN_COUNT} patients. Treat\n"
    "this folder as you treat the reports unless you have read the vocabulary and it identifies no one.\n"
)


class WordPieces:
    """Texts -> ids of word pieces. Ids 0, 1 and 2 are [PAD], [UNK] and [EMPTY]; there is no [CLS]."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        ids: dict[str, int] = tokenizer.get_vocab()
        self.vocabulary = tuple(sorted(ids, key=ids.__getitem__))
        if self.vocabulary[:3] != SPECIAL:
            raise InputError.malformed(
                f"the first entries of the tokenizer are {', '.join(self.vocabulary[:3])}",
                expected=f"{', '.join(SPECIAL)}, as medvl data tokenizer writes them",
            )

    @classmethod
    def train(cls, texts: Sequence[str], vocab_size: int = 8000, patients: Sequence[str] | None = None) -> WordPieces:
        """Learn at most `vocab_size` pieces; fewer where the texts hold no more. The same texts give the same pieces.

        Args:
            patients: whose each text is; None = every text is of a patient of its own.

        Raises:
            InputError: no word stands in the texts of 3 patients, or a size below 100.
        """
        from tokenizers.trainers import WordPieceTrainer

        if vocab_size < MIN_VOCABULARY:
            raise InputError.out_of_range(f"vocab_size is {vocab_size}", expected=f"at least {MIN_VOCABULARY}")
        tokenizer = _tokenizer(SPECIAL)
        words = [_words(tokenizer, text) for text in texts]
        num_patients = word_patients(words, patients)
        counts = Counter(word for row in words for word in row if num_patients[word] >= MIN_COUNT)
        counts.pop(LONG_NUMBER, None)  # it has its entry below, and the trainer would read it as a blank
        if not counts:
            raise InputError.empty(
                f"no word stands in the texts of {MIN_COUNT} patients ({len(texts)} texts)",
                expected="enough report texts to learn word pieces from",
            )
        # The trainer numbers letters in the order of a hash table and breaks ties by number; named beforehand, their
        # order is fixed, and so is the result.
        letters = {word[0] for word in counts} | {f"##{letter}" for word in counts for letter in word[1:]}
        letters |= {LONG_NUMBER} | {prefix + digit for prefix in ("", "##") for digit in "0123456789"}
        if len(SPECIAL) + len(letters) > vocab_size:
            raise InputError.out_of_range(
                f"vocab_size is {vocab_size}", expected=f"more than the {len(letters)} letters and signs of the texts"
            )
        trainer = WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=MIN_COUNT,
            show_progress=False,
            special_tokens=[*SPECIAL, *sorted(letters)],
        )
        tokenizer.train_from_iterator(
            (" ".join([word] * number) for word, number in sorted(counts.items())), trainer=trainer
        )
        ids: dict[str, int] = tokenizer.get_vocab()
        return cls(_tokenizer(sorted(ids, key=ids.__getitem__)))

    @classmethod
    def load(cls, folder: Path) -> WordPieces:
        """The word pieces in `folder`. InputError when there are none, or they cannot be read."""
        from tokenizers import Tokenizer

        path = folder / FILE
        if not path.is_file():
            raise InputError.missing_file(
                "no tokenizer", file=path, expected="a folder that `medvl data tokenizer MANIFEST --out FOLDER` wrote"
            )
        try:
            return cls(Tokenizer.from_file(str(path)))
        except InputError:
            raise
        except Exception as error:  # the library raises bare Exceptions
            raise InputError.damaged(f"not a tokenizer: {error}", file=path) from None

    def save(self, folder: Path, card: dict[str, Any] | None = None) -> None:
        """Write tokenizer.json (and, where a card is given, tokenizer_card.json and README.txt)."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, self.to_json() + "\n")
        if card is not None:
            write_json(folder / CARD, card)
            write_text(folder / "README.txt", NOTICE)

    def to_json(self) -> str:
        """The whole tokenizer as the tokenizers library writes it."""
        return json.dumps(json.loads(self._tokenizer.to_str()), ensure_ascii=False, indent=1)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """One list of ids per text; empty for a text without a word."""
        return [row.ids for row in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids -> lower-case text; [UNK] stays visible, [PAD] and [EMPTY] are dropped."""
        text: str = self._tokenizer.decode([i for i in ids if i not in (0, 2)], skip_special_tokens=False)
        return text

    def words(self, text: str) -> list[str]:
        """The words of a text that are cut into pieces, lower-case."""
        return _words(self._tokenizer, text)

    def unknown_words(self, texts: Sequence[str]) -> Counter[str]:
        """Words of which no pieces are known (a sign that no training text held), lower-case."""
        rows = (_words(self._tokenizer, text) for text in texts)
        counts = Counter(word for row in rows for word in row)
        rows_of_ids = zip(counts, self.encode(list(counts)), strict=True)
        return Counter({word: counts[word] for word, ids in rows_of_ids if 1 in ids})

    def __len__(self) -> int:
        return len(self.vocabulary)


def word_patients(rows: Iterable[Sequence[str]], patients: Sequence[str] | None) -> Counter[str]:
    """{word: number of patients in whose rows it stands, counted up to `MIN_COUNT`}; `rows` are the words of each text.

    `patients` None: every row is of a patient of its own.
    """
    names: Iterable[str | int] = count() if patients is None else patients
    seen: dict[str, set[str | int]] = {}
    for row, patient in zip(rows, names, strict=patients is not None):
        for word in row:
            whose = seen.setdefault(word, set())
            if len(whose) < MIN_COUNT:  # enough is known then: a large table has millions of words
                whose.add(patient)
    return Counter({word: len(whose) for word, whose in seen.items()})


def _tokenizer(vocabulary: Sequence[str]) -> Any:
    """Lower case, long numbers as one sign, words and single punctuation marks, then their pieces.

    The special entries are not looked for in texts: a report that holds the letters "[PAD]" is not padding.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import WordPiece

    pieces = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(pieces, unk_token=UNKNOWN, max_input_chars_per_word=64))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(LONG_NUMBER, " "),
            normalizers.Replace(Regex(r"\d{3,}"), f" {LONG_NUMBER} "),
            # Letters and digits apart: "t12" and "abc1234" are a word and a number.
            normalizers.Replace(Regex(r"(?<=\d)(?=\p{L})|(?<=\p{L})(?=\d)"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def _words(tokenizer: Any, text: str) -> list[str]:
    """The words that are cut into pieces."""
    normal = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
