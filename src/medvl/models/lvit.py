"""LViT: a U-shaped CNN and a U-shaped ViT side by side, guided by text (Li et al., arXiv 2206.14718, IEEE TMI 2024).

Shapes: B images, N rows (one prompt each; N >= B where prompts share an image), C channels, H W pixels, K classes,
L text tokens, D text width, h w token grid, P = h*w patch tokens.
Level k = 0..3 has stride 2**k and patch `patch / 2**k`, so that every level has the same token grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.base import (
    ImageFeatures,
    SegmentationNetwork,
    check_choice,
    check_positive,
    expand_rows,
    padded_size,
    text_keep_mask,
)
from medvl.models.encoder_unet import InputNorm
from medvl.models.encoders.base import ImageEncoder
from medvl.models.encoders.registry import Pretrained
from medvl.models.encoders.ucnn import BASES, STRIDE, UCNNEncoder, double_conv, level_widths
from medvl.models.pyramid_cnn import PyramidCNN
from medvl.models.text_merge import AttentionMerge, SlotMerge, TextSummary
from medvl.models.vit import DownStage, Grid, Reconstruct, UpStage

PlamMode = Literal["both", "avg", "max", "none"]


class PLAM(nn.Module):
    """One weight per pixel, from the mean and the maximum over CHANNELS of two ReLU(Conv1x1) maps.

    a = mean_c ReLU(W_a x), m = max_c ReLU(W_m x), weight = MLP([a, m, a + m]), output = weight * x. The weight is not
    bounded and may be negative, as released. "avg" and "max" keep one of the two maps (the MLP then has one input).
    """

    def __init__(self, width: int, mode: Literal["both", "avg", "max"] = "both") -> None:
        super().__init__()
        self.mode = mode
        if mode != "max":
            self.conv_avg = nn.Conv2d(width, width, kernel_size=1, bias=False)
        if mode != "avg":
            self.conv_max = nn.Conv2d(width, width, kernel_size=1, bias=False)
        self.bottleneck = nn.Sequential(nn.Linear(3 if mode == "both" else 1, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        parts = []
        if self.mode != "max":
            parts.append(F.relu(self.conv_avg(x)).mean(dim=1))  # (N, H, W)
        if self.mode != "avg":
            parts.append(F.relu(self.conv_max(x).amax(dim=1)))  # (N, H, W); ReLU and max commute
        if self.mode == "both":
            parts.append(parts[0] + parts[1])
        weight = self.bottleneck(torch.stack(parts, dim=3)).permute(0, 3, 1, 2)  # (N, 1, H, W)
        weighted: Tensor = x * weight
        return weighted


class LViT(SegmentationNetwork):
    """Text-guided segmentation of images of any size (`slots`: of one size), returning logits.

    The defaults are the released LViT-T without its 10 M dead parameters; golden results hold for them.

    Args:
        size: "nano", "mini", "T", "S" or "B"; S and B are T with 4 and 12 blocks per stage (a guess).
        in_channels: channels of the image.
        num_classes: K, the output channels.
        text_dim: D, width of the text features.
        text_merge: "slots" (released: `num_slots` tokens, images of `image_size` only), "attention" (any number of
            tokens, any image size) or "none" (LViT-TW, no text).
        attention_bias: with text_merge="attention", also let the whole text act on each place (default True).
        num_slots: with text_merge="slots", the number of token slots (released: 10).
        dropout: after the patch embedding and in the MLPs.
        plam: which maps PLAM sees, or "none" for plain skip connections.
        depth: transformer blocks per stage, instead of that of `size`.
        image_size: side or (H, W) of the training images: the grid of the learned positions.
        patch: patch side at full resolution, 16 (released) or 8 (a grid twice as fine).
        mlp_tail: "released" repeats GELU after the MLP's second layer, "plain" does not.
        encoder: "ucnn", LViT's own contracting path, or the name of an image encoder in its place, of strides 2 to 32
            ("resnet50"; see `PyramidCNN`). "ucnn_nano" is that path too, where the size is nano.
        pretrained: "imagenet" loads packaged weights of that image encoder, where there are any.
        input_norm: whether that image encoder sees each image at mean 0 and deviation 1, as in `EncoderUNet`.
    """

    SIZES: ClassVar[dict[str, tuple[int, int]]] = {  # base width, transformer blocks per stage
        "nano": (8, 1),
        "mini": (16, 1),
        "T": (64, 1),  # the paper's LViT-T, 29.9 M parameters
        "S": (64, 4),  # the paper does not say what S and B are; deeper stages are a guess
        "B": (64, 12),
    }
    ABOUT = "LViT, a CNN and a ViT side by side, by us"
    SOURCE = "Li et al., arXiv 2206.14718"

    def __init__(
        self,
        size: str = "T",
        *,
        in_channels: int = 3,
        num_classes: int = 1,
        text_dim: int = 768,
        text_merge: Literal["slots", "attention", "none"] = "slots",
        attention_bias: bool | None = None,
        num_slots: int | None = None,
        dropout: float = 0.1,
        plam: PlamMode = "both",
        depth: int | None = None,
        image_size: int | tuple[int, int] = 224,
        patch: int = 16,
        mlp_tail: Literal["released", "plain"] = "released",
        encoder: str = "ucnn",
        pretrained: Pretrained = "none",
        input_norm: InputNorm = "image",
    ) -> None:
        super().__init__(in_channels=in_channels, image_size=image_size, stride=STRIDE)
        for name, value, choices in (
            ("size", size, self.SIZES),
            ("text_merge", text_merge, ("slots", "attention", "none")),
            ("plam", plam, ("both", "avg", "max", "none")),
            ("mlp_tail", mlp_tail, ("released", "plain")),
            ("patch", patch, (8, 16)),
            ("input_norm", input_norm, ("image", "none")),
        ):
            check_choice("LViT", name, value, choices)
        check_positive("LViT", depth=depth, num_slots=num_slots, num_classes=num_classes, text_dim=text_dim)
        if attention_bias is not None and text_merge != "attention":
            raise InputError.conflict("attention_bias is an option of text_merge: attention", remedy="leave it out")
        if num_slots is not None and text_merge != "slots":
            raise InputError.conflict("num_slots is an option of text_merge: slots", remedy="leave it out")
        self.patch, self.text_merge, self.text_dim, self.uses_text = patch, text_merge, text_dim, text_merge != "none"
        if text_merge == "slots":
            self.fixed_size = self._size_for_slots()
        base, default_depth = self.SIZES[size]
        widths = level_widths(base)
        grid = self._grid(*self.padded_size(*self.image_size))
        block: dict[str, Any] = {"depth": depth or default_depth, "dropout": dropout, "mlp_tail": mlp_tail}
        levels = range(4)
        patches = [patch >> k for k in levels]

        self.encoder = _image_encoder(encoder, base, in_channels, pretrained, input_norm)
        self.vit_down = nn.ModuleList(DownStage(widths[k], patches[k], grid, first=k == 0, **block) for k in levels)
        self.vit_up = nn.ModuleList(UpStage(widths[k], deepest=k == 3, **block) for k in levels)
        self.reconstruct = nn.ModuleList(Reconstruct(widths[k], patches[k]) for k in levels)
        if text_merge == "slots":
            self.slots = SlotMerge(text_dim, widths[:4], 10 if num_slots is None else num_slots, grid)
        elif text_merge == "attention":
            bias = attention_bias is not False
            self.text_summary: TextSummary | None = TextSummary(text_dim) if bias else None
            self.attend = nn.ModuleList(AttentionMerge(widths[k], text_dim, grid, bias=bias) for k in levels)
        self.plam = nn.ModuleList(nn.Identity() if plam == "none" else PLAM(widths[k], plam) for k in levels)
        outs = (widths[0], widths[0], widths[1], widths[2])
        belows = (*outs[1:], widths[4])
        self.up = nn.ModuleList(double_conv(widths[k] + belows[k], outs[k]) for k in levels)
        self.outc = nn.Conv2d(outs[0], num_classes, kernel_size=1)

    @classmethod
    def from_released(cls, state_dict: Mapping[str, Any]) -> LViT:
        """The model of an upstream LViT-T checkpoint (541 names), in eval mode.

        Depth, text width, number of channels and of classes are read off the tensors. What the released program carries
        without using it is dropped, with a warning that counts it.

        Raises:
            InputError: a tensor is missing, unknown or of another shape.
        """
        from medvl.weights.released_lvit import convert_released

        options, state = convert_released(state_dict, cls)
        model = cls("T", **options)
        model.load_state_dict(state)
        return model.eval()

    def decode_rows(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> Tensor:
        """x1 .. x5, the CNN's maps, and one text per row -> logits (N, K, H', W')."""
        skips, x = image_features[:4], image_features[4]
        grid = self._grid(skips[0].shape[2], skips[0].shape[3])
        tokens = self._down(skips, grid, text_features, text_mask, image_index)
        z: Tensor | None = None
        merged: list[Tensor] = []
        for k in reversed(range(4)):
            z = self.vit_up[k](tokens[k], z)  # (N, P, C_k)
            small = self.reconstruct[k](z, grid)  # (N, C_k, h, w)
            merged.append(_add_upsampled(expand_rows(skips[k], image_index), small))  # (N, C_k, H_k, W_k)
        x = expand_rows(x, image_index)
        for k, skip in zip(reversed(range(4)), merged, strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up[k](torch.cat([self.plam[k](skip), x], dim=1))  # (N, out_k, H_k, W_k)
        logits: Tensor = self.outc(x)
        return logits

    def _down(
        self,
        skips: ImageFeatures,
        grid: Grid,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        rows: Tensor | None,
    ) -> list[Tensor]:
        """The ViT's downward path: y1 .. y4, each (N, P, C_k)."""
        keep, summary = None, None
        if self.text_merge == "attention":
            assert text_features is not None
            keep = text_keep_mask(text_features, text_mask)
            summary = None if self.text_summary is None else self.text_summary(text_features, keep)
        levels: list[Tensor] = []
        for k, stage in enumerate(self.vit_down):
            assert isinstance(stage, DownStage)
            x = stage.embed(skips[k])  # (B, P, C_k)
            later = rows  # where the tokens still stand once per image, they are expanded after their blocks
            if self.text_merge == "attention":
                x = self.attend[k](expand_rows(x, rows), text_features, keep, summary, grid)  # (N, P, C_k)
                later = None
            elif self.text_merge == "slots" and k == 0:
                x = expand_rows(x, rows) + self.slots(text_features, text_mask)  # (N, P, C_0)
            levels.append(stage(x, levels[-1] if levels else None, later))  # (N, P, C_k)
        return levels

    def _grid(self, height: int, width: int) -> Grid:
        return height // self.patch, width // self.patch

    def _size_for_slots(self) -> tuple[int, int]:
        size = self.image_size
        if padded_size(*size, STRIDE) != size:
            raise InputError.wrong_shape(
                f"image_size {size[0]}x{size[1]} for token slots",
                expected=f"multiples of {STRIDE}, e.g. {'x'.join(map(str, padded_size(*size, STRIDE)))}",
            )
        return size


def _image_encoder(
    name: str, base: int, in_channels: int, pretrained: Pretrained, input_norm: InputNorm
) -> ImageEncoder:
    """The CNN branch: LViT's own contracting path, or another image encoder in its place."""
    if name not in ("ucnn", *(f"ucnn_{size}" for size in BASES)):
        return PyramidCNN(name, in_channels, level_widths(base), pretrained, input_norm)
    if pretrained != "none":
        raise InputError.unsupported(
            "LViT's own contracting path has no packaged weights", remedy="another model.encoder"
        )
    if input_norm != "image":
        raise InputError.conflict("input_norm is an option of another encoder than ucnn", remedy="data.normalize")
    size = name.removeprefix("ucnn").lstrip("_")
    if size and BASES[size] != base:
        raise InputError.conflict(
            f"encoder {name}, of base width {BASES[size]}, in an LViT of base width {base}",
            expected=f"size: {size} (model.size={size}), or encoder: ucnn, which has the width of the size",
        )
    return UCNNEncoder(base, in_channels=in_channels)


def _add_upsampled(x: Tensor, small: Tensor) -> Tensor:
    """x (N, C, H, W) + nearest upsampling of `small` (N, C, h, w), which is not written out."""
    n, c, height, width = x.shape
    h, w = small.shape[2:]
    blocks = x.reshape(n, c, h, height // h, w, width // w) + small[:, :, :, None, :, None]  # (N, C, h, p, w, p)
    return blocks.reshape(n, c, height, width)  # (N, C, H, W)
