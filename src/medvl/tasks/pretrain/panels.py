"""Pictures of what pre-training sees: one strip per pair, for TensorBoard and the report."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from medvl.config import PretrainConfig
from medvl.data.dataset import Batch
from medvl.losses.pseudo_mask import PseudoMask
from medvl.models.g2d import ImageOutput

Picture = NDArray[np.uint8]
GAP = 4  # pixels between the tiles
MIN_SIDE = 192  # small images are enlarged, by nearest neighbour, so that cells stay cells


@dataclass(frozen=True, slots=True)
class Panel:
    """A strip of tiles (H, W, 3) with their names from left to right, and the pair's text."""

    picture: Picture
    tiles: tuple[str, ...]
    text: str


def draw_panel(
    batch: Batch, output: ImageOutput, target: PseudoMask | None, index: int, config: PretrainConfig
) -> Panel:
    """The strip of one pair: what there is of image, attention or evidence, body, raw mask, mask and decoder."""
    image = batch.image[index].mean(dim=0).float().cpu().numpy()  # (H, W)
    tiles: dict[str, Picture] = {"image": _grey(image)}
    if target is not None:
        tiles[config.mask.source] = _heat(target.attention_map[index].mean(dim=0).float().cpu().numpy())
        if batch.body is not None:
            tiles["body"] = _grey(batch.body[index].float().cpu().numpy(), 0.0, 1.0)
        tiles["raw mask"] = _grey(target.raw[index].mean(dim=0).float().cpu().numpy(), 0.0, 1.0)
        tiles["mask"] = _overlay(image, target.mask[index].amax(dim=0).float().cpu().numpy())
    if output.mask_logits is not None:
        logits = output.mask_logits[index].float()
        if config.decoder == "reconstruction":
            tiles["reconstruction"] = _grey(logits.mean(dim=0).cpu().numpy())
        else:
            tiles["decoder"] = _heat(logits.sigmoid().amax(dim=0).cpu().numpy(), 0.0, 1.0)
    factor = max(1, -(-MIN_SIDE // min(image.shape)))
    large = [np.repeat(np.repeat(tile, factor, axis=0), factor, axis=1) for tile in tiles.values()]
    gap = np.full((large[0].shape[0], GAP, 3), 255, dtype=np.uint8)
    strip = np.concatenate([part for tile in large for part in (tile, gap)][:-1], axis=1)
    return Panel(strip, tuple(tiles), batch.texts[index])


def _scaled(values: NDArray[np.float32], low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    return np.asarray(np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255, dtype=np.uint8)


def _grey(values: NDArray[np.float32], low: float | None = None, high: float | None = None) -> Picture:
    """Stretched from the lowest to the highest value, or, of a mask, from 0 to 1: a full one is white."""
    return np.asarray(np.repeat(_scaled(values, low, high)[:, :, None], 3, axis=2))


def _heat(values: NDArray[np.float32], low: float | None = None, high: float | None = None) -> Picture:
    coloured = np.asarray(cv2.applyColorMap(_scaled(values, low, high), cv2.COLORMAP_VIRIDIS), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _overlay(image: NDArray[np.float32], mask: NDArray[np.float32]) -> Picture:
    picture = _grey(image).astype(np.float32)
    weight = 0.5 * mask[:, :, None]
    return np.asarray(picture * (1 - weight) + weight * np.array([255.0, 80.0, 0.0]), dtype=np.uint8)
