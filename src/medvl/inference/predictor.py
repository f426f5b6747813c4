"""Set an image once, then segment it by many prompts.

predictor = Predictor.load("runs/regions").set_image("image.dcm")
predictor.segment("right upper zone").mask      # (H, W) bool on the native grid of image.dcm
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medvl.config import Config, DataConfig
from medvl.core.device import usable_device
from medvl.core.errors import InputError, warn
from medvl.core.task import find_task
from medvl.data.context import Context, ContextRules
from medvl.data.dataset import fit_image, load_image, prepare
from medvl.data.geometry import Affine, refuse_sides
from medvl.data.image import Image, say_blank
from medvl.data.mask_colours import LabelValue, label_value
from medvl.data.record import Record
from medvl.data.text_input import TextInput
from medvl.inference.model_folder import load_model
from medvl.models.masks import class_masks, exclusive_threshold, probs_from_logits
from medvl.models.module import NetworkModule, SegmentModel
from medvl.text.base import TextEncoder
from medvl.text.cache import FeatureCache

NEARLY_ALL = 0.95  # of an image: no part of a body is that large in it
EMPTY_PROMPT = "the prompt is empty: it names nothing"
PHRASES_AT_ONCE = 8  # rows decoded in one pass; bounds memory


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The mask of one prompt on the native grid of the image.

    `mask` (H, W) bool and `probs` (H, W) float32 in [0, 1]; for a model of several classes both are (K, H, W), in the
    order of `classes`. Of exclusive classes (`objective.mode: multiclass`) each pixel has the likeliest one or none,
    and no threshold decides. `warnings` says what a user must know (empty prompt, unknown words, cut text, a mask of
    nothing or of nearly everything).
    """

    mask: NDArray[np.bool_]
    probs: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None
    phrase: str
    classes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Predictor:
    """A trained model that segments one image at a time by prompts.

    The part of the network that does not depend on the text runs once per image.
    """

    def __init__(
        self,
        module: SegmentModel,
        encoder: TextEncoder | None,
        config: Config,
        card: dict[str, Any],
        *,
        device: str = "cpu",
        cache_dir: Path | None = None,
    ) -> None:
        self.config, self.card = config, card
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.device = usable_device(device)
        self.module = module.eval().to(self.device)
        cache = None
        if encoder is not None and encoder.frozen and module.uses_text:
            cache = FeatureCache(encoder, cache_dir)
        self.encoder = encoder if module.uses_text else None
        self._text = TextInput(self.encoder, cache, module.uses_text, context=module.context)
        self._features: tuple[Tensor, ...] | None = None
        self._affine: Affine | None = None
        self._image: Image | None = None

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Predictor:
        """Load a MODEL or RUN folder, or a shipped model (`medvl:lvit_regions`)."""
        module, encoder, config, card = load_model(folder)
        if not isinstance(module, SegmentModel):
            what, remedy = f"a model of task: {config.task} does not segment", find_task(config.task).usage(folder)
            raise InputError.unsupported(what, file=folder, expected="a run or model of task: segment", remedy=remedy)
        return cls(module, encoder, config, card, device=device)

    @property
    def uses_text(self) -> bool:
        """Whether the model takes a prompt at all."""
        return self.module.uses_text

    @property
    def class_values(self) -> dict[str, list[LabelValue]] | None:
        """Label-map values of the classes, where the model was trained on a label map."""
        classes = self.config.data.classes
        if not isinstance(classes, dict):
            return None
        return {name: [label_value(str(value)) for value in values] for name, values in classes.items()}

    def set_image(self, image: str | Path | NDArray[Any] | Image) -> Predictor:
        """Read and encode an image. An array is (H, W) or (H, W, 3), uint8, uint16 or float in [0, 1].

        Raises:
            InputError: unreadable file, wrong number of channels, floats outside [0, 1].
        """
        self._image = as_image(image, self.config)
        tensor, self._affine = on_grid(self._image, self.config.data)
        with torch.inference_mode():
            self._features = self.module.network.encode_image(tensor.to(self.device))
        return self

    def written(self, records: Sequence[Record]) -> list[str]:
        """The texts of records as the text encoder reads them."""
        return self._text.written([row.text for row in records], [row.context for row in records])

    @property
    def context(self) -> ContextRules | None:
        """How the clinical variables beside the prompt are read; None where the model takes none."""
        return self.module.context

    @property
    def context_columns(self) -> tuple[str, ...]:
        """The clinical variables that the model takes beside the prompt, e.g. ("age", "sex")."""
        return () if self.context is None else self.context.names

    def segment(self, phrase: str = "", threshold: float = 0.5, context: Context | None = None) -> Segmentation:
        """The mask that `phrase` names in the current image; a model without text ignores the prompt.

        Args:
            context: values of `context_columns`, as a manifest's cells would say them: {"age": "63", "sex": "m"}. What
                is not given is missing, which the warnings of the result say.

        Raises:
            InputError: no image yet, a threshold outside [0, 1], or a context that the model does not take.
        """
        return self.segment_many([phrase], threshold, None if context is None else [context])[0]

    def segment_many(
        self, phrases: Sequence[str], threshold: float = 0.5, contexts: Sequence[Context] | None = None
    ) -> list[Segmentation]:
        """`segment` for several prompts, each with its own context; the image is not encoded again."""
        contexts = [{}] * len(phrases) if contexts is None else contexts
        unknown = sorted({name for row in contexts for name in row} - set(self.context_columns))
        if unknown:
            raise InputError.unknown(
                f"the model takes no {', '.join(unknown)} beside the prompt",
                expected=", ".join(self.context_columns) or "no clinical variables at all",
            )
        missing = {word.strip().casefold() for word in self.config.data.context_missing}
        contexts = [{k: "" if v.strip().casefold() in missing else v for k, v in row.items()} for row in contexts]
        if self._features is None or self._affine is None or self._image is None:
            raise InputError.too_early("no image", remedy="call set_image(...) first")
        if self.uses_text:
            refuse_sides(phrases, self._image, self.config.data.laterality)
        if not 0.0 <= threshold <= 1.0:
            raise InputError.out_of_range(f"threshold {threshold}", expected="a probability from 0 to 1")
        if self.config.objective.mode == "multiclass" and threshold != 0.5:
            raise exclusive_threshold(threshold)
        results: list[Segmentation] = []
        for start in range(0, len(phrases), PHRASES_AT_ONCE):
            chunk = list(phrases[start : start + PHRASES_AT_ONCE])
            rows = list(contexts[start : start + PHRASES_AT_ONCE])
            for phrase, row, probs in zip(chunk, rows, self._probs(chunk, rows), strict=True):
                native = self._affine.invert_map(probs)  # (K, H, W)
                mask = class_masks(native, self.config.objective.mode, threshold)  # (K, H, W)
                if len(self.classes) == 1:
                    native, mask = native[0], mask[0]
                notes = self._notes(phrase, row, float(mask.mean()))
                results.append(Segmentation(mask, native, self._image.spacing_mm, phrase, self.classes, notes))
        return results

    @torch.inference_mode()
    def _probs(self, phrases: list[str], contexts: Sequence[Context] = ()) -> NDArray[np.float32]:
        tokens, mask = self._text(phrases, self.device, contexts)
        values = self._text.context_values(len(phrases), contexts, self.device)
        features, mask = self.module.text_features(tokens, mask, values)  # (n, k + L, D)
        index = torch.zeros(len(phrases), dtype=torch.long, device=self.device)  # every prompt is of the one image
        logits = self.module.network.decode(self._features, features, mask, index, size=self.config.data.image_size)
        return probs_from_logits(logits, self.config.objective.mode).float().cpu().numpy()

    def _notes(self, phrase: str, context: Context, share: float) -> tuple[str, ...]:
        notes = []
        if self.uses_text and self.encoder is not None:
            if not phrase.strip():
                notes.append(EMPTY_PROMPT)
            unknown = self.encoder.unknown_words([phrase])
            if unknown:
                notes.append(f"words the model has never seen: {', '.join(sorted(unknown))}")
            tokens = self.encoder.tokenize(self._text.written([phrase], [context]))
            if tokens.num_truncated:
                notes.append(f"the prompt was cut to {self.encoder.max_tokens} tokens")
        lacking = [] if self.context is None else self.context.lacking(context)
        if lacking:
            notes.append(f"taken as missing beside the prompt: {', '.join(lacking)}")
        if share == 0:
            notes.append("nothing was found for this prompt")
        elif share > NEARLY_ALL:
            notes.append(f"{share:.0%} of the image is marked: a model that tells nothing apart marks everything")
        return tuple(notes)


