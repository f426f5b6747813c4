"""The model of `task: detect`: YOLOv3's head on an image encoder.

Shapes: B images, C channels, H W pixels, P places, K classes.
"""

from __future__ import annotations

from typing import Any

import torch

from medvl.config import Config
from medvl.models.module import ImageModule
from medvl.models.registry import construct, image_network_options
from medvl.models.yolo import YOLO


class Detector(ImageModule):
    """The network that is optimised and saved; it takes no text."""

    network: YOLO  # (B, C, H, W) -> logits (B, P, 5 + K)


def build_detector(config: Config, num_classes: int) -> Detector:
    """The network of a configuration, initialised from `train.seed`."""
    torch.manual_seed(config.train.seed)
    return Detector(construct(YOLO, "yolo", detector_options(config, num_classes)))


def detector_options(config: Config, num_classes: int) -> dict[str, Any]:
    """The constructor arguments of a configuration's network. InputError on an option that it does not have."""
    return image_network_options(YOLO, config, num_classes)
