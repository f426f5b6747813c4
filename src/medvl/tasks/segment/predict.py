"""Masks of images and prompts -> files at native size, one row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import Fault, InputError, warn
from medvl.core.task import Question
from medvl.data.context import Context
from medvl.data.dataset import load_image
from medvl.data.image import Image
from medvl.inference.inputs import InputImage
from medvl.inference.predictor import Predictor, Segmentation, report_notes
from medvl.inference.writers import slug, write_mask_nifti, write_mask_png, write_overlay, write_volume

COLUMNS: tuple[str, ...] = (
    "id", "image", "slice", "text", "class", "mask", "nifti", "overlay", "pred_px", "mean_prob", "warnings",
)  # fmt: skip


class MaskFiles:
    """Writes `<id>__<phrase-slug>.png` (0/255), `.nii.gz` where the spacing is known, and `_overlay.png`.

    Of all slices of a volume: one `.nii.gz` of the volume's shape and affine, and an overlay of the slice with the
    largest mask. `Answerer` of `task: segment`.
    """

    table, columns = "predictions.csv", COLUMNS

    def __init__(
        self,
        model: str | Path,
        images: Sequence[InputImage],
        out: Path,
        question: Question,
    ) -> None:
        """InputError where a text is missing or not wanted, before any file is written."""
        if question.classes or question.options:
            raise InputError.conflict("a segmentation model takes no --classes", remedy='--text "PHRASE"')
        self.threshold = question.probability(0.5)
        self.predictor = Predictor.load(model, device=question.device)
        self.texts, self.out, self.context = list(question.texts), out, question.context
        texts = self.texts
        self._current: tuple[Path, int | None] | None = None
        self._image: Image | None = None
        if not self.predictor.uses_text and texts:
            raise InputError.conflict(
                "this model takes no text", remedy="leave --text out; its classes are in predictions.csv"
            )
        if self.predictor.uses_text and not texts:
            without = [image for image in images if image.record is None or not image.record.text.strip()]
            if without:
                num_rows = sum(image.record is not None for image in without)
                what = f"{num_rows} rows of the manifest have none" if num_rows else "images have none of their own"
                raise InputError(
                    [
                        Fault.missing(
                            f"this model is guided by text, and {what}",
                            file=without[0].path,
                            record=without[0].name,
                            expected='--text "right upper zone", or a manifest with a text in every row',
                        )
                    ]
                )
        with_text = sum(bool(image.record and image.record.text.strip()) for image in images)
        if with_text and texts:
            warn(f"--text is used for every image; the texts of {with_text} rows of the manifest are not")

    def answer(self, image: InputImage) -> list[dict[str, Any]]:
        """Write the files of one image; a row per prompt and class. InputError where it cannot be read."""
        texts = self.texts or [image.record.text if image.record and self.predictor.uses_text else ""]
        context = {**self._context_of(image), **self.context}
        parts: dict[tuple[str, str], _Part] = {}
        for index in image.slices:
            native = self._open(image.path, index)
            results = self.predictor.segment_many(texts, self.threshold, [context] * len(texts))
            report_notes(results, image.name)
            for result in results:
                for label, one in _by_class(result):
                    parts.setdefault((result.phrase, label), _Part()).add(index, native, one)
        self.out.mkdir(parents=True, exist_ok=True)
        return [self._write(image, text, label, part) for (text, label), part in parts.items()]

    def _open(self, path: Path, index: int | None) -> Image:
        """The slice of an image, encoded; kept while rows of a manifest are of the same one."""
        if self._image is None or self._current != (path, index):
            self._image = load_image(path, replace(self.predictor.config.data, slice_index=index))
            self._current = (path, index)
            self.predictor.set_image(self._image)
        return self._image

    def _context_of(self, image: InputImage) -> Context:
        """Clinical variables in columns of the manifest."""
        if image.record is None:
            return {}
        cells = {**image.record.extra, "view": image.record.view or ""}
        return {name: cells[name] for name in self.predictor.context_columns if name in cells}

    def _write(self, image: InputImage, text: str, label: str, part: _Part) -> dict[str, Any]:
        # One class: the prompt names the file. Several: the class does too.
        names = [slug(text)] if text.strip() else []
        names += [slug(label)] if label != "mask" or not names else []
        stem = "__".join([image.name, *names])
        mask, native = part.shown()
        caption = " ".join(word for word in (text, "" if label == "mask" else label) if word)
        if image.is_volume:
            file = nifti = f"{stem}.nii.gz"
            write_volume(self.out / nifti, part.masks, native)
            caption += f" (slice {part.largest} of {len(image.slices)})"
        else:
            file, nifti = f"{stem}.png", ""
            write_mask_png(self.out / file, mask)
            if native.spacing_mm is not None:
                nifti = f"{stem}.nii.gz"
                write_mask_nifti(self.out / nifti, mask, native)
        write_overlay(self.out / f"{stem}_overlay.png", native, mask, caption=caption)
        return {
            "id": image.name,
            "image": str(image.path),
            "slice": "all" if image.is_volume else "" if image.slices[0] is None else image.slices[0],
            "text": text,
            "class": label,
            "mask": file,
            "nifti": nifti,
            "overlay": f"{stem}_overlay.png",
            "pred_px": part.pred_px,
            "mean_prob": round(part.sum_probs / part.pred_px, 4) if part.pred_px else 0.0,
            "warnings": "; ".join(part.notes()),
        }


@dataclass
class _Part:
    """The masks of one prompt and class, of one slice or of all."""

    masks: dict[int | None, NDArray[np.bool_]] = field(default_factory=dict)
    pred_px: int = 0
    sum_probs: float = 0.0
    largest: int | None = None
    _largest_px: int = -1
    _image: Image | None = None
    _notes: dict[str, int] = field(default_factory=dict)

    def add(self, index: int | None, image: Image, result: Segmentation) -> None:
        num = int(result.mask.sum())
        self.masks[index] = result.mask
        self.pred_px += num
        self.sum_probs += float(result.probs[result.mask].sum(dtype=np.float64))
        if num > self._largest_px:
            self.largest, self._largest_px, self._image = index, num, image
        for note in result.warnings:
            self._notes[note] = self._notes.get(note, 0) + 1

    def shown(self) -> tuple[NDArray[np.bool_], Image]:
        """The mask, of several the largest, and its image."""
        assert self._image is not None
        return self.masks[self.largest], self._image

    def notes(self) -> list[str]:
        """What a user must know; of a volume with the number of slices that it is true of."""
        total = len(self.masks)
        return [note if num == total else f"{note} ({num} of {total} slices)" for note, num in self._notes.items()]


def _by_class(result: Segmentation) -> list[tuple[str, Segmentation]]:
    if len(result.classes) == 1:
        return [(result.classes[0], result)]
    return [
        (name, replace(result, mask=result.mask[k], probs=result.probs[k], classes=(name,)))
        for k, name in enumerate(result.classes)
    ]
