"""Pseudo masks: the percentile against numpy, the bilateral filter against its definition, and what has no target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from faults import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from medvl.config.sections import PseudoMaskConfig
from medvl.losses.pseudo_mask import (
    PERCENTILES,
    PseudoMask,
    at_percentile,
    bilateral_mask,
    gmm_parameters,
    pseudo_mask,
    smooth_mask,
)

PLAIN: dict[str, Any] = {"body_mask": False, "smooth": "none"}
THRESHOLDS = ["p85", "p75", "median", "mean", "gmm"]
each_threshold = pytest.mark.parametrize("threshold", THRESHOLDS)


def weights(batch: int = 2, heads: int = 4, grid: tuple[int, int] = (4, 5), seed: int = 0) -> Tensor:
    """Attention as the pool gives it: a softmax over the cells and the summary token, which is dropped."""
    h, w = grid
    logits = 3 * torch.randn(batch, heads, 1 + h * w, generator=torch.Generator().manual_seed(seed))
    return logits.softmax(dim=2)[:, :, 1:].reshape(batch, heads, h, w)


def body_of(size: tuple[int, int], batch: int = 2) -> Tensor:
    """(batch, H, W): a rectangle, another in each image."""
    body = torch.zeros(batch, *size, dtype=torch.bool)
    for i in range(batch):
        body[i, 3 + i : -4, 5 : -2 - i] = True
    return body


def make(attention: Tensor, size: Any, body: Tensor | None = None, covers: Any = None, **options: Any) -> PseudoMask:
    return pseudo_mask(attention, size, body, PseudoMaskConfig(**options), covers=covers)


# --- the percentile


@settings(max_examples=80, deadline=None)
@given(data=st.data(), percent=st.sampled_from([*PERCENTILES.values(), 0, 100]), strict=st.booleans())
def test_percentile_is_that_of_numpy_over_what_is_inside(data: st.DataObject, percent: int, strict: bool) -> None:
    rows, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    num_values = data.draw(st.sampled_from([2, 7, 2**23]))  # with ties and without
    values = (rng.integers(0, num_values, (rows, size)) / num_values).astype(np.float32)
    inside = rng.random((rows, size)) < data.draw(st.sampled_from([0.05, 0.5, 1.0]))
    selection = None if inside.all() else torch.from_numpy(inside)
    made = at_percentile(torch.from_numpy(values), selection, percent, strict=strict).numpy()
    for row, selected, above in zip(values.astype(np.float64), inside, made, strict=True):
        if not selected.any():
            assert not above.any()
            continue
        bound = np.quantile(row[selected], percent / 100)
        assert np.array_equal(above, (row > bound if strict else row >= bound) & selected)


@pytest.mark.parametrize("strict", [True, False])
def test_percentile_of_whole_maps_at_full_size(strict: bool) -> None:
    values = torch.rand(2, 3, 224 * 224, generator=torch.Generator().manual_seed(0))
    bound = np.quantile(values.double().numpy(), 0.85, axis=2, keepdims=True)
    expected = values.numpy() > bound if strict else values.numpy() >= bound
    assert np.array_equal(at_percentile(values, None, 85, strict=strict).numpy(), expected)


def test_neighbours_that_no_float_separates_are_still_told_apart() -> None:
    """Interpolated in float32 the threshold would round to the lower one, and >= would take both."""
    low = torch.tensor(0.3)
    high = torch.nextafter(low, torch.tensor(1.0))
    values = torch.stack([low] * 8 + [high] * 2)[None]  # rank 9 * 0.85 = 7.65: between the last low and the first high
    assert at_percentile(values, None, 85).sum() == 2
    assert at_percentile(values, None, 85, strict=True).sum() == 2


# --- from attention to the mask


@pytest.mark.parametrize("threshold", ["p85", "p75", "median", "mean"])
@pytest.mark.parametrize("domain", ["body", "image"])
@pytest.mark.parametrize("strict", [True, False])
def test_mask_is_the_formula_written_in_numpy(threshold: str, domain: str, strict: bool) -> None:
    attention, size = weights(), (40, 60)
    body = body_of(size)
    made = make(attention, size, body, threshold=threshold, domain=domain, strict=strict, smooth="none")
    assert made.mask.shape == made.raw.shape == made.attention_map.shape == (2, 1, 40, 60)
    assert torch.equal(made.mask, made.raw) and made.valid.all()
    mean = attention.mean(dim=1, keepdim=True)
    torch.testing.assert_close(
        made.attention_map, torch.nn.functional.interpolate(mean, size, mode="bilinear", align_corners=False)
    )
    for i in range(2):
        grid, inside = made.attention_map[i, 0].double().numpy(), body[i].numpy()
        values = grid[inside] if domain == "body" else (grid * inside).ravel()
        bound = values.mean() if threshold == "mean" else np.quantile(values, PERCENTILES[threshold] / 100)
        expected = (grid > bound if strict else grid >= bound) & inside
        assert np.array_equal(made.mask[i, 0].numpy() == 1, expected)


def test_read_literally_a_body_of_less_than_its_share_is_taken_whole() -> None:
    body = body_of((96, 80))
    body[:, 12:] = False  # less than 15 % of the image
    literal = make(weights(), (96, 80), body, domain="image", smooth="none").raw
    assert torch.equal(literal[:, 0] == 1, body)


def test_ignored_body() -> None:
    attention = weights()
    without = make(attention, (24, 30), **PLAIN)
    assert torch.equal(make(attention, (24, 30), body_of((24, 30)), **PLAIN).mask, without.mask)
    everywhere = torch.ones(2, 24, 30, dtype=torch.bool)
    assert torch.equal(make(attention, (24, 30), everywhere, smooth="none").mask, without.mask)


@pytest.mark.parametrize("options", [{}, {"soft": True}, {"threshold": "gmm"}, {"domain": "image"}])
def test_nothing_outside_the_body(options: dict[str, Any]) -> None:
    body = body_of((64, 80))
    made = make(weights(), (64, 80), body, **options)
    assert made.mask.any() and not made.mask[:, 0][~body].any() and not made.raw[:, 0][~body].any()
    assert made.mask.min() >= 0 and made.mask.max() <= 1


def test_per_head_masks_are_those_of_each_head_alone() -> None:
    attention, body = weights(), body_of((32, 40))
    made = make(attention, (32, 40), body, aggregate=False)
    heads = [make(attention[:, [head]], (32, 40), body) for head in range(4)]
    assert made.valid.shape == (2, 4) and torch.equal(made.mask, torch.cat([head.mask for head in heads], dim=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_and_autocast_compute_in_float32(dtype: torch.dtype) -> None:
    attention, body = weights().to(dtype).requires_grad_(), body_of((32, 40))
    before = attention.detach().clone()
    expected = make(before.float(), (32, 40), body, soft=True).mask
    made = make(attention, (32, 40), body, soft=True)
    assert torch.equal(made.mask, expected) and torch.equal(attention.detach(), before)
    assert not made.mask.requires_grad and not made.attention_map.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(make(attention, (32, 40), body, soft=True).mask, expected)


@each_threshold
@pytest.mark.parametrize("domain", ["body", "image"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_shapes_never_depend_on_values(threshold: str, domain: str, upsample: str) -> None:
    """The meta device has no values: whatever reads one back (.item(), nonzero, a boolean index) fails there."""
    attention = torch.empty(3, 4, 7, 5, device="meta")
    body = torch.empty(3, 70, 45, dtype=torch.bool, device="meta")
    made = make(attention, (70, 45), body, threshold=threshold, domain=domain, upsample=upsample, aggregate=False)
    assert made.mask.shape == made.raw.shape == made.attention_map.shape == (3, 4, 70, 45)
    assert made.valid.shape == (3, 4) and made.mask.device.type == "meta"


# --- what has no target


@each_threshold
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("smooth", ["bilateral", "none"])
@pytest.mark.parametrize("domain", ["body", "image"])
def test_images_without_a_target_are_empty(threshold: str, strict: bool, smooth: str, domain: str) -> None:
    """And they do not touch the others."""
    size = (32, 40)
    attention = weights(batch=5)
    attention[1] = 1 / 21  # constant
    attention[2, 1, 0, 0] = torch.nan
    attention[3, 2, 1, 1] = torch.inf
    body = body_of(size, batch=5)
    body[4] = False  # a black image
    options = {"threshold": threshold, "strict": strict, "smooth": smooth, "domain": domain}
    made = make(attention, size, body, **options)
    assert made.valid[:, 0].tolist() == [True, False, False, False, False]
    assert not made.mask[1:].any() and not made.raw[1:].any()
    assert all(part.isfinite().all() for part in (made.mask, made.raw, made.attention_map))
    alone = make(attention[:1], size, body[:1], **options)
    assert torch.equal(made.mask[:1], alone.mask) and alone.mask.any()


def test_attention_that_varies_only_outside_the_body_is_constant() -> None:
    attention = torch.full((1, 1, 4, 4), 0.05)
    attention[0, 0, 0, 0] = 0.5
    body = torch.zeros(1, 64, 64, dtype=torch.bool)
    body[:, 40:, 40:] = True
    for domain in ("body", "image"):
        made = make(attention, (64, 64), body, domain=domain)
        assert not made.valid.any() and not made.mask.any()
    assert make(attention, (64, 64), body_mask=False).valid.all()


def test_a_mask_that_smoothing_wipes_out_is_no_target() -> None:
    attention = torch.zeros(1, 1, 16, 16)
    attention[0, 0, 8, 8] = 1.0
    options: dict[str, Any] = {"upsample": "nearest", "strict": True, "body_mask": False, "sigma_cells": 1.0}
    made = make(attention, (64, 64), **options)
    assert made.raw.sum() == 16 and not made.mask.any() and not made.valid.any()
    soft = make(attention, (64, 64), soft=True, **options)
    assert soft.valid.all() and 0 < soft.mask.max() < 0.5


def test_faults_of_the_caller() -> None:
    for kind, attention, size, body in (
        ("wrong_shape", weights()[0], (8, 8), None),
        ("wrong_shape", torch.ones(2, 1, 4, 4, dtype=torch.int64), (8, 8), body_of((16, 16))),
        ("missing", weights(), (16, 16), None),
        ("wrong_shape", weights(), (16, 16), body_of((16, 18))),
        ("wrong_shape", weights(), (16, 16), body_of((16, 16)).float()),
        ("wrong_shape", weights(), (16, 16), body_of((16, 16), batch=1)),
    ):
        with refused(kind):
            make(attention, size, body)
    with refused("mismatch"):  # a grid smaller than the image
        make(weights(), (32, 32), covers=(32, 31), **PLAIN)
    for wrong in ({"sigma_cells": 0}, {"threshold": "p90"}, {"sigma_value": -1}, {"radius": 3}):
        with pytest.raises(ValidationError):
            PseudoMaskConfig(**wrong)


# --- the mixture


def em_by_hand(values: np.ndarray, counts: np.ndarray, steps: int) -> np.ndarray:
    """Shares, means and deviations of two normal distributions after EM, (3, 2), the lower mean first."""
    high = values > np.average(values, weights=counts)
    belongs = np.stack([~high, high]).astype(float)  # (2, n)
    for _ in range(steps):
        mass = (belongs * counts).sum(axis=1, keepdims=True)
        mean = (belongs * counts * values).sum(axis=1, keepdims=True) / mass
        variance = (belongs * counts * (values - mean) ** 2).sum(axis=1, keepdims=True) / mass
        share, sd = mass / counts.sum(), np.sqrt(variance + 0.02**2)
        density = share / sd * np.exp(-0.5 * ((values - mean) / sd) ** 2)
        belongs = density / density.sum(axis=0)
    return np.stack([share, mean, sd])[:, mean[:, 0].argsort(), 0]


def test_mixture_is_em_written_out() -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.random((3, 30)) ** 3, rng.random((3, 30))
    fitted = gmm_parameters(torch.from_numpy(values), torch.from_numpy(counts))
    for i in range(3):
        for parameter, numbers in zip(fitted, em_by_hand(values[i], counts[i], 40), strict=True):
            np.testing.assert_allclose(parameter[i].numpy(), numbers, rtol=1e-5)


def test_mixture_mask_is_the_higher_component_and_not_the_low_tail() -> None:
    low = torch.linspace(0.010, 0.012, 40)
    high = torch.linspace(0.03, 0.07, 9)  # the wider component: its density wins far below the narrow one too
    cells = torch.cat([torch.tensor([0.0]), low, high]).reshape(1, 1, 5, 10)
    made = make(cells, (50, 100), threshold="gmm", upsample="nearest", **PLAIN)
    assert torch.equal(made.mask[0, 0, ::10, ::10].flatten() == 1, torch.cat([torch.zeros(41), torch.ones(9)]) == 1)
    smaller = make(cells * 1e-3, (50, 100), threshold="gmm", upsample="nearest", **PLAIN)
    assert torch.equal(made.mask, smaller.mask)  # independent of the scale


def test_mixture_counts_cells_as_far_as_the_body_covers_them() -> None:
    cells = torch.tensor([0.9, 0.8, 0.85, 0.1, 0.11, 0.12, 0.3, 0.31, 0.33]).reshape(1, 1, 3, 3)
    body = torch.ones(1, 30, 30, dtype=torch.bool)
    body[:, :10] = False  # the first three, which would be the higher component
    options: dict[str, Any] = {"threshold": "gmm", "upsample": "nearest", "smooth": "none"}
    whole = make(cells, (30, 30), torch.ones_like(body), **options).mask[0, 0, ::10, ::10]
    within = make(cells, (30, 30), body, **options).mask[0, 0, ::10, ::10]
    assert whole.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert within.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1]]


# --- the bilateral filter


def bilateral_by_hand(mask: np.ndarray, sigma: tuple[float, float], sigma_value: float) -> np.ndarray:
    """Tomasi and Manduchi's weighted mean, pixel by pixel, for any picture."""
    rows, columns = np.indices(mask.shape)
    out = np.zeros(mask.shape)
    for y, x in np.ndindex(mask.shape):
        near = (abs(rows - y) <= math.ceil(2 * sigma[0])) & (abs(columns - x) <= math.ceil(2 * sigma[1]))
        space = ((rows - y) / sigma[0]) ** 2 + ((columns - x) / sigma[1]) ** 2
        weight = near * np.exp(-0.5 * space - 0.5 * ((mask - mask[y, x]) / sigma_value) ** 2)
        out[y, x] = (weight * mask).sum() / weight.sum()
    return out


