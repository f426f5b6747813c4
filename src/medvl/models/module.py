"""What is trained and saved: a network and, where it learns, the text encoder before it.

Shapes: B images, N rows (prompts), L tokens, D text features, k clinical variables, K classes, H W the model's grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.context_tokens import ContextTokens

if TYPE_CHECKING:
    from medvl.data.context import ContextRules
    from medvl.text.base import TextEncoder


class NetworkModule(nn.Module):
    """A network, of which parts may be frozen."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        self.text_encoder: TextEncoder | None = None
        self.context: ContextRules | None = None
        self.context_tokens: ContextTokens | None = None
        self._frozen: tuple[str, ...] = ()

    @property
    def uses_text(self) -> bool:
        """Whether the network takes text at all."""
        return False

    def freeze(self, *parts: str) -> None:
        """Parts of the network (names of its submodules) that keep weights and statistics from now on.

        Raises:
            InputError: the network has no such part.
        """
        for part in parts:
            if not isinstance(getattr(self.network, part, None), nn.Module):
                raise InputError.unknown(
                    f"{type(self.network).__name__} has no {part} to freeze", remedy="train.freeze_encoder: false"
                )
            getattr(self.network, part).requires_grad_(False)
        self._frozen = parts
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """What is frozen stays in eval mode."""
        super().train(mode)
        for part in self._frozen:
            getattr(self.network, part).eval()
        return self


class ImageModule(NetworkModule):
    """A network that takes images alone."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> what the network makes of them."""
        outputs: Tensor = self.network(image)
        return outputs


class TextModule(NetworkModule):
    """A network that takes text, and its text encoder where that learns too.

    A frozen encoder stands outside (its features come ready-made from a cache), so that it is neither trained nor
    stored a second time.
    """

    def __init__(
        self, network: nn.Module, text_encoder: TextEncoder | None, context: ContextRules | None = None
    ) -> None:
        """`context`: how the clinical variables beside the text are read; as tokens, they have a layer here."""
        super().__init__(network)
        self.context = context
        self.text_encoder = text_encoder if text_encoder is not None and not text_encoder.frozen else None
        if context is not None and context.mode == "tokens":  # made last: the network starts as it does without them
            self.context_tokens = ContextTokens(context.num_categories, int(network.text_dim))  # type: ignore[arg-type]

    @property
    def uses_text(self) -> bool:
        """Whether the network takes text at all."""
        return bool(self.network.uses_text)

    def encode_text(self, text: Tensor | None, text_mask: Tensor | None) -> Tensor | None:
        """Tokens (N, L) -> features (N, L, D); features of a frozen encoder stay as they are.

        Features given to an encoder that is frozen in part are those of its frozen layers: the others follow here.
        """
        if self.text_encoder is None or text is None:
            return text
        if text.is_floating_point():
            assert text_mask is not None
            return self.text_encoder.suffix(text, text_mask)
        features: Tensor = self.text_encoder(text, text_mask)
        return features

    def text_features(
        self, text: Tensor | None, text_mask: Tensor | None, context: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """`encode_text`, with the context's tokens before those of the text: (N, k + L, D) and (N, k + L).

        Args:
            context: (N, k) values of the clinical variables, NaN = missing; None for a model without their tokens.
        """
        features = self.encode_text(text, text_mask)
        if self.context_tokens is None or features is None:
            return features, text_mask
        assert context is not None and text_mask is not None
        return self.context_tokens.before(features, text_mask, context)


class SegmentModel(TextModule):
    """A segmentation network, guided by text where it takes any: `encode_image`, `decode`, `uses_text`."""

    def forward(
        self,
        image: Tensor,
        image_index: Tensor,
        text: Tensor | None,
        text_mask: Tensor | None,
        context: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W), (N,), tokens (N, L) or features (N, L, D), (N, L), (N, k) -> logits (N, K, H, W)."""
        features, text_mask = self.text_features(text, text_mask, context)
        logits = self.network(image, features, text_mask, image_index)
        assert isinstance(logits, Tensor)
        return logits
