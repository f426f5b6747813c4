"""G2D: dense vision-language pre-training (Liu et al., arXiv 2312.01522, NeurIPS 2024).

Shapes: B pairs, C channels, H W pixels, h w the deepest map's grid, P = h*w, L tokens, D text width, d joint width.
An image encoder with a U-Net decoder, a visual projector and an attention pool on the deepest map, and a text
projector. The attention of the pool's one query over the P cells is what the pseudo mask is made of
(`medvl.losses.pseudo_mask`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.base import ImageFeatures, check_choice, check_positive
from medvl.models.encoder_unet import EncoderUNet, InputNorm
from medvl.models.encoders.registry import Pretrained
from medvl.models.vit import Grid, resize_grid


class ImageOutput(NamedTuple):
    """What G2D says of an image."""

    pooled: Tensor  # (B, d), not normalised
    attention: Tensor | None  # (B, heads, 1 + P), the summary token first; None with average pooling
    mask_logits: Tensor | None  # (B, M, H, W); None where the decoder was not run
    projected: Tensor  # (B, d, h, w), what the pool attends to

    @property
    def grid(self) -> Grid:
        """(h, w)."""
        return self.projected.shape[2], self.projected.shape[3]


class Projector(nn.Module):
    """Linear, BatchNorm without gain, ReLU, linear, without biases, at every place of a map (1x1 convolutions)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.conv2 = nn.Conv2d(width, width, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, d, h, w)."""
        out: Tensor = self.conv2(F.relu(self.norm(self.conv1(x))))
        return out


class AttentionPool(nn.Module):
    """One query, the mean of the P cells, attends to itself and the cells; positions are learned and interpolated."""

    def __init__(self, width: int, heads: int, grid: Grid) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise InputError.mismatch(
                f"{heads} heads for a joint width of {width}",
                expected=f"a divisor of {width}",
                remedy="model.options.heads or model.options.projection_dim (heads: 3 needs e.g. 126 or 384)",
            )
        self.grid = grid
        self.positional_embedding = nn.Parameter(torch.randn(1 + grid[0] * grid[1], width) / width**0.5)
        self.mhsa = nn.MultiheadAttention(width, heads, batch_first=True)
        self.c_proj = nn.Linear(width, width)

    def tokens(self, x: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, 1 + P, d): the mean, then the cells, with their positions."""
        grid = (x.shape[2], x.shape[3])
        cells = x.flatten(2).transpose(1, 2)  # (B, P, d)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)  # (B, 1 + P, d)
        return tokens + self.positions(grid)

    def positions(self, grid: Grid) -> Tensor:
        """The learned positions for cells of `grid`: (1 + P, d), interpolated where it is another than the own."""
        positions: Tensor = self.positional_embedding
        if grid != self.grid:
            table = positions[1:].T.reshape(1, -1, *self.grid)  # (1, d, h0, w0)
            moved = resize_grid(table, grid).flatten(2)[0].T  # (P, d)
            positions = torch.cat([positions[:1], moved])
        return positions

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, d, h, w) -> pooled (B, d), weights (B, heads, 1 + P) that sum to 1, the summary token first."""
        tokens = self.tokens(x)
        pooled, weights = self.mhsa(tokens[:, :1], tokens, tokens, average_attn_weights=False)
        return self.c_proj(pooled[:, 0]), weights[:, :, 0]

    def values(self, x: Tensor) -> Tensor:
        """(B, d, h, w) -> (B, P, d): what each cell alone would contribute to the pooled vector.

        The path of the values (value, output and last projection) without the mixing, so that cells lie in the joint
        space in which the pooled vector was trained (Zhou et al., MaskCLIP, ECCV 2022).
        """
        out: Tensor = self.c_proj(self.mhsa.out_proj(self.value(self.tokens(x)[:, 1:])))
        return out

    def value(self, tokens: Tensor) -> Tensor:
        """(B, 1 + P, d) -> the values of the tokens (B, 1 + P, d), all heads beside each other."""
        width = tokens.shape[2]
        return F.linear(tokens, self.mhsa.in_proj_weight[2 * width :], self.mhsa.in_proj_bias[2 * width :])


class TextPool(nn.Module):
    """Learned weights of a text's tokens, one set per group of features. A report is mostly about what is not there:
    the mean of its tokens says little of what is."""

    GROUPS = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.groups = self.GROUPS if width % self.GROUPS == 0 else 1
        self.score = nn.Linear(width, self.groups, bias=False)  # one bias for all tokens would change nothing

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, D), (B, L) bool -> (B, D)."""
        scores = self.score(tokens)  # (B, L, groups)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=1)  # (B, L, groups)
        parts = tokens.reshape(*tokens.shape[:2], self.groups, -1)  # (B, L, groups, D / groups)
        pooled: Tensor = (weights[..., None] * parts).sum(dim=1).flatten(1)  # (B, D)
        return pooled


