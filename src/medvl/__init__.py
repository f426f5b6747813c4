"""medvl: medical images and the text that comes with them, turned into pixels, with the evidence."""

from __future__ import annotations

import importlib
from typing import Any

import medvl.tasks.base  # noqa: F401  (fills the registry of tasks; imports nothing heavy)

__version__ = "0.2.0"

# Resolved on first use, so that `import medvl` and `medvl --help` do not import torch.
_PUBLIC = {
    "LViT": "medvl.models.lvit",
    "G2D": "medvl.models.g2d",
    "UNet": "medvl.models.unet",
    "load": "medvl.inference.load",
    "Predictor": "medvl.inference.predictor",
    "ZeroShot": "medvl.tasks.pretrain.zero_shot",
    "Segmentation": "medvl.inference.predictor",
    "Record": "medvl.data.record",
    "load_manifest": "medvl.data.records",
    "read_image": "medvl.data.images",
    "findings": "medvl.data.reports",
    "mirror_text": "medvl.data.reports",
    "build_text_encoder": "medvl.text.registry",
    "Config": "medvl.config.config",
    "load_config": "medvl.config.config",
    "InputError": "medvl.core.errors",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'medvl' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
