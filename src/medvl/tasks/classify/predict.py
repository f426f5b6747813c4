"""Images -> probabilities of the classes of a trained classifier.

Shapes: C channels, h w the model's grid, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medvl.config import Config
from medvl.core.device import usable_device
from medvl.core.errors import InputError
from medvl.core.task import find_task
from medvl.data.dataset import fit_image, load_image, prepare
from medvl.data.image import Image
from medvl.inference.inputs import InputImage
from medvl.inference.model_folder import load_model
from medvl.inference.predictor import as_image
from medvl.tasks.classify.model import Classifier


@dataclass(frozen=True, slots=True)
class ImageClasses:
    """`probs` of the classes, 0 to 1 (of exclusive classes they sum to 1), and the `labels` that they make."""

    probs: dict[str, float]
    labels: tuple[str, ...]


class ClassPredictor:
    """A trained classifier that is asked about one image at a time."""

    def __init__(self, module: Classifier, config: Config, card: dict[str, Any], *, device: str = "cpu") -> None:
        self.config, self.card = config, card
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.exclusive = config.classify.labels == "multiclass"
        self.device = usable_device(device)
        self.module = module.eval().to(self.device)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> ClassPredictor:
        """Load a RUN or MODEL folder of `task: classify`. InputError for another one."""
        module, _, config, card = load_model(folder)
        if not isinstance(module, Classifier):
            what, remedy = f"a model of task: {config.task} is no classifier", find_task(config.task).usage(folder)
            raise InputError.unsupported(what, file=folder, expected="a run or model of task: classify", remedy=remedy)
        return cls(module, config, card, device=device)

    def classify(self, image: str | Path | NDArray[Any] | Image, threshold: float = 0.5) -> ImageClasses:
        """Probabilities of the classes in an image.

        Args:
            image: a file, or an array (H, W) or (H, W, 3), uint8, uint16 or float in [0, 1].
            threshold: classes from this probability on are `labels`; of exclusive classes the most probable one is.

        Raises:
            InputError: an image that cannot be read, a threshold outside [0, 1].
        """
        if not 0.0 <= threshold <= 1.0:
            raise InputError.out_of_range(f"threshold {threshold}", expected="a probability from 0 to 1")
        data = self.config.data
        native = as_image(image, self.config)
        affine = fit_image(native.size, native.orientation.turn, data)
        pixels = prepare(affine.apply_image(native.as_channels(data.in_channels)), data)  # (C, h, w)
        with torch.inference_mode():
            logits = self.module(torch.from_numpy(pixels)[None].to(self.device))[0].double()  # (K,)
        probs = (logits.softmax(dim=0) if self.exclusive else logits.sigmoid()).cpu().numpy()
        chosen = probs == probs.max() if self.exclusive else probs >= threshold
        labels = tuple(name for name, is_label in zip(self.classes, np.asarray(chosen), strict=True) if is_label)
        return ImageClasses(dict(zip(self.classes, probs.tolist(), strict=True)), labels)


class LabelFiles:
    """A row per image, of all slices of a volume one each: columns prob_CLASS and `labels` (see `classify`)."""

    table = "predictions.csv"

    def __init__(self, predictor: ClassPredictor, out: Path, threshold: float) -> None:
        self.predictor, self.out, self.threshold = predictor, out, threshold
        self.columns = ("id", "image", "slice", "labels", *(f"prob_{name}" for name in predictor.classes))

    def answer(self, image: InputImage) -> list[dict[str, Any]]:
        """The rows of one image. InputError where it cannot be read."""
        self.out.mkdir(parents=True, exist_ok=True)
        rows = []
        for index in image.slices:
            native = load_image(image.path, replace(self.predictor.config.data, slice_index=index))
            answer = self.predictor.classify(native, self.threshold)
            row: dict[str, Any] = {"id": image.name, "image": str(image.path), "slice": "" if index is None else index}
            row["labels"] = "|".join(answer.labels)
            rows.append(row | {f"prob_{name}": round(p, 6) for name, p in answer.probs.items()})
        return rows
