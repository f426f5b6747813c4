"""Texts -> what a network is fed: tokens of a trained encoder, or ready-made features of a frozen one.

Shapes: N texts, L tokens, D width, k clinical variables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medvl.core.device import to_device
from medvl.data.context import Context, ContextRules
from medvl.text.base import TextEncoder
from medvl.text.cache import FeatureCache


@dataclass
class TextInput:
    """Texts -> what `TextGuidedSegmenter.forward` takes: tokens of a trained encoder, features of a frozen one.

    `context`: how the clinical variables beside the texts are read; None where there are none.
    """

    encoder: TextEncoder | None
    cache: FeatureCache | None
    uses_text: bool
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
