"""One affine per sample, applied alike to the image, its masks and boxes, and to the words of its text.

Coordinates are (x, y) in pixels with whole numbers at pixel CENTRES; a box edge at x is the pixel edge x (so that a box
over columns 2..4 is x0 = 2, x1 = 5), 0.5 more than the centre coordinate. Shapes: C channels, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.config.augment import AugmentConfig, Border
from medvl.core.errors import InputError, warn
from medvl.data.box_table import Box
from medvl.data.image import UPRIGHT, Image, Turn
from medvl.data.images import resample_map
from medvl.data.masks import resample_mask
from medvl.data.reports import can_mirror, is_english, mirror_text, names_height, names_side

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Laterality = Literal["patient", "viewer", "image"]

KEPT_FOREGROUND = 0.98  # of a mask must stay in the picture; a text about what is cut off would be untrue
DRAWS = 4


@dataclass(frozen=True, slots=True)
class Affine:
    """A map from the native grid to the model's grid, kept with the sample: predictions return to native pixels.

    `matrix` (2, 3) takes source (x, y) to target (x, y). `left_right` and `up_down` say whether words must be swapped;
    `turn`, which is part of the matrix, brings the stored pixels to the standard display and swaps no words.
    """

    matrix: NDArray[np.float64]
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    left_right: bool = False
    up_down: bool = False
    text_rule: Literal["rewrite", "keep"] = "rewrite"
    border: Border = "edge"
    turn: Turn = UPRIGHT

    def apply_image(self, pixels: FloatArray) -> FloatArray:
        """(H, W) or (C, H, W) at the source size -> the same layout at the target size.

        Outside the source its edges are repeated, or with `border: zero` it is black.
        """
        if pixels.ndim == 3:
            return np.stack([self.apply_image(channel) for channel in pixels])  # (C, h, w)
        return self._warp(pixels, cv2.BORDER_REPLICATE if self.border == "edge" else cv2.BORDER_CONSTANT)

    def apply_map(self, values: FloatArray) -> FloatArray:
        """(H, W) float -> (h, w); zero outside the source."""
        return self._warp(values, cv2.BORDER_CONSTANT)

    def apply_mask(self, mask: BoolArray) -> BoolArray:
        """(H, W) bool -> (h, w) bool: half of the area decides."""
        if self.turn:
            return self._turned().apply_mask(self.turn.apply(mask))
        if self._is_resize():
            return resample_mask(mask, self.target_size)
        return self.apply_map(mask.astype(np.float32)) >= 0.5

    def touched(self, mask: BoolArray) -> BoolArray:
        """(H, W) bool -> (h, w) bool: what OpenCV's bilinear rule makes greater than 0 (LViT's released program)."""
        if self.turn:
            return self._turned().touched(self.turn.apply(mask))
        pixels = mask.astype(np.uint8) * 255
        if self._is_resize():
            return np.asarray(cv2.resize(pixels, self.target_size[::-1], interpolation=cv2.INTER_LINEAR) > 0)
        return np.asarray(cv2.warpAffine(pixels, self.matrix, self.target_size[::-1], flags=cv2.INTER_LINEAR) > 0)

    def apply_boxes(self, boxes: Sequence[Box]) -> tuple[Box, ...]:
        """Boxes -> the upright boxes round their images, clipped to the target; those wholly outside are left out."""
        height, width = self.target_size
        result = []
        for box in boxes:
            corners = np.array([(x, y) for x in (box.x0, box.x1) for y in (box.y0, box.y1)]) - 0.5  # edges -> centres
            moved = corners @ self.matrix[:, :2].T + self.matrix[:, 2] + 0.5  # (4, 2)
            low, high = moved.min(axis=0).clip(0, (width, height)), moved.max(axis=0).clip(0, (width, height))
            if (high > low).all():
                result.append(Box(box.label, float(low[0]), float(low[1]), float(high[0]), float(high[1])))
        return tuple(result)

    def invert_boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 4) x0, y0, x1, y1 on the target grid -> (n, 4) on the source grid: upright boxes, clipped to the source.

        A box wholly outside becomes one without area at the edge.
        """
        corners = boxes[:, [[0, 1], [0, 3], [2, 1], [2, 3]]] - 0.5  # (n, 4, 2), edges -> centres
        inverse = _inverse(self.matrix)
        moved = corners @ inverse[:, :2].T + inverse[:, 2] + 0.5  # (n, 4, 2)
        sides = self.source_size[::-1]
        return np.concatenate([moved.min(axis=1).clip(0, sides), moved.max(axis=1).clip(0, sides)], axis=1)  # (n, 4)

    def apply_text(self, text: str) -> str:
        """The text with left/right and upper/lower swapped as the affine flips (unchanged with text_rule "keep")."""
        if self.text_rule == "keep" or not (self.left_right or self.up_down):
            return text
        return mirror_text(text, left_right=self.left_right, up_down=self.up_down)

    def after(self, base: Affine) -> Affine:
        """This affine as seen from the grid that `base` leads to: `base` first, then the result, is this affine.

        With `base` the plain `fit` it is what augmentation did: model's grid -> view.
        """
        square = np.vstack([base.matrix, (0.0, 0.0, 1.0)])
        matrix = _compose(self.matrix, np.linalg.inv(square)[:2])
        return replace(self, matrix=matrix, source_size=base.target_size, turn=UPRIGHT)

    def invert_map(self, values: FloatArray) -> FloatArray:
        """(h, w) or (K, h, w) on the target grid -> (H, W) or (K, H, W) on the source grid; zero outside the target."""
        if values.ndim == 3:
            return np.stack([self.invert_map(one) for one in values])  # (K, H, W)
        if self.turn:
            return self.turn.undo(self._turned().invert_map(values))
        if self._is_resize():
            return resample_map(values, self.source_size)
        # Edges are repeated, else the outermost pixels would be mixed with zeros; what is outside is cut off after it.
        result = _sample(values, _inverse(self.matrix), self.source_size, cv2.BORDER_REPLICATE)
        (height, width), (h, w) = self.source_size, self.target_size
        x, y = (
            row[0] * np.arange(width)[None, :] + row[1] * np.arange(height)[:, None] + row[2] for row in self.matrix
        )  # (H, W) each: where the pixel lies on the target grid
        inside = (x > -0.5) & (x < w - 0.5) & (y > -0.5) & (y < h - 0.5)
        return np.where(inside, result, np.float32(0))

    def _turned(self) -> Affine:
        """The rest of this affine once `turn` is done: pixels are turned exactly, never by interpolation."""
        square = np.vstack([self.turn.matrix(self.source_size), (0.0, 0.0, 1.0)])
        matrix = _compose(self.matrix, np.linalg.inv(square)[:2])
        return replace(self, matrix=matrix, source_size=self.turn.size(self.source_size), turn=UPRIGHT)

    def _is_resize(self) -> bool:
        return bool(np.allclose(self.matrix, _resize_matrix(self.source_size, self.target_size), atol=1e-9))

    def _warp(self, values: FloatArray, border: int) -> FloatArray:
        if self.turn:
            return self._turned()._warp(self.turn.apply(values), border)
        if self._is_resize():
            return resample_map(values, self.target_size)
        return _sample(values, self.matrix, self.target_size, border)


