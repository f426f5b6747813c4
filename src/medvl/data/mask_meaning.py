"""What a mask file means, decided in one place for training, evaluation, audit and folders of predicted masks.

In this order: declared label values or colours; `mask_rule: any` (every value above 0); few values in flat areas are
labels, and 255 beside them is void; other grey is cut at half. A JPEG, or a PNG made of
one, is never exact: it is cut at half of its largest value (or of its only area's), and is empty where that is at most
8. NaN is background.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.core.errors import InputError
from medvl.data.mask_colours import LabelValue, StoredMask, colour_mask, colours_of, is_colour, levels_of, single_plane

BoolArray = NDArray[np.bool_]
MaskRule = Literal["area", "any"]
Note = Literal["alpha", "colour", "palette", "void", "labels", "grey", "jpeg", "noise", "faint", "nan", "picture"]

JPEG_NOISE = 8  # the largest value of a JPEG mask that is still empty
CLASS_NUMBERS = 32  # whole numbers up to here are labels, however thin their areas are
_OVERSHOOT = 1.6  # how far JPEG raises the edges of an area above its value
_APART_IN_JPEG = 16  # declared values that are nearer to each other cannot be distinguished in a JPEG


@dataclass(frozen=True, slots=True)
class MaskReading:
    """The pixels of a mask, and how that was decided."""

    mask: BoolArray  # (H, W)
    rule: str  # e.g. "labels", "grey cut at 127.5", "mask_values 1|3"
    values: tuple[str, ...]  # what the file holds, e.g. ("0", "255"); of very many only the range
    notes: frozenset[Note] = field(default_factory=frozenset)  # what a reader of the file should know
    void: BoolArray | None = None  # (H, W) neither mask nor background: not scored


def decide(stored: StoredMask, declared: tuple[LabelValue, ...] | None = None, rule: MaskRule = "area") -> MaskReading:
    """Decide which pixels belong to the mask; see the module.

    Raises:
        InputError: several colours without a table; a label map stored as JPEG; values that are negative, infinite
            or, of declared labels, not whole.
    """
    if declared is not None and any(is_colour(value) for value in declared):
        colours = tuple(str(value) for value in declared)
        mask = colour_mask(stored, colours)
        return MaskReading(mask, f"colours {'|'.join(colours)}", tuple(colours_of(stored)[:16]))
    plane, source = single_plane(stored, declared)
    notes: set[Note] = set()
    if source is not None:
        notes.add("palette" if source == "indices" else source)
    if plane.dtype.kind == "f" and np.isnan(plane).any():
        notes.add("nan")
    plane = numbers(plane, stored)
    values, shown = _values(plane)
    plain = source != "indices" and stored.volume is None and stored.full is None
    num_areas = _noisy_areas(plane, values) if plain else 0
    if declared is not None:
        chosen = _declared(replace(stored, lossy=stored.lossy or num_areas > 1), plane, declared)
        return MaskReading(chosen, f"mask_values {'|'.join(map(str, declared))}", shown, frozenset(notes))
    if rule == "any":
        return MaskReading(np.asarray(plane != 0), "every value above 0", shown, frozenset(notes))
    if stored.lossy or num_areas > 2:
        return _jpeg(stored, plane, shown, notes)
    of_file = values if stored.volume is None else _of_volume(stored.volume)
    if stored.full is not None or plane.dtype.kind == "f" or (source != "indices" and _is_soft(plane, values)):
        return _cut_at_half(stored, plane, of_file, shown, notes)
    void = void_label(of_file)
    words = "one label"
    if void is not None:
        notes.add("void")
        words = f"labels, {void} is void"
    elif (of_file > 0).sum() > 1:
        notes.add("labels")
        words = "labels"
    outside = None if void is None else np.asarray(plane == void)
    mask = plane != 0 if outside is None else (plane != 0) & ~outside
    return MaskReading(np.asarray(mask), words, shown, frozenset(notes), outside)


def numbers(plane: NDArray[Any], stored: StoredMask) -> NDArray[Any]:
    """Integers where all values are whole, else floats; NaN is 0. InputError for infinity and values below 0."""
    if plane.dtype == np.bool_:
        return plane.astype(np.uint8)
    if plane.dtype.kind == "f":
        plane = np.nan_to_num(plane, nan=0.0, posinf=np.inf, neginf=-np.inf)
        bad = int((~np.isfinite(plane)).sum())
        if bad:
            raise InputError.not_finite(
                f"{bad} pixels of the mask are no finite number",
                file=stored.path,
                expected="a label in every pixel",
                remedy="write 0 or a label of its own there",
            )
        whole = np.rint(plane)
        if (np.abs(plane - whole) <= 1e-3).all():
            plane = whole.astype(np.int64)
    if plane.dtype.kind != "u" and plane.size and plane.min() < 0:
        raise InputError.out_of_range(
            f"a mask with negative values, down to {plane.min():g}",
            file=stored.path,
            expected="0 for the background, values above 0 for the mask",
            remedy="write labels from 0 up; resample a mask with nearest neighbours",
        )
    return plane


def void_label(values: NDArray[Any]) -> int | None:
    """255 (65535) beside class numbers; None where it is a label like the others, in even steps (85, 170, 255)."""
    if not len(values) or values.dtype.kind == "f" or values[-1] not in (255, 65535):
        return None
    classes = values[(values > 0) & (values < values[-1])].astype(np.int64)
    if not len(classes):
        return None
    top, steps = int(values[-1]), np.diff(classes, prepend=0)
    apart = top - int(classes[-1]) > 2 * int(steps.max())  # 1, 2, 3, 255
    uneven = 2 * int(classes[0]) < top / (len(classes) + 1)  # 7, 150, 255
    return top if apart or uneven else None


def distinct(plane: NDArray[Any]) -> NDArray[Any]:
    """The sorted values of integers, without sorting the pixels where that can be spared."""
    if plane.dtype.kind in "iu" and plane.size and 0 <= plane.min() and plane.max() < 2**20:
        return np.flatnonzero(np.bincount(plane.ravel()))
    return np.unique(plane)


def _values(plane: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The distinct values (of floats only the least and the largest) and how they are shown."""
    if plane.dtype.kind == "f":
        ends = np.array([plane.min(), plane.max()]) if plane.size else np.zeros(0)
        return ends, (f"{ends[0]:g} to {ends[-1]:g}",) if len(ends) else ()
    values = distinct(plane)
    if len(values) <= 16:
        return values, tuple(str(value) for value in values.tolist())
    return values, (f"{values[0]} to {values[-1]}",)


