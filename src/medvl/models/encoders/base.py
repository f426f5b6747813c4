"""What an image encoder is: a pyramid of maps, finest first.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.base import check_image


class ImageEncoder(nn.Module):
    """(B, C, H, W) -> maps (B, channels[i], H / strides[i], W / strides[i]), finest first.

    Args:
        in_channels: channels of the image, which the caller has brought to zero mean and unit deviation.
        channels: channels of each map.
        strides: pixels per cell of each map, growing; H and W must be multiples of the last.
        fixed_size: the only (H, W) that it takes; None = any.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    in_channels: int

    def __init__(
        self,
        *,
        in_channels: int,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.channels, self.strides, self.fixed_size = in_channels, channels, strides, fixed_size

    def check(self, image: Tensor) -> None:
        """InputError unless `image` is (B, in_channels, H, W), of a size that the encoder takes."""
        check_image(image, self.in_channels)
        height, width = image.shape[2:]
        if self.fixed_size not in (None, (height, width)):
            raise InputError.wrong_shape(
                f"an image of {height} x {width} pixels", expected="{} x {}, and no other size".format(*self.fixed_size)
            )
        stride = self.strides[-1]
        if height % stride or width % stride:
            raise InputError.wrong_shape(
                f"an image of {height} x {width} pixels",
                expected=f"sides that are multiples of {stride}",
                remedy=f"pad it to {-(-height // stride) * stride} x {-(-width // stride) * stride}",
            )

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file of the library that the encoder is of, by the names here; empty where there is none."""
        return {}

    def load_imagenet(self) -> None:
        """Take ImageNet weights that come as a package. InputError where there are none."""
        raise InputError.unsupported(
            f"no ImageNet weights are packaged for {type(self).__name__}",
            expected="pretrained: none, or model.encoder: efficientnet_lite0",
            remedy="init: weights:FILE takes the weights of a file that you have, e.g. torchvision's",
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> tuple of maps, finest first."""
        raise TypeError(f"{type(self).__name__} has no forward")


def fit_channels(kernel: Tensor, in_channels: int) -> Tensor:
    """A first convolution's kernel (O, C, k, k) -> (O, in_channels, k, k), between grey and colour.

    3 -> 1 is the sum: a grey image fed three times gives the same map. 1 -> 3 is a third each, the inverse of that.

    Raises:
        InputError: any other pair of numbers.
    """
    channels = kernel.shape[1]
    if channels == in_channels:
        return kernel
    if (channels, in_channels) == (3, 1):
        return kernel.sum(dim=1, keepdim=True)
    if (channels, in_channels) == (1, 3):
        return (kernel / 3).repeat(1, 3, 1, 1)
    raise InputError.mismatch(
        f"weights for images of {channels} channels, images of {in_channels}", expected="the same number, or 1 and 3"
    )
