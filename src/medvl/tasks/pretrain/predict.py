"""Images -> predictions of a pre-trained model: where texts are, and the probabilities of classes by prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medvl.core.errors import InputError, warn
from medvl.core.task import Question
from medvl.data.dataset import load_image
from medvl.data.image import Image
from medvl.inference.inputs import InputImage
from medvl.inference.writers import slug, write_mask_png, write_volume
from medvl.tasks.pretrain.zero_shot import Grounding, ZeroShot, write_similarity
from medvl.text.prompts import load_prompts

COLUMNS: tuple[str, ...] = (
    "id",
    "image",
    "slice",
    "text",
    "similarity",
    "highest",
    "x",
    "y",
    "mask",
    "box",
    "warnings",
)
Part = tuple[int | None, Image, Grounding]  # slice, its image, the answer


class GroundFiles:
    """Writes `<id>__<phrase-slug>_similarity.png`, with a threshold also the mask `<id>__<phrase-slug>.png`.

    Of all slices of a volume: one mask volume `.nii.gz` and the map of the slice with the highest similarity.
    `question.threshold` is a cosine, -1 to 1; options `sigma` and `how` are those of `ZeroShot.ground`.
    """

    table, columns = "predictions.csv", COLUMNS

    def __init__(self, reader: ZeroShot, images: Sequence[InputImage], out: Path, question: Question) -> None:
        """InputError where an image has no text, before anything is written."""
        self.reader, self.out, self.texts = reader, out, list(question.texts)
        self.options = {"threshold": question.threshold, **question.options}
        without = [image for image in images if not self._texts(image)]
        if without:
            raise InputError.missing(
                f"no text to look for in {len(without)} of {len(images)} images",
                file=without[0].path,
                expected='--text "right upper zone", or a manifest with a text in every row',
            )

    def _texts(self, image: InputImage) -> list[str]:
        record_text = [image.record.text] if image.record is not None and image.record.text.strip() else []
        return self.texts or record_text

    def answer(self, image: InputImage) -> list[dict[str, Any]]:
        """Write the files of one image; a row per text. InputError where it cannot be read."""
        texts = self._texts(image)
        parts: list[list[Part]] = [[] for _ in texts]
        for index in image.slices:
            native = load_image(image.path, replace(self.reader.config.data, slice_index=index))
            self.reader.set_image(native)
            for text_parts, text in zip(parts, texts, strict=True):
                text_parts.append((index, native, self.reader.ground(text, **self.options)))
        self.out.mkdir(parents=True, exist_ok=True)
        return [_write(self.out, image, text_parts) for text_parts in parts]


class ClassFiles:
    """A row per image, of all slices of a volume one each: probabilities of `question.classes` by their prompts.

    Options: `prompts` (a file of prompt families), `family` and `temperature`, see `ZeroShot.classify`.
    """

    table = "predictions.csv"

    def __init__(self, reader: ZeroShot, images: Sequence[InputImage], out: Path, question: Question) -> None:
        """InputError where a class has no prompts."""
        if question.threshold is not None:
            raise InputError.conflict(
                "--threshold with --classes", remedy="the table has the probabilities: leave it out"
            )
        options = dict(question.options)
        family = load_prompts(options.pop("prompts", None), options.pop("family", None))
        self.prompts, self.options = family.prompts(list(question.classes)), options
        self.reader, self.out = reader, out
        self.columns = ("id", "image", "slice", *(f"prob_{name}" for name in question.classes))

    def answer(self, image: InputImage) -> list[dict[str, Any]]:
        """The rows of one image. InputError where it cannot be read."""
        self.out.mkdir(parents=True, exist_ok=True)
        rows = []
        for index in image.slices:
            self.reader.set_image(load_image(image.path, replace(self.reader.config.data, slice_index=index)))
            probs = self.reader.classify(self.prompts, **self.options)
            row: dict[str, Any] = {"id": image.name, "image": str(image.path), "slice": "" if index is None else index}
            rows.append(row | {f"prob_{name}": round(p, 6) for name, p in probs.items()})
        return rows


def _write(out: Path, image: InputImage, parts: Sequence[Part]) -> dict[str, Any]:
    index, native, shown = max(parts, key=lambda part: float(part[2].similarity_map.max()))
    stem = "__".join([image.name, slug(shown.phrase) or "empty"])
    for _, _, one in parts:
        for note in one.warnings:
            warn(note, place=f"{image.name}: {one.phrase!r}")
    write_similarity(out / f"{stem}_similarity.png", native, shown)
    y, x = divmod(int(shown.similarity_map.argmax()), shown.similarity_map.shape[1])
    row: dict[str, Any] = {"id": image.name, "image": str(image.path), "slice": "" if index is None else index}
    row |= {"text": shown.phrase, "similarity": f"{stem}_similarity.png"}
    row |= {"highest": round(float(shown.similarity_map.max()), 6), "x": x, "y": y, "mask": ""}
    row["box"] = "" if shown.box is None else " ".join(map(str, shown.box))
    if shown.mask is not None and image.is_volume:
        masks = {at: one.mask for at, _, one in parts if one.mask is not None}
        row["mask"] = f"{stem}.nii.gz"
        write_volume(out / row["mask"], masks, native)
    elif shown.mask is not None:
        row["mask"] = f"{stem}.png"
        write_mask_png(out / row["mask"], np.asarray(shown.mask))
    row["warnings"] = "; ".join(dict.fromkeys(note for _, _, one in parts for note in one.warnings))
    return row
