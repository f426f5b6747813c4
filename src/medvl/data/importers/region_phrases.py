"""Wordings of lung regions: a small grammar of short radiology English, in three disjoint sets.

A region is a set of label values: 1, 2, 3 are the upper, middle and lower third of the patient's right lung, 4, 5, 6
those of the left lung. A wording belongs to the set `seen` (training), `val` or `test`; the last two stand in the rows
of their split only, so that what is learned is read and not looked up. Every word of them occurs in a seen wording.

In the templates: S = side, Z = zone names, Q = the same in anatomical terms, R = Z in the other order, W = which two
thirds; zone, third, field, part, region take a plural s where they name two.
"""

from __future__ import annotations

from typing import Literal

WordingSet = Literal["seen", "val", "test"]
Region = frozenset[int]

SIDES = ("right", "left")
ZONES = ("upper", "middle", "lower")
ANATOMICAL = ("superior", "mid", "inferior")
CLASSES = {f"{side}_{zone}": 3 * s + z + 1 for s, side in enumerate(SIDES) for z, zone in enumerate(ZONES)}
NOUNS = ("zone", "third", "field", "part", "region")

# One or two zones of one lung.
_SIDE: dict[WordingSet, tuple[str, ...]] = {
    "seen": (
        "{S} {Z} {zone}",
        "{Z} {zone} of the {S} lung",
        "{Z} {third} of the {S} lung",
        "{S} lung, {Z} {zone}",
        "{S} {Z} lung {zone}",
        "the {Z} {S} lung",
        "{Z} {field} of the {S} lung",
        "{S} {Z} lung {field}",
        "the {Z} {part} of the {S} lung",
        "{Z} {region} of the {S} lung",
        "{Z} {zone} on the {S} side",
        "{Z} {S} {zone}",
        "{Q} {third} of the {S} lung",
        "{S} lung, {Q} {zone}",
        "in the {S} lung, the {Z} {third}",
    ),
    "val": (
        "{S} lung, {Z} {third}",
        "{Z} lung {zone} on the {S} side",
        "{Z} {S} lung {field}",
        "{S} {Z} {region}",
        "{Q} {zone} of the {S} lung",
    ),
    "test": (
        "{S} {Z} lung {region}",
        "{S} lung, {Z} {part}",
        "in the {S} lung, the {Z} {zone}",
        "the {S} {Z} {third}",
        "{Z} {S} lung {zone}",
        "{Q} {field} of the {S} lung",
    ),
}
_PAIR: dict[WordingSet, tuple[str, ...]] = {
    "seen": ("{S} {Z1} zone and {S} {Z2} zone", "{S} {R} zones", "{W} two thirds of the {S} lung"),
    "val": ("{R} zones of the {S} lung", "{S} lung, {W} two thirds"),
    "test": ("{S} lung, {R} zones", "the {W} two thirds of the {S} lung"),
}
_WHOLE: dict[WordingSet, tuple[str, ...]] = {
    "seen": (
        "{S} lung",
        "the {S} lung",
        "entire {S} lung",
        "all of the {S} lung",
        "the whole {S} lung",
        "{S} lung field",
        "all zones of the {S} lung",
        "lung on the {S} side",
        "complete {S} lung",
        "{S} lung, all zones",
    ),
    "val": (
        "whole {S} lung",
        "the entire {S} lung field",
        "all of the lung on the {S} side",
        "the complete {S} lung field",
    ),
    "test": (
        "the complete {S} lung",
        "the {S} lung field",
        "all thirds of the {S} lung",
        "entire lung on the {S} side",
    ),
}
_BOTH: dict[WordingSet, tuple[str, ...]] = {
    "seen": (
        "both lungs",
        "the lungs",
        "right and left lung",
        "left and right lungs",
        "bilateral lungs",
        "all zones of both lungs",
        "both lung fields",
        "the right lung and the left lung",
        "all of both lungs",
        "left lung and right lung",
        "bilateral lung fields",
    ),
    "val": ("right and left lungs", "all of the right and left lung", "lung fields on both sides", "the entire lungs"),
    "test": ("the left and right lung", "lungs on both sides", "the whole right and left lung", "the two lungs"),
}
# The same zones of both lungs.
_BILATERAL: dict[WordingSet, tuple[str, ...]] = {
    "seen": (
        "{Z} zones of both lungs",
        "bilateral {Z} zones",
        "{Z} zones on both sides",
        "{Z} thirds of both lungs",
        "both lungs, {Z} zones",
        "bilateral {Z} lung fields",
        "{Z} zones of the right and left lung",
        "{Z} parts of both lungs",
        "the {Z} regions of both lungs",
        "{Q} thirds of both lungs",
    ),
    "val": (
        "both lungs, {Z} thirds",
        "bilateral {Z} lung zones",
        "{Z} fields of both lungs",
        "{Z} zones of the left and right lung",
    ),
    "test": (
        "{Z} lung zones on both sides",
        "bilateral {Z} thirds",
        "both lungs, {Z} fields",
        "{Z} thirds of the right and left lung",
        "{Q} zones of both lungs",
    ),
}
_BILATERAL_ONE: dict[WordingSet, tuple[str, ...]] = {  # with two zones these could be misread
    "seen": (
        "both {Z} zones",
        "right {Z} zone and left {Z} zone",
        "both {Z} lung fields",
        "right and left {Z} zones",
        "left and right {Z} lung zones",
    ),
    "val": ("left {Z} zone and right {Z} zone", "both {Z} lung zones"),
    "test": ("both {Z} thirds", "{Z} zone of the right lung and {Z} zone of the left lung"),
}
# Different zones of the two lungs: (zones of a side, a whole side).
_PARTS = {
    "short": ("{S} {Z} {zone}", "{S} lung"),
    "of": ("{Z} {zone} of the {S} lung", "the entire {S} lung"),
    "third": ("{Z} {third} of the {S} lung", "all of the {S} lung"),
    "comma": ("{S} lung, {Z} {zone}", "{S} lung, all zones"),
    "field": ("{S} {Z} lung {field}", "entire {S} lung field"),
    "lung": ("the {Z} {S} lung", "the whole {S} lung"),
    "part": ("{Z} {part} of the {S} lung", "the complete {S} lung"),
    "anatomical": ("{Q} {third} of the {S} lung", "entire {S} lung"),
    "swapped": ("{Z} {S} {zone}", "whole {S} lung"),
}
_ELLIPSIS = "ellipsis"  # right upper and left lower zones
_MIXED: dict[WordingSet, tuple[tuple[str, str, bool], ...]] = {  # part, joined by, left lung first
    "seen": (
        ("short", " and ", False),
        ("short", " and ", True),
        ("short", " plus ", False),
        ("of", " and ", False),
        ("of", " and ", True),
        ("third", " and ", False),
        ("third", " plus ", True),
        ("comma", "; ", False),
        ("comma", "; ", True),
        ("field", " and ", False),
        ("field", " with ", True),
        ("lung", " and ", True),
        ("part", " and ", False),
        ("anatomical", " and ", True),
        ("swapped", " and ", False),
        (_ELLIPSIS, " and ", False),
        (_ELLIPSIS, " and ", True),
    ),
    "val": (
        ("short", " with ", True),
        ("of", " plus ", False),
        ("third", " and ", True),
        ("field", " and ", True),
        ("part", " plus ", True),
        ("swapped", " and ", True),
    ),
    "test": (
        ("short", " plus ", True),
        ("of", " with ", True),
        ("third", " with ", False),
        ("field", " plus ", False),
        ("lung", " and ", False),
        ("part", " and ", True),
        ("anatomical", " and ", False),
    ),
}


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
        return _BOTH[which]
    if right == left:
        templates = _BILATERAL[which] + (_BILATERAL_ONE[which] if len(right) == 1 else ())
        texts = [_fill(template, "", right) for template in templates]
        if len(right) == 2 and which == "seen":
            texts.append(_fill("both {Z1} zones and both {Z2} zones", "", right))
        return tuple(texts)
    if right and left:
        found = (_mixed(right, left, *template) for template in _MIXED[which])
        return tuple(text for text in found if text)
    side, zones = ("right", right) if right else ("left", left)
    if zones == _WHOLE_ZONES:
        return tuple(template.format(S=side) for template in _WHOLE[which])
    templates = _SIDE[which]
    if len(zones) == 2:
        gap = zones == {0, 2}  # upper and lower are no "two thirds"
        templates += tuple(template for template in _PAIR[which] if not (gap and "{W}" in template))
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
    partial, whole = _PARTS[part]
    texts = [_fill(whole if zones == _WHOLE_ZONES else partial, side, zones) for side, zones in sides]
    if sides[1][1] == _WHOLE_ZONES and " of the " in partial:
        joint = "," + joint  # "zone of the left lung, and the entire right lung": not a zone of both
    return joint.join(texts)
