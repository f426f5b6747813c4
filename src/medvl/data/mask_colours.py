"""The colours of a mask file -> one value a pixel. Palette, alpha channel, one colour, or a table of colours.

Shapes: H rows, W columns, C channels. The background is black, or white where there is no black.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError

BoolArray = NDArray[np.bool_]
Source = Literal["palette", "indices", "alpha", "colour"]
LabelValue = int | str  # a whole number from 1 up, or a colour #rrggbb
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FLAT_IN_JPEG = 24  # of 255: the range within 3 x 3 pixels that still counts as one colour


@dataclass(frozen=True, slots=True)
class StoredMask:
    """What a file holds, before anything is decided."""

    path: Path
    values: NDArray[Any]  # (H, W), or (H, W, C): 2 grey and alpha, 3 RGB, 4 RGB and alpha
    palette: NDArray[np.uint8] | None = None  # (entries, 4) RGB and alpha; `values` are then indices
    lossy: bool = False  # JPEG
    full: float | None = None  # the value of a pixel wholly inside (fractional DICOM SEG)
    volume: NDArray[Any] | None = None  # the whole volume that `values` is a slice of


def is_colour(value: LabelValue) -> bool:
    """Whether a label value is spelled as a colour."""
    return isinstance(value, str)


def label_value(text: str) -> LabelValue:
    """A cell's `3` or `#ff0000` -> the value. ValueError for anything else, and for numbers below 1."""
    text = text.strip().lower()
    if _COLOUR.fullmatch(text):
        return text
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def single_plane(
    stored: StoredMask, declared: tuple[LabelValue, ...] | None = None
) -> tuple[NDArray[Any], Source | None]:
    """(H, W) values, 0 = background, and where they come from (None: they are the file's own).

    A palette of greys gives the greys, one of several colours its indices (0 where the colour is the background's).
    Of `declared` whole numbers those that a grey palette does not have are indices.

    Raises:
        InputError: several colours and no palette.
    """
    values = stored.values
    if stored.palette is not None:
        return _of_palette(stored, values, stored.palette, declared)
    if values.ndim == 2:
        return values, None
    plane = _alpha_plane(values)
    if plane is not None:
        return plane, "alpha"
    colour = _without_alpha(values)
    plane = colour[:, :, 0] if colour.shape[2] == 1 else _grey(colour, stored.lossy)
    if plane is not None:
        return plane, None
    plane = _one_colour(colour, stored.lossy)
    if plane is not None:
        return plane, "colour"
    colours = ", ".join(colours_of(stored)[:8])
    raise InputError.ambiguous(
        "a mask in several colours" + (f": {colours}" if colours else ""),
        file=stored.path,
        expected="grey, one colour on black or white, or a table of colours",
        remedy="name the colours of each class: data.classes='{lung: [\"#ff0000\"]}', or mask_values #ff0000",
    )


def colour_mask(stored: StoredMask, colours: tuple[str, ...]) -> BoolArray:
    """(H, W) bool: the pixels that are nearer to one of `colours` than to every other colour of the file."""
    pixels, visible = _pixels(stored)
    wanted = np.array([_rgb(colour) for colour in colours], dtype=np.int32)  # (k, 3)
    others = np.concatenate([np.array([[0, 0, 0], [255, 255, 255]]), _levels(pixels, stored.lossy)])  # (m, 3)
    near = 48 if stored.lossy else 16  # such a colour is the wanted one, a little off
    apart = (np.abs(others[:, None] - wanted[None]).max(axis=2) > near).all(axis=1)
    candidates = np.concatenate([wanted, others[apart]]).astype(np.int32)
    packed = _packed(pixels)
    unique, places = np.unique(packed, return_inverse=True)
    rgb = np.stack([unique >> 16, unique >> 8 & 255, unique & 255], axis=1)  # (n, 3)
    distance = np.stack([((rgb - candidate) ** 2).sum(axis=1) for candidate in candidates])  # (k + m, n)
    inside: BoolArray = (distance.argmin(axis=0) < len(wanted))[places.reshape(packed.shape)]
    return inside & visible


