"""Networks by name."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from medvl.errors import InputError, nearest
from medvl.models.lvit import LViT
from medvl.models.unet import UNet

MODELS: dict[str, type[nn.Module]] = {"lvit": LViT, "unet": UNet}


def build_model(name: str, **options: Any) -> nn.Module:
    """The network `name` with the constructor arguments `options`; it returns logits and has `uses_text`.

    Raises:
        InputError: an unknown name or option (with the nearest one), or a value the network does not take.
    """
    if name not in MODELS:
        like = nearest(name, MODELS)
        raise InputError(
            f"unknown model {name!r}", expected=" | ".join(MODELS), remedy=f"did you mean {like}?" if like else None
        )
    cls = MODELS[name]
    known = [key for key in inspect.signature(cls).parameters if key != "self"]
    for key in options:
        if key not in known:
            like = nearest(key, known)
            raise InputError(
                f"model {name} has no option {key!r}",
                expected=", ".join(known),
                remedy=f"did you mean {like}?" if like else None,
            )
    return cls(**options)
