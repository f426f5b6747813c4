"""Any transformers backbone with feature maps (ConvNeXt, Swin, DINOv2, ResNet ...) as an image encoder.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvl.core.errors import InputError, warn
from medvl.models.encoders.base import ImageEncoder

PROBE_SIDE = 224  # of the image that shows the strides, where the configuration names none
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")


class HFBackbone(ImageEncoder):
    """The deepest map of each resolution, finest first; a plain ViT has one resolution and so one map.

    Strides and channels are found by a pass without data through a copy without weights. A folder that holds only
    config.json gives random weights and says so. An ID is looked up as transformers does it: in the local cache, then
    on the hub, because the user named it; a model's own code is never run. A grey image is fed to all three channels
    of a model of colour images, which equals summing the channels of its first convolution.

    Args:
        source: local folder or ID.
        in_channels: that of the model, or 1.

    Raises:
        InputError: not there, no feature maps, another number of channels.
    """

    def __init__(self, source: str, *, in_channels: int = 1) -> None:
        config, kind = _configuration(source)
        num_channels = int(getattr(config, "num_channels", 3))
        if in_channels not in (1, num_channels):
            raise InputError.mismatch(
                f"{source} takes images of {num_channels} channels, not {in_channels}",
                expected=f"in_channels {num_channels}" + (" or 1" if num_channels != 1 else ""),
            )
        stages, channels, strides, fixed_size = _pyramid(source, config, kind, num_channels)
        super().__init__(in_channels=in_channels, channels=channels, strides=strides, fixed_size=fixed_size)
        self.num_channels = num_channels
        config.out_features = stages
        self.backbone = _network(source, config, kind)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i]).

        Raises:
            InputError: another number of channels, or sides that the model does not take.
        """
        self.check(image)
        if self.in_channels != self.num_channels:
            image = image.expand(-1, self.num_channels, -1, -1)
        return tuple(self.backbone(image).feature_maps)


def _configuration(source: str) -> tuple[Any, Any]:
    """-> transformers' configuration and backbone class of `source`."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    expected = "a folder with config.json (and weights), or an ID, of a transformers backbone"
    if not source:
        raise InputError.missing("image encoder hf: without a folder or an ID", expected=f"hf:FOLDER, {expected}")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError.unreadable(
            f"image encoder hf:{source} cannot be read: {_first_line(error)}", expected=expected
        ) from None
    if type(config) not in MODEL_FOR_BACKBONE_MAPPING:
        raise InputError.unsupported(
            f"image encoder hf:{source} is a {config.model_type}, which gives no feature maps",
            expected="a model with a backbone class, e.g. convnext, convnextv2, swin, swinv2, resnet, dinov2, pvt_v2",
        )
    return config, MODEL_FOR_BACKBONE_MAPPING[type(config)]


def _pyramid(
    source: str, config: Any, kind: Any, num_channels: int
) -> tuple[list[str], tuple[int, ...], tuple[int, ...], tuple[int, int] | None]:
    """-> stages, channels and strides of the maps that are kept, and the only image size where there is one."""
    stages = [name for name in getattr(config, "stage_names", None) or () if name != "stem"]
    side = getattr(config, "image_size", None) or PROBE_SIDE
    size = (int(side), int(side)) if isinstance(side, int) else (int(side[0]), int(side[1]))
    try:
        config.out_features = stages
        with torch.device("meta"):
            twin = kind(config).eval()
            maps = twin(torch.empty(1, num_channels, *size)).feature_maps
    except (RuntimeError, TypeError, ValueError, AttributeError, ImportError, AssertionError) as error:
        raise InputError.unsupported(
            f"no feature maps from hf:{source} ({config.model_type}): {_first_line(error)}"
        ) from None
    try:
        with torch.device("meta"):
            twin(torch.empty(1, num_channels, 2 * size[0], 2 * size[1]))
        fixed_size = None
    except (RuntimeError, ValueError):
        fixed_size = size
    deepest: dict[int, tuple[str, int]] = {}
    for stage, feature_map in zip(stages, maps, strict=True):
        _, channels, height, width = feature_map.shape
        stride = size[0] // height
        if size[1] // width != stride or height * stride > size[0] or (deepest and stride < max(deepest)):
            raise InputError.unsupported(
                f"hf:{source} ({config.model_type}) gives a map of {height} x {width} for an image of {size[0]} x "
                f"{size[1]} at {stage}",
                expected="the same stride both ways, growing from stage to stage",
            )
        deepest[stride] = (stage, channels)  # a later stage of the same stride takes the place
    names, widths = zip(*deepest.values(), strict=True)
    return list(names), tuple(widths), tuple(deepest), fixed_size


def _network(source: str, config: Any, kind: Any) -> torch.nn.Module:
    """The backbone with the weights of `source`; without weights on the meta device or where there are none."""
    folder = Path(source)
    empty = folder.is_dir() and not any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)
    if empty or torch.get_default_device().type == "meta":
        if empty:
            warn(f"{source} holds no weights: the image encoder starts from random ones")
        network: torch.nn.Module = kind(config)
        return network
    try:
        network, report = kind.from_pretrained(source, config=config, output_loading_info=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError.damaged(f"the weights of hf:{source} cannot be read: {_first_line(error)}") from None
    names = set(dict(network.named_parameters()))
    missing = sorted(names & set(report["missing_keys"]))
    if missing == sorted(names):
        raise InputError.mismatch(f"the weights in {source} are not those of a {config.model_type}")
    if missing:
        warn(
            f"{len(missing)} of {len(names)} tensors of hf:{source} are not in its weights and start afresh: "
            f"{', '.join(missing[:3])}" + (" ..." if len(missing) > 3 else "")
        )
    return network


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
