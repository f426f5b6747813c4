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
    _check_names(name, options, known)
    return construct(MODELS[name], name, options)


def configured_options(
    network: type[nn.Module], model: ModelConfig, set_elsewhere: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """The constructor arguments of a network by its section `model`: `size` and `encoder`, and its options.

    Args:
        set_elsewhere: arguments that other sections say, which are no options.
        options: in the place of `model.options` of that name.

    Raises:
        InputError: a size or an image encoder for a network that has no such thing, or an option that it has not.
    """
    known = constructor_names(network)
    keys = {key: value for key, value in (("size", model.size), ("encoder", model.encoder)) if value is not None}
    for key, value in keys.items():
        if key not in known:
            has = [f"model.{other}" for other in ("size", "encoder") if other in known]
            raise InputError.unsupported(
                f"model {model.name} has no model.{key} ({value})",
                expected=has[0] if has else "neither model.size nor model.encoder",
            )
    free = tuple(name for name in known if name not in {"size", "encoder", *set_elsewhere})
    _check_names(model.name, model.options, free)
    return {**keys, **set_elsewhere, **model.options, **options}


def _check_names(name: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """InputError, naming the nearest, unless network `name` has all of `options`."""
    for key in options:
        if key not in known:
            like = nearest(key, known)
            raise InputError.unknown_key(
                f"model {name} has no option {key!r}",
                expected=", ".join(known),
                remedy=f"did you mean {like}?" if like else None,
            )


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


def image_network_options(network: type[nn.Module], config: Config, num_classes: int) -> dict[str, Any]:
    """The arguments of a network that takes images alone. InputError as in `configured_options`."""
    set_elsewhere = {
        "in_channels": config.data.in_channels, "num_classes": num_classes, "image_size": config.data.image_size,
    }  # fmt: skip
    return configured_options(network, config.model, set_elsewhere)
