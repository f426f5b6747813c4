"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from medvl.config import Config, ModelConfig
from medvl.core.errors import InputError, nearest
from medvl.models.base import SegmentationNetwork
from medvl.models.clipseg import CLIPSeg
from medvl.models.encoder_unet import EncoderUNet
from medvl.models.lvit import LViT
from medvl.models.monai import AttentionUNet, DynUNet, SwinUNETR, UNetPlusPlus
from medvl.models.unet import TextUNet, UNet

MODELS: dict[str, type[SegmentationNetwork]] = {
    "lvit": LViT,
    "unet": UNet,
    "encoder_unet": EncoderUNet,
    "text_unet": TextUNet,
    "unet_plus_plus": UNetPlusPlus,
    "attention_unet": AttentionUNet,
    "dynunet": DynUNet,
    "swin_unetr": SwinUNETR,
    "clipseg": CLIPSeg,
}


def option_names(name: str) -> tuple[str, ...]:
    """The constructor arguments of network `name`; "text_dim" is among them where the network takes text.

    Raises:
        InputError: an unknown name (with the nearest one).
    """
    if name not in MODELS:
        like = nearest(name, MODELS)
        raise InputError.unknown(
            f"unknown model {name!r}", expected=" | ".join(MODELS), remedy=f"did you mean {like}?" if like else None
        )
    return constructor_names(MODELS[name])


def constructor_names(network: type[nn.Module]) -> tuple[str, ...]:
    """The names of a network's constructor arguments."""
    return tuple(inspect.signature(network).parameters)


def build_model(name: str, **options: Any) -> SegmentationNetwork:
    """The network `name` with the constructor arguments `options`; it returns logits and has `uses_text`.

    Raises:
        InputError: an unknown name or option (with the nearest one), or a value the network does not take.
    """
    known = option_names(name)
    for key in options:
        if key not in known:
            like = nearest(key, known)
            raise InputError.unknown_key(
                f"model {name} has no option {key!r}",
                expected=", ".join(known),
                remedy=f"did you mean {like}?" if like else None,
            )
    return construct(MODELS[name], name, options)


def model_keys(network: type[nn.Module], model: ModelConfig) -> dict[str, str]:
    """`size` and `encoder` of a section `model`, as far as the network's constructor takes them.

    Raises:
        InputError: one of them is given to a network that has no such thing.
    """
    known = constructor_names(network)
    given = {key: value for key, value in (("size", model.size), ("encoder", model.encoder)) if value is not None}
    for key, value in given.items():
        if key not in known:
            other = next((other for other in ("size", "encoder") if other in known), None)
            raise InputError.unsupported(
                f"model {model.name} has no model.{key} ({value})",
                expected=f"model.{other}" if other else "neither model.size nor model.encoder",
            )
    return given


Network = TypeVar("Network", bound=nn.Module)


def construct(network: type[Network], name: str, options: Mapping[str, Any]) -> Network:
    """`network(**options)`; `name` is what an error calls it.

    Raises:
        InputError: a value that the network does not take, of another type or out of its range.
    """
    try:
        return network(**options)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        written = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise InputError.malformed(
            f"model {name} cannot be built: {error}", expected="options that it takes", remedy=f"they were {written}"
        ) from error


def image_network_options(network: type[nn.Module], name: str, config: Config, num_classes: int) -> dict[str, Any]:
    """The arguments of a network that takes images alone; `name` is what an error calls it."""
    known = constructor_names(network)
    set_here: dict[str, Any] = {
        **model_keys(network, config.model),
        "in_channels": config.data.in_channels,
        "num_classes": num_classes,
        "image_size": config.data.image_size,
    }
    for key in config.model.options:
        if key not in known or key in set_here:
            raise InputError.unknown_key(
                f"model.options.{key} is no option of {name}",
                expected=", ".join(option for option in known if option not in set_here),
            )
    return {**set_here, **config.model.options}
