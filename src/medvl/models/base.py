"""The calling contract of every network on images, written once: `encode_image`, `decode`, `forward`.

Shapes: B images, N rows (one text each; N >= B where texts share an image), C channels, H W pixels, H' W' pixels
padded to the network's stride, K classes, L text tokens, D text width.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError, nearest

MIN_CELLS = 2  # a side of the deepest map, so that a single image has batch statistics

ImageFeatures = tuple[Tensor, ...]


class ImageNetwork(nn.Module):
    """A network on images: their check, the padding to its stride, and `encode_image`.

    Args:
        in_channels: C.
        image_size: (H, W) or side of the training images.
        stride: of the deepest map. Images are padded by edge replication to multiples of it, and to at least
            `MIN_CELLS` cells a side. None = they are taken as they come.
        fixed_size: the only (H, W) that can be fed; None = any.

    Raises:
        InputError: no channel.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        image_size: int | tuple[int, int],
        stride: int | None = None,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, in_channels=in_channels)
        self.in_channels, self.image_size = in_channels, as_pair(image_size)
        self.stride, self.fixed_size = stride, fixed_size

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest (H', W') that all maps divide evenly, with at least `MIN_CELLS` cells a side."""
        return (height, width) if self.stride is None else padded_size(height, width, self.stride)

    def encode_image(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) -> maps of the image, finest first: all that does not depend on a text.

        Raises:
            InputError: wrong number of channels, or another size than the only one that can be fed.
        """
        check_image(image, self.in_channels)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        if self.fixed_size is not None and size != self.fixed_size:
            raise InputError.wrong_shape(
                f"images of {size[0]}x{size[1]} pixels for a {type(self).__name__} of one size",
                expected=f"{self.fixed_size[0]}x{self.fixed_size[1]}",
                remedy="resize the images, or use a network of any size (of LViT: text_merge: attention)",
            )
        image = self.normalize(image)
        new = self.padded_size(*size)
        if new != size:
            image = F.pad(image, (0, new[1] - size[1], 0, new[0] - size[0]), mode="replicate")  # (B, C, H', W')
        return self.encode_padded(image)

    def normalize(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), before padding; as it is, unless a network says otherwise."""
        return image

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H', W') -> maps of the image, finest first."""
        raise TypeError(f"{type(self).__name__} has no encode_padded")


