"""The picture of a phantom: a schematic frontal chest image with its masks, drawn from numbers alone.

H W pixels (H = W); points are (N, 2) in chest units: x to the patient's left (the viewer's right), y down, the image is
about [-1, 1] in both. Attenuation is a float map, 0 air to about 1 bone; the image is made from it at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.data.importers.lung_regions import label_map
from medvl.phantom.report import ZONES, Device, Kind, Side, Size

Map = NDArray[np.float32]  # (H, W)
Mask = NDArray[np.bool_]  # (H, W)
SIDES: tuple[Side, Side] = ("right", "left")
_TRIES = 40  # to place one lesion
_LUNG = np.array(  # outline of one lung, x away from the spine
    [
        (0.27, -0.76), (0.43, -0.68), (0.56, -0.47), (0.64, -0.20), (0.69, 0.10), (0.71, 0.38), (0.71, 0.60),
        (0.64, 0.52), (0.50, 0.44), (0.34, 0.42), (0.18, 0.50), (0.12, 0.20), (0.11, -0.20), (0.12, -0.55),
        (0.18, -0.70),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What stays the same in all pictures of one patient."""

    width: float  # of the thorax, 1 = as in _LUNG
    lungs: tuple[NDArray[np.float64], NDArray[np.float64]]  # outlines, right and left
    heart_ratio: float  # heart width by thorax width
    heart_right: float  # chest units from the midline to the heart's right border
    body: tuple[float, float, float]  # half widths: neck, shoulders, waist
    rib_phase: float
    rib_gap: float
    rib_contrast: float
    lung_level: float  # attenuation of the chest wall over the lungs
    soft_level: float


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """A patient with a heart of normal size."""
    width, height = rng.uniform(0.92, 1.08), rng.uniform(0.94, 1.05)
    base = rng.uniform(-0.03, 0.05)
    lungs = []
    for sign, lower in ((-1.0, -0.02), (1.0, 0.03)):  # the right hemidiaphragm stands a little higher
        points = _LUNG + rng.normal(0, 0.012, _LUNG.shape)
        points[5:12, 1] += base + lower + rng.normal(0, 0.015)
        lungs.append(points * (sign * width, height))
    return Anatomy(
        width=width,
        lungs=(lungs[0], lungs[1]),
        heart_ratio=rng.uniform(0.40, 0.48),
        heart_right=rng.uniform(0.17, 0.22),
        body=(rng.uniform(0.20, 0.27), rng.uniform(0.98, 1.15), rng.uniform(0.86, 0.96) * width),
        rib_phase=rng.uniform(0, 1),
        rib_gap=rng.uniform(0.15, 0.18),
        rib_contrast=rng.uniform(0.03, 0.065),
        lung_level=rng.uniform(0.17, 0.27),
        soft_level=rng.uniform(0.56, 0.66),
    )


@dataclass(frozen=True, slots=True)
class Lesion:
    """A lesion as drawn. `mask` is what the report's words mean; `weight_map` in [0, 1] is how it is blended in."""

    kind: Kind
    side: Side | None
    zones: tuple[str, ...]
    size: Size
    mask: Mask
    weight_map: Map


