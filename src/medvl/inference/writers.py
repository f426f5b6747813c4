"""Masks -> files: PNG, NIfTI, overlays. Every file is written whole or not at all. Shapes: H W native pixels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.core.files import whole_file
from medvl.data.image import Image
from medvl.data.intensity import as_picture
from medvl.data.volume import NiftiSlice, single_slice

BoolArray = NDArray[np.bool_]

SLUG_LENGTH = 48
PREDICTED = (255, 140, 0)  # orange, as RGB
TRUE = (0, 200, 255)  # cyan
MIN_OVERLAY = 512  # smaller images are enlarged so that contours and caption can be read


def slug(phrase: str) -> str:
    """A short file-name part for a prompt: lower case, hyphens for what is not a letter or digit.

    Two prompts share a slug only if they differ in nothing but case and single spaces; where more was changed or cut, a
    hash of the prompt follows.
    """
    simple = re.sub(r"[^a-z0-9]+", "-", phrase.lower()).strip("-")
    if simple.replace("-", " ") == phrase.lower() and 0 < len(simple) <= SLUG_LENGTH:
        return simple
    digest = hashlib.sha256(phrase.encode()).hexdigest()[:8]
    return f"{simple[: SLUG_LENGTH - 9].strip('-')}-{digest}".strip("-")


def write_mask_png(path: Path, mask: BoolArray) -> None:
    """(H, W) bool -> 8-bit grey PNG, 0 and 255."""
    from PIL import Image as PILImage

    picture = PILImage.fromarray(np.where(mask, 255, 0).astype(np.uint8))
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def write_mask_nifti(path: Path, mask: BoolArray, image: Image) -> None:
    """(H, W) bool -> NIfTI (uint8, 0 and 1).

    Of a NIfTI image: a volume of the source's shape and affine in which the slice shown holds the mask and all other
    slices are empty. Of another image: one slice with its spacing, oriented so that medvl reads back the same array.
    """
    reference = image.reference
    if not isinstance(reference, NiftiSlice):
        reference = single_slice(mask.shape, image.spacing_mm)
    _write_nifti(path, reference.to_volume(mask.astype(np.uint8)), reference)


def write_volume(path: Path, masks: Mapping[int | None, BoolArray], image: Image) -> None:
    """{index of a slice: (H, W) bool} of all slices -> one NIfTI (uint8, 0 and 1).

    Of a NIfTI image (any of its slices): of the source's shape and affine. Of another file of several frames: the
    frames in their order, with the spacing of their pixels.
    """
    reference = image.reference
    slices = {index or 0: mask.astype(np.uint8) for index, mask in masks.items()}
    if not isinstance(reference, NiftiSlice):
        reference = single_slice(next(iter(slices.values())).shape, image.spacing_mm, num_slices=len(slices))
    _write_nifti(path, reference.stack(slices), reference)


def write_overlay(
    path: Path, image: Image, pred_mask: BoolArray, true_mask: BoolArray | None = None, caption: str = ""
) -> None:
    """The image in standard display, windowed to its own range, with the predicted contour in orange on a wider cyan
    one of the true mask, and a caption below. Masks are in stored pixels."""
    from PIL import Image as PILImage

    turn = image.orientation.turn
    pixels, pred_mask = image.displayed().pixels, turn.apply(pred_mask)
    true_mask = None if true_mask is None else turn.apply(true_mask)
    height, width = pred_mask.shape
    scale = max(1, -(-MIN_OVERLAY // max(height, width)))
    canvas = cv2.resize(as_picture(pixels), (width * scale, height * scale), interpolation=cv2.INTER_LINEAR)
    for mask, colour, thickness in ((true_mask, TRUE, 4), (pred_mask, PREDICTED, 2)):  # where they agree, both show
        if mask is not None:
            large = cv2.resize(mask.astype(np.uint8), (width * scale, height * scale), interpolation=cv2.INTER_NEAREST)
            contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, contours, -1, colour, thickness)
    if caption:
        bar = np.zeros((28, canvas.shape[1], 3), np.uint8)
        text = caption.encode("ascii", "replace").decode()  # cv2's font has no other letters
        cv2.putText(bar, text[:90], (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        canvas = np.vstack([canvas, bar])
    picture = PILImage.fromarray(canvas)
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")


def write_boxes(path: Path, image: Image, boxes: Sequence[tuple[Sequence[float], str]]) -> None:
    """The image in standard display with boxes (x0, y0, x1, y1 in native pixels) in orange, each with its caption."""
    from PIL import Image as PILImage

    pixels, turn = image.displayed().pixels, image.orientation.turn
    height, width = pixels.shape[:2]
    scale = max(1, -(-MIN_OVERLAY // max(height, width)))
    canvas = cv2.resize(as_picture(pixels), (width * scale, height * scale), interpolation=cv2.INTER_LINEAR)
    for corners, caption in boxes:
        x0, y0, x1, y1 = (round(value * scale) for value in turn.apply_box(corners, image.size))
        cv2.rectangle(canvas, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), PREDICTED, 2)
        text = caption.encode("ascii", "replace").decode()  # cv2's font has no other letters
        (wide, high), below = cv2.getTextSize(text[:60], cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        left, base = max(0, min(x0, canvas.shape[1] - wide - 6)), min(y0 + high + 6, canvas.shape[0] - below)
        cv2.rectangle(canvas, (left, base - high - 6), (left + wide + 6, base + below), (0, 0, 0), cv2.FILLED)
        cv2.putText(canvas, text[:60], (left + 3, base), cv2.FONT_HERSHEY_SIMPLEX, 0.5, PREDICTED, 1, cv2.LINE_AA)
    picture = PILImage.fromarray(canvas)
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")


def _write_nifti(path: Path, values: NDArray[np.uint8], reference: NiftiSlice) -> None:
    import nibabel

    volume = nibabel.Nifti1Image(values, reference.affine)
    volume.header.set_xyzt_units(reference.unit)
    with whole_file(path, ".nii.gz" if path.suffix == ".gz" else ".nii") as temporary:
        nibabel.save(volume, str(temporary))
