"""Which convention a published pair of Dice and IoU can be.

Of one mask, and of all pixels pooled, Dice is f(IoU) = 2 IoU / (1 + IoU). f is concave, so that means over images
satisfy mean IoU <= mean Dice <= f(mean IoU) (Jensen): the more the images differ, the further below f the Dice lies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from medvl.core.errors import InputError

EVEN_SD = 0.1  # of IoU over images: segmentations of one kind of finding differ by more
Verdict = Literal["pooled", "mean of nearly equal values", "mean over images", "impossible"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a published pair can be.

    `dice_of_iou`: the Dice of pooled pixels with that IoU, in [0, 1]. `gap`: `dice_of_iou` minus the published Dice.
    `rounding`: how much of the gap the digits that were not printed can explain. `iou_sd`: how much the IoU has to
    differ between images for this gap (second order: gap = 2 sd^2 / (1 + IoU)^3); None where there is no such mean.
    """

    verdict: Verdict
    why: str
    dice: float
    iou: float
    dice_of_iou: float
    gap: float
    rounding: float
    iou_sd: float | None


def explain(dice: str, iou: str) -> Explanation:
    """The convention of a pair as it is printed, `90.88` and `83.28` or `0.9088` and `0.8328`.

    Args:
        dice, iou: numbers in percent (with or without the sign), or both as fractions of 1. Their digits say how they
            were rounded.

    Raises:
        InputError: no number, outside 0 to 100 %, or one in percent and the other not.
    """
    (d, d_half), (j, j_half) = _read("Dice", dice), _read("IoU", iou)
    in_percent = max(d, j) > 1 or "%" in dice + iou
    if "%" not in dice + iou and 0 < min(d, j) <= 1 and max(d, j) > 2:  # of 1 % IoU the Dice is below 2 %
        raise InputError.mismatch(
            f"Dice {dice} and IoU {iou} are not of one unit", expected="both in percent, or both as fractions of 1"
        )
    unit = 100.0 if in_percent else 1.0
    d, d_half, j, j_half = d / unit, d_half / unit, j / unit, j_half / unit
    bound = _dice_of(j)
    rounding = d_half + max(_dice_of(min(j + j_half, 1.0)) - bound, bound - _dice_of(max(j - j_half, 0.0)))
    rounding *= 1 + 1e-9  # a pair on the edge is within it
    gap = bound - d
    sd = math.sqrt(max(gap, 0.0) * (1 + j) ** 3 / 2)

    def points(value: float) -> str:
        return f"{100 * value:.2f}"

    verdict: Verdict
    relation = f"Pooled pixels with an IoU of {points(j)} have a Dice of {points(bound)}"
    if gap < -rounding:
        verdict, why = "impossible", f"{relation}; no mean of any kind is above that, and {points(d)} is. "
        why += "The two are of different conventions, or one is misprinted."
    elif j - d > d_half + j_half:
        verdict, why = "impossible", "The Dice is below the IoU, which no mask has: misprinted, or exchanged."
    elif gap <= rounding:
        verdict, why = "pooled", f"{relation}, the printed one within rounding: one mask, or all pixels pooled."
    else:
        why = f"{relation}, {points(gap)} points above the printed one. "
        if sd < EVEN_SD:
            verdict = "mean of nearly equal values"
            why += f"A mean of values whose IoU differs by only about {100 * sd:.0f} points: over images that are much "
            why += "alike, or over seeds, folds or classes of pooled values."
        else:
            verdict = "mean over images"
            why += f"A mean over images whose IoU differs by about {100 * sd:.0f} points (standard deviation)."
    return Explanation(verdict, why, d, j, bound, gap, rounding, None if verdict in ("impossible", "pooled") else sd)


def _dice_of(iou: float) -> float:
    return 2 * iou / (1 + iou)


def _read(name: str, text: str) -> tuple[float, float]:
    """A printed number and half a unit of its last digit."""
    written = text.strip().removesuffix("%").strip()
    try:
        number = Decimal(written)
        exponent = number.as_tuple().exponent
    except InvalidOperation:
        exponent = "n"
    if not isinstance(exponent, int):
        raise InputError.malformed(f"{name} {text!r} is no number", expected="a number as it is printed, e.g. 90.88")
    if not 0 <= number <= 100:
        raise InputError.out_of_range(f"{name} is {text}", expected="0 to 100 (percent), or 0 to 1")
    return float(number), 0.5 * 10.0**exponent