def fit(
    source_size: tuple[int, int],
    target_size: tuple[int, int],
    how: Literal["stretch", "letterbox"] = "stretch",
    border: Border = "edge",
    turn: Turn = UPRIGHT,
) -> Affine:
    """The plain resize to the model's grid: both sides stretched, or the aspect kept and the rest padded evenly.

    What is padded, and what an affine drawn on top of it shows beyond the picture, is as `border` says. `turn` brings
    the stored pixels to the standard display first; `dataset.fit_image` gives that of the image.
    """
    size = turn.size(source_size)
    if how == "stretch":
        matrix = _resize_matrix(size, target_size)
    else:
        scale = min(target_size[0] / size[0], target_size[1] / size[1])
        centre = [(side - 1) / 2 for side in size]
        middle = [(side - 1) / 2 for side in target_size]
        matrix = np.array([[scale, 0, middle[1] - scale * centre[1]], [0, scale, middle[0] - scale * centre[0]]])
    if turn:
        matrix = _compose(matrix, turn.matrix(source_size))
    return Affine(matrix, source_size, target_size, border=border, turn=turn)


def draw(
    config: AugmentConfig,
    rng: np.random.Generator,
    base: Affine,
    *,
    text: str | Sequence[str] = "",
    laterality: Laterality | None = None,
    mask: BoolArray | None = None,
) -> Affine:
    """Draw the affine of one training sample on top of `base`.

    A transform that would make the text untrue is not drawn: no flip of a text that cannot be mirrored for certain
    (`can_mirror`), no quarter turn of a text that names a side or a height, nothing that pushes more than
    2 % of the mask out of the picture (drawn at most 4 times, then `base`), except by `crop_area` where there is no
    text. `flip_text: keep` gives all that up, and so does `scheme: released`, which rewrites only the texts of its
    flips and half turns. `scheme: none` is `base`.

    Args:
        text: the text of the sample, or all of them.
        laterality: a flip with swapped words is true for the patient's and for the viewer's side alike; only whether it
            is declared matters, and `require_laterality` checks that.
        mask: (H, W) bool on the native grid; None = nothing to keep.
    """
    if config.scheme == "none":
        return base
    if config.scheme == "released":
        return _draw_released(config, rng, base)
    if config.p_affine < 1 and rng.random() >= config.p_affine:
        return base
    free = config.flip_text == "keep"
    texts = [text] if isinstance(text, str) else text
    may_flip_lr, may_flip_ud = (
        free or all(can_mirror(one, left_right=left_right, up_down=not left_right) for one in texts)
        for left_right in (True, False)
    )
    may_turn = free or (may_flip_lr and may_flip_ud and not any(names_side(one) or names_height(one) for one in texts))
    for _ in range(DRAWS):
        angle = np.deg2rad(rng.uniform(-config.max_rotate_deg, config.max_rotate_deg))
        scale = rng.uniform(*config.scale)
        shift = rng.uniform(-config.max_shift, config.max_shift, 2)
        flip_lr, flip_ud, turn = rng.random(3) < (config.p_flip_lr, config.p_flip_ud, config.p_rot90)
        flip_lr, flip_ud = bool(flip_lr and may_flip_lr), bool(flip_ud and may_flip_ud)
        quarter = int(rng.choice((1, 3))) if turn and may_turn else 0
        mirror = np.diag((-1.0 if flip_lr else 1.0, -1.0 if flip_ud else 1.0))
        linear = scale * _rotation(angle + quarter * np.pi / 2) @ mirror
        start = base if config.crop_area is None else _cropped(base, config.crop_area, rng)
        affine = _about_centre(start, linear, shift, flip_lr, flip_ud, config.flip_text)
        whole = free or (config.crop_area is not None and not any(one.strip() for one in texts))
        if mask is None or not mask.any() or whole or _kept(affine, mask) >= KEPT_FOREGROUND:
            return affine
    return base


