"""G2D's pseudo mask: where the attention pool looked, made into the target of the decoder (arXiv 2312.01522, 3.2).

    per-head weights -> mean over heads (Eq. 2) -> image size -> zero outside the body -> W >= threshold (Eq. 3)
                     -> bilateral filter against the edges of the cells

No parameter, no gradient. Nothing is read back from the device: every shape is known beforehand.

Shapes: B images, M masks an image (1, or one per head), H W pixels, h w attention grid, N = H*W.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor

from medvl.config.sections import PseudoMaskConfig
from medvl.core.device import full_precision
from medvl.core.errors import InputError

PERCENTILES = {"p95": 95, "p85": 85, "p75": 75, "median": 50}
CONSTANT = 1e-6  # relative range of a map below which it has no information: a few units of float32
EM_STEPS = 40
EM_SMALLEST_SD = 0.02  # of a component, as a share of the map's range: no component shrinks onto one cell
SMOOTHING_SCALE = 4  # the bilateral filter runs at 1/4 of the image's size, or nearer to it where cells are small
SIGMAS = 2  # half width of its window


# `pretrain.mask.source` -> what gives the cells' weights (B, heads, 1 + P) that masks are made of, or the place
# `module:NAME` that it is imported from on first use. It gets the attention pool, the projected map (B, d, h, w), the
# pool's weights, and the texts' vectors (B, d).
MaskSource = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
MASK_SOURCES: dict[str, MaskSource | str] = {
    "attention": lambda pool, projected, weights, vectors: weights,
    "evidence": "medvl.experiments.evidence:evidence",
}


def find_mask_source(name: str) -> MaskSource:
    """The entry of `MASK_SOURCES`, imported."""
    source = MASK_SOURCES[name]
    if isinstance(source, str):
        module, _, attribute = source.partition(":")
        source = cast(MaskSource, getattr(import_module(module), attribute))
        MASK_SOURCES[name] = source
    return source


@dataclass(frozen=True, slots=True)
class PseudoMask:
    """The target of the decoder."""

    mask: Tensor  # (B, M, H, W) float32 in [0, 1], 0 outside the body
    raw: Tensor  # (B, M, H, W) float32 in {0, 1}, before smoothing
    valid: Tensor  # (B, M) bool; False: constant or non-finite attention, no body, or nothing left: no target
    attention_map: Tensor  # (B, M, H, W) float32, at image size, before anything is cut


@torch.no_grad()
def pseudo_mask(
    attention: Tensor,
    size: tuple[int, int],
    body: Tensor | None = None,
    config: PseudoMaskConfig | None = None,
    *,
    covers: tuple[int, int] | None = None,
) -> PseudoMask:
    """The pseudo masks of a batch.

    Args:
        attention: (B, heads, h, w) weights after the softmax, or their parts of the similarity with the text
            (`MASK_SOURCES`), without the summary token; any float type.
        size: (H, W) of the masks.
        body: (B, H, W) bool, for `config.body_mask`; ignored without it.
        config: None = the defaults.
        covers: (H', W') of what the grid lies over, at least `size`: the network pads below and to the right. None =
            `size`.

    Raises:
        InputError: a shape that does not fit, or `body_mask` without `body`.
    """
    config = config or PseudoMaskConfig()
    covers = covers or size
    _check(attention, size, body, config, covers)
    with full_precision(attention.device):
        weights = attention.detach().float()
        if config.aggregate:
            weights = weights.mean(dim=1, keepdim=True)  # (B, M, h, w)
        finite = weights.isfinite().all(dim=3).all(dim=2)  # (B, M)
        weights = torch.where(finite[:, :, None, None], weights, 0)
        corners = None if config.upsample == "nearest" else False
        attention_map = F.interpolate(weights, covers, mode=config.upsample, align_corners=corners)
        attention_map = attention_map[:, :, : size[0], : size[1]]  # (B, M, H, W)
        inside = None if body is None or not config.body_mask else body[:, None]  # (B, 1, H, W) bool
        says_something = finite & _varies(attention_map, inside)
        raw = _threshold(attention_map, weights, inside, config, covers) & says_something[:, :, None, None]
        mask = raw = raw.float()
        if config.smooth == "bilateral":
            grid = (weights.shape[2], weights.shape[3])
            mask = smooth_mask(raw, grid, config.sigma_cells, config.sigma_value, soft=config.soft, covers=covers)
            mask = mask if inside is None else mask * inside
        valid = says_something & (mask > 0).any(dim=3).any(dim=2)
    return PseudoMask(mask, raw, valid, attention_map)


def at_percentile(values: Tensor, inside: Tensor | None, percent: int, *, strict: bool = False) -> Tensor:
    """values >= (strict: >) their percentile, exactly, over the elements that `inside` selects.

    The percentile is numpy.quantile's "linear": at rank (n - 1) percent / 100, interpolated between two neighbours in
    order. No value lies between neighbours, so `>=` it is `>=` the upper one and `>` it is `>` the lower one: the
    order statistic decides, without the rounding of an interpolation. Ranks are integers, and only the part of the
    order above the percentile is sorted (a sixth of a whole sort's time at 85).

    Args:
        values: (..., N) finite.
        inside: bool, broadcastable to `values`; None = all. Elements outside it come out False.
        percent: 0 to 100.

    Returns:
        (..., N) bool; all False where nothing is inside.
    """
    size = values.shape[-1]
    num_kept = size - (size - 1) * percent // 100  # no rank asked for lies deeper, however few are inside
    if inside is None:
        ranked, count = values, torch.full((*values.shape[:-1], 1), size, device=values.device)
    else:
        ranked = values.masked_fill(~inside, -torch.inf)
        count = inside.sum(dim=-1, keepdim=True).expand(*values.shape[:-1], 1)  # (..., 1)
    scaled = (count - 1).clamp(min=0) * percent
    rank = (scaled if strict else scaled + 99) // 100  # from below, of the lower or upper neighbour
    from_above = ((count - 1).clamp(min=0) - rank).clamp(0, num_kept - 1)
    bound = ranked.topk(num_kept, dim=-1).values.gather(-1, from_above)  # (..., 1)
    above = ranked > bound if strict else ranked >= bound
    return above if inside is None else above & inside


def smooth_mask(
    mask: Tensor,
    grid: tuple[int, int],
    sigma_cells: float = 0.5,
    sigma_value: float = 1.0,
    *,
    soft: bool = False,
    covers: tuple[int, int] | None = None,
) -> Tensor:
    """`bilateral_mask` at a quarter of the size, brought back linearly and cut at 0.5 (unless `soft`).

    Args:
        mask: (B, M, H, W) float in {0, 1}.
        grid: (h, w) of the attention; sigma in pixels is `sigma_cells` * (H' / h, W' / w).
        covers: (H', W') of what the grid lies over; None = (H, W).
    """
    size = (mask.shape[2], mask.shape[3])
    height, width = covers or size
    sigma = (sigma_cells * height / grid[0], sigma_cells * width / grid[1])
    scale = max(1, min(SMOOTHING_SCALE, int(min(sigma))))  # sigma stays at least a pixel of the smaller picture
    small = (math.ceil(size[0] / scale), math.ceil(size[1] / scale))
    low = (F.adaptive_avg_pool2d(mask, small) >= 0.5).to(mask.dtype) if scale > 1 else mask
    low = bilateral_mask(low, (sigma[0] * small[0] / size[0], sigma[1] * small[1] / size[1]), sigma_value)
    smooth = F.interpolate(low, size, mode="bilinear", align_corners=False) if scale > 1 else low
    return smooth if soft else (smooth >= 0.5).to(mask.dtype)


def bilateral_mask(mask: Tensor, sigma: tuple[float, float], sigma_value: float) -> Tensor:
    """The bilateral filter (Tomasi and Manduchi 1998) of a binary mask, exactly, by two separable sums.

    Between pixels of the same value the range weight is 1, between others r = exp(-1 / (2 sigma_value^2)). With G the
    Gaussian sum of the mask and S that of ones, over the part of the window within the image, the filter is
    G / (G + r (S - G)) where the mask is 1 and r G / (r G + S - G) where it is 0.

    Args:
        mask: (..., H, W) float in {0, 1}.
        sigma: spatial, in pixels, (vertical, horizontal). The window reaches 2 sigma, rounded up, to each side.

    Returns:
        (..., H, W) in [0, 1].
    """
    rows, columns = (
        _gaussian(length, s, mask) for length, s in zip((mask.shape[-2], mask.shape[-1]), sigma, strict=True)
    )
    ones = rows @ mask @ columns.T  # G
    zeros = rows @ (1 - mask) @ columns.T  # S - G
    r = math.exp(-0.5 / max(sigma_value, 1e-9) ** 2)
    towards_one, towards_zero = r + (1 - r) * mask, 1 - (1 - r) * mask  # range weights of each pixel
    return towards_one * ones / (towards_one * ones + towards_zero * zeros)  # it weighs 1 towards itself: no 0 / 0


def gmm_parameters(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two normal distributions fitted by EM, a fixed number of steps from the halves below and above the mean.

    Args:
        values: (..., n) in [0, 1].
        weights: (..., n) >= 0, how much each value counts.

    Returns:
        Shares, means and standard deviations, each (..., 2), the component of the lower mean first.
    """
    total = weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    above = (values > (values * weights).sum(dim=-1, keepdim=True) / total).float()
    belongs = torch.stack([1 - above, above], dim=-2)  # (..., 2, n)
    values, weights = values[..., None, :], weights[..., None, :]  # (..., 1, n)
    for _ in range(EM_STEPS):
        counts = belongs * weights
        mass = counts.sum(dim=-1).clamp(min=1e-6)  # (..., 2)
        means = (counts * values).sum(dim=-1) / mass
        variance = (counts * (values - means[..., None]).square()).sum(dim=-1) / mass
        sds = (variance + EM_SMALLEST_SD**2).sqrt()
        shares = mass / mass.sum(dim=-1, keepdim=True)
        belongs = _log_density(values, shares[..., None], means[..., None], sds[..., None]).softmax(dim=-2)
    order = means.argsort(dim=-1)
    return shares.gather(-1, order), means.gather(-1, order), sds.gather(-1, order)


def _threshold(
    attention_map: Tensor, weights: Tensor, inside: Tensor | None, config: PseudoMaskConfig, covers: tuple[int, int]
) -> Tensor:
    """(B, M, H, W) bool: what is above the threshold, within the body."""
    counted = inside
    if inside is not None and config.domain == "image":
        attention_map, counted = attention_map * inside, None
    if config.threshold == "gmm":
        above = _above_gmm(attention_map, weights, inside, config.domain, covers)
    elif config.threshold == "mean":
        dims = (2, 3)
        mean = attention_map.mean(dims, keepdim=True)  # (B, M, 1, 1)
        if counted is not None:
            mean = (attention_map * counted).sum(dims, keepdim=True) / counted.sum(dims, keepdim=True).clamp(min=1)
        above = attention_map > mean if config.strict else attention_map >= mean
    else:
        flat = None if counted is None else counted.flatten(2)  # (B, 1, N)
        above = at_percentile(attention_map.flatten(2), flat, PERCENTILES[config.threshold], strict=config.strict)
        above = above.reshape(attention_map.shape)  # (B, M, N) -> (B, M, H, W)
    return above if inside is None else above & inside


def _above_gmm(
    attention_map: Tensor, weights: Tensor, inside: Tensor | None, domain: str, covers: tuple[int, int]
) -> Tensor:
    """Where the posterior of the higher of two components, fitted on the cells, exceeds one half.

    A cell counts as far as the body covers it; with domain "image" as far as it lies in the image, and its value
    shrinks by what of that is not body.
    """
    cells = weights.flatten(2)  # (B, M, h*w)
    counts = _cover(torch.ones_like(attention_map[:, :1]), weights, covers)  # in the image: all, but for padding
    if inside is not None:
        cover = _cover(inside.float(), weights, covers)
        cells, counts = (cells * cover / counts.clamp(min=1e-6), counts) if domain == "image" else (cells, cover)
    lowest = torch.where(counts > 0, cells, torch.inf).amin(dim=2, keepdim=True)  # (B, M, 1)
    highest = torch.where(counts > 0, cells, -torch.inf).amax(dim=2, keepdim=True)
    spread = highest - lowest
    usable = spread > 0  # else constant, or no cell counts
    lowest, spread = torch.where(usable, lowest, 0), torch.where(usable, spread, 1)
    scaled = ((cells - lowest) / spread).clamp(0, 1)
    parameters = (p[..., None, None, None] for p in gmm_parameters(scaled, counts))  # each (B, M, 2, 1, 1, 1)
    shares, means, sds = (p.flatten(3) for p in parameters)  # (B, M, 2, 1)
    pixels = ((attention_map - lowest[..., None]) / spread[..., None])[:, :, None].flatten(3)  # (B, M, 1, N)
    density = _log_density(pixels, shares, means, sds)  # (B, M, 2, N)
    # The wider component wins far from both means: at low values too, where its posterior says nothing about height.
    above = (density[:, :, 1] > density[:, :, 0]) & (pixels[:, :, 0] > means[:, :, 0]) & usable  # (B, M, N)
    return above.reshape(attention_map.shape)


def _cover(region: Tensor, weights: Tensor, covers: tuple[int, int]) -> Tensor:
    """(B, 1, H, W) in [0, 1] -> the share of each cell that it covers, (B, M, h*w)."""
    region = F.pad(region, (0, covers[1] - region.shape[3], 0, covers[0] - region.shape[2]))  # (B, 1, H', W')
    cover = F.adaptive_avg_pool2d(region, (weights.shape[2], weights.shape[3])).flatten(2)
    return cover.expand(*weights.shape[:2], -1)


def _log_density(values: Tensor, shares: Tensor, means: Tensor, sds: Tensor) -> Tensor:
    """log(share * normal density), without the constant."""
    return shares.clamp(min=1e-12).log() - sds.log() - 0.5 * ((values - means) / sds).square()


def _varies(attention_map: Tensor, inside: Tensor | None) -> Tensor:
    """(B, M) bool: whether the map differs anywhere within the body."""
    if inside is None:
        lowest, highest = attention_map.amin(dim=(2, 3)), attention_map.amax(dim=(2, 3))
    else:
        lowest = torch.where(inside, attention_map, torch.inf).amin(dim=(2, 3))
        highest = torch.where(inside, attention_map, -torch.inf).amax(dim=(2, 3))
    return highest - lowest > CONSTANT * torch.maximum(highest.abs(), lowest.abs())


def _gaussian(length: int, sigma: float, like: Tensor) -> Tensor:
    """(length, length): row i holds the weights of a Gaussian window about i, as far as it lies in the picture."""
    at = torch.arange(length, device=like.device, dtype=like.dtype)
    distance = (at[:, None] - at).abs()
    return torch.where(distance <= math.ceil(SIGMAS * sigma), (-0.5 * (distance / sigma) ** 2).exp(), 0.0)


def _check(
    attention: Tensor, size: tuple[int, int], body: Tensor | None, config: PseudoMaskConfig, covers: tuple[int, int]
) -> None:
    if attention.ndim != 4 or not attention.is_floating_point():
        raise InputError.wrong_shape(
            f"attention of shape {tuple(attention.shape)}, {attention.dtype}", expected="(B, heads, h, w) floats"
        )
    if covers[0] < size[0] or covers[1] < size[1]:
        raise InputError.mismatch(
            f"a grid over {covers} pixels for masks of {size}", expected="at least the masks' size"
        )
    if not config.body_mask:
        return
    if body is None:
        raise InputError.missing("no body for the body mask", remedy="give body, or set body_mask: false")
    expected = (attention.shape[0], *size)
    if tuple(body.shape) != expected or body.dtype != torch.bool:
        raise InputError.wrong_shape(
            f"a body mask of shape {tuple(body.shape)}, {body.dtype}", expected=f"{expected} bool"
        )