class ImagePredictor:
    """A trained model that takes images alone, applied to one image at a time."""

    task: ClassVar[str | None] = None  # of the models; None = any

    def __init__(self, module: NetworkModule, config: Config, card: dict[str, Any], *, device: str = "cpu") -> None:
        self.config, self.card = config, card
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.device = usable_device(device)
        self.module = module.eval().to(self.device)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Load a RUN or MODEL folder. InputError for one of another task."""
        module, _, config, card = load_model(folder)
        if cls.task not in (None, config.task):
            what, remedy = f"a model of task: {config.task}", find_task(config.task).usage(folder)
            raise InputError.unsupported(
                what, file=folder, expected=f"a run or model of task: {cls.task}", remedy=remedy
            )
        return cls(module, config, card, device=device)

    def outputs(self, image: str | Path | NDArray[Any] | Image) -> tuple[Tensor, Affine]:
        """What the network makes of an image, (1, ...), and the way from its pixels to the model's grid.

        Args:
            image: a file, or an array (H, W) or (H, W, 3), uint8, uint16 or float in [0, 1].

        Raises:
            InputError: an image that cannot be read.
        """
        tensor, affine = on_grid(as_image(image, self.config), self.config.data)
        with torch.no_grad():
            return self.module(tensor.to(self.device)), affine


def on_grid(image: Image, data: DataConfig) -> tuple[Tensor, Affine]:
    """An image as a network is fed it, (1, C, h, w), and the way there."""
    affine = fit_image(image.size, image.orientation.turn, data)
    pixels = affine.apply_image(image.as_channels(data.in_channels))  # (C, h, w)
    return torch.from_numpy(prepare(pixels, data))[None], affine


def as_image(image: str | Path | NDArray[Any] | Image, config: Config) -> Image:
    """A path, an array or an Image as an Image; arrays of integers are scaled by their full range."""
    if isinstance(image, Image):
        return image
    if isinstance(image, (str, Path)):
        return load_image(Path(image), config.data)
    array = np.asarray(image)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise InputError.wrong_shape(f"an array of shape {array.shape}", expected="(H, W) grey or (H, W, 3) RGB")
    if array.dtype.kind in "ub":
        bits = 8 * array.dtype.itemsize
        pixels = array.astype(np.float32) / (1 if array.dtype == np.bool_ else 2**bits - 1)
    elif array.dtype.kind == "f":
        bits = 32
        pixels = array.astype(np.float32)
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise InputError.out_of_range(
                "floating-point pixels that are NaN or outside [0, 1]", remedy="scale them, or pass uint8 or uint16"
            )
    else:
        raise InputError.malformed(f"an array of {array.dtype}", expected="uint8, uint16 or float in [0, 1]")
    say_blank(pixels, "an array")
    return Image(pixels=pixels, spacing_mm=None, path=None, bits=bits, format="array")


def report_notes(results: Sequence[Segmentation], name: str) -> None:
    """Print what a user must know about the predictions of one image."""
    for result in results:
        for note in result.warnings:
            warn(note, place=f"{name}: {result.phrase!r}")