@pytest.mark.parametrize("sigma", [(1.5, 2.0), (0.6, 0.3), (8.0, 5.0)])
@pytest.mark.parametrize("sigma_value", [1e-12, 0.3, 1.0, 10.0, 1e6])
@pytest.mark.parametrize("p_one", [0.0, 0.05, 0.5, 1.0])
def test_closed_form_is_the_bilateral_filter(sigma: tuple[float, float], sigma_value: float, p_one: float) -> None:
    mask = (np.random.default_rng(3).random((11, 9)) < p_one).astype(np.float64)
    expected = bilateral_by_hand(mask, sigma, sigma_value)
    filtered = bilateral_mask(torch.from_numpy(mask)[None, None], sigma, sigma_value)[0, 0].numpy()
    np.testing.assert_allclose(filtered, expected, atol=1e-12)


def test_smoothing_rounds_the_square_and_keeps_its_place() -> None:
    """What the paper wants of it: "to smooth the square-like boundary"."""
    mask = torch.zeros(1, 1, 256, 256)
    mask[0, 0, 64:128, 96:160] = 1  # 2 x 2 cells of the 8 x 8 grid
    made = smooth_mask(mask, (8, 8))
    assert set(made.unique().tolist()) == {0.0, 1.0}
    assert not made[0, 0, 64, 96] and not made[0, 0, 127, 159] and made[0, 0, 96, 97] and not made[0, 0, 96, 94]
    assert 0.75 < made.sum() / mask.sum() < 1
    rows, columns = made[0, 0].nonzero(as_tuple=True)
    assert rows.double().mean() == pytest.approx(95.5, abs=0.01)
    assert columns.double().mean() == pytest.approx(127.5, abs=0.01)
    soft = smooth_mask(mask, (8, 8), soft=True)
    assert torch.equal(soft >= 0.5, made == 1) and len(soft.unique()) > 20


