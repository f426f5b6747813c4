"""Images -> probabilities of the classes of a trained classifier: predictions.csv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from medvl.core.device import usable_device
from medvl.data.dataset import fit_image, load_image, prepare
from medvl.inference.inputs import InputImage
from medvl.inference.model_folder import load_model
from medvl.tasks.classify.task import Classifier


class LabelFiles:
    """A row per image, of all slices of a volume one each; `Answerer` of `task: classify`.

    Columns prob_CLASS and `labels`: the classes with a probability of at least `threshold` (None: 0.5); of exclusive
    classes the most probable one.
    """

    table = "predictions.csv"

    def __init__(self, model: str | Path, out: Path, threshold: float | None, device: str) -> None:
        module, _, self.config, card = load_model(model)
        assert isinstance(module, Classifier)  # its configuration says so
        self.classes: tuple[str, ...] = tuple(card["classes"])
        self.columns = ("id", "image", "slice", "labels", *(f"prob_{name}" for name in self.classes))
        self.threshold, self.out = 0.5 if threshold is None else threshold, out
        self.device = usable_device(device)
        self.module = module.to(self.device)

    def answer(self, image: InputImage) -> list[dict[str, Any]]:
        """The rows of one image. InputError where it cannot be read."""
        self.out.mkdir(parents=True, exist_ok=True)
        return [self._of_slice(image, index) for index in image.slices]

    def _of_slice(self, image: InputImage, index: int | None) -> dict[str, Any]:
        data = self.config.data
        native = load_image(image.path, replace(data, slice_index=index))
        affine = fit_image(native.size, native.orientation.turn, data)
        pixels = prepare(affine.apply_image(native.as_channels(data.in_channels)), data)  # (C, h, w)
        with torch.inference_mode():
            logits = self.module(torch.from_numpy(pixels)[None].to(self.device))[0].double()  # (K,)
        exclusive = self.config.classify.labels == "multiclass"
        probs = (logits.softmax(dim=0) if exclusive else logits.sigmoid()).cpu().tolist()
        best = max(probs)
        labels = [
            name
            for name, p in zip(self.classes, probs, strict=True)
            if (p == best if exclusive else p >= self.threshold)
        ]
        row: dict[str, Any] = {"id": image.name, "image": str(image.path), "slice": "" if index is None else index}
        row["labels"] = "|".join(labels)
        return row | {f"prob_{name}": round(p, 6) for name, p in zip(self.classes, probs, strict=True)}
