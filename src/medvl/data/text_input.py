"""Texts -> what a network is fed; and what its encoder makes of the texts of a data set.

The latter is how large its vocabulary is, how many words it does not know, which texts are cut, and which different
texts are the same to it.

Shapes: N texts, L tokens, D width, k clinical variables.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medvl.core.device import to_device
from medvl.core.errors import InputError, warn
from medvl.data.context import Context, ContextRules
from medvl.data.record import Record
from medvl.data.reports import findings
from medvl.text.base import TextEncoder
from medvl.text.cache import FeatureCache


@dataclass
class TextInput:
    """Texts -> what `SegmentModel.forward` takes: tokens of a trained encoder, features of a frozen one.

    `context`: how the clinical variables beside the texts are read; None where there are none.
    """

    encoder: TextEncoder | None = None
    cache: FeatureCache | None = None
    uses_text: bool = False
    num_truncated: int = 0
    context: ContextRules | None = None

    def __call__(
        self, texts: Iterable[str], device: torch.device, context: Sequence[Context] = ()
    ) -> tuple[Tensor | None, Tensor | None]:
        """-> (ids (N, L) or features (N, L, D), mask (N, L)), or (None, None) for a network without text.

        Args:
            context: the clinical variables of each text, of which no row means that all are missing. They are in the
                texts only where the recipe says `context_as: text`.
        """
        if not self.uses_text or self.encoder is None:
            return None, None
        written = self.written(list(texts), context)
        if self.cache is not None:
            features, mask = self.cache.features(written)
            return to_device(features, device), to_device(mask, device)
        tokens = self.encoder.tokenize(written)
        self.num_truncated += tokens.num_truncated
        return to_device(tokens.ids, device), to_device(tokens.mask, device)

    def written(self, texts: Sequence[str], context: Sequence[Context] = ()) -> list[str]:
        """The texts as the encoder reads them."""
        if self.context is None:
            return list(texts)
        return [self.context.written(text, row) for text, row in zip(texts, context or [{}] * len(texts), strict=True)]

    def context_values(self, num_texts: int, context: Sequence[Context], device: torch.device) -> Tensor | None:
        """(N, k) values of the context's tokens, NaN = missing (all of them without rows); None without such tokens."""
        if self.context is None or self.context.mode != "tokens":
            return None
        return to_device(torch.from_numpy(self.context.values(context or [{}] * num_texts)), device)


MAX_UNKNOWN = 0.75  # share of unknown words above which an encoder can hardly read the texts
MAX_CONFUSED = 0.01  # share of rows that are the same to the encoder as others with another mask
LISTED = 5