def require_laterality(texts: Sequence[str], laterality: Laterality | None) -> None:
    """InputError when a text names a side and the configuration does not say whose."""
    if laterality is not None:
        return
    for text in texts:
        if names_side(text):
            raise InputError.missing(
                f"data.laterality is not set, and a text names a side: {text[:80]!r}",
                expected="patient (reports), viewer, or image (as the picture is displayed)",
                remedy="set data.laterality in the recipe",
            )


def refuse_sides(texts: Sequence[str], image: Image, laterality: Laterality | None) -> None:
    """InputError when a text names the patient's side and the image is lateral or oblique, which has none."""
    if image.orientation.kind != "sideless" or laterality in ("viewer", "image"):
        return
    for text in texts:
        if names_side(text):
            raise InputError.conflict(
                f"a text names a side of a lateral or oblique image ({image.orientation.source}): {text[:80]!r}",
                file=image.path,
                expected="a frontal or axial image, whose left and right are the patient's",
                remedy="leave the side out of the text",
            )


def warn_unmirrored(texts: Sequence[str], config: AugmentConfig) -> None:
    """Say how many texts keep their image from being flipped because they cannot be mirrored for certain."""
    flips = {
        "left_right": config.p_flip_lr > 0 or config.p_rot90 > 0,
        "up_down": config.p_flip_ud > 0 or config.p_rot90 > 0,
    }
    if config.scheme != "medvl" or config.flip_text == "keep" or not any(flips.values()):
        return
    kept = [text for text in texts if not can_mirror(text, **flips)]
    if kept:
        num_foreign = sum(not is_english(text) for text in kept)
        warn(
            f"{len(kept)} of {len(texts)} texts cannot be mirrored for certain, their images are not flipped: "
            f"{num_foreign} are not English, {len(kept) - num_foreign} name a place without a counterpart "
            f"(middle lobe, lingula) or a word that may be a side; the first: {kept[0][:80]!r}"
        )


