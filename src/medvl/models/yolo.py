"""YOLOv3's head on an image encoder: logits of three anchors at every cell of three maps.

Shapes: B images, C channels, H W pixels, h w cells of a map, A = 3 anchors a map, K classes, P = A * (cells of all
three maps) places. A place's 5 + K logits are x, y, w, h, objectness, classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.encoder_unet import EncoderNetwork, InputNorm
from medvl.models.encoders.registry import Pretrained

# Of YOLOv3 (Redmon & Farhadi, arXiv 1804.02767) at 416 px, coarsest map first; in pixels (w, h).
ANCHORS = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)
ANCHOR_SIDE = 416
NUM_ANCHORS = 3
MAX_HEAD = 512  # channels of the coarsest block as published
P_OBJECT = 0.01  # that a place holds a box, before anything is learned


def published_anchors(image_size: tuple[int, int]) -> Tensor:
    """YOLOv3's anchors for pictures of (H, W), each side scaled by itself (G2D, section 5.2: x 224/416): (3, 3, 2)."""
    height, width = image_size
    return torch.tensor(ANCHORS, dtype=torch.float32) * torch.tensor([width / ANCHOR_SIDE, height / ANCHOR_SIDE])


class ConvBlock(nn.Sequential):
    """Darknet's CBL: convolution without bias, BatchNorm, leaky ReLU 0.1; (B, C, h, w) -> (B, C', h, w)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(0.1),
        )


class Embedding(nn.Module):
    """Six CBL, 1x1 (`width`) and 3x3 (twice that) in turn, then a 1x1 convolution: Darknet's detection block."""

    def __init__(self, in_channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        ins = (in_channels, width, 2 * width, width, 2 * width, width)
        outs = (width, 2 * width) * 3
        self.blocks = nn.ModuleList(
            ConvBlock(a, b, 3 if i % 2 else 1) for i, (a, b) in enumerate(zip(ins, outs, strict=True))
        )
        self.out = nn.Conv2d(2 * width, out_channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> logits (B, out_channels, h, w), and what goes on to the finer map (B, width, h, w)."""
        for block in self.blocks[:5]:
            x = block(x)
        return self.out(self.blocks[5](x)), x


class YOLO(EncoderNetwork):
    """The encoder of `EncoderUNet` (same sizes, padding and `input_norm`, same tensor names) and YOLOv3's head.

    The last three maps are used; with ResNet-50 at 224 px these are 28, 14 and 7 cells a side, and the head is that of
    MGCA and G2D (reference: G2D, section 5.2). Anchors are a buffer: they are stored with the weights.

    Args:
        encoder, in_channels, image_size, pretrained, input_norm: see `EncoderNetwork`.
        num_classes: K.
        head_channels: of the coarsest block, halved from map to map; None = half of the deepest map's, 32 to 512 (512
            with resnet50, as published).
    """

    anchors: Tensor

    def __init__(
        self,
        encoder: str = "resnet50",
        *,
        in_channels: int = 1,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
        pretrained: Pretrained = "none",
        input_norm: InputNorm = "image",
        head_channels: int | None = None,
    ) -> None:
        super().__init__(
            encoder,
            in_channels=in_channels,
            image_size=image_size,
            pretrained=pretrained,
            input_norm=input_norm,
        )
        strides = self.encoder.strides[-3:]
        if len(strides) < 3 or strides[1] != 2 * strides[0] or strides[2] != 2 * strides[1]:
            raise InputError.unsupported(
                f"image encoder {encoder} has maps at strides {', '.join(map(str, self.encoder.strides))}",
                expected="three or more, of which the last three double (8, 16, 32), for YOLOv3's head",
            )
        width = head_channels
        if width is None:
            width = min(MAX_HEAD, max(32, self.encoder.channels[-1] // 2 // 4 * 4))
        if not isinstance(width, int) or width < 4 or width % 4:
            raise InputError.malformed(f"head_channels {head_channels!r}", expected="a multiple of 4")
        self.num_classes = num_classes
        self.strides = strides[::-1]  # coarsest first, as everything below
        fine, middle, deep = self.encoder.channels[-3:]
        out = NUM_ANCHORS * (5 + num_classes)
        ins = (deep, middle + width // 2, fine + width // 4)
        self.embed = nn.ModuleList(Embedding(c, width >> i, out) for i, c in enumerate(ins))
        self.up = nn.ModuleList(ConvBlock(width >> i, width >> (i + 1), 1) for i in range(2))
        with torch.no_grad():
            for block in self.embed:
                bias = block.out.bias.view(NUM_ANCHORS, 5 + num_classes)  # type: ignore[union-attr, operator]
                bias.zero_()
                bias[:, 4] = torch.tensor(P_OBJECT / (1 - P_OBJECT)).log()
        self.register_buffer("anchors", published_anchors(self.image_size))  # (3, A, 2)

    def set_anchors(self, anchors: Sequence[Sequence[float]]) -> None:
        """Nine (w, h) in pixels; the largest three by area go to the coarsest map, and so on.

        Raises:
            InputError: not nine, or not all above 0.
        """
        values = sorted((tuple(map(float, pair)) for pair in anchors), key=lambda pair: (-pair[0] * pair[-1], pair))
        if len(values) != 9 or any(len(pair) != 2 or min(pair) <= 0 for pair in values):
            raise InputError.malformed(
                f"anchors {anchors}", expected="nine pairs [w, h] in pixels of data.image_size, above 0"
            )
        grouped = torch.tensor(values).reshape(3, NUM_ANCHORS, 2)
        self.anchors.copy_(grouped.flip(1))  # within a map the smallest first, as published

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) of any size -> logits (B, P, 5 + K): map by map, coarsest first; cell by cell; anchor by anchor.

        The picture is padded on the right and below to multiples of the last stride; those cells are places too.
        """
        maps = self.encode_image(image)
        logits = []
        below: Tensor | None = None
        for i, embed in enumerate(self.embed):
            x = maps[-1 - i]
            if below is not None:
                x = torch.cat([F.interpolate(self.up[i - 1](below), scale_factor=2.0, mode="nearest"), x], dim=1)
            out, below = embed(x)  # (B, A (5 + K), h, w)
            logits.append(out.permute(0, 2, 3, 1).reshape(len(out), -1, 5 + self.num_classes))  # (B, h w A, 5 + K)
        return torch.cat(logits, dim=1)  # (B, P, 5 + K)

    def grids(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """(stride, h, w) of the three maps of a picture of (height, width), coarsest first."""
        padded = self.padded_size(height, width)
        return [(stride, padded[0] // stride, padded[1] // stride) for stride in self.strides]

    def places(self, height: int, width: int) -> Tensor:
        """Of each place, in the order of `forward`: left and upper edge of its cell, stride, anchor w and h: (P, 5)."""
        parts = []
        for (stride, h, w), anchors in zip(self.grids(height, width), self.anchors, strict=True):
            rows = torch.arange(h, device=anchors.device, dtype=anchors.dtype)
            columns = torch.arange(w, device=anchors.device, dtype=anchors.dtype)
            y, x = torch.meshgrid(rows, columns, indexing="ij")  # (h, w)
            cells = torch.stack([x * stride, y * stride, torch.full_like(x, stride)], dim=2)  # (h, w, 3)
            cells = cells[:, :, None].expand(-1, -1, NUM_ANCHORS, -1)  # (h, w, A, 3)
            both = torch.cat([cells, anchors.expand(h, w, -1, -1)], dim=3)  # (h, w, A, 5)
            parts.append(both.reshape(-1, 5))
        return torch.cat(parts)

    def decode_boxes(self, logits: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Logits (B, P, 5 + K) of pictures of (height, width) -> boxes (B, P, 4) in pixels, scores (B, P, K) in [0, 1].

        Centre = cell + sigmoid(x, y), sides = anchor * exp(w, h), clipped to the picture. The score is the objectness,
        with several classes times the class's probability (of one class: as MGCA).
        """
        place = self.places(height, width).to(logits.dtype)  # (P, 5)
        centre = place[:, :2] + logits[..., :2].sigmoid() * place[:, 2:3]  # (B, P, 2)
        half = place[:, 3:] * logits[..., 2:4].exp() / 2
        side = torch.tensor([width, height], dtype=logits.dtype, device=logits.device)
        low, high = (centre - half).clamp(min=0), torch.minimum(centre + half, side)
        boxes = torch.cat([torch.minimum(low, side), high], dim=-1)  # (B, P, 4)
        scores = logits[..., 4:5].sigmoid()
        if self.num_classes > 1:
            scores = scores * logits[..., 5:].sigmoid()
        return boxes, scores
