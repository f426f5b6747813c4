"""Wordings of lung regions: a small grammar of short radiology English, in three disjoint sets.

A region is a set of label values: 1, 2, 3 are the upper, middle and lower third of the patient's right lung, 4, 5, 6
those of the left lung. The templates are in wordings/lung_regions.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from medvl.config.ranges import SECTION
from medvl.core.plain_yaml import read_typed

WordingSet = Literal["seen", "val", "test"]
Region = frozenset[int]

SIDES = ("right", "left")
ZONES = ("upper", "middle", "lower")
ANATOMICAL = ("superior", "mid", "inferior")
CLASSES = {f"{side}_{zone}": 3 * s + z + 1 for s, side in enumerate(SIDES) for z, zone in enumerate(ZONES)}
NOUNS = ("zone", "third", "field", "part", "region")

_ELLIPSIS = "ellipsis"  # of `mixed`: right upper and left lower zones
Templates = dict[WordingSet, tuple[str, ...]]


@dataclass(config=SECTION, frozen=True)
class _Wordings:
    side: Templates
    pair: Templates
    whole: Templates
    both: Templates
    bilateral: Templates
    bilateral_one: Templates
    parts: dict[str, tuple[str, str]]
    mixed: dict[WordingSet, tuple[tuple[str, str, bool], ...]]


_WORDINGS = read_typed(Path(__file__).parent / "wordings" / "lung_regions.yaml", _Wordings)


def _region(*names: str) -> Region:
    return frozenset(CLASSES[name] for name in names)


RIGHT, LEFT = frozenset((1, 2, 3)), frozenset((4, 5, 6))
_PARTIAL = tuple(frozenset(zones) for zones in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 2)))
_WHOLE_ZONES = frozenset((0, 1, 2))
HELD_OUT: tuple[Region, ...] = (  # unions that never stand in the training split; each of their parts does
    _region("right_upper", "left_lower"),
    _region("right_middle", "left_upper"),
    _region("right_middle", "right_lower", "left_upper"),
    _region("right_upper", "left_middle", "left_lower"),
    _region("right_upper", "right_lower", "left_middle"),
    _region("right_lower", "left_upper", "left_lower"),
    RIGHT | _region("left_middle"),
    LEFT | _region("right_lower"),
)


def make_region(right: frozenset[int], left: frozenset[int]) -> Region:
    """Zone numbers 0..2 of the two lungs -> label values 1..6."""
    return frozenset(zone + 1 for zone in right) | frozenset(zone + 4 for zone in left)


def zones_of(region: Region) -> tuple[frozenset[int], frozenset[int]]:
    """The inverse of `make_region`: (zones of the right lung, zones of the left lung)."""
    return frozenset(v - 1 for v in region & RIGHT), frozenset(v - 4 for v in region & LEFT)


def regions() -> dict[str, tuple[Region, ...]]:
    """Every region by kind: lung, both, zone, pair, bilateral, mixed, heldout."""
    no = frozenset[int]()
    one_sided = [(zones, no) for zones in _PARTIAL] + [(no, zones) for zones in _PARTIAL]
    sides = (*_PARTIAL, _WHOLE_ZONES)
    mixed = [make_region(right, left) for right in sides for left in sides if right != left]
    return {
        "lung": (RIGHT, LEFT),
        "both": (RIGHT | LEFT,),
        "zone": tuple(make_region(*zones) for zones in one_sided if len(zones[0] | zones[1]) == 1),
        "pair": tuple(make_region(*zones) for zones in one_sided if len(zones[0] | zones[1]) == 2),
        "bilateral": tuple(make_region(zones, zones) for zones in _PARTIAL),
        "mixed": tuple(region for region in mixed if region not in HELD_OUT),
        "heldout": HELD_OUT,
    }


def region_name(region: Region) -> str:
    """right_upper, right_lung, both_lungs, right_lung+left_upper, ..."""
    if region == RIGHT | LEFT:
        return "both_lungs"
    parts = []
    for side, zones in zip(SIDES, zones_of(region), strict=True):
        parts += [f"{side}_lung"] if zones == _WHOLE_ZONES else [f"{side}_{ZONES[zone]}" for zone in sorted(zones)]
    return "+".join(parts)


def region_code(region: Region) -> str:
    """A short name for ids: ru, rm_ll, r (a whole lung), rl_l, b (both lungs)."""
    if region == RIGHT | LEFT:
        return "b"
    codes = []
    for side, zones in zip("rl", zones_of(region), strict=True):
        if zones:
            codes.append(side if zones == _WHOLE_ZONES else side + "".join("uml"[zone] for zone in sorted(zones)))
    return "_".join(codes)


def wordings(region: Region, which: WordingSet) -> tuple[str, ...]:
    """All texts of a region in one set of wordings, in a fixed order. Two regions share no text."""
    right, left = zones_of(region)
    if right == left == _WHOLE_ZONES:
        return _WORDINGS.both[which]
    if right == left:
        templates = _WORDINGS.bilateral[which] + (_WORDINGS.bilateral_one[which] if len(right) == 1 else ())
        texts = [_fill(template, "", right) for template in templates]
        if len(right) == 2 and which == "seen":
            texts.append(_fill("both {Z1} zones and both {Z2} zones", "", right))
        return tuple(texts)
    if right and left:
        return tuple(filter(None, (_mixed(right, left, *template) for template in _WORDINGS.mixed[which])))
    side, zones = ("right", right) if right else ("left", left)
    if zones == _WHOLE_ZONES:
        return tuple(template.format(S=side) for template in _WORDINGS.whole[which])
    templates = _WORDINGS.side[which]
    if len(zones) == 2:
        gap = zones == {0, 2}  # upper and lower are no "two thirds"
        templates += tuple(template for template in _WORDINGS.pair[which] if not (gap and "{W}" in template))
    return tuple(_fill(template, side, zones) for template in templates)


def _fill(template: str, side: str, zones: frozenset[int]) -> str:
    order = sorted(zones)
    plural = "s" if len(order) > 1 else ""
    return template.format(
        S=side,
        Z=" and ".join(ZONES[zone] for zone in order),
        Q=" and ".join(ANATOMICAL[zone] for zone in order),
        R=" and ".join(ZONES[zone] for zone in reversed(order)),
        W="upper" if 0 in zones else "lower",
        Z1=ZONES[order[0]],
        Z2=ZONES[order[-1]],
        **{noun: noun + plural for noun in NOUNS},
    )


def _mixed(right: frozenset[int], left: frozenset[int], part: str, joint: str, left_first: bool) -> str:
    """Two sides in one phrase; "" where the template does not fit."""
    sides = [("right", right), ("left", left)]
    if left_first:
        sides.reverse()
    if part == _ELLIPSIS:
        if len(right) != 1 or len(left) != 1:
            return ""
        return joint.join(f"{side} {ZONES[min(zones)]}" for side, zones in sides) + " zones"
    partial, whole = _WORDINGS.parts[part]
    texts = [_fill(whole if zones == _WHOLE_ZONES else partial, side, zones) for side, zones in sides]
    if sides[1][1] == _WHOLE_ZONES and " of the " in partial:
        joint = "," + joint  # "zone of the left lung, and the entire right lung": not a zone of both
    return joint.join(texts)