@pytest.mark.parametrize(
    ("size", "grid"), [((50, 37), (4, 3)), ((9, 11), (3, 11)), ((6, 6), (6, 6)), ((64, 96), (1, 1))]
)
def test_smoothing_of_any_size(size: tuple[int, int], grid: tuple[int, int]) -> None:
    made = make(weights(grid=(2, 3)), size, torch.ones(2, *size, dtype=torch.bool), soft=True)
    assert made.mask.shape == (2, 1, *size) and made.mask.isfinite().all()
    mask = (torch.arange(size[0] * size[1]).reshape(1, 1, *size) % size[1] < size[1] // 2).float()  # the left half
    kept = smooth_mask(mask, grid)
    assert kept.shape == mask.shape
    assert (kept != mask).float().mean() < 0.1  # a straight edge stays where it is, to the pixels of the quarter size


# --- a grid that reaches beyond the image


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@each_threshold
def test_a_padded_grid_keeps_its_place(threshold: str, upsample: str) -> None:
    """The network pads below and to the right: what the cells of the padding say, and how many there are, is nothing
    to the mask of the image."""
    attention, size, covers = weights(grid=(4, 4)), (32, 40), (64, 64)
    body = body_of(size)
    options = {"threshold": threshold, "upsample": upsample, "smooth": "none"}
    made = make(attention, size, body, covers, **options)
    large = torch.zeros(2, *covers, dtype=torch.bool)
    large[:, : size[0], : size[1]] = body
    whole = make(attention, covers, large, **options)  # the padding is no body
    assert torch.equal(made.raw, whole.raw[:, :, :32, :40]) and torch.equal(made.valid, whole.valid)
    assert torch.equal(made.attention_map, whole.attention_map[:, :, :32, :40])


@pytest.mark.parametrize("domain", ["body", "image"])
def test_cells_of_the_padding_are_not_in_the_mixture(domain: str) -> None:
    attention, size, covers = weights(grid=(4, 4)), (32, 32), (64, 64)
    other = attention.clone()
    other[:, :, 3:, :] = other[:, :, :, 3:] = 1.0  # none of these reaches the image, not even by interpolation
    body = torch.ones(2, *size, dtype=torch.bool)
    for body_mask in (True, False):
        options = {"threshold": "gmm", "domain": domain, "body_mask": body_mask}
        first, second = (make(a, size, body, covers, **options) for a in (attention, other))
        assert first.raw.any(dim=3).any(dim=2).all() and torch.equal(first.raw, second.raw)


def test_smoothing_knows_the_size_of_a_cell_that_is_padded() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[0, 0, 16:48, 16:48] = 1
    assert torch.equal(smooth_mask(mask, (8, 8), covers=(128, 128)), smooth_mask(mask, (4, 4)))
    assert not torch.equal(smooth_mask(mask, (8, 8)), smooth_mask(mask, (4, 4)))
