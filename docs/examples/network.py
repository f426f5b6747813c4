"""A segmentation network: the words scale and shift the channels of the deepest map (FiLM, arXiv 1709.07871).

Import this file, and `model: {name: film}` trains it. Inside medvl it is a file in src/medvl/models/ and a line in its
registry.py; tests/conformance.py then holds it to what the rest of medvl takes for granted.

Shapes: B images, N rows (one text each), K classes, L text tokens, D text width, h w the grid of the deepest map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medvl.models.base import ImageFeatures, SegmentationNetwork, expand_rows, text_keep_mask
from medvl.models.registry import MODELS

STRIDE, WIDTH = 8, 32


class FiLMNetwork(SegmentationNetwork):
    """Strided convolutions, a scale and a shift from the mean of the words, two layers and nearest upsampling."""

    ABOUT = "convolutions, modulated by the mean of the words"
    SOURCE = "docs/architecture.md"
    uses_text = True

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1, image_size: int | tuple[int, int] = 224, text_dim: int
    ) -> None:
        super().__init__(in_channels=in_channels, image_size=image_size, stride=STRIDE)
        self.text_dim = text_dim
        self.encoder = nn.Sequential(nn.Conv2d(in_channels, WIDTH, STRIDE, stride=STRIDE), nn.BatchNorm2d(WIDTH))
        self.film = nn.Linear(text_dim, 2 * WIDTH)
        self.mix = nn.Conv2d(WIDTH, WIDTH, 1)
        self.outc = nn.Conv2d(WIDTH, num_classes, 1)

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H', W') -> the one map (B, 32, h, w)."""
        return (self.encoder(image),)

    def decode_rows(
        self, image_features: ImageFeatures, text_features: Tensor, text_mask: Tensor, image_index: Tensor
    ) -> Tensor:
        """The map, text features (N, L, D), their mask (N, L) and the image of each row -> logits (N, K, H', W')."""
        keep = text_keep_mask(text_features, text_mask)[:, :, None]  # (N, L, 1)
        words = torch.where(keep, text_features, 0).sum(dim=1) / keep.sum(dim=1).clamp(min=1)  # (N, D)
        scale, shift = self.film(words)[:, :, None, None].chunk(2, dim=1)  # 2 x (N, 32, 1, 1)
        x = expand_rows(image_features[0], image_index) * (1 + scale) + shift  # (N, 32, h, w)
        logits = self.outc(F.relu(self.mix(x)))  # (N, K, h, w)
        return F.interpolate(logits, scale_factor=STRIDE, mode="nearest")


MODELS["film"] = FiLMNetwork
