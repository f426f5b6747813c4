"""Texts -> what a network is fed: tokens of a trained encoder, or ready-made features of a frozen one.

Shapes: N texts, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from medvl.text.cache import FeatureCache
from medvl.text.encoder import TextEncoder


@dataclass
class TextInput:
    """Texts -> what `TextGuidedSegmenter.forward` takes: tokens of a trained encoder, features of a frozen one."""

    encoder: TextEncoder | None
    cache: FeatureCache | None
    uses_text: bool
    num_truncated: int = 0

    def __call__(self, texts: Iterable[str], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """-> (ids (N, L) or features (N, L, D), mask (N, L)), or (None, None) for a network without text."""
        if not self.uses_text or self.encoder is None:
            return None, None
        if self.cache is not None:
            features, mask = self.cache.features(list(texts))
            return features.to(device), mask.to(device)
        tokens = self.encoder.tokenize(list(texts))
        self.num_truncated += tokens.num_truncated
        return tokens.ids.to(device), tokens.mask.to(device)