class G2D(nn.Module):
    """Image side and projectors of G2D; the text encoder stands beside it and gives `text_features`.

    Args:
        encoder: name of the image encoder, as in `EncoderUNet`.
        in_channels: channels of the image.
        num_outputs: M, the decoder's output maps: 1 (aggregated heads), `heads` (a mask per head) or the channels that
            are reconstructed.
        text_dim: D.
        projection_dim: d (paper, table 5c: 128 best of 128, 256, 512).
        heads: any divisor of d (the paper's best, 3, does not divide 128; the released program has 4).
        pool: "attention", or "average" (the released alignment-only model, which has no attention and so no mask).
        decoder: "unet" or "none".
        text_pool: the text's vector: "first" token (BERT's [CLS]), "mean" of the real tokens, or "attention", learned
            weights of the real tokens (per group of features), for encoders without a trained [CLS].
        text_norm: "pooled" projects that vector; "tokens" (released) projects every token, pads included, and takes the
            vector afterwards, so that BatchNorm sees the tokens.
        image_size: side or (H, W) of the training images: the grid of the learned positions.
        pretrained, input_norm: as in `EncoderUNet`.
        pool_stride: stride of the map that is projected and attended to. None = the deepest (paper: 7x7 cells at 224
            px); a finer one stands beside the deeper ones, upsampled, so that small images have cells enough.
        pool_deeper: False leaves the deeper ones out: a cell then knows its surroundings only, and attention must go
            where the finding is. (The deeper stages are then trained by the decoder alone.)
    """

    uses_text = True

    def __init__(
        self,
        encoder: str = "resnet50",
        *,
        in_channels: int = 1,
        num_outputs: int = 1,
        text_dim: int = 768,
        projection_dim: int = 128,
        heads: int = 4,
        pool: Literal["attention", "average"] = "attention",
        decoder: Literal["unet", "none"] = "unet",
        text_pool: Literal["first", "mean", "attention"] = "attention",
        text_norm: Literal["pooled", "tokens"] = "pooled",
        image_size: int | tuple[int, int] = 224,
        pretrained: Pretrained = "none",
        input_norm: InputNorm = "image",
        pool_stride: int | None = None,
        pool_deeper: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        check_choice("G2D", "pool", pool, ("attention", "average"))
        check_choice("G2D", "text_pool", text_pool, ("first", "mean", "attention"))
        check_choice("G2D", "text_norm", text_norm, ("pooled", "tokens"))
        check_positive("G2D", heads=heads, projection_dim=projection_dim)
        self.text_dim, self.text_pool, self.text_norm = text_dim, text_pool, text_norm
        self.unet = EncoderUNet(
            encoder,
            in_channels=in_channels,
            num_classes=num_outputs,
            image_size=image_size,
            pretrained=pretrained,
            input_norm=input_norm,
            decoder=decoder,
        )
        height, width = self.unet.padded_size(*self.unet.image_size)
        strides, channels = self.unet.encoder.strides, self.unet.encoder.channels
        stride = strides[-1] if pool_stride is None else pool_stride
        if stride not in strides:
            raise InputError.unknown(f"G2D has no map of pool_stride {stride}", expected=" | ".join(map(str, strides)))
        self.pool_level = strides.index(stride)
        grid = (height // stride, width // stride)
        self.pool_deeper = pool_deeper
        self.visual_projector = Projector(
            sum(channels[self.pool_level :]) if pool_deeper else channels[self.pool_level], projection_dim
        )
        self.attention_pool = AttentionPool(projection_dim, heads, grid) if pool == "attention" else None
        self.text_projector = Projector(text_dim, projection_dim)
        self.text_attention: TextPool | None = None
        if text_pool == "attention":
            if text_norm == "tokens":
                raise InputError.conflict("text_pool: attention with text_norm: tokens", expected="text_norm: pooled")
            self.text_attention = TextPool(text_dim)

    @classmethod
    def from_released(cls, state_dict: Mapping[str, Any]) -> G2D:
        """The model of an upstream checkpoint (`img_model.`, `attnpool.`, `proj_v.`, `proj_t.`), in eval mode.

        A text encoder in the checkpoint (`bert_model.`) and what the released program never uses are left out, with a
        warning that counts them.

        Raises:
            InputError: a tensor is missing, unknown or of another shape.
        """
        from medvl.weights.released_g2d import convert_released

        options, state = convert_released(state_dict, cls)
        model = cls(**options)
        model.load_state_dict(state)
        return model.eval()

    def image_forward(self, image: Tensor, *, decode: bool = True) -> ImageOutput:
        """(B, C, H, W) of any size -> pooled vector, attention and (unless `decode` is False) the decoder's logits."""
        maps = self.unet.encode_image(image)
        projected = self.project(maps)
        if self.attention_pool is None:
            pooled, attention = projected.mean(dim=(2, 3)), None
        else:
            pooled, attention = self.attention_pool(projected)
        logits = None
        if decode and self.unet.decoder is not None:
            logits = self.unet.decode(maps, size=(image.shape[2], image.shape[3]))  # (B, M, H, W)
        return ImageOutput(pooled, attention, logits, projected)

    def project(self, maps: ImageFeatures) -> Tensor:
        """The encoder's maps -> (B, d, h, w) in the joint width, at `pool_stride`."""
        first, *deeper = maps[self.pool_level :]
        if deeper and self.pool_deeper:  # each map where it is coarser is repeated over the cells it covers
            size = (first.shape[2], first.shape[3])
            first = torch.cat([first, *(F.interpolate(x, size=size, mode="nearest") for x in deeper)], dim=1)
        projected: Tensor = self.visual_projector(first)
        return projected

    def text_forward(self, text_features: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """(B, L, D), (B, L) bool -> (B, d), not normalised."""
        if text_features.ndim != 3 or text_features.shape[2] != self.text_dim:
            raise InputError.wrong_shape(
                f"text features of shape {tuple(text_features.shape)}", expected=f"(B, L, {self.text_dim})"
            )
        if self.text_norm == "tokens":
            tokens = self.text_projector(text_features.transpose(1, 2)[..., None])[..., 0]  # (B, d, L)
            return self._pool_text(tokens.transpose(1, 2), text_mask)
        pooled = self._pool_text(text_features, text_mask)  # (B, D)
        projected: Tensor = self.text_projector(pooled[:, :, None, None])[:, :, 0, 0]  # (B, d)
        return projected

    def locate(self, image: Tensor, how: Literal["value", "projector"] = "value") -> tuple[Tensor, Grid]:
        """(B, C, H, W) -> vectors of the cells in the joint space (B, P, d) and their grid, for grounding.

        Args:
            how: "value", the attention pool's path of the values (`AttentionPool.values`), or "projector", the visual
                projector's map as it is (the only choice with average pooling).
        """
        projected = self.project(self.unet.encode_image(image))
        grid = (projected.shape[2], projected.shape[3])
        if how == "projector" or self.attention_pool is None:
            return projected.flatten(2).transpose(1, 2), grid
        return self.attention_pool.values(projected), grid

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) -> the encoder's maps, finest first."""
        return self.unet.encode_image(image)

    def forward(
        self, image: Tensor, text_features: Tensor, text_mask: Tensor | None = None, decode: bool = True
    ) -> tuple[ImageOutput, Tensor]:
        """-> what it says of the images, and the texts' vectors (B, d), not normalised."""
        return self.image_forward(image, decode=decode), self.text_forward(text_features, text_mask)

    def _pool_text(self, tokens: Tensor, text_mask: Tensor | None) -> Tensor:
        """(B, L, X) -> (B, X)."""
        if self.text_pool == "first":
            if text_mask is None:
                return tokens[:, 0]
            first = text_mask.long().argmax(dim=1)  # (B,), the first real token: padding may stand before it
            return tokens[torch.arange(len(tokens), device=tokens.device), first]
        if self.text_attention is not None:
            pooled: Tensor = self.text_attention(tokens, text_mask)
            return pooled
        if text_mask is None:
            return tokens.mean(dim=1)
        keep = text_mask[:, :, None].to(tokens.dtype)  # (B, L, 1)
        return (tokens * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
