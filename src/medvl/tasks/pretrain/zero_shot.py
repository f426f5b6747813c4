"""A pre-trained G2D without further training: where a prompt is in an image, and whether a finding is present.

    model = ZeroShot.load("runs/g2d").set_image("image.dcm")
    model.ground("right upper zone", threshold=0.3).mask            # (H, W) bool on the native grid of image.dcm
    model.classify(load_prompts().prompts(["pneumonia"]))           # {"pneumonia": 0.71}

Shapes: H W native pixels, h w the model's cells, P = h*w, d joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from numpy.typing import NDArray
from torch import Tensor

from medvl.config import Config
from medvl.core.device import usable_device
from medvl.core.errors import InputError, warn
from medvl.core.files import whole_file
from medvl.core.task import find_task
from medvl.data.geometry import Affine, refuse_sides
from medvl.data.image import Image
from medvl.data.intensity import as_picture
from medvl.data.text_input import TextInput
from medvl.inference.model_folder import load_model
from medvl.inference.predictor import EMPTY_PROMPT, as_image, on_grid
from medvl.tasks.pretrain.model import G2DModel
from medvl.text.base import TextEncoder
from medvl.text.cache import FeatureCache
from medvl.text.prompts import PromptPair

TEXTS_AT_ONCE = 64  # bounds memory
SIGMA = 1.5  # of the smoothing, in cells (BioViL; G2D, appendix A.4.2)

How = Literal["value", "projector"]
Temperature = Literal["model", "none"]
BoxTuple = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Grounding:
    """Where a prompt is, on the native grid of the image.

    `similarity_map` (H, W) float32 in [-1, 1]: cosine of the place with the prompt. `mask` (H, W) bool: where it is
    above the threshold; None without one. `box` (x0, y0, x1, y1): the pixels' edges (x1, y1 exclusive) round the
    largest 8-connected component of the mask; None without one. `warnings` says what a user must know.
    """

    similarity_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    box: BoxTuple | None
    phrase: str
    warnings: tuple[str, ...] = ()


class ZeroShot:
    """A pre-trained G2D that is applied to one image at a time. Texts are encoded once per distinct text."""

    def __init__(
        self,
        module: G2DModel,
        encoder: TextEncoder,
        config: Config,
        card: dict[str, Any],
        *,
        device: str = "cpu",
    ) -> None:
        self.config, self.card, self.encoder = config, card, encoder
        self.device = usable_device(device)
        self.module = module.eval().to(self.device)
        cache = FeatureCache(encoder) if encoder.prefix_frozen else None
        if module.context is not None:
            names = ", ".join(module.context.names)
            warn(f"this model was trained with {names} beside its texts: they are taken as missing of every prompt")
        self._text = TextInput(encoder, cache, True, context=module.context)
        self._texts: dict[str, Tensor] = {}  # normalised vectors (d,)
        self._image: Image | None = None
        self._affine: Affine | None = None
        self._tensor: Tensor | None = None  # (1, C, h', w')
        self._vector: Tensor | None = None  # (d,)
        self._cells: dict[How, Tensor] = {}  # (d, h, w)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> ZeroShot:
        """Load a RUN or MODEL folder of `task: pretrain`.

        Raises:
            InputError: no model folder, or a model of another task.
        """
        module, encoder, config, card = load_model(folder)
        if not isinstance(module, G2DModel) or encoder is None:
            raise InputError.unsupported(
                "not a pre-trained model: its images and texts share no space",
                file=folder,
                expected="a run or model of task: pretrain",
                remedy=find_task(config.task).usage(folder),
            )
        return cls(module, encoder, config, card, device=device)

    @property
    def image(self) -> Image:
        """The current image, native pixels. InputError before `set_image`."""
        if self._image is None:
            raise InputError.too_early("no image", remedy="call set_image(...) first")
        return self._image

    def set_image(self, image: str | Path | NDArray[Any] | Image) -> ZeroShot:
        """Read an image; it is encoded once for grounding and once for classification, on first use.

        An array is (H, W) or (H, W, 3), uint8, uint16 or float in [0, 1].

        Raises:
            InputError: unreadable file, wrong number of channels, floats outside [0, 1].
        """
        self._image = as_image(image, self.config)
        tensor, self._affine = on_grid(self._image, self.config.data)
        self._tensor = tensor.to(self.device)
        self._vector, self._cells = None, {}
        return self

    def ground(
        self, phrase: str, threshold: float | None = None, sigma: float = SIGMA, how: How = "value"
    ) -> Grounding:
        """Where `phrase` is in the current image.

        Cosine of each cell with the prompt, Gaussian smoothing on the grid, bilinear to the model's size, and back to
        native pixels (reference: G2D, A.4.2 after BioViL; neither says how cells get into the joint space, see `how`).

        Args:
            threshold: cosine above which a pixel belongs to the mask, -1 to 1; None = no mask and no box.
            sigma: of the smoothing, in cells; 0 = none.
            how: "value" or "projector", see `G2D.locate`.
        """
        if threshold is not None and not -1.0 <= threshold <= 1.0:
            raise InputError.out_of_range(f"threshold {threshold}", expected="a cosine from -1 to 1, or None")
        similarity_map = self.similarity(phrase, sigma, how)
        notes = self._notes(phrase)
        if how == "value" and not self._has_values():
            notes.append("the model has average pooling, hence no path of values: how is projector")
        mask = box = None
        if threshold is not None:
            mask = similarity_map > threshold
            box = largest_box(mask)
            if box is None:
                notes.append(f"no place is above {threshold:g}: the highest is {float(similarity_map.max()):.3f}")
        return Grounding(similarity_map, mask, box, phrase, tuple(notes))

    def similarity(self, phrase: str, sigma: float = SIGMA, how: How = "value") -> NDArray[np.float32]:
        """(H, W) float32 in [-1, 1] on the native grid; see `ground`."""
        if self._affine is None or self._tensor is None:
            raise InputError.too_early("no image", remedy="call set_image(...) first")
        refuse_sides([phrase], self.image, self.config.data.laterality)
        text = self.text_vectors([phrase])[0]
        size = (self._tensor.shape[2], self._tensor.shape[3])
        grid = torch.einsum("dhw,d->hw", self._located(how), text).cpu().numpy()  # (h, w)
        padded = self.module.network.unet.padded_size(*size)
        native = self._affine.invert_map(upsample(smooth(grid, sigma), padded, size))  # (H, W)
        # A mean of cosines is one; what lies beyond is the rounding of float32.
        return np.clip(native, -1.0, 1.0).astype(np.float32)

    def classify(self, prompts: Mapping[str, PromptPair], temperature: Temperature = "model") -> dict[str, float]:
        """Probability of each class in the current image: softmax of its two cosines, positive against negative.

        Args:
            prompts: sentences of each class (`medvl.text.prompts`); several are averaged as normalised vectors.
            temperature: "model" divides the cosines by `pretrain.sigma`, as in training; "none" leaves them (CheXzero),
                so that all probabilities lie between 0.12 and 0.88. Both rise with the difference of the two cosines:
                within a class the order, the AUC and the decision at 0.5 are the same.
        """
        from scipy.special import expit

        if temperature not in ("model", "none"):
            raise InputError.unknown(f"temperature {temperature!r}", expected="model | none")
        if self._tensor is None:
            raise InputError.too_early("no image", remedy="call set_image(...) first")
        if self._vector is None:
            with torch.inference_mode():
                pooled = self.module.network.image_forward(self._tensor, decode=False).pooled[0]
            self._vector = F.normalize(pooled.float(), dim=0)  # (d,)
        self.text_vectors([text for pair in prompts.values() for text in (*pair.positive, *pair.negative)])
        divisor = self.config.pretrain.sigma if temperature == "model" else 1.0
        probs = {}
        for name, pair in prompts.items():
            positive, negative = (float(self._vector @ self.ensemble(side)) for side in (pair.positive, pair.negative))
            probs[name] = float(expit((positive - negative) / divisor))
        return probs

    def ensemble(self, texts: Sequence[str]) -> Tensor:
        """The mean of the texts' normalised vectors, normalised again: (d,)."""
        return F.normalize(self.text_vectors(texts).mean(dim=0), dim=0)

    @torch.inference_mode()
    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Normalised vectors of texts (n, d); each distinct text is encoded once in the life of this object."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            chunk = missing[start : start + TEXTS_AT_ONCE]
            tokens, mask = self._text(chunk, self.device)
            values = self._text.context_values(len(chunk), (), self.device)
            features, mask = self.module.text_features(tokens, mask, values)
            assert features is not None
            vectors = F.normalize(self.module.network.text_forward(features, mask).float(), dim=1)
            self._texts |= dict(zip(chunk, vectors, strict=True))
        return torch.stack([self._texts[text] for text in texts])

    @torch.inference_mode()
    def _located(self, how: How) -> Tensor:
        """Normalised vectors of the cells, (d, h, w)."""
        if how not in ("value", "projector"):
            raise InputError.unknown(f"how {how!r}", expected="value | projector")
        if how not in self._cells:
            assert self._tensor is not None
            cells, (h, w) = self.module.network.locate(self._tensor, how)  # (1, P, d)
            unit = F.normalize(cells[0].float(), dim=1)
            self._cells[how] = unit.T.reshape(-1, h, w)  # (d, h, w)
        return self._cells[how]

    def _has_values(self) -> bool:
        return self.module.network.attention_pool is not None

    def _notes(self, phrase: str) -> list[str]:
        notes = []
        if not phrase.strip():
            notes.append(EMPTY_PROMPT)
        unknown = self.encoder.unknown_words([phrase])
        if unknown:
            notes.append(f"words the model has never seen: {', '.join(sorted(unknown))}")
        if self.encoder.tokenize([phrase]).num_truncated:
            notes.append(f"the prompt was cut to {self.encoder.max_tokens} tokens")
        return notes


