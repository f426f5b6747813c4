"""Where phrases are in images, by a pre-trained model -> similarity maps, and masks above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medvl.core.errors import InputError, warn
from medvl.data.dataset import load_image
from medvl.data.image import Image
from medvl.data.images import SliceChoice
from medvl.inference.batch import answer_each
from medvl.inference.inputs import InputImage, list_images
from medvl.inference.writers import slug, write_mask_png, write_volume
from medvl.tasks.pretrain.zero_shot import Grounding, How, ZeroShot, write_similarity


def ground_files(
    model: str | Path,
    sources: Sequence[str | Path],
    texts: Sequence[str],
    out: Path,
    *,
    threshold: float | None,
    sigma: float,
    how: How,
    choice: SliceChoice = None,
    text_column: str = "text",
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Look for phrases in every image of `sources` (see `list_images`); a row per image and phrase.

    Writes `<id>__<phrase-slug>_similarity.png`, with a threshold also the mask `<id>__<phrase-slug>.png`; of all slices
    of a volume one mask volume `.nii.gz` and the map of the slice with the highest similarity.

    Args:
        texts: asked of every image; without any, each row of a manifest is asked with its own text.

    Raises:
        InputError: an input that cannot be read, an image without a phrase (both before anything is written).
        UnfinishedError: some images could not be decoded; the others are done.
    """
    reader = ZeroShot.load(model, device)
    default = reader.config.data.slice_index
    images = list_images(sources, choice=choice, default_slice=default, text_column=text_column, out=out)
    phrases = [list(texts) or _own_text(image) for image in images]
    without = [image for image, own in zip(images, phrases, strict=True) if not own]
    if without:
        raise InputError.missing(
            f"no phrase to look for in {len(without)} of {len(images)} images",
            file=without[0].path,
            expected='--text "right upper zone", or a manifest with a text in every row',
        )
    own = dict(zip((image.name for image in images), phrases, strict=True))

    def answer(image: InputImage) -> list[dict[str, Any]]:
        found = _ground(reader, image, own[image.name], threshold, sigma, how)
        out.mkdir(parents=True, exist_ok=True)
        return [_write(out, image, parts) for parts in found]

    return answer_each(images, answer, "ground", out)


Part = tuple[int | None, Image, Grounding]  # slice, its image, the answer


def _own_text(image: InputImage) -> list[str]:
    return [image.record.text] if image.record is not None and image.record.text.strip() else []


def _ground(
    reader: ZeroShot, image: InputImage, phrases: Sequence[str], threshold: float | None, sigma: float, how: How
) -> list[list[Part]]:
    """Per phrase the answers of all slices."""
    found: list[list[Part]] = [[] for _ in phrases]
    for index in image.slices:
        native = load_image(image.path, replace(reader.config.data, slice_index=index))
        reader.set_image(native)
        for parts, phrase in zip(found, phrases, strict=True):
            parts.append((index, native, reader.ground(phrase, threshold, sigma, how)))
    return found


def _write(out: Path, image: InputImage, parts: Sequence[Part]) -> dict[str, Any]:
    index, native, shown = max(parts, key=lambda part: float(part[2].similarity_map.max()))
    stem = "__".join([image.name, slug(shown.phrase) or "empty"])
    for _, _, one in parts:
        for note in one.warnings:
            warn(note, place=f"{image.name}: {one.phrase!r}")
    write_similarity(out / f"{stem}_similarity.png", native, shown)
    y, x = divmod(int(shown.similarity_map.argmax()), shown.similarity_map.shape[1])
    row: dict[str, Any] = {"id": image.name, "image": str(image.path), "slice": index, "text": shown.phrase}
    row |= {"similarity": str(out / f"{stem}_similarity.png"), "highest": float(shown.similarity_map.max())}
    row |= {"highest_xy": [x, y], "mask": None, "box": shown.box}
    if shown.mask is not None and image.is_volume:
        masks = {at: one.mask for at, _, one in parts if one.mask is not None}
        write_volume(out / f"{stem}.nii.gz", masks, native)
        row["mask"] = str(out / f"{stem}.nii.gz")
    elif shown.mask is not None:
        write_mask_png(out / f"{stem}.png", np.asarray(shown.mask))
        row["mask"] = str(out / f"{stem}.png")
    return {**row, "warnings": list(dict.fromkeys(note for _, _, one in parts for note in one.warnings))}