def _of_volume(volume: NDArray[Any]) -> NDArray[Any]:
    """The distinct values of a volume; its slices are checked when they are read, not here."""
    if volume.dtype.kind == "f":
        volume = volume[np.isfinite(volume)]
        whole = np.rint(volume)
        if (np.abs(volume - whole) > 1e-3).any():
            return np.array([volume.min(), volume.max()])
        volume = whole.astype(np.int64)
    return distinct(volume[volume >= 0])


def _is_soft(plane: NDArray[Any], values: NDArray[Any]) -> bool:
    """Whether grey values are steps between inside and outside (a resized or blurred mask), not labels.

    A grey step lies between a lower and a higher neighbour; a pixel of a label does so only where three labels meet.
    """
    top = int(values[-1]) if len(values) else 0
    if top <= CLASS_NUMBERS or (values > 0).sum() < 2:
        return False
    classes = values[(values > 0) & (values < top)]
    if _has_specks(plane, top, len(classes)):
        return True
    if classes[-1] <= CLASS_NUMBERS and (np.diff(classes, prepend=0) == 1).all():
        return False  # class numbers 1 to N beside 255
    judged = _middle(plane, top)
    if judged.any():
        return bool(_between(plane, 3, 0)[judged].mean() >= 0.5)
    rest = (plane > 0) & (plane != _commonest(plane, top))
    if _between(plane, 3, 0)[rest].mean() >= 0.5:
        return True
    # Several uneven values both near 0 and near the top are noise around two values, as in a PNG made of a JPEG.
    several = (values <= top / 4).sum() > 2 and (values >= top * 3 / 4).sum() > 1
    return bool(several and _uneven(plane)[rest].mean() >= 0.5)


def _has_specks(plane: NDArray[Any], top: int, num_classes: int) -> bool:
    """Whether all between 0 and the top is a few scattered pixels, as a JPEG of best quality leaves them."""
    between, even = (plane > 0) & (plane < top), ~_uneven(plane)
    few = between.sum() < 0.1 * (plane == top).sum() and not (between & even).any()
    return bool(few and cv2.connectedComponents(between.astype(np.uint8))[0] > 4 * num_classes + 4)


def _noisy_areas(plane: NDArray[Any], values: NDArray[Any]) -> int:
    """How many values fill areas where many others lie about them, as in a PNG made of a JPEG; 0 where they do not."""
    if plane.dtype.kind == "f" or len(values) <= 16 or not CLASS_NUMBERS < values[-1] <= 255:
        return 0
    num = len(distinct(plane[~_uneven(plane)]))
    return num if num <= len(values) / 8 else 0


def _commonest(values: NDArray[Any], top: int) -> int:
    """The most frequent value above 0."""
    return int(np.bincount(values[values > 0]).argmax()) if top < 2**20 else top


def _middle(plane: NDArray[Any], top: int) -> BoolArray:
    """(H, W) the pixels that tell steps from labels: well above 0 and well below the top."""
    return np.asarray((plane > top / 4) & (plane < top * 3 / 4))


def _uneven(plane: NDArray[Any]) -> BoolArray:
    """(H, W) whether the 3 x 3 pixels around hold several values."""
    pixels, kernel = plane.astype(np.float64), np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(pixels, kernel) != cv2.erode(pixels, kernel))


