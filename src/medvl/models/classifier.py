"""Image encoder, global average pool, dropout and one linear layer: logits of K classes.

Shapes: B images, C channels, H W pixels, h w cells of the deepest map, D its channels, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.encoder_unet import EncoderNetwork, InputNorm
from medvl.models.encoders.registry import Pretrained


class ImageClassifier(EncoderNetwork):
    """The encoder of `EncoderUNet` (same sizes, padding and `input_norm`, same tensor names), and a linear head.

    Args:
        encoder, in_channels, image_size, pretrained, input_norm: see `EncoderNetwork`.
        num_classes: K.
        dropout: of the pooled features, in training.
    """

    def __init__(
        self,
        encoder: str = "resnet50",
        *,
        in_channels: int = 1,
        num_classes: int = 1,
        image_size: int | tuple[int, int] = 224,
        pretrained: Pretrained = "none",
        input_norm: InputNorm = "image",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            encoder,
            in_channels=in_channels,
            image_size=image_size,
            pretrained=pretrained,
            input_norm=input_norm,
        )
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise InputError.out_of_range(f"dropout {dropout!r}", expected="a share from 0 to below 1")
        self.dropout = nn.Dropout(float(dropout))
        self.head = nn.Linear(self.encoder.channels[-1], num_classes)

    def pool(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> the mean of the deepest map, (B, D); cells of the padding count like the others."""
        return self.encode_image(image)[-1].mean(dim=(2, 3))

    def classify(self, pooled: Tensor) -> Tensor:
        """(B, D) -> logits (B, K)."""
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        return self.classify(self.pool(image))
