"""`data.augment`, what may happen to a training sample, and `semi.strong`, what may happen to its second view."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic.dataclasses import dataclass

from medvl.config.ranges import SECTION, Fraction, Positive, Share

Border = Literal["edge", "zero"]  # what stands beyond the picture: its edges repeated, or black


@dataclass(config=SECTION)
class AugmentConfig:
    """What may happen to a training sample. Every amount is a bound; 0 switches it off."""

    scheme: Literal["medvl", "released", "none"] = "medvl"  # released: the authors' turns and flips of LViT
    p_flip_lr: Fraction = 0.0  # left-right; off for chests: with swapped words the heart would still be on the right
    p_flip_ud: Fraction = 0.0  # upside down
    p_rot90: Fraction = 0.0  # a quarter turn, where the text names no side and no height
    p_affine: Fraction = 1.0  # how often anything of the geometry is drawn at all
    # A crop of that share of the area, of aspect 3:4 to 4:3, anywhere in the picture, stretched to the whole of it
    crop_area: tuple[Share, Share] | None = None
    max_rotate_deg: Annotated[float, Ge(0), Le(45)] = 10.0  # to either side
    max_shift: Annotated[float, Ge(0), Le(0.5)] = 0.05  # of the side
    scale: tuple[Positive, Positive] = (0.9, 1.1)  # lowest and highest factor of the size
    flip_text: Literal["rewrite", "keep"] = "rewrite"  # keep: what the released programs do; only for ablations
    # Of the image's own range (`intensity_range`), so that dark images and 12 bits in 16 are changed as others are:
    max_gamma: Annotated[float, Ge(0), Le(1)] = 0.2  # exponent from 1 / (1 + g) to 1 + g
    max_contrast: Fraction = 0.2  # factor from 1 - c to 1 + c
    max_brightness: Fraction = 0.1  # added or subtracted
    max_noise: Fraction = 0.02  # standard deviation


@dataclass(config=SECTION)
class StrongViewConfig:
    """A second, harder view of an image: its geometry and text stay. Every amount is a bound; 0 switches it off."""

    # Of the image's own range, as in `data.augment`, on top of what that drew:
    max_gamma: Annotated[float, Ge(0), Le(1)] = 0.5  # exponent from 1 / (1 + g) to 1 + g
    max_contrast: Fraction = 0.5  # factor from 1 - c to 1 + c
    max_brightness: Fraction = 0.2  # added or subtracted
    max_noise: Fraction = 0.1  # standard deviation
    max_blur_px: Annotated[float, Ge(0), Le(100)] = 1.0  # standard deviation of a Gaussian, at the model's size
    max_cut_out: Fraction = 0.1  # share of the area of one rectangle that becomes the image's mean