def smooth(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """(h, w) -> the same, Gaussian-smoothed by `sigma` cells, mirrored at the edges; 0 = as it is."""
    from scipy.ndimage import gaussian_filter

    if sigma < 0:
        raise InputError.out_of_range(f"sigma {sigma}", expected="cells, 0 or more")
    return np.asarray(gaussian_filter(values, sigma) if sigma > 0 else values, dtype=np.float32)


def upsample(values: NDArray[np.float32], padded: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w) cells of the padded image -> bilinear to `padded` pixels, cropped to the image's `size`.

    The network pads below and to the right, so that a grid may reach beyond the image.
    """
    large = F.interpolate(torch.from_numpy(values)[None, None], padded, mode="bilinear", align_corners=False)
    return np.ascontiguousarray(large[0, 0, : size[0], : size[1]].numpy())


def largest_box(mask: NDArray[np.bool_]) -> BoxTuple | None:
    """(x0, y0, x1, y1) of the largest 8-connected component, edges (x1, y1 exclusive); None for an empty mask.

    Of equally large ones the first in reading order.
    """
    num, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if num < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    x, y, width, height = (int(value) for value in stats[largest, :4])
    return x, y, x + width, y + height


def write_similarity(path: Path, image: Image, grounding: Grounding) -> None:
    """The image in standard display under its similarity map (blue = its lowest, red = its highest value; the caption
    names both), with the mask's contour in white and its box in green."""
    from PIL import Image as PILImage

    turn = image.orientation.turn
    values = turn.apply(grounding.similarity_map)
    height, width = values.shape
    scale = max(1, -(-512 // max(height, width)))  # small images are enlarged so that the caption can be read
    size = (width * scale, height * scale)
    low, high = float(values.min()), float(values.max())
    level = np.rint(255 * (values - low) / max(high - low, 1e-6)).astype(np.uint8)
    colours = cv2.applyColorMap(cv2.resize(level, size), cv2.COLORMAP_JET)[..., ::-1]  # RGB
    picture = cv2.resize(as_picture(image.displayed().pixels), size)
    canvas = cv2.addWeighted(picture, 0.6, np.ascontiguousarray(colours), 0.4, 0.0)
    if grounding.mask is not None:
        large = cv2.resize(turn.apply(grounding.mask).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, (255, 255, 255), 2)
    if grounding.box is not None:
        x0, y0, x1, y1 = (round(scale * value) for value in turn.apply_box(grounding.box, image.size))
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), (0, 255, 0), 2)
    bar = np.zeros((28, canvas.shape[1], 3), np.uint8)
    caption = f"{low:.2f} to {high:.2f}  {grounding.phrase}".encode("ascii", "replace").decode()
    cv2.putText(bar, caption[:90], (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    with whole_file(path) as temporary:
        PILImage.fromarray(np.vstack([canvas, bar])).save(temporary, format="PNG")
