"""LViT: a U-shaped CNN and a U-shaped ViT side by side, guided by text (Li et al., arXiv 2206.14718, IEEE TMI 2024).

Shapes: B images, N rows (one phrase each; N >= B where phrases share an image), C channels, H W pixels, K classes,
L text tokens, D text width, h w token grid, P = h*w patch tokens.
Level k = 0..3 has stride 2**k and patch `patch / 2**k`, so that every level has the same token grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medvl.core.errors import InputError, nearest
from medvl.models.plam import PLAM, PlamMode
from medvl.models.pyramid_cnn import PyramidCNN
from medvl.models.text_merge import AttentionMerge, SlotMerge, TextSummary, check_text, text_keep_mask
from medvl.models.unet import STRIDE, CNNEncoder, ImageFeatures, double_conv, level_widths, padded_size
from medvl.models.vit import DownStage, Grid, Reconstruct, UpStage

SIZES: dict[str, tuple[int, int]] = {  # base width, transformer blocks per stage
    "nano": (8, 1),
    "mini": (16, 1),
    "T": (64, 1),  # the paper's LViT-T, 29.9 M parameters
    "S": (64, 4),  # the paper does not say what S and B are; deeper stages are a guess
    "B": (64, 12),
}


class LViT(nn.Module):
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
        cnn: "ucnn", LViT's own contracting path, or an image encoder of G2D in its place ("nano", "mini", "resnet18",
            "resnet50", "efficientnet_lite0"; see `PyramidCNN`).
        pretrained: "imagenet" loads packaged weights of that image encoder, where there are any.
        input_norm: whether that image encoder sees each image at mean 0 and deviation 1, as in `EncoderUNet`.

    Attributes:
        uses_text: whether text features must be given.
    """

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
        cnn: str = "ucnn",
        pretrained: Literal["none", "imagenet"] = "none",
        input_norm: Literal["image", "none"] = "image",
    ) -> None:
        super().__init__()
        _check_choice("size", size, SIZES)
        _check_choice("text_merge", text_merge, ("slots", "attention", "none"))
        _check_choice("plam", plam, ("both", "avg", "max", "none"))
        _check_choice("mlp_tail", mlp_tail, ("released", "plain"))
        _check_choice("patch", patch, (8, 16))
        for name, value in (("depth", depth), ("num_slots", num_slots), ("num_classes", num_classes)):
            if value is not None and value < 1:
                raise InputError(f"LViT with {name} {value}", expected="at least 1")
        if attention_bias is not None and text_merge != "attention":
            raise InputError("attention_bias is an option of text_merge: attention", remedy="leave it out")
        if num_slots is not None and text_merge != "slots":
            raise InputError("num_slots is an option of text_merge: slots", remedy="leave it out")
        base, default_depth = SIZES[size]
        widths = level_widths(base)
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if text_merge == "slots" and padded_size(height, width) != (height, width):
            raise InputError(
                f"image_size {height}x{width} for token slots",
                expected=f"multiples of {STRIDE}, e.g. {'x'.join(str(side) for side in padded_size(height, width))}",
            )
        self.image_size: tuple[int, int] = (height, width)
        self.patch, self.text_merge, self.text_dim = patch, text_merge, text_dim
        self.uses_text = text_merge != "none"
        grid = self._grid(*padded_size(height, width))
        depth = default_depth if depth is None else depth
        block: dict[str, Any] = {"depth": depth, "dropout": dropout, "mlp_tail": mlp_tail}
        levels = range(4)
        patches = [patch >> k for k in levels]

        if cnn == "ucnn" and pretrained != "none":
            raise InputError("LViT's own contracting path has no packaged weights", remedy="model.options.cnn")
        _check_choice("input_norm", input_norm, ("image", "none"))
        if cnn == "ucnn" and input_norm != "image":
            raise InputError("input_norm is an option of another cnn than ucnn", remedy="data.normalize")
        self.encoder: CNNEncoder | PyramidCNN = (
            CNNEncoder(in_channels, widths)
            if cnn == "ucnn"
            else PyramidCNN(cnn, in_channels, widths, pretrained, input_norm)
        )
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

        options, state = convert_released(state_dict)
        model = cls("T", **options)
        model.load_state_dict(state)
        return model.eval()

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) -> x1 .. x5, the CNN's maps: all that does not depend on the text.

        Raises:
            InputError: wrong number of channels; with `slots` also another size than `image_size`.
        """
        size = (int(image.shape[-2]), int(image.shape[-1]))
        if self.text_merge == "slots" and size != self.image_size:
            raise InputError(
                f"images of {size[0]}x{size[1]} pixels for a model with token slots",
                expected=f"{self.image_size[0]}x{self.image_size[1]}",
                remedy="resize the images, or use text_merge: attention, which takes any size",
            )
        features: ImageFeatures = self.encoder(image)
        return features

    def decode(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Maps of `encode_image` and one text per row -> logits (N, K, H, W).

        Args:
            image_features: x1 .. x5 of B images.
            text_features: (N, L, D), or None for a model without text.
            text_mask: (N, L) bool, True = real token; None = all are.
            image_index: (N,) int64, the image of each row; None when row n asks image n.
            size: (H, W) to crop to, the size of the image given to `encode_image`; None = not cropped.
        """
        self._check_text(text_features, text_mask, image_index, image_features[0].shape[0])
        rows = image_index if self.uses_text else None  # without text, rows of one image are equal: expanded last
        skips, x = image_features[:4], image_features[4]
        grid = self._grid(skips[0].shape[2], skips[0].shape[3])
        tokens = self._down(skips, grid, text_features, text_mask, rows)
        z: Tensor | None = None
        merged: list[Tensor] = []
        for k in reversed(range(4)):
            z = self.vit_up[k](tokens[k], z)  # (N, P, C_k)
            merged.append(_add_upsampled(_expand(skips[k], rows), self.reconstruct[k](z, grid)))  # (N, C_k, H_k, W_k)
        x = _expand(x, rows)
        for k, skip in zip(reversed(range(4)), merged, strict=True):
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.up[k](torch.cat([self.plam[k](skip), x], dim=1))  # (N, out_k, H_k, W_k)
        logits: Tensor = self.outc(x)
        if size is not None:
            logits = logits[:, :, : size[0], : size[1]]  # (N, K, H, W)
        return logits if self.uses_text else _expand(logits, image_index)

    def forward(
        self,
        image: Tensor,
        text_features: Tensor | None = None,
        text_mask: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) and one text per row -> logits (N, K, H, W); see `encode_image` and `decode`."""
        size = (image.shape[2], image.shape[3])
        return self.decode(self.encode_image(image), text_features, text_mask, image_index, size)

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
                x = self.attend[k](_expand(x, rows), text_features, keep, summary, grid)  # (N, P, C_k)
                later = None
            elif self.text_merge == "slots" and k == 0:
                x = _expand(x, rows) + self.slots(text_features, text_mask)  # (N, P, C_0)
            levels.append(stage(x, levels[-1] if levels else None, later))  # (N, P, C_k)
        return levels

    def _grid(self, height: int, width: int) -> Grid:
        return height // self.patch, width // self.patch

    def _check_text(
        self, text_features: Tensor | None, text_mask: Tensor | None, image_index: Tensor | None, num_images: int
    ) -> None:
        if not self.uses_text:
            if text_features is not None or text_mask is not None:
                raise InputError("text given to a model that takes none", remedy="pass text_features=None")
            return
        num_rows = num_images if image_index is None else image_index.shape[0]
        check_text(text_features, text_mask, num_rows, self.text_dim)


def _expand(x: Tensor, image_index: Tensor | None) -> Tensor:
    """One entry per image -> one per row."""
    return x if image_index is None else x.index_select(0, image_index)


def _add_upsampled(x: Tensor, small: Tensor) -> Tensor:
    """x (N, C, H, W) + nearest upsampling of `small` (N, C, h, w), which is not written out."""
    n, c, height, width = x.shape
    h, w = small.shape[2:]
    blocks = x.reshape(n, c, h, height // h, w, width // w) + small[:, :, :, None, :, None]  # (N, C, h, p, w, p)
    return blocks.reshape(n, c, height, width)  # (N, C, H, W)


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        like = nearest(str(value), [str(choice) for choice in choices])
        raise InputError(
            f"LViT has no {name} {value!r}",
            expected=" | ".join(str(choice) for choice in choices),
            remedy=f"did you mean {like}?" if like else None,
        )
