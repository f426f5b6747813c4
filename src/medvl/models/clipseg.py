"""CLIPSeg (Lüddecke & Ecker, CVPR 2022), by transformers, from weights in a local folder that the user names.

CLIP's image tower (frozen, as published) and a light decoder whose features are scaled and shifted by the prompt's
embedding. The text comes through the text encoder `hf:FOLDER` of the same folder.

Shapes: B images, N rows, C channels, H W pixels, S the folder's own image size, P its patches plus one, D text width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn

from medvl.core.errors import InputError
from medvl.models.base import ImageFeatures, SegmentationNetwork, expand_rows


class CLIPSeg(SegmentationNetwork):
    """One prompt, one mask: (B, C, H, W) and token features (N, L, D) -> logits (N, 1, H, W).

    Images of any size are resized to the folder's (S, S) and the logits back; grey ones are repeated to three channels.
    They come normalised as `data.normalize: zscore` does it, which is CLIP's own scale to within its constants. The
    image tower and the text projection are frozen; the decoder is trained.

    Args:
        folder: a local folder of CLIPSegForImageSegmentation (config.json, weights). Never looked up on the hub.
        in_channels: 1 or 3.
        num_classes: 1; the prompt says what is meant.
        text_dim: width of the text features; must be that of the folder's text tower.
        image_size: kept as an attribute; any size can be fed.

    Raises:
        InputError: no such folder, another kind of model, several classes, text features of another width.
    """

    ABOUT = "CLIPSeg from a folder of yours, by transformers"
    SOURCE = "Lüddecke & Ecker, arXiv 2112.10003"
    uses_text = True

    def __init__(
        self,
        *,
        folder: str = "",
        in_channels: int = 3,
        num_classes: int = 1,
        text_dim: int = 512,
        image_size: int | tuple[int, int] = 224,
    ) -> None:
        super().__init__(in_channels=in_channels, image_size=image_size)
        if num_classes != 1:
            raise InputError.unsupported(
                f"clipseg with {num_classes} classes", expected="one; the prompt says what is meant"
            )
        if in_channels not in (1, 3):
            raise InputError.unsupported(f"clipseg with {in_channels} channels", expected="1 or 3")
        network = _from_folder(folder)
        width = int(network.config.text_config.hidden_size)
        if text_dim != width:
            raise InputError.mismatch(
                f"text features of width {text_dim} for a CLIPSeg of width {width}",
                expected=f"text.encoder: hf:{folder}",
            )
        self.text_dim = text_dim
        self.side = int(network.config.vision_config.image_size)
        self.layers = tuple(int(layer) for layer in network.config.extract_layers)
        self.vision = network.clip.vision_model.requires_grad_(False)
        self.text_projection = network.clip.text_projection.requires_grad_(False)
        self.decoder = network.decoder

    @property
    def outc(self) -> nn.Module:
        """The last convolution, to the logits."""
        return [module for module in self.decoder.modules() if isinstance(module, nn.ConvTranspose2d)][-1]

    def encode_padded(self, image: Tensor) -> ImageFeatures:
        """(B, C, H, W) -> the image tower's maps that the decoder reads, (B, P, width) each."""
        image = F.interpolate(image.expand(-1, 3, -1, -1), (self.side, self.side), mode="bilinear", antialias=True)
        with torch.no_grad():
            hidden = self.vision(pixel_values=image, output_hidden_states=True).hidden_states
        return tuple(hidden[layer + 1] for layer in self.layers)  # hidden[0] are the embeddings

    def decode_rows(
        self,
        image_features: ImageFeatures,
        text_features: Tensor | None,
        text_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> Tensor:
        """Maps of the image tower -> logits (N, 1, S, S). The last real token is the prompt's, as CLIP reads it."""
        assert text_features is not None
        num_rows, length, _ = text_features.shape
        if text_mask is None:
            end = torch.full((num_rows,), length - 1, device=text_features.device)
        else:
            places = torch.arange(1, length + 1, device=text_features.device)
            end = (text_mask.long() * places).argmax(dim=1)  # (N,), the last real token: padding may stand before it
        phrase = text_features[torch.arange(num_rows, device=end.device), end]  # (N, D)
        maps = [expand_rows(x, image_index) for x in image_features]  # (N, P, width)
        logits: Tensor = self.decoder(maps, self.text_projection(phrase)).logits
        return logits.reshape(num_rows, 1, self.side, self.side)

    def fit(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, S, S) -> (N, 1, H, W)."""
        return F.interpolate(logits, size, mode="bilinear")


def _from_folder(folder: str) -> Any:
    """transformers' network of a local folder."""
    expected = "model.options.folder: a local folder of CLIPSegForImageSegmentation"
    if not folder or not Path(folder).is_dir():
        raise InputError.missing_file(f"no such folder of CLIPSeg weights: {folder!r}", expected=expected)
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    try:
        config = CLIPSegConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if config.model_type != "clipseg":
            raise ValueError(f"its config.json is of a {config.model_type}")
        return CLIPSegForImageSegmentation.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError.unreadable(f"CLIPSeg cannot be read: {first}", file=folder, expected=expected) from None
