"""BatchNorm with the statistics of the whole batch over all ranks: torch's SyncBatchNorm on GPUs, our own on CPUs.

torch's has no CPU, and no form of LViT's `UpsampledBatchNorm2d`, which is our own everywhere. The layers keep the
parameters, buffers and state-dict keys of torch's BatchNorm; on one process and in eval mode they are those.

Shapes: B_r rows of rank r, C channels, H W pixels, L tokens, W ranks; n_r = values per channel of rank r, n = of all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medvl.core.distributed import stack_over_ranks, sum_over_ranks, world_size
from medvl.core.errors import InputError
from medvl.models.vit import UpsampledBatchNorm2d


def batch_norm_over_ranks(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise by the mean and biased variance of each channel over the rows of all ranks.

    The ranks' means and variances are combined by Chan's formula, which stays exact where the mean is large against the
    deviation (a sum of squares would not). Ranks may have different numbers of rows, or none. One collective forward
    and one backward.

    Args:
        x: (B_r, C, ...). Statistics are float32 for half-precision input.
        weight, bias: (C,) or None.

    Returns:
        The normalised x, with gradient; mean (C,), biased variance (C,) and n (), without.
    """
    out: tuple[Tensor, Tensor, Tensor, Tensor]
    out = _BatchNormOverRanks.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out


class _CrossRank(_BatchNorm):
    """What the three layers below share; it stands before torch's layer in the order of resolution."""

    repeats = 1  # as in UpsampledBatchNorm2d: how often a value will be repeated afterwards

    def forward(self, input: Tensor) -> Tensor:
        """(B_r, C, ...) -> the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        out, mean, variance, num = batch_norm_over_ranks(input, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            full = num * self.repeats
            unbiased = variance * (full / (full - 1))
            for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.mul_(1 - momentum).add_(momentum * new)
        return out


class CrossRankBatchNorm1d(_CrossRank, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the whole batch of all ranks: (B_r, C) or (B_r, C, L) -> the same shape."""


class CrossRankBatchNorm2d(_CrossRank, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the whole batch of all ranks: (B_r, C, H, W) -> the same shape."""


class CrossRankUpsampledBatchNorm2d(_CrossRank, UpsampledBatchNorm2d):
    """LViT's `UpsampledBatchNorm2d` over the whole batch of all ranks: (B_r, C, h, w) -> the same shape."""

    repeats: int


_CROSS_RANK: dict[type, type[_CrossRank]] = {
    nn.BatchNorm1d: CrossRankBatchNorm1d,
    nn.BatchNorm2d: CrossRankBatchNorm2d,
    UpsampledBatchNorm2d: CrossRankUpsampledBatchNorm2d,
}


def convert_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every BatchNorm in `module` (itself too) see the whole batch of all ranks; returns `module`.

    Parameters and buffers stay the objects that they are: an optimizer that holds them still does. With one process
    nothing changes.

    Args:
        device: where the module will be trained.

    Raises:
        InputError: a BatchNorm of a kind that has no such form here (3-d, or a class of one's own).
    """
    if world_size() == 1:
        return module
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    for name, layer in layers:  # all are looked at before any is changed
        if type(layer) not in _CROSS_RANK and not isinstance(layer, _CrossRank | nn.SyncBatchNorm):
            raise InputError.unsupported(
                f"{type(layer).__name__} at {name or 'the top'} has no form over several ranks",
                expected=", ".join(kind.__name__ for kind in _CROSS_RANK),
                remedy="train on one device, or use one of these",
            )
    for name, layer in layers:
        if type(layer) not in _CROSS_RANK:
            continue  # converted before
        if device.type != "cuda" or isinstance(layer, UpsampledBatchNorm2d):
            layer.__class__ = _CROSS_RANK[type(layer)]
            continue
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(layer)  # type: ignore[no-untyped-call]
        if not name:
            return synchronised
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, synchronised)
    return module


class _BatchNormOverRanks(torch.autograd.Function):
    """The formula in closed form, so that only x is kept for backward, as torch's own layer does."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        num_values = x.numel() // x.shape[1]
        if num_values:
            rank_variance, rank_mean = torch.var_mean(exact, dim=_all_but_channels(x), correction=0)  # (C,) each
        else:
            rank_variance = rank_mean = exact.new_zeros(x.shape[1])
        stats = stack_over_ranks(torch.stack([rank_mean, rank_variance, torch.full_like(rank_mean, num_values)]))
        means, variances, nums = stats.unbind(dim=1)  # (W, C) each
        num = nums[:, 0].sum()
        mean = (means * nums).sum(dim=0) / num  # (C,)
        variance = ((variances + (means - mean).square()) * nums).sum(dim=0) / num  # (C,)
        out = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), num)
        ctx.mark_non_differentiable(mean, variance, num)
        return out, mean, variance, num

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse, num = ctx.saved_tensors
        shape = (1, -1) + (1,) * (x.ndim - 2)
        dims = _all_but_channels(x)
        grad = grads[0].to(mean.dtype)  # (B_r, C, ...)
        normalised = (x.to(mean.dtype) - mean.view(shape)) * inverse.view(shape)  # (B_r, C, ...)
        sums = torch.stack([grad.sum(dims), (grad * normalised).sum(dims)])  # (2, C): of this rank
        grad_x = None
        if ctx.needs_input_grad[0]:
            mean_grad, mean_product = (sum_over_ranks(sums) / num).view(2, *shape).unbind()  # over all ranks
            scale = inverse if weight is None else inverse * weight.to(mean.dtype)
            grad_x = ((grad - mean_grad - normalised * mean_product) * scale.view(shape)).to(x.dtype)
        # Of weight and bias a rank gives its own rows' part; DDP joins them as those of any other parameter.
        grad_weight = None if weight is None else sums[1].to(weight.dtype)
        return grad_x, grad_weight, sums[0].to(mean.dtype) if ctx.needs_input_grad[2] else None, None


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.ndim) if dim != 1]