class SegmentationNetwork(ImageNetwork):
    """Images and, where the network takes them, texts -> logits (N, K, H, W).

    A subclass fills in `encode_padded` and `decode_rows`. It is built with the keywords `in_channels`, `num_classes`,
    `image_size`, with `text_dim` where it takes text, `size` where it has a width, `encoder` where it has an image
    encoder to choose, and its own options.

    Attributes:
        uses_text: whether text features must be given, else they must be None.
        text_dim: D, where the network takes text.
        SIZES: name of each width -> what it stands for, or a tuple that begins with it.
        ABOUT, SOURCE: what it is and who published it, for docs/reference/models.md.
    """

    SIZES: ClassVar[Mapping[str, Any]] = {}
    ABOUT: ClassVar[str] = ""
    SOURCE: ClassVar[str] = ""
    uses_text: bool = False
    text_dim: int = 0

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H', W') -> maps of the image; here those of the network's `encoder`."""
        assert isinstance(self.encoder, nn.Module)
        maps: ImageFeatures = self.encoder(image)
        return maps

    def decode_rows(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> Tensor:
        """Maps and one text per row, both checked -> logits (N, K, H', W'); without text one row per image."""
        raise TypeError(f"{type(self).__name__} has no decode_rows")

    def fit(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (..., H', W') -> (..., H, W): the padding is cropped."""
        return logits[..., : size[0], : size[1]]

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
            image_features: the maps of B images.
            text_features: (N, L, D), or None for a network without text.
            text_mask: (N, L) bool, True = real token; None = all are.
            image_index: (N,) int64, the image of each row; None when row n is of image n.
            size: (H, W) of the image given to `encode_image`; None = the logits stay padded.

        Raises:
            InputError: text missing or of a wrong shape, or given to a network without text.
        """
        if self.uses_text:
            num_rows = image_features[0].shape[0] if image_index is None else image_index.shape[0]
            check_text(text_features, text_mask, num_rows, self.text_dim)
        elif text_features is not None or text_mask is not None:
            raise InputError.conflict("text given to a model that takes none", remedy="pass text_features=None")
        rows = image_index if self.uses_text else None  # without text, rows of one image are equal: expanded last
        logits = self.decode_rows(image_features, text_features, text_mask, rows)
        if size is not None:
            logits = self.fit(logits, size)
        return logits if self.uses_text else expand_rows(logits, image_index)

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


def import_optional(*modules: str, what: str, extra: str) -> Any:
    """The last of `modules`, all of which are imported.

    Args:
        what: that which needs them.
        extra: the extra of the package medvl that installs them.

    Raises:
        InputError: one cannot be imported, for whatever reason: a package that is there may fail with any error, as
            those do that find a torchvision of another build.
    """
    try:
        return [importlib.import_module(module) for module in modules][-1]
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError.missing_package(
            f"{what} needs {', '.join(module.partition('.')[0] for module in modules)}, which cannot be imported "
            f"({type(error).__name__}: {reason})",
            remedy=f"pip install 'medvl[{extra}]'",
        ) from None


def as_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """A side, or (H, W) -> (H, W)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """The smallest multiples of `stride`, with at least `MIN_CELLS` cells a side."""
    return max(MIN_CELLS, -(-height // stride)) * stride, max(MIN_CELLS, -(-width // stride)) * stride


def expand_rows(x: Tensor, image_index: Tensor | None) -> Tensor:
    """One entry per image (B, ...) -> one per row (N, ...)."""
    return x if image_index is None else x.index_select(0, image_index)


def standardize(image: Tensor) -> Tensor:
    """(B, C, H, W) -> the same with mean 0 and standard deviation 1 per image; a constant image becomes 0."""
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    std = image.std(dim=(1, 2, 3), keepdim=True, correction=0)
    return (image - mean) / std.clamp(min=1e-3)


def text_keep_mask(text_features: Tensor, text_mask: Tensor | None) -> Tensor:
    """(N, L) bool, True = real token; without a mask every token is real."""
    if text_mask is None:
        return torch.ones(text_features.shape[:2], dtype=torch.bool, device=text_features.device)
    return text_mask.to(torch.bool)


def check_image(image: Tensor, in_channels: int) -> None:
    """InputError unless `image` is (B, in_channels, H, W)."""
    if image.ndim != 4 or image.shape[1] != in_channels:
        raise InputError.wrong_shape(
            f"an image batch of shape {tuple(image.shape)}",
            expected=f"(B, {in_channels}, H, W)",
            remedy="set in_channels to the images' number of channels, or convert the images",
        )


def check_text(text_features: Tensor | None, text_mask: Tensor | None, num_rows: int, text_dim: int) -> None:
    """InputError unless there is one text (L, text_dim) per row, with a mask that fits it."""
    expected = f"({num_rows}, tokens, {text_dim})"
    if text_features is None:
        raise InputError.missing(
            "no text features for a text-guided model",
            expected=expected,
            remedy="encode a text, an empty one if need be",
        )
    if text_features.ndim != 3 or text_features.shape[2] != text_dim or text_features.shape[0] != num_rows:
        raise InputError.wrong_shape(
            f"text features of shape {tuple(text_features.shape)}",
            expected=expected,
            remedy="one text per row; pass image_index where several rows share an image",
        )
    if text_mask is not None and text_mask.shape != text_features.shape[:2]:
        raise InputError.wrong_shape(
            f"a text mask of shape {tuple(text_mask.shape)}", expected=str(tuple(text_features.shape[:2]))
        )


def check_choice(owner: str, name: str, value: object, choices: Collection[Any]) -> None:
    """InputError, naming the nearest, unless `value` is one of `choices`."""
    if value not in choices:
        names = [str(choice) for choice in choices]
        like = nearest(str(value), names)
        raise InputError.unknown(
            f"{owner} has no {name} {value!r}",
            expected=" | ".join(names),
            remedy=f"did you mean {like}?" if like else None,
        )


def check_positive(owner: str, **numbers: int | None) -> None:
    """InputError unless each is a whole number of at least 1, or None."""
    for name, value in numbers.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError.out_of_range(f"{owner} with {name} {value!r}", expected="at least 1, a whole number")