def _draw_released(config: AugmentConfig, rng: np.random.Generator, base: Affine) -> Affine:
    """LViT's released scheme: half of the time a quarter turn k in 0..3 and always a flip on a random axis; else, half
    of the time, a rotation by -20..19 degrees. (Reference: released Load_Dataset.py.)"""
    if rng.random() < 0.5:
        quarter, axis = int(rng.integers(4)), int(rng.integers(2))
        flip = np.diag((-1.0, 1.0)) if axis else np.diag((1.0, -1.0))
        linear = flip @ _rotation(quarter * np.pi / 2)
        rewrite = config.flip_text == "rewrite" and quarter % 2 == 0  # a quarter turn cannot be put in these words
        left_right, up_down = (bool(axis) != (quarter == 2)), (not axis) != (quarter == 2)
        return _about_centre(base, linear, np.zeros(2), rewrite and left_right, rewrite and up_down, config.flip_text)
    if rng.random() < 0.5:
        angle = np.deg2rad(int(rng.integers(-20, 20)))
        return _about_centre(base, _rotation(angle), np.zeros(2), False, False, config.flip_text)
    return base


def _about_centre(
    base: Affine,
    linear: NDArray[np.float64],
    shift: NDArray[np.float64],
    left_right: bool,
    up_down: bool,
    text_rule: Literal["rewrite", "keep"],
) -> Affine:
    """`base`, then `linear` about the centre of the target in units of its sides, then a shift in fractions of them."""
    height, width = base.target_size
    sides = np.array((width, height), dtype=np.float64)
    centre = (sides - 1) / 2
    # In units of the sides, so that a quarter turn of a picture that is not square still fills it.
    warp = np.diag(sides) @ linear @ np.diag(1 / sides) if _is_quarter(linear) else linear
    step = np.hstack([warp, (centre - warp @ centre + shift * sides)[:, None]])  # (2, 3)
    matrix = _compose(step, base.matrix)
    return replace(base, matrix=matrix, left_right=left_right, up_down=up_down, text_rule=text_rule)


def _cropped(base: Affine, area: tuple[float, float], rng: np.random.Generator) -> Affine:
    """`base`, then a part of its target stretched to the whole of it; all of it where ten draws do not fit."""
    height, width = base.target_size
    for _ in range(10):
        share, aspect = rng.uniform(*area), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = np.sqrt(share * aspect * height / width), np.sqrt(share / aspect * width / height)  # of the sides
        if max(w, h) <= 1:
            x, y = rng.uniform(0, 1 - w) * width, rng.uniform(0, 1 - h) * height  # the crop's edges
            step = np.array([[1 / w, 0, (0.5 - x) / w - 0.5], [0, 1 / h, (0.5 - y) / h - 0.5]])
            return replace(base, matrix=_compose(step, base.matrix))
    return base


def _is_quarter(linear: NDArray[np.float64]) -> bool:
    return bool(abs(linear[0, 0]) < abs(linear[0, 1]))


def _kept(affine: Affine, mask: BoolArray) -> float:
    """The share of the foreground whose pixels land inside the target."""
    rows, columns = np.nonzero(mask)  # all of them: every n-th can fall into the same few columns
    x, y = (row[0] * columns + row[1] * rows + row[2] for row in affine.matrix)
    height, width = affine.target_size
    return float(((x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)).mean())


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float64)


def _sample(values: FloatArray, matrix: NDArray[np.float64], size: tuple[int, int], border: int) -> FloatArray:
    """(H, W) float at `matrix` (source to target) -> `size`, linear; what is outside the source is as `border` says."""
    # Shrinking by a warp would alias: average each side down to about the target's scale first, then warp.
    sides = [
        max(1, round(side * scale)) if scale < 0.8 else side
        for side, scale in zip(values.shape, np.linalg.norm(matrix[:, [1, 0]], axis=0), strict=True)
    ]
    small = (sides[0], sides[1])
    if small != values.shape:
        matrix = _compose(matrix, _resize_matrix(small, (values.shape[0], values.shape[1])))
        values = resample_map(values, small)
    warped = cv2.warpAffine(
        np.ascontiguousarray(values, dtype=np.float32),
        matrix,
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR,
        borderMode=border,
    )
    return np.asarray(warped, dtype=np.float32)


def _resize_matrix(source: tuple[int, int], target: tuple[int, int]) -> NDArray[np.float64]:
    """Edges go to edges: x' = (x + 0.5) * w' / w - 0.5."""
    sy, sx = target[0] / source[0], target[1] / source[1]
    return np.array([[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5]])


def _compose(second: NDArray[np.float64], first: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) of `first`, then `second`."""
    bottom = np.array([[0.0, 0.0, 1.0]])
    return np.asarray((np.vstack([second, bottom]) @ np.vstack([first, bottom]))[:2], dtype=np.float64)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 3) back."""
    return np.asarray(np.linalg.inv(np.vstack([matrix, (0.0, 0.0, 1.0)]))[:2], dtype=np.float64)
