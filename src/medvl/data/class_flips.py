"""What flips and turns do to classes whose names say a side or a height: one rule for masks, labels and boxes.

A flipped picture shows the left lung where the right one was: what the manifest calls `left_lung` is then `right_lung`.
Class names are read as words (`left_lung`, `LeftLung`, `lung-left`, `l_lung`, `RUL`) by the rules of `reports.py`.

Shapes: K classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvl.config.augment import AugmentConfig
from medvl.core.errors import InputError
from medvl.data.geometry import Affine
from medvl.data.reports import can_mirror, mirror_text, names_height, names_side

Order = NDArray[np.int64]
_PARTS = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=\d)(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W_]+")
_SHORT = {"l": "left", "r": "right", "lt": "left"}
_LOBES = re.compile(r"([lr])([uml])([lz])")
_LOBE_HEIGHTS = {"u": "upper", "m": "middle", "l": "lower"}
_BOTH_SIDES = re.compile(r"\b(?:left (?:and |or )?right|right (?:and |or )?left)\b")
_HEIGHT_PAIR = re.compile(r"\b(?:upper|lower)\b.*\b(?:upper|lower)\b")


class ClassFlips:
    """The classes that each flip of a recipe exchanges."""

    def __init__(self, classes: Sequence[str], augment: AugmentConfig) -> None:
        """
        Raises:
            InputError: an augmentation that would make the name of a class untrue: a flip whose mirrored name is no
                class (or the name of several), a quarter turn of a class that names a side or a height.
        """
        released = augment.scheme == "released"
        drawn = augment.scheme == "medvl" and augment.p_affine > 0
        flip_lr, flip_ud, turn = (
            released or (drawn and p > 0) for p in (augment.p_flip_lr, augment.p_flip_ud, augment.p_rot90)
        )
        words = class_words(classes)
        untrue = [name for name, text in zip(classes, words, strict=True) if _has_place(text)] if turn else []
        if untrue:
            raise InputError.conflict(
                f"a quarter turn makes the class {untrue[0]} untrue: it names a side or a height, or may do so",
                expected="augmentation without quarter turns",
                remedy="data.augment.scheme: medvl, or none" if released else "data.augment.p_rot90: 0",
            )
        self._orders = {
            (left_right, up_down): _order(classes, words, left_right, up_down)
            for left_right in (False, True)[: 1 + flip_lr]
            for up_down in (False, True)[: 1 + flip_ud]
        }

    def order(self, affine: Affine) -> Order:
        """(K,): class k of the picture after `affine` was class `order[k]` before it, and the other way round."""
        return self._orders[affine.left_right, affine.up_down]


def class_words(classes: Sequence[str]) -> list[str]:
    """Class names as words in small letters, short forms written out: `RUL` becomes "right upper lobe".

    RT is the right side where another class has LT, or where the rules for texts take it for a side: else it may be
    radiotherapy.
    """
    # "L>R" is not "L and R"
    tokens = [[part for part in _PARTS.split(re.sub("[<>]", " exceeds ", name)) if part] for name in classes]
    has_lt = any(token.lower() == "lt" for parts in tokens for token in parts)
    result = []
    for parts in tokens:
        rt_is_side = has_lt or names_side(" ".join(parts))
        result.append(" ".join(_word(token, rt_is_side=rt_is_side) for token in parts))
    return result


def _word(token: str, *, rt_is_side: bool) -> str:
    small = token.lower()
    if small == "rt":
        return "right" if rt_is_side else small
    lobe = _LOBES.fullmatch(small)
    if lobe:
        side, height, part = lobe.groups()
        return f"{_SHORT[side]} {_LOBE_HEIGHTS[height]} {'zone' if part == 'z' else 'lobe'}"
    return _SHORT.get(small, small)


def _order(classes: Sequence[str], words: Sequence[str], left_right: bool, up_down: bool) -> Order:
    order = np.arange(len(classes))
    if not (left_right or up_down):
        return order
    flips = {"left_right": left_right, "up_down": up_down}
    places: dict[str, list[int]] = {}
    for k, text in enumerate(words):
        places.setdefault(_spelt(text, **flips), []).append(k)
    for k, (name, text) in enumerate(zip(classes, words, strict=True)):
        mirrored = _both(mirror_text(text, **flips))
        matches = places.get(mirrored, [])
        if not can_mirror(text, **flips):
            what = f"what the class {name} is after a flip is not known"
        elif mirrored == _spelt(text, **flips):
            continue  # it names no side (or both) and no height
        elif len(matches) != 1:
            number = f"{len(matches)} classes" if matches else "no class"
            what = f"a flip makes the class {name} a {mirrored}, which is {number}"
        else:
            order[k] = matches[0]
            continue
        keys = [key for key, on in (("p_flip_lr", left_right), ("p_flip_ud", up_down)) if on]
        raise InputError.mismatch(
            what,
            expected="a class for each side that another class names, or no flips",
            remedy=f"{' and '.join(f'data.augment.{key}: 0' for key in keys)}, or add the other class",
        )
    return order


def _spelt(text: str, **flips: bool) -> str:
    """As `mirror_text` spells it: mirrored twice."""
    return _both(mirror_text(mirror_text(text, **flips), **flips))


def _both(text: str) -> str:
    """Left and right together are both sides, whichever is named first; unless each may have a height of its own."""
    return text if _HEIGHT_PAIR.search(text) else _BOTH_SIDES.sub("bilateral", text)


def _has_place(text: str) -> bool:
    return names_side(_both(text)) or names_height(text) or not can_mirror(text, left_right=True, up_down=True)
