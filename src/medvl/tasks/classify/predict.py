"""Images -> probabilities of the classes of a trained classifier.

Shapes: C channels, h w the model's grid, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError
from medvl.data.image import Image
from medvl.inference.batch import RowFiles
from medvl.inference.predictor import ImagePredictor


@dataclass(frozen=True, slots=True)
class ImageClasses:
    """`probs` of the classes, 0 to 1 (of exclusive classes they sum to 1), and the `labels` that they make."""

    probs: dict[str, float]
    labels: tuple[str, ...]


class ClassPredictor(ImagePredictor):
    """A trained classifier that is applied to one image at a time."""

    task = "classify"

    @property
    def exclusive(self) -> bool:
        """Whether an image has exactly one of the classes."""
        return bool(self.config.classify.labels == "multiclass")

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
        logits = self.outputs(image)[0][0].double()  # (K,)
        probs = (logits.softmax(dim=0) if self.exclusive else logits.sigmoid()).cpu().numpy()
        chosen = probs == probs.max() if self.exclusive else probs >= threshold
        labels = tuple(name for name, is_label in zip(self.classes, np.asarray(chosen), strict=True) if is_label)
        return ImageClasses(dict(zip(self.classes, probs.tolist(), strict=True)), labels)


def label_files(predictor: ClassPredictor, out: Path, threshold: float) -> RowFiles:
    """A row per image: columns prob_CLASS and `labels` (see `classify`)."""

    def row(image: Image) -> dict[str, Any]:
        answer = predictor.classify(image, threshold)
        probs = {f"prob_{name}": round(p, 6) for name, p in answer.probs.items()}
        return {"labels": "|".join(answer.labels), **probs}

    columns = ("labels", *(f"prob_{name}" for name in predictor.classes))
    return RowFiles(columns, row, predictor.config, out)
