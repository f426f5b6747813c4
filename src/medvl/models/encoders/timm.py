"""Any timm model with feature maps as an image encoder: `model.encoder: timm:NAME`, where that package is installed.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medvl.core.errors import InputError, nearest
from medvl.models.base import import_optional
from medvl.models.encoders.base import ImageEncoder


class TimmEncoder(ImageEncoder):
    """timm's `create_model(NAME, features_only=True)`: the deepest map of each resolution, finest first.

    The weights are random ones; nothing is downloaded. `init: weights:FILE` takes those of a file of timm's, with or
    without its classifier.

    Args:
        name: as timm knows it, e.g. "convnext_tiny"; no address of a hub.
        in_channels: C; timm builds the first convolution for it.

    Raises:
        InputError: timm cannot be imported, knows no such model, or gives no feature maps of it.
    """

    def __init__(self, name: str, *, in_channels: int = 1) -> None:
        network = _create(name, in_channels)
        channels, strides = network.feature_info.channels(), network.feature_info.reduction()
        kept = list({stride: i for i, stride in enumerate(strides)}.values())  # the last of each
        fixed = getattr(network, "pretrained_cfg", None) or {}
        super().__init__(
            in_channels=in_channels,
            channels=tuple(channels[i] for i in kept),
            strides=tuple(strides[i] for i in kept),
            fixed_size=tuple(fixed["input_size"][-2:]) if fixed.get("fixed_input_size") else None,
        )
        self.kept = kept
        self.channels_last = "NHWC" in str(getattr(network, "output_fmt", ""))  # Swin and its kin
        self.backbone = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i]).

        Raises:
            InputError: another number of channels, or sides that the model does not take.
        """
        self.check(image)
        maps = self.backbone(image)
        kept = (maps[i] for i in self.kept)
        return tuple(x.permute(0, 3, 1, 2) if self.channels_last else x for x in kept)  # (B, C', h, w)

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file of timm's by the names here, which stand for `stages.0` as `stages_0`."""
        names = {}
        for name in self.state_dict():
            inner = name.removeprefix("backbone.")
            names[_joined(inner.removeprefix("model.").removeprefix("body."))] = name
        return {names[_joined(name)]: value for name, value in tensors.items() if _joined(name) in names}


def _joined(name: str) -> str:
    return name.replace(".", "_")


def _create(name: str, in_channels: int) -> Any:
    """timm's network that returns a list of maps."""
    if not name or not set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"):
        raise InputError.malformed(
            f"image encoder timm:{name}",
            expected="timm:NAME, the name of a model of timm such as convnext_tiny; nothing is fetched from a hub",
        )
    timm = import_optional("timm", what="image encoder timm:" + name, extra="timm")
    known = list(timm.list_models())
    base = name.partition(".")[0]  # a name may end with the tag of its weights
    if base not in known:
        like = nearest(base, known)
        raise InputError.unknown(
            f"timm has no model {name!r}",
            expected="timm.list_models()",
            remedy=f"did you mean {like}?" if like else None,
        )
    try:
        return timm.create_model(name, pretrained=False, features_only=True, in_chans=in_channels)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        AssertionError,
        NotImplementedError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError.unsupported(
            f"timm gives no feature maps of {name} ({reason})", expected="a model with features_only"
        ) from None
