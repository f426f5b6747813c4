"""BatchNorm over ranks, on one process: against torch's. tests/train/test_distributed.py has two processes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from conformance import refused
from torch import Tensor, nn

from medvl.core.errors import FaultKind
from medvl.models import batch_norm
from medvl.models.batch_norm import (
    CrossRankBatchNorm1d,
    CrossRankBatchNorm2d,
    CrossRankUpsampledBatchNorm2d,
    batch_norm_over_ranks,
    convert_batch_norm,
)
from medvl.models.vit import UpsampledBatchNorm2d

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPES = [(6, 3), (4, 3, 5), (2, 3, 4, 5)]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def as_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers take their own path; the collectives beneath it still see one rank, which holds the whole batch."""
    monkeypatch.setattr(batch_norm, "world_size", lambda: 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_right(shape: tuple[int, ...]) -> None:
    x, weight, bias = (
        drawn(*s, seed=i, dtype=torch.float64).requires_grad_() for i, s in enumerate((shape, (3,), (3,)))
    )
    _, mean, variance, num = batch_norm_over_ranks(x, weight, bias, 1e-5)
    assert num == x.numel() / 3 and not mean.requires_grad and not variance.requires_grad
    for gains in ((weight, bias), (weight, None), (None, None)):
        assert torch.autograd.gradcheck(lambda *t: batch_norm_over_ranks(t[0], *t[1:], 1e-5)[0], (x, *gains))


def test_a_large_mean_does_not_drown_the_deviation() -> None:
    x = 1e4 + drawn(4, 3, 8, 8)
    _, _, variance, _ = batch_norm_over_ranks(x, None, None, 1e-5)
    torch.testing.assert_close(variance.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0)
    squares = x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()
    assert ((squares - variance).abs() > 0.1).any()  # what a sum of squares would have made of it


def test_half_precision_keeps_float32_statistics() -> None:
    x = (100 + drawn(64, 3, 8, 8)).bfloat16().requires_grad_()
    out, mean, variance, _ = batch_norm_over_ranks(x, torch.ones(3), torch.zeros(3), 1e-5)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == torch.bfloat16 and mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(variance, x.detach().float().var((0, 2, 3), correction=0))


@pytest.mark.parametrize(
    ("ours", "torchs", "shape"),
    [(CrossRankBatchNorm1d, nn.BatchNorm1d, SHAPES[0]), (CrossRankBatchNorm1d, nn.BatchNorm1d, SHAPES[1]),
     (CrossRankBatchNorm2d, nn.BatchNorm2d, SHAPES[2])],
)  # fmt: skip
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"momentum": None}, {"momentum": 0.4, "eps": 0.1}, {"track_running_stats": False}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("own_path", [True, False])
def test_the_layers_are_torchs(
    ours: Any, torchs: Any, shape: Any, options: Any, own_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_path:
        monkeypatch.setattr(batch_norm, "world_size", lambda: 2)
    one, two = ours(3, **options), torchs(3, **options)
    assert one.state_dict().keys() == two.state_dict().keys()
    two.load_state_dict(one.state_dict())
    for step in range(3):
        x = drawn(*shape, seed=step) * (1 + step)
        torch.testing.assert_close(one(x), two(x), rtol=1e-6, atol=1e-6)
    for name, value in two.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(x), two.eval()(x))


def test_the_wrong_number_of_dimensions_is_torchs_error(as_of_two_ranks: None) -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        CrossRankBatchNorm2d(3)(drawn(2, 3))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), UpsampledBatchNorm2d(3, 4), nn.Flatten(2), nn.BatchNorm1d(3)
    )


@pytest.mark.parametrize(
    ("device", "kinds"),
    [
        (CPU, [CrossRankBatchNorm2d, CrossRankUpsampledBatchNorm2d, CrossRankBatchNorm1d]),
        (GPU, [nn.SyncBatchNorm, CrossRankUpsampledBatchNorm2d, nn.SyncBatchNorm]),  # without a GPU: in eval mode alone
    ],
)
def test_conversion_keeps_the_objects(device: torch.device, kinds: list[type], as_of_two_ranks: None) -> None:
    module, original = network(), network()
    layers, before = list(module), module.state_dict(keep_vars=True)
    for _ in range(2):  # twice is once
        assert convert_batch_norm(module, device) is module
        assert [type(module[i]) for i in (1, 3, 5)] == kinds
    after = module.state_dict(keep_vars=True)
    assert after.keys() == before.keys() and all(after[name] is tensor for name, tensor in before.items())
    assert isinstance(convert_batch_norm(nn.BatchNorm1d(2), device), kinds[2])
    x = drawn(2, 2, 7, 6)
    assert torch.equal(module.eval()(x), original.eval()(x))
    if device == CPU:
        assert all(one is two for one, two in zip(layers, module, strict=True))
        for step in range(2):
            x = drawn(2, 2, 7, 6, seed=step)
            torch.testing.assert_close(module.train()(x), original.train()(x), rtol=1e-6, atol=1e-6)
        for name, value in original.state_dict().items():  # the unbiased factor of the repeated map too
            torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-6, atol=1e-6)
        assert torch.equal(deepcopy(module).eval()(x), module.eval()(x))


def test_on_one_process_nothing_is_converted() -> None:
    module = convert_batch_norm(network(), CPU)
    assert [type(module[i]) for i in (1, 3, 5)] == [nn.BatchNorm2d, UpsampledBatchNorm2d, nn.BatchNorm1d]


class OwnNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("layer", [nn.BatchNorm3d(3), OwnNorm(3)])
def test_what_cannot_be_converted_is_refused_as_a_whole(layer: nn.Module, as_of_two_ranks: None) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(layer))
    for device in (CPU, GPU):
        assert refused(lambda device=device: convert_batch_norm(module, device)).kind == FaultKind.UNSUPPORTED
    assert type(module[0]) is nn.BatchNorm2d
