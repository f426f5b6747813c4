"""BatchNorm over ranks, on one process: against torch's. tests/train/test_distributed.py has two processes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from medvl.core.errors import FaultKind, InputError
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
@pytest.mark.parametrize("affine", [True, False])
def test_the_formula_is_torchs(shape: tuple[int, ...], affine: bool) -> None:
    x, weight, bias = drawn(*shape) * 3 + 1, drawn(3, seed=1), drawn(3, seed=2)
    grad = drawn(*shape, seed=3)
    results = []
    for ours in (True, False):
        leaves = [x.clone().requires_grad_()] + [t.clone().requires_grad_() for t in (weight, bias) if affine]
        gains = leaves[1:] if affine else [None, None]
        if ours:
            out, mean, variance, num = batch_norm_over_ranks(leaves[0], *gains, 1e-5)
            dims = [d for d in range(x.ndim) if d != 1]
            torch.testing.assert_close(mean, x.mean(dims), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(variance, x.var(dims, correction=0), rtol=1e-6, atol=1e-6)
            assert num == x.numel() / 3 and not mean.requires_grad and not variance.requires_grad
        else:
            out = F.batch_norm(leaves[0], None, None, *gains, training=True)
        out.backward(grad)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_right(shape: tuple[int, ...]) -> None:
    x, weight, bias = (
        drawn(*s, seed=i, dtype=torch.float64).requires_grad_() for i, s in enumerate((shape, (3,), (3,)))
    )
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
    ours: type[nn.Module],
    torchs: type[nn.Module],
    shape: tuple[int, ...],
    options: dict[str, object],
    own_path: bool,
    monkeypatch: pytest.MonkeyPatch,
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


def test_conversion_keeps_the_objects(as_of_two_ranks: None) -> None:
    module = network()
    before = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    layers = list(module)
    original = deepcopy(module)
    assert convert_batch_norm(module, CPU) is module
    kinds = [type(layer) for layer in (module[1], module[3], module[5])]
    assert kinds == [CrossRankBatchNorm2d, CrossRankUpsampledBatchNorm2d, CrossRankBatchNorm1d]
    after = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    assert all(one is two for one, two in zip(layers, module, strict=True))
    for step in range(2):
        x = drawn(2, 2, 7, 6, seed=step)
        torch.testing.assert_close(module(x), original(x), rtol=1e-6, atol=1e-6)
    for name, value in original.state_dict().items():  # the unbiased factor of the repeated map too
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    assert convert_batch_norm(module, CPU) is module and type(module[1]) is CrossRankBatchNorm2d  # twice is once
    assert torch.equal(deepcopy(module).eval()(x), module.eval()(x))
    assert isinstance(convert_batch_norm(nn.BatchNorm1d(2), CPU), CrossRankBatchNorm1d)


def test_on_gpus_it_is_torchs_own(as_of_two_ranks: None) -> None:
    """Without one here: the kinds, the shared parameters and buffers, and what is the same in eval mode."""
    module, original = network(), network()
    tensors = module.state_dict(keep_vars=True)
    assert convert_batch_norm(module, GPU) is module
    kinds = [type(module[i]) for i in (1, 3, 5)]
    assert kinds == [nn.SyncBatchNorm, CrossRankUpsampledBatchNorm2d, nn.SyncBatchNorm]
    after = module.state_dict(keep_vars=True)
    assert after.keys() == tensors.keys() and all(after[name] is tensor for name, tensor in tensors.items())
    assert convert_batch_norm(module, GPU) is module and [type(module[i]) for i in (1, 3, 5)] == kinds  # twice is once
    x = drawn(2, 2, 7, 6)
    assert torch.equal(module.eval()(x), original.eval()(x))
    assert isinstance(convert_batch_norm(nn.BatchNorm1d(2), GPU), nn.SyncBatchNorm)


def test_on_one_process_nothing_is_converted() -> None:
    module = convert_batch_norm(network(), CPU)
    assert [type(module[i]) for i in (1, 3, 5)] == [nn.BatchNorm2d, UpsampledBatchNorm2d, nn.BatchNorm1d]


class OwnNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("layer", [nn.BatchNorm3d(3), OwnNorm(3)])
def test_what_cannot_be_converted_is_said_and_nothing_is_half_converted(
    layer: nn.Module, as_of_two_ranks: None
) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(layer))
    for device in (CPU, GPU):
        with pytest.raises(InputError) as caught:
            convert_batch_norm(module, device)
        assert caught.value.kinds == (FaultKind.UNSUPPORTED,)
    assert type(module[0]) is nn.BatchNorm2d
