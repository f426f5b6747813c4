"""The model of `task: classify`: an image encoder and a linear layer.

Shapes: B images, C channels, H W pixels, D pooled features, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medvl.config import Config
from medvl.models.classifier import ImageClassifier
from medvl.models.module import NetworkModule
from medvl.models.registry import construct, image_network_options


class Classifier(NetworkModule):
    """The network that is optimised and saved; it takes no text."""

    network: ImageClassifier

    def forward(self, image: Tensor, pooled: bool = False) -> Tensor:
        """(B, C, H, W), or with `pooled` the encoder's features (B, D, 1, 1) -> logits (B, K)."""
        if pooled:
            return self.network.classify(image.flatten(1))
        logits: Tensor = self.network(image)
        return logits


def build_classifier(config: Config, num_classes: int) -> Classifier:
    """The network of a configuration, initialised from `train.seed`."""
    torch.manual_seed(config.train.seed)
    return Classifier(construct(ImageClassifier, "classifier", classifier_options(config, num_classes)))


def classifier_options(config: Config, num_classes: int) -> dict[str, Any]:
    """The constructor arguments of a configuration's network. InputError on an option that it does not have."""
    return image_network_options(ImageClassifier, config, num_classes)
