"""Published networks without text to compare with: UNet++, Attention U-Net, nnU-Net's network, Swin UNETR; by MONAI.

Shapes: B images, N rows (N >= B where several rows share an image), C channels, H W pixels, H' W' pixels padded to
the network's stride, K classes, S heads of deep supervision.
MONAI is an optional dependency and takes seconds to import, so it is imported when a network is built.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.models.base import ImageFeatures, SegmentationNetwork, check_choice, check_positive, import_optional


def monai_networks() -> Any:
    """The module `monai.networks.nets`.

    Raises:
        InputError: MONAI or einops (of which Swin UNETR is made) is missing or cannot be imported.
    """
    return import_optional("einops", "monai.networks.nets", what="this network, which is MONAI's,", extra="baselines")


class MonaiNetwork(SegmentationNetwork):
    """A network that sees only the image and does all its work in `encode_image`, once per image.

    Args:
        size: one of `SIZES`.
        in_channels: channels of the image.
        num_classes: K.
        image_size: (H, W) or side of the training images; any size can be fed, it is padded and cropped back.
        stride: of the deepest level.

    Raises:
        InputError: unknown size, no channel or no class.
    """

    net: Any

    def __init__(
        self, size: str, *, in_channels: int, num_classes: int, image_size: int | tuple[int, int], stride: int
    ) -> None:
        check_choice(type(self).__name__, "size", size, self.SIZES)
        super().__init__(in_channels=in_channels, image_size=image_size, stride=stride)
        check_positive(type(self).__name__, num_classes=num_classes)

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H', W') -> logits (B, K, H', W'), then those of lower heads, (B, K, H' / 2**s, W' / 2**s)."""
        logits: Tensor = self.net(image)
        return (logits,)

    def decode_rows(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> Tensor:
        """Logits of each head -> (B, K, H', W'), or (B, S, K, H', W') where there are S > 1 heads.

        Lower heads are brought to full size by nearest neighbour.
        """
        logits = image_features[0]  # (B, K, H', W')
        if len(image_features) > 1:
            full = (logits.shape[2], logits.shape[3])
            lower = [F.interpolate(head, size=full, mode="nearest") for head in image_features[1:]]
            logits = torch.stack([logits, *lower], dim=1)  # (B, S, K, H', W')
        return logits


class UNetPlusPlus(MonaiNetwork):
    """UNet++ with nested skip connections (Zhou et al., arXiv 1807.10165), by MONAI: instance norm, leaky ReLU.

    Without the paper's deep supervision: the heads of the shorter paths are left out, the last one (X 0,4) predicts.

    Args:
        size: "nano" (base width 8, 0.57 M parameters), "mini" (16, 2.3 M) or "T" (32, 9.1 M: the paper's widths
            32, 64, 128, 256, 512; LViT's table gives 74.5 M, so it is not of this layout).
        in_channels, num_classes, image_size: see `MonaiNetwork`.

    Raises:
        InputError: unknown size; MONAI is missing.
    """

    ABOUT = "UNet++, nested skip connections, by MONAI"
    SOURCE = "Zhou et al., arXiv 1807.10165"
    SIZES: ClassVar[dict[str, int]] = {"nano": 8, "mini": 16, "T": 32}

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
    ) -> None:
        super().__init__(size, in_channels=in_channels, num_classes=num_classes, image_size=image_size, stride=16)
        base = self.SIZES[size]
        widths = tuple(base * factor for factor in (1, 2, 4, 8, 16, 1))  # five levels, then that of the last node
        # a bias before a norm has no effect
        self.net = monai_networks().BasicUNetPlusPlus(2, in_channels, num_classes, features=widths, bias=False)
        for name in ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3"):
            setattr(self.net, name, nn.Identity())  # computed by MONAI's forward, used by nobody

    @property
    def outc(self) -> nn.Module:
        """The last convolution, to the logits."""
        layer: nn.Module = self.net.final_conv_0_4
        return layer

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H', W') -> one head, (B, K, H', W')."""
        return (self.net(image)[-1],)


class AttentionUNet(MonaiNetwork):
    """Attention U-Net, gates on the skip connections (Oktay et al., arXiv 1804.03999), by MONAI: batch norm, ReLU.

    Args:
        size: "nano" (base width 8, 0.50 M parameters), "mini" (16, 2.0 M) or "T" (64, 31.7 M: widths 64, 128, 256,
            512, 1024; LViT's table gives 34.9 M, so it is of another implementation).
        in_channels, num_classes, image_size: see `MonaiNetwork`.

    Raises:
        InputError: unknown size; MONAI is missing.
    """

    ABOUT = "Attention U-Net, gated skip connections, by MONAI"
    SOURCE = "Oktay et al., arXiv 1804.03999"
    SIZES: ClassVar[dict[str, int]] = {"nano": 8, "mini": 16, "T": 64}

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
    ) -> None:
        super().__init__(size, in_channels=in_channels, num_classes=num_classes, image_size=image_size, stride=16)
        widths = tuple(self.SIZES[size] * factor for factor in (1, 2, 4, 8, 16))
        self.net = monai_networks().AttentionUnet(2, in_channels, num_classes, channels=widths, strides=(2, 2, 2, 2))

    @property
    def outc(self) -> nn.Module:
        """The last convolution, to the logits."""
        layer: nn.Module = self.net.model[-1].conv
        return layer


class DynUNet(MonaiNetwork):
    """nnU-Net's plain network with deep supervision (Isensee et al., arXiv 1904.08128), built of MONAI's DynUNet.

    Six levels, as nnU-Net plans them for 224 px: strided convolutions, instance norm, leaky ReLU, widths doubled up to
    a widest. Only the network is nnU-Net's, not its planning, augmentation or five-fold ensemble.

    In train mode the decoder levels of strides 1, 2, 4 and 8 all predict, (N, 4, K, H, W), for
    `medvl.losses.segmentation.deep_supervision`; nnU-Net gives the level below weight 0, so it has no head here.

    Args:
        size: "nano" (widths 8 to 80, 0.67 M parameters), "mini" (12 to 192, 2.9 M) or "T" (32 to 512, 20.6 M: nnU-Net's
            in 2-D; LViT's table gives 19.1 M).
        deep_supervision: whether lower levels predict in training; if not, logits are (N, K, H, W) there too.
        in_channels, num_classes, image_size: see `MonaiNetwork`.

    Raises:
        InputError: unknown size; MONAI is missing.
    """

    ABOUT = "nnU-Net's network with deep supervision, by MONAI"
    SOURCE = "Isensee et al., arXiv 1904.08128"
    SIZES: ClassVar[dict[str, tuple[int, int]]] = {"nano": (8, 80), "mini": (12, 192), "T": (32, 512)}
    NUM_LEVELS = 6
    NUM_LOWER_HEADS = 3

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
        deep_supervision: bool = True,
    ) -> None:
        levels = range(self.NUM_LEVELS)
        super().__init__(
            size, in_channels=in_channels, num_classes=num_classes, image_size=image_size, stride=2 ** levels[-1]
        )
        base, widest = self.SIZES[size]
        net = monai_networks().DynUNet(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=num_classes,
            kernel_size=[3 for _ in levels],
            strides=[1 if level == 0 else 2 for level in levels],
            upsample_kernel_size=[2 for _ in levels[1:]],
            filters=[min(base * 2**level, widest) for level in levels],
            deep_supervision=deep_supervision,
            deep_supr_num=self.NUM_LOWER_HEADS,
        )
        # MONAI's own module holds every block twice and keeps the last heads with their graph: only its blocks are used
        self.down = nn.ModuleList([net.input_block, *net.downsamples, net.bottleneck])
        self.up = net.upsamples  # from the deepest up
        self.output_block = net.output_block
        self.lower_heads = net.deep_supervision_heads if deep_supervision else None  # strides 2, 4, 8

    @property
    def outc(self) -> nn.Module:
        """The last convolution, to the logits."""
        layer: nn.Module = self.output_block.conv.conv
        return layer

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H', W') -> logits (B, K, H', W'); in train mode also those of strides 2, 4 and 8."""
        skips: list[Tensor] = []
        x = image
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()  # the bottleneck's is x itself
        levels: list[Tensor] = []
        for block in self.up:
            x = block(x, skips.pop())
            levels.append(x)  # (B, width, H' / 2**k, W' / 2**k), k from 4 to 0
        logits = self.output_block(levels.pop())
        if self.lower_heads is None or not self.training:
            return (logits,)
        return (logits, *(head(level) for head, level in zip(self.lower_heads, reversed(levels), strict=False)))


class SwinUNETR(MonaiNetwork):
    """Swin UNETR in 2-D: shifted-window transformer, CNN decoder (Hatamizadeh et al., arXiv 2201.01266), by MONAI.

    There is no nano: the narrowest that MONAI builds has 12 features.

    Args:
        size: "mini" (12 features, 1.6 M parameters) or "T" (48, 25.1 M: the paper's width).
        in_channels, num_classes, image_size: see `MonaiNetwork`.

    Raises:
        InputError: unknown size; MONAI or einops is missing.
    """

    ABOUT = "Swin UNETR in 2-D, by MONAI"
    SOURCE = "Hatamizadeh et al., arXiv 2201.01266"
    SIZES: ClassVar[dict[str, int]] = {"mini": 12, "T": 48}

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
    ) -> None:
        super().__init__(size, in_channels=in_channels, num_classes=num_classes, image_size=image_size, stride=32)
        self.net = monai_networks().SwinUNETR(
            in_channels=in_channels, out_channels=num_classes, feature_size=self.SIZES[size], spatial_dims=2
        )

    @property
    def outc(self) -> nn.Module:
        """The last convolution, to the logits."""
        layer: nn.Module = self.net.out.conv.conv
        return layer