def _between(plane: NDArray[Any], side: int, margin: int) -> BoolArray:
    """(H, W) whether both a lower and a higher value, by more than `margin`, lie within `side` x `side` pixels."""
    pixels = plane if plane.dtype in (np.uint8, np.uint16) else plane.astype(np.float64)
    kernel = np.ones((side, side), np.uint8)
    wide = pixels.astype(np.int32) if pixels.dtype.kind == "u" else pixels
    return np.asarray((wide - cv2.erode(pixels, kernel) > margin) & (cv2.dilate(pixels, kernel) - wide > margin))


def _cut_at_half(
    stored: StoredMask, plane: NDArray[Any], of_file: NDArray[Any], shown: tuple[str, ...], notes: set[Note]
) -> MaskReading:
    """From half of the largest value up: the file's, its kind's (fractional SEG), or 1 for probabilities."""
    largest = float(of_file[-1]) if len(of_file) else 0.0
    if stored.full is not None:
        top = stored.full
    else:
        top = 1.0 if plane.dtype.kind == "f" and largest <= 1.25 else largest
    mask = np.asarray(2 * plane.astype(np.float64) >= top) & (plane > 0)
    notes |= {"grey"} if largest >= top / 2 or largest == 0 else {"grey", "faint"}
    notes |= _picture(plane, top)
    return MaskReading(mask, f"grey cut at {top / 2:g}", shown, frozenset(notes))


def _picture(plane: NDArray[Any], top: float) -> set[Note]:
    """A note where so much is grey that it looks like an image given for a mask."""
    return {"picture"} if ((plane > top / 10) & (plane < top * 9 / 10)).mean() > 0.25 else set()


def _jpeg(stored: StoredMask, plane: NDArray[Any], shown: tuple[str, ...], notes: set[Note]) -> MaskReading:
    top = int(plane.max()) if plane.size else 0
    notes.add("jpeg" if top > JPEG_NOISE or not top else "noise")
    if top <= JPEG_NOISE:
        return MaskReading(np.zeros(plane.shape, dtype=bool), "JPEG, empty", shown, frozenset(notes))
    middle = _middle(plane, top)
    if middle.any() and _between(plane, 7, 12)[middle].mean() < 0.5:
        levels = np.sort(levels_of(plane.astype(np.uint8)))
        areas = levels[levels > JPEG_NOISE]
        if len(areas) != 1 or top > _OVERSHOOT * areas[0]:
            raise _several_values(stored, levels, top)
        top = round(areas[0])  # its edges reach beyond it
    notes |= _picture(plane, top)
    return MaskReading(np.asarray(2 * plane.astype(np.int64) >= top), "JPEG cut at half", shown, frozenset(notes))


def _several_values(stored: StoredMask, levels: NDArray[np.float64], top: int) -> InputError:
    areas = f"areas near {', '.join(f'{level:.0f}' for level in levels)}" if len(levels) else "no areas of one value"
    return InputError.ambiguous(
        f"a mask stored as JPEG, or made of one, that is neither one label nor empty: {areas}, up to {top}",
        file=stored.path,
        expected="labels in a lossless format, such as PNG",
        remedy="store it as PNG, or name its values in mask_values: each pixel then goes to the nearest; write none "
        "for an empty mask",
    )


def _declared(stored: StoredMask, plane: NDArray[Any], declared: tuple[LabelValue, ...]) -> BoolArray:
    if stored.lossy:
        return _nearest(stored, plane, declared)
    if plane.dtype.kind == "f":
        raise InputError.malformed(
            "a mask with values that are not whole numbers",
            file=stored.path,
            expected="labels, of which mask_values selects some",
            remedy="resample it with nearest neighbours, or leave mask_values out: grey is then cut at half",
        )
    if stored.values.dtype == np.bool_ and 255 in declared:  # white of a picture of one bit
        return np.asarray(plane > 0)
    return np.isin(plane, declared)


def _nearest(stored: StoredMask, plane: NDArray[Any], declared: tuple[LabelValue, ...]) -> BoolArray:
    """(H, W) of a JPEG: the pixels that are nearer to a declared value than to 0 and the file's other values."""
    wanted = np.array([int(value) for value in declared], dtype=np.float64)
    if np.diff(np.sort(wanted), prepend=0).min() < _APART_IN_JPEG:
        raise InputError.ambiguous(
            f"mask_values {'|'.join(map(str, declared))} of a mask stored as JPEG, which blurs them into each other",
            file=stored.path,
            expected=f"values at least {_APART_IN_JPEG} apart, or a lossless format",
            remedy="store the labels as PNG",
        )
    others = np.concatenate([[0.0], levels_of(plane.astype(np.uint8))])
    others = others[(np.abs(others[:, None] - wanted[None]) > _APART_IN_JPEG / 2).all(axis=1)]
    candidates = np.concatenate([wanted, others])
    by_value = np.abs(np.arange(256)[:, None] - candidates[None]).argmin(axis=1) < len(wanted)
    return np.asarray(by_value[plane])