class Radiograph:
    """One picture: projection, anatomy, then lesions one after the other, then exposure."""

    def __init__(self, anatomy: Anatomy, rng: np.random.Generator, size: int) -> None:
        self.anatomy, self.rng, self.size = anatomy, rng, size
        angle, self.scale = np.deg2rad(rng.uniform(-4, 4)), rng.uniform(0.92, 1.04) * size / 2
        self.shift = size / 2 * (1 + rng.uniform(-0.05, 0.05, 2))
        self.turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        y, x = np.mgrid[:size, :size] + 0.5
        chest = np.stack((x - self.shift[0], y - self.shift[1]), axis=-1) @ self.turn / self.scale  # (H, W, 2)
        self.x, self.y = chest[..., 0].astype(np.float32), chest[..., 1].astype(np.float32)
        self.visible, self.border = self._collimation()
        self.lesions: list[Lesion] = []

    def pixels(self, length: float) -> float:
        """Chest units -> pixels."""
        return float(length * self.scale)

    def set_heart(self, *, enlarged: Size | None) -> None:
        """Draw the heart, with it the visible lungs and their thirds. An enlarged heart is a lesion."""
        anatomy, rng = self.anatomy, self.rng
        ratios = {"small": (0.55, 0.58), "moderate": (0.585, 0.615), "large": (0.62, 0.65)}
        ratio = anatomy.heart_ratio if enlarged is None else rng.uniform(*ratios[enlarged])
        right = anatomy.heart_right + (0 if enlarged is None else rng.uniform(0.02, 0.05))
        left = ratio * 1.42 * anatomy.width - right
        base = float(np.mean([lung[8:10, 1].mean() for lung in anatomy.lungs]))  # the top of the diaphragm
        heart = np.array(
            [
                (0.02, -0.26), (-0.6 * right, -0.10), (-right, 0.16), (-0.95 * right, base - 0.06),
                (-0.4 * right, base + 0.08), (0.5 * left, base + 0.10), (0.93 * left, base + 0.02),
                (left, base - 0.13), (0.84 * left, base - 0.31), (0.50 * left, -0.08), (0.36 * left, -0.22),
            ]
        )  # fmt: skip
        knob = rng.uniform(0.13, 0.18)
        middle = np.array(
            [
                (-0.09, -1.1), (0.09, -1.1), (0.11, -0.66), (knob, -0.46), (knob, -0.36), (0.12, -0.25),
                (0.12, 0.7), (-0.12, 0.7), (-0.12, -0.2), (-0.13, -0.5), (-0.10, -0.7),
            ]
        )  # fmt: skip
        self.heart = self.fill(_smooth(heart))
        self.mediastinum = self.fill(_smooth(middle))
        whole = [self.fill(_smooth(lung)) for lung in anatomy.lungs]
        covered = np.maximum(self.heart, self.mediastinum) > 0.5
        self.air = np.maximum(*whole)
        self.lungs: dict[Side, Mask] = {
            side: (lung > 0.5) & ~covered & self.visible for side, lung in zip(SIDES, whole, strict=True)
        }
        self.zones = label_map(self.lungs["right"], self.lungs["left"])
        if enlarged is not None:
            mask = (self.heart > 0.5) & self.visible
            self.lesions.append(Lesion("cardiomegaly", None, (), enlarged, mask, self.heart))

    def add(self, kind: Kind) -> bool:
        """Draw one more lesion where there is room and none of its kind on that side; False if there is none."""
        rng = self.rng
        taken = np.zeros_like(self.visible)
        for lesion in self.lesions:
            if lesion.side is not None:
                taken |= lesion.mask
        for _ in range(_TRIES):
            side = SIDES[int(rng.integers(2))]
            if any(lesion.kind == kind and lesion.side == side for lesion in self.lesions):
                continue
            size, weight = getattr(self, f"_{kind}")(side)
            mask = (weight > 0.4) & self.lungs[side]
            area = int(mask.sum())
            if area < self.size**2 * 0.004 or (mask & taken).sum() > 0.08 * area:
                continue
            zones = self._zones_of(mask, side)
            if kind in ("consolidation", "nodule") and len(zones) > 2:
                continue
            if kind in ("effusion", "pneumothorax"):  # named with "base" and "apex" where 3 in 4 pixels are there
                zones = tuple(zone for zone in zones if self._share(mask, side, zone) >= 0.75)
            self.lesions.append(Lesion(kind, side, zones, size, mask, weight))
            return True
        return False

    def expose(self, noise_rng: np.random.Generator) -> tuple[NDArray[np.uint8], Device | None]:
        """(H, W) uint8 image with everything that was added, and the device that lies on or in the patient.

        Args:
            noise_rng: for what varies by pixel, so that the lesions are the same at every size.
        """
        rng = self.rng
        values = self._attenuation(noise_rng)
        for lesion in self.lesions:
            if lesion.kind == "pneumothorax":
                values -= rng.uniform(0.085, 0.12) * lesion.weight_map
                edge = cv2.morphologyEx((lesion.weight_map > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
                inner = cv2.erode((self._lung(lesion.side or "left") > 0.5).astype(np.uint8), np.ones((5, 5)))
                values += 0.10 * self.blur((edge * inner * (self.y < -0.2)).astype(np.float32), 0.005)
            elif lesion.kind != "cardiomegaly":  # an opacity takes the lung towards soft tissue
                strength = {"consolidation": (0.50, 0.75), "nodule": (0.60, 0.85), "effusion": (0.80, 1.0)}[lesion.kind]
                target = self.anatomy.soft_level + 0.05 * (lesion.kind == "effusion")  # as dense as what it lies on
                values += rng.uniform(*strength) * lesion.weight_map * (target - values).clip(min=0)
        device: Device | None = None
        if rng.random() < 0.3:
            device = "leads" if rng.random() < 0.65 else "catheter"
            values = self._device(values, device)
        angle = rng.uniform(0, 2 * np.pi)
        values = values * (1 + rng.uniform(0, 0.16) * (np.cos(angle) * self.x + np.sin(angle) * self.y))
        values = np.clip(values * rng.uniform(0.95, 1.15), 0, 1.2) ** rng.uniform(0.75, 1.3)
        values = self.blur(values.astype(np.float32), rng.uniform(0.004, 0.011))
        grain = noise_rng.standard_normal(values.shape) * rng.uniform(0.010, 0.026)
        shown = rng.uniform(0.015, 0.05) + values * rng.uniform(0.82, 0.98) + grain
        black = 0.01 + 0.004 * noise_rng.standard_normal(values.shape)
        shown = np.where(self.visible, shown, black)
        return np.clip(np.round(shown * 255), 0, 255).astype(np.uint8), device

    def _attenuation(self, noise_rng: np.random.Generator) -> Map:
        """The patient without lesions (but with the heart as it is)."""
        anatomy, x, y = self.anatomy, self.x, self.y
        body, air = self.body(), self.blur(self.air, 0.012)
        values = body * anatomy.soft_level * (0.90 + 0.13 * np.sqrt(np.clip(1 - (x / 1.05) ** 2, 0, 1)))
        values += 0.07 * body * np.clip((y - 0.50) / 0.2, 0, 1)  # abdomen
        bubble = np.hypot((x - 0.42) / 0.14, (y - 0.70) / 0.07)  # air in the stomach, on the patient's left
        values -= self.rng.uniform(0, 0.16) * np.clip((1.2 - bubble) / 0.5, 0, 1) * (1 - air)
        level = anatomy.lung_level + 0.05 * np.clip(y + 0.2, -0.5, 0.8)  # breasts and muscle below
        values += air * (level - values)
        hila = np.exp(-(((np.abs(x) - 0.19) / 0.09) ** 2) - ((y + 0.02) / 0.17) ** 2)
        marks = np.clip(self.noise(noise_rng, 0.04), -2, 2) * (0.4 + 1.2 * hila) + 0.6 * self.noise(noise_rng, 0.13)
        values += air * (0.020 * marks + 0.11 * hila)
        solid = np.maximum(self.blur(self.heart, 0.018), self.blur(self.mediastinum, 0.02)) * body
        values += solid * np.clip(anatomy.soft_level + 0.06 - values, 0, 1)
        vertebrae = 1 + 0.35 * np.cos(2 * np.pi * (y / 0.125 + anatomy.rib_phase))
        values += 0.045 * body * np.exp(-((x / 0.075) ** 4)) * vertebrae
        return np.asarray((values + body * self._bones()), dtype=np.float32)

    def _bones(self) -> Map:
        """Ribs falling to the side behind, rising in front, and the collar bones."""
        anatomy, x, y = self.anatomy, self.x, self.y
        across = np.abs(x) / anatomy.width
        height = np.clip((y + 0.84) / 0.06, 0, 1) * np.clip((0.58 - y) / 0.1, 0, 1)
        cage = np.clip((0.80 - across) / 0.04, 0, 1) * height
        behind = (y - 0.34 * across**1.6) / anatomy.rib_gap + anatomy.rib_phase
        front = (y + 0.30 * (across - 0.25)) / (1.15 * anatomy.rib_gap) + 0.37 + anatomy.rib_phase
        bands = np.exp(-(((behind % 1 - 0.5) / 0.17) ** 2))
        bands += 0.55 * np.exp(-(((front % 1 - 0.5) / 0.20) ** 2)) * np.clip((across - 0.22) / 0.1, 0, 1)
        values = anatomy.rib_contrast * bands * cage
        for sign in (-1, 1):
            along = np.array([(0.09, -0.56), (0.25, -0.62), (0.45, -0.72), (0.66, -0.80), (0.86, -0.78)])
            bone = self.line(_smooth(along)[:-6] * (sign * anatomy.width, 1), self.pixels(0.05))
            values = values + 0.08 * self.blur(bone, 0.012)
        return np.asarray(values, dtype=np.float32)

    def _device(self, values: Map, device: Device) -> Map:
        """Electrodes with their leads, or a catheter from the neck: bright, thin, and no finding."""
        rng = self.rng
        bright = np.zeros_like(values)
        if device == "leads":
            for _ in range(int(rng.integers(1, 4))):
                at = np.array([rng.uniform(0.25, 0.75) * rng.choice([-1, 1]), rng.uniform(-0.6, 0.5)])
                bright = np.maximum(bright, np.clip((0.035 - np.hypot(self.x - at[0], self.y - at[1])) / 0.012, 0, 1))
                bend = at + np.array([rng.uniform(-0.2, 0.2), rng.uniform(0.15, 0.4)])
                lead = np.array([at, bend, (np.sign(at[0]) * rng.uniform(0.7, 1.1), 1.1)])
                bright = np.maximum(bright, 0.5 * self.line(_smooth(lead)[:-6], self.pixels(0.012)))
        else:
            side = rng.choice([-1, 1])
            path = [(side * 0.2, -1.1), (side * 0.17, -0.75), (rng.uniform(-0.14, -0.06), -0.4)]
            path.append((-0.1, rng.uniform(-0.2, 0.2)))
            bright = 0.6 * self.line(_smooth(np.array(path))[:-6], self.pixels(0.015))
        return np.asarray((values + bright * (rng.uniform(0.85, 1.0) - values).clip(min=0)), dtype=np.float32)

    def fill(self, outline: NDArray[np.float64]) -> Map:
        """(N, 2) closed outline -> (H, W) coverage 0..1, with soft pixels at the edge."""
        canvas = np.zeros((self.size, self.size), np.uint8)
        cv2.fillPoly(canvas, [self._fixed_point(outline)], 255, lineType=cv2.LINE_AA, shift=4)
        return np.asarray(canvas / np.float32(255), dtype=np.float32)

    def line(self, points: NDArray[np.float64], width: float) -> Map:
        """(N, 2) open line of `width` pixels -> (H, W) coverage 0..1."""
        canvas = np.zeros((self.size, self.size), np.uint8)
        whole = max(1, round(width))
        cv2.polylines(canvas, [self._fixed_point(points)], False, 255, whole, lineType=cv2.LINE_AA, shift=4)
        return np.asarray(canvas / np.float32(255), dtype=np.float32)

    def blur(self, values: Map, length: float) -> Map:
        """Gaussian blur with a standard deviation in chest units."""
        return cast(Map, cv2.GaussianBlur(values, (0, 0), max(self.pixels(length), 0.3)))

    def noise(self, rng: np.random.Generator, length: float) -> Map:
        """Smooth noise of grain `length`, standard deviation 1."""
        step = max(1, round(self.pixels(length)))
        coarse = rng.standard_normal((-(-self.size // step) + 3,) * 2).astype(np.float32)
        side = coarse.shape[0] * step
        grown = cast(Map, cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))[step:, step:]
        grown = grown[: self.size, : self.size]
        return np.asarray((grown - grown.mean()) / max(float(grown.std()), 1e-6), dtype=np.float32)

    def _fixed_point(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        pixels = points @ self.turn.T * self.scale + self.shift - 0.5
        return np.asarray(np.round(pixels * 16), dtype=np.int32)

    def _collimation(self) -> tuple[Mask, bool]:
        visible = np.ones((self.size, self.size), bool)
        border = bool(self.rng.random() < 0.55)
        widths = (self.rng.uniform(0.01, 0.07, 4) * self.size * (self.rng.random(4) < 0.6)).astype(int)
        if border:
            top, bottom, left, right = widths
            visible[:top], visible[self.size - bottom :] = False, False
            visible[:, :left], visible[:, self.size - right :] = False, False
        return visible, border and bool(widths.any())

    def _share(self, mask: Mask, side: Side, zone: str) -> float:
        value = 1 + ZONES.index(zone) + 3 * (side == "left")
        return float((self.zones[mask] == value).mean())

    def _zones_of(self, mask: Mask, side: Side) -> tuple[str, ...]:
        """The thirds of the lung that hold at least a quarter of the lesion."""
        return tuple(zone for zone in ZONES if self._share(mask, side, zone) >= 0.25)

    def _centre(self, side: Side, radius: float) -> tuple[float, float]:
        """A place in a random third, chest units, as far from the lung's edge as the radius asks or the third lets."""
        value = int(self.rng.integers(3)) + 1 + 3 * (side == "left")
        depth = cv2.distanceTransform(self.lungs[side].astype(np.uint8), cv2.DIST_L2, 3)
        depth[self.zones != value] = 0
        rows, columns = np.nonzero(depth >= min(self.pixels(0.8 * radius), 0.85 * float(depth.max())))
        pick = int(self.rng.integers(len(rows)))
        return float(self.x[rows[pick], columns[pick]]), float(self.y[rows[pick], columns[pick]])

    def _consolidation(self, side: Side) -> tuple[Size, Map]:
        """An irregular mottled blob."""
        rng = self.rng
        size = _size(rng)
        radius = rng.uniform(*{"small": (0.11, 0.14), "moderate": (0.16, 0.19), "large": (0.215, 0.26)}[size])
        cx, cy = self._centre(side, radius)
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        reach = np.ones_like(angle)
        for wave in range(2, 6):
            reach += rng.normal(0, 0.22 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
        stretch, tilt = rng.uniform(0.85, 1.2), rng.uniform(0, np.pi)
        points = np.stack((np.cos(angle) * reach * stretch, np.sin(angle) * reach / stretch), axis=-1) * radius
        c, s = np.cos(tilt), np.sin(tilt)
        blob = self.blur(self.fill(points @ np.array([[c, s], [-s, c]]) + (cx, cy)), 0.03)
        mottle = 1 + 0.13 * self.noise(rng, 0.045)
        return size, np.clip(blob * mottle, 0, 1) * self.air

    def _nodule(self, side: Side) -> tuple[Size, Map]:
        """A small round shadow with a fairly sharp edge."""
        rng = self.rng
        size = _size(rng)
        radius = rng.uniform(*{"small": (0.082, 0.092), "moderate": (0.100, 0.112), "large": (0.122, 0.14)}[size])
        cx, cy = self._centre(side, 1.3 * radius)
        a = rng.uniform(0.92, 1.08)
        distance = np.hypot((self.x - cx) * a, (self.y - cy) / a) / radius
        return size, np.clip((1.12 - distance) / 0.30, 0, 1) * self.air

    def _effusion(self, side: Side) -> tuple[Size, Map]:
        """Fluid at the base, its upper edge rising to the chest wall."""
        rng = self.rng
        size = _size(rng)
        height = rng.uniform(*{"small": (0.13, 0.16), "moderate": (0.20, 0.25), "large": (0.31, 0.40)}[size])
        rows, columns = np.nonzero(self.lungs[side])
        floor = float(np.quantile(self.y[rows, columns], 0.97))
        outer = np.clip(np.abs(self.x) / (0.70 * self.anatomy.width), 0, 1.1)
        edge = floor - height * (0.55 + 0.75 * outer ** rng.uniform(2.5, 4))
        return size, self.blur(np.clip((self.y - edge) / 0.05 + 0.5, 0, 1), 0.012) * self.air * self._lung(side)

    def _pneumothorax(self, side: Side) -> tuple[Size, Map]:
        """Air between the chest wall and the shrunken lung, at the apex."""
        rng = self.rng
        size = _size(rng)
        keep = rng.uniform(*{"small": (0.83, 0.86), "moderate": (0.765, 0.80), "large": (0.68, 0.73)}[size])
        sign = 1 if side == "left" else -1
        outline = self.anatomy.lungs[SIDES.index(side)]
        hilum = np.array([sign * 0.12, rng.uniform(0.0, 0.15)])
        rest = self.fill(_smooth((outline - hilum) * (keep + 0.06, keep) + hilum))
        top = np.clip((rng.uniform(-0.22, -0.1) - self.y) / 0.12, 0, 1)
        return size, (1 - rest) * top * self._lung(side)

    def _lung(self, side: Side) -> Map:
        return self.fill(_smooth(self.anatomy.lungs[SIDES.index(side)]))

    def body(self) -> Map:
        """(H, W) coverage 0..1 of the patient: neck, shoulders, trunk."""
        neck, shoulders, waist = self.anatomy.body
        rise = np.clip((self.y + 0.98) / 0.30, 0, 1)
        rise = rise * rise * (3 - 2 * rise)
        fall = np.clip((self.y + 0.62) / 0.55, 0, 1)
        half = neck + (shoulders - neck) * rise + (waist - shoulders) * fall * fall * (3 - 2 * fall)
        return np.asarray(np.clip((half - np.abs(self.x)) * self.scale + 0.5, 0, 1), dtype=np.float32)


def _smooth(points: NDArray[np.float64], num: int = 6) -> NDArray[np.float64]:
    """(N, 2) -> (N * num, 2): a closed Catmull-Rom curve through the points."""
    t = np.linspace(0, 1, num, endpoint=False)[None, :, None]
    before, point, after, last = (np.roll(points, shift, axis=0)[:, None] for shift in (1, 0, -1, -2))
    curve = 2 * point + (after - before) * t + (2 * before - 5 * point + 4 * after - last) * t**2
    curve = curve + (3 * point - before - 3 * after + last) * t**3
    return cast(NDArray[np.float64], (curve / 2).reshape(-1, 2))


def _size(rng: np.random.Generator) -> Size:
    sizes: Sequence[Size] = ("small", "moderate", "large")
    return sizes[int(rng.integers(3))]