def colours_of(stored: StoredMask) -> list[str]:
    """The colours that fill areas of the file, the most frequent first, e.g. ["#000000", "#ff0000"]."""
    levels = np.rint(_levels(_pixels(stored)[0], stored.lossy)).astype(int)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in levels]


def levels_of(plane: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The grey values (m,) that fill areas of a JPEG mask (H, W)."""
    return _levels(plane[:, :, None], lossy=True)[:, 0]


def _of_palette(
    stored: StoredMask, indices: NDArray[Any], palette: NDArray[np.uint8], declared: tuple[LabelValue, ...] | None
) -> tuple[NDArray[Any], Source | None]:
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=len(palette)))
    if len(used) and used[-1] >= len(palette):
        raise InputError.out_of_range(
            "indices beyond the palette", file=stored.path, expected=f"0 to {len(palette) - 1}"
        )
    colours = palette[used]  # (n, 4)
    if len(used) > 1 and (colours == colours[0]).all():
        return indices, "indices"  # the colours do not distinguish labels
    grey = bool((colours[:, :3] == colours[:, :1]).all())
    if declared is not None and not (grey and set(declared) & set(colours[:, 0].tolist())):
        return indices, "indices"
    expanded = palette[indices]  # (H, W, 4)
    plane = _alpha_plane(expanded)
    if plane is not None:
        return plane, "alpha"
    rgb = _without_alpha(expanded)
    plane = rgb[:, :, 0] if (rgb == rgb[:, :, :1]).all() else _one_colour(rgb, lossy=False, tolerance=1 / 32)
    if plane is not None:
        return plane, "palette"
    background = _background(rgb)
    labels = indices.astype(np.int32)
    labels[indices == 0] = len(palette)  # a label of its own, unless it is the background
    if background is not None:
        labels[np.abs(rgb.astype(np.int32) - background).max(axis=2) <= 8] = 0
    elif 0 in used:
        labels[indices == 0] = 0
    return labels, "indices"


def _alpha_plane(values: NDArray[Any]) -> NDArray[Any] | None:
    """The alpha channel (H, W), where it holds the mask: it varies, and what it shows is of one colour."""
    if values.shape[2] not in (2, 4):
        return None
    colour, alpha = values[:, :, :-1], values[:, :, -1]
    visible = alpha > 0
    shown = colour[visible]
    if alpha.min() == alpha.max():
        return np.zeros_like(alpha) if not visible.any() and (colour == colour[0, 0]).all() else None
    return alpha if (np.ptp(shown.astype(np.float64), axis=0) <= shown.max() / 32).all() else None


def _without_alpha(values: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) -> its colour; black where the file is more transparent than not."""
    if values.shape[2] not in (2, 4):
        return values
    alpha = values[:, :, -1].astype(np.float64)
    if alpha.min() == alpha.max():
        return values[:, :, :-1]
    return np.where((2 * alpha >= alpha.max())[:, :, None], values[:, :, :-1], 0).astype(values.dtype)


def _grey(colour: NDArray[Any], lossy: bool) -> NDArray[Any] | None:
    """(H, W) where the three channels are equal, or nearly so (the chroma noise of JPEG)."""
    if (colour == colour[:, :, :1]).all():
        return np.asarray(colour[:, :, 0])
    top = float(colour.max())
    spread = float((colour.max(axis=2).astype(np.float64) - colour.min(axis=2)).max())
    if spread > top / (8 if lossy else 32) and not (lossy and top <= 8):
        return None
    mean: NDArray[Any] = colour.astype(np.float64).mean(axis=2)
    return mean if colour.dtype.kind == "f" else np.asarray(np.rint(mean), dtype=colour.dtype)


def _background(colour: NDArray[Any]) -> NDArray[np.int32] | None:
    """Black, or white where there is no black; None where there is neither."""
    top = 255.0 if colour.dtype == np.uint8 else float(colour.max())
    for value, pixels in ((0, colour.max(axis=2) < top / 8), (int(top), colour.min(axis=2) > top * 7 / 8)):
        if pixels.mean() >= 0.001:
            return np.full(3, value, dtype=np.int32)
    return None


def _one_colour(colour: NDArray[Any], lossy: bool, tolerance: float | None = None) -> NDArray[Any] | None:
    """(H, W) uint8, how far each pixel is from the background (0) to the one other colour (255); None for several."""
    background = _background(colour)
    if background is None:
        same = (np.ptp(colour.astype(np.float64), axis=(0, 1)) <= float(colour.max()) / 32).all()
        return np.full(colour.shape[:2], 255, dtype=np.uint8) if same else None
    away = (colour.astype(np.float64) - background) / max(float(colour.max()), 1.0)  # (H, W, 3)
    size = np.abs(away).max(axis=2)
    direction = np.median(away[size >= size.max() * 7 / 8], axis=0)  # (3,)
    share = away @ direction / max(float(direction @ direction), 1e-12)  # (H, W)
    noisy = lossy or len(np.unique(_packed(colour))) > 512  # a PNG made of a JPEG is as noisy as that
    off = np.abs(away - share[:, :, None] * direction).max(axis=2) > (tolerance or (1 / 4 if noisy else 1 / 16))
    solid = cv2.erode(off.astype(np.uint8), np.ones((5, 5), np.uint8)).any()  # not the bleeding of an edge
    if solid or off.mean() > (0.01 if noisy else 0):
        return None
    return np.asarray(np.rint(np.clip(share, 0, 1) * 255), dtype=np.uint8)


def _packed(colour: NDArray[Any]) -> NDArray[np.int64]:
    """(H, W, 3) -> (H, W) one number a colour."""
    return np.asarray(colour.astype(np.int64) @ np.array([65536, 256, 1]))


def _pixels(stored: StoredMask) -> tuple[NDArray[np.uint8], BoolArray]:
    """(H, W, 3) in 8 bits, and (H, W) where the file is not transparent."""
    values = stored.values if stored.palette is None else stored.palette[stored.values]
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    elif values.dtype == np.uint16:
        values = np.rint(values / 257).astype(np.uint8)
    elif values.dtype != np.uint8:
        high = float(values.max()) if values.size else 0.0
        if high > 255 or float(values.min()) < 0:
            raise InputError.malformed(
                f"values from {values.min():g} to {high:g}", file=stored.path, expected="colours of 0 to 255"
            )
        values = np.rint(values * (255 if values.dtype.kind == "f" and high <= 1 else 1)).astype(np.uint8)
    values = values[:, :, None] if values.ndim == 2 else values
    visible = np.ones(values.shape[:2], dtype=bool)
    if values.shape[2] in (2, 4):
        alpha = values[:, :, -1].astype(np.int32)
        visible = 2 * alpha >= max(int(alpha.max()), 1)
        values = values[:, :, :-1]
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))), visible


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _levels(pixels: NDArray[np.uint8], lossy: bool) -> NDArray[np.float64]:
    """(H, W, C) -> (m, C) the colours that fill areas of at least 3 x 3 pixels, the most frequent first, at most 64.

    Of a JPEG, whose areas are not quite even, each stands for those near it.
    """
    kernel = np.ones((3, 3), np.uint8)
    high, low = (np.atleast_3d(morph(pixels, kernel)) for morph in (cv2.dilate, cv2.erode))
    flat = (high.astype(np.int32) - low).max(axis=2) <= (_FLAT_IN_JPEG if lossy else 0)
    chosen = pixels[flat].astype(np.int64)  # (n, C)
    if not len(chosen):
        return np.zeros((0, pixels.shape[2]))
    step = 16 if lossy else 1
    packed = (chosen // step) @ (256 ** np.arange(pixels.shape[2]))
    _, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(places, weights=one) for one in chosen.T], axis=1) / counts[:, None]
    levels: list[NDArray[np.float64]] = []
    for i in np.argsort(-counts, kind="stable"):
        if lossy and counts[i] < max(9, 0.0005 * len(chosen)):
            break
        if not lossy or all(np.abs(means[i] - other).max() > 1.5 * step for other in levels):
            levels.append(means[i])
        if len(levels) == 64:
            break
    return np.array(levels).reshape(-1, pixels.shape[2])