@dataclass(frozen=True, slots=True)
class TextCoverage:
    """Counts over the rows of one split."""

    num_rows: int
    num_empty: int
    num_distinct: int
    num_words: int
    unknown: Counter[str]  # word -> how often it stands in the rows
    vocabulary: int | None  # None: the encoder came with its own
    shortest: int  # tokens
    longest: int
    num_truncated: int  # distinct texts that are cut
    max_tokens: int | None

    @property
    def share_unknown(self) -> float:
        """Of the words in all rows, those that the encoder does not know, from 0 to 1."""
        return self.unknown.total() / self.num_words if self.num_words else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For the plan and for results."""
        return {
            "rows": self.num_rows,
            "empty": self.num_empty,
            "distinct": self.num_distinct,
            "vocabulary": self.vocabulary,
            "unknown_words": round(self.share_unknown, 4),
            "tokens": [self.shortest, self.longest],
            "cut": self.num_truncated,
        }

    def line(self, split: str) -> str:
        """One line for the terminal."""
        parts = [f"{self.num_distinct} distinct {split} texts, {self.shortest} to {self.longest} tokens"]
        parts.append(f"{self.num_truncated} CUT to {self.max_tokens}" if self.num_truncated else "none cut")
        if self.vocabulary is not None:
            parts.append(f"vocabulary {self.vocabulary} words or pieces")
        if self.vocabulary is not None or self.unknown:
            parts.append(f"{self.share_unknown:.1%} of the words unknown{self._examples()}")
        if self.num_empty:
            parts.append(f"{self.num_empty} of {self.num_rows} {split} records have NO text")
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """What a user of these texts must know: empty texts and unknown words."""
        lines = []
        if self.num_empty:
            lines.append(f"{self.num_empty} of {self.num_rows} records have no text")
        if self.unknown:
            lines.append(f"{self.share_unknown:.1%} of the words are unknown to the model{self._examples()}")
        return lines

    def _examples(self) -> str:
        words = [word for word, _ in self.unknown.most_common(LISTED)]
        return f" ({', '.join(words)}{', ...' if len(self.unknown) > LISTED else ''})" if words else ""


def text_coverage(encoder: TextEncoder, texts: Sequence[str]) -> TextCoverage:
    """Count over the N texts of some rows, as the encoder is fed them."""
    counts = Counter(texts)
    distinct = sorted(counts)
    tokens = encoder.tokenize(distinct)
    lengths = tokens.mask.sum(dim=1)
    unknown_words = set(encoder.unknown_words(distinct))
    unknown: Counter[str] = Counter()
    num_words = 0
    for text, number in counts.items():
        words = encoder.words(text)
        num_words += number * len(words)
        if unknown_words:
            for word in words:
                if word in unknown_words:
                    unknown[word] += number
    return TextCoverage(
        num_rows=len(texts),
        num_empty=sum(number for text, number in counts.items() if not text.strip()),
        num_distinct=len(distinct),
        num_words=num_words,
        unknown=unknown,
        vocabulary=encoder.vocabulary_size,
        shortest=int(lengths.min()) if distinct else 0,
        longest=int(lengths.max()) if distinct else 0,
        num_truncated=tokens.num_truncated,
        max_tokens=encoder.max_tokens,
    )


def check_readable(coverage: TextCoverage) -> None:
    """InputError where the encoder knows less than a quarter of the words: the texts would be ignored."""
    if coverage.share_unknown > MAX_UNKNOWN:
        raise InputError.unknown(
            f"the text encoder does not know {coverage.share_unknown:.0%} of the words of the training texts"
            f"{coverage._examples()}: the text would be ignored",
            expected=f"at most {MAX_UNKNOWN:.0%} unknown words",
            remedy="text.encoder=minilm, which knows every word, or more training rows",
        )


def check_distinguishable(encoder: TextEncoder, records: Sequence[Record], texts: Sequence[str]) -> None:
    """Different texts that are the same to the encoder, though their masks differ: an InputError, or, where hardly
    any row is concerned, a warning with the count.

    Answers differ where one image has another mask for each text, or where the texts name other sides, zones or
    denials.

    Args:
        records: N training rows.
        texts: the text of each, as the encoder is fed it.
    """
    distinct = sorted(set(texts))
    tokens = encoder.tokenize(distinct)
    codes: dict[tuple[int, ...], int] = {}
    code_of = {
        text: codes.setdefault(tuple(ids[mask].tolist()), len(codes))
        for text, ids, mask in zip(distinct, tokens.ids, tokens.mask, strict=True)
    }
    rows_of: dict[int, list[int]] = defaultdict(list)
    for n, text in enumerate(texts):
        rows_of[code_of[text]].append(n)
    confused: list[int] = []
    example = ("", "")
    for rows in rows_of.values():
        wordings = {" ".join(texts[n].lower().split()) for n in rows}
        if len(wordings) < 2:
            continue
        if len({_places(text) for text in wordings}) > 1:
            confused += rows
            example = example if example[0] else _two_with_other_places(wordings)
            continue
        by_image: dict[object, list[int]] = defaultdict(list)
        for n in rows:
            by_image[records[n].image].append(n)
        for group in by_image.values():
            if len({texts[n] for n in group}) > 1 and len({_answer(records[n]) for n in group}) > 1:
                confused += group
                first = texts[group[0]]
                example = example if example[0] else (first, next(texts[n] for n in group if texts[n] != first))
    if not confused:
        return
    message = (
        f"{len(confused)} of {len(texts)} training rows have texts that are the same to the text encoder as others "
        f"with another mask, e.g. {example[0]!r} and {example[1]!r}"
    )
    if len(confused) > MAX_CONFUSED * len(texts):
        raise InputError.ambiguous(
            message,
            expected="texts that the encoder can distinguish",
            remedy="text.encoder=minilm, which knows every word; a larger text.max_tokens; or more training rows",
        )
    warn(message)


def images_with_other_masks(records: Sequence[Record]) -> int:
    """The number of images whose rows have different masks, which only a text distinguishes."""
    answers: dict[object, set[object]] = defaultdict(set)
    for record in records:
        if any(mask is not None for mask in record.masks.values()):
            answers[record.image].add(_answer(record))
    return sum(len(masks) > 1 for masks in answers.values())


def _places(text: str) -> frozenset[tuple[object, ...]]:
    return frozenset((finding.side, finding.zones, finding.negated) for finding in findings(text))


def _two_with_other_places(wordings: set[str]) -> tuple[str, str]:
    first, *others = sorted(wordings)
    return first, next(text for text in others if _places(text) != _places(first))


def _answer(record: Record) -> tuple[object, ...]:
    return tuple((name, mask) for name, mask in sorted(record.masks.items()))
