"""Supervised segmentation losses on logits: Dice in three forms, binary and categorical cross entropy, focal or not.

Shapes: N rows, K classes, H W pixels. `annotated` (N, K) bool says which (row, class) pairs have a reference; the
others add neither loss nor gradient, whatever their target holds (NaN too). Nothing is read back from the device.
Everything is computed in float32 at least: logits in half precision give the value of the same logits in float32.

Over several ranks the balanced cross entropies and the Dice of the batch are those of the whole batch, the same number
on every rank (see `medvl.core.distributed`), so every rank must call them. The others are means over a rank's own
annotated pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor

from medvl.core.device import full_floats
from medvl.core.distributed import sum_over_ranks
from medvl.core.errors import InputError

RELEASED_PIXEL_WEIGHT = 0.25  # the released Dice weighs both factors of a product by 0.5; it scales only epsilon
RELEASED_EPSILON = 1e-5
SMOOTH = 1.0  # of the Dice of the batch: MGCA's and MedKLIP's programs


def dice_loss_from_logits(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
    """Soft Dice loss per (row, class) with squared denominators, averaged over the annotated pairs.

    1 - (2 w sum(p t) + e) / (w sum(p^2) + w sum(t^2) + e) with w = 0.25, e = 1e-5: the released WeightedDiceLoss.

    Args:
        logits: (N, K, H, W), any range.
        target: (N, K, H, W) in {0, 1}.
        annotated: (N, K) bool; None = all.

    Returns:
        Scalar in [0, 1]; 0 where nothing is annotated.
    """
    logits, target, annotated = _known(logits, target, annotated)
    return _dice(logits.sigmoid(), target, annotated)


def batch_dice_loss_from_logits(
    logits: Tensor, target: Tensor, annotated: Tensor | None = None, *, log: bool = False
) -> Tensor:
    """1 - D, or with `log` -log D, of the soft Dice D over all pixels of the batch (of all ranks) at once.

    D = (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) per class, the loss averaged over the classes that are annotated
    anywhere in the batch (0 if none is). -log D is the Dice term of MGCA's MixedLoss, 1 - D that of MedKLIP's
    DiceBCELoss. Args and shapes as in `dice_loss_from_logits`. Without a foreground anywhere D falls with sum(p).
    """
    logits, target, annotated = _known(logits, target, annotated)
    return _batch_dice(logits.sigmoid(), target, annotated, log)


def class_balanced_bce_from_logits(
    logits: Tensor, target: Tensor, annotated: Tensor | None = None, *, focal_gamma: float = 0.0
) -> Tensor:
    """Binary cross entropy in which foreground and background weigh one half each, over the whole batch of all ranks.

    0.5 sum_fg(bce) / (N_fg + 1e-12) + 0.5 sum_bg(bce) / (N_bg + 1e-12), the released WeightedBCE; per class, then
    averaged over the classes that are annotated anywhere in the batch. Without foreground half of the mean remains.

    Args and shapes as in `dice_loss_from_logits`; `focal_gamma` as in `bce_from_logits`.
    """
    logits, target, annotated = _known(logits, target, annotated)
    pixel = _pixel_bce(logits, target, focal_gamma)  # (N, K, H, W)
    counts = annotated[:, :, None, None].to(pixel.dtype)  # (N, K, 1, 1)
    foreground = (target > 0.5).to(pixel.dtype) * counts
    background = counts - foreground  # (N, K, H, W) in {0, 1}
    dims = (0, 2, 3)
    parts = [(pixel * foreground).sum(dims), foreground.sum(dims), (pixel * background).sum(dims), background.sum(dims)]
    of_fg, num_fg, of_bg, num_bg = sum_over_ranks(torch.stack(parts)).unbind()  # (K,) each, of the whole batch
    loss = 0.5 * of_fg / (num_fg + 1e-12) + 0.5 * of_bg / (num_bg + 1e-12)  # (K,)
    return _mean(loss, num_fg + num_bg > 0)


def bce_from_logits(
    logits: Tensor, target: Tensor, annotated: Tensor | None = None, *, focal_gamma: float = 0.0
) -> Tensor:
    """Binary cross entropy, averaged over the pixels of the annotated (row, class) pairs; shapes as above.

    With `focal_gamma` each pixel weighs (1 - p_t) ** gamma, p_t the probability of what is true: the focal loss without
    alpha (Lin et al., arXiv 1708.02002); MGCA's MixedLoss has gamma 2.
    """
    logits, target, annotated = _known(logits, target, annotated)
    return _mean(_pixel_bce(logits, target, focal_gamma).mean(dim=(2, 3)), annotated)


def multiclass_dice_loss_from_logits(
    logits: Tensor, target: Tensor, annotated: Tensor | None = None, *, form: str = "squared"
) -> Tensor:
    """Soft Dice loss of the K named classes under a softmax with background.

    Args:
        logits: (N, 1 + K, H, W), background first.
        target: (N, K, H, W) in {0, 1}, at most one class per pixel.
        annotated: (N, K) bool; None = all.
        form: "squared" as `dice_loss_from_logits`, "batch" and "log_batch" as `batch_dice_loss_from_logits`.
    """
    logits, target, annotated = _known(logits, target, annotated, background=True)
    probs = logits.softmax(dim=1)[:, 1:]
    if form == "squared":
        return _dice(probs, target, annotated)
    return _batch_dice(probs, target, annotated, form == "log_batch")


def cross_entropy_from_logits(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor | None = None,
    *,
    balanced: bool = False,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Categorical cross entropy over background and K classes.

    Where classes of a row are not annotated, a pixel outside the annotated ones is background or one of them, and
    nobody knows which: the loss is then -log of their summed probability (the marginal loss of partly labelled sets).
    A row without any annotated class counts nothing.

    Args:
        logits: (N, 1 + K, H, W), background first.
        target: (N, K, H, W) in {0, 1}, at most one class per pixel.
        annotated: (N, K) bool; None = all.
        balanced: background and every class present in the batch (of all ranks) weigh the same; otherwise every pixel
            does.
        focal_gamma: as in `bce_from_logits`, p_t being the (summed) probability whose -log is the loss.
    """
    logits, target, annotated = _known(logits, target, annotated, background=True)
    log_probs = logits.log_softmax(dim=1)  # (N, 1 + K, H, W)
    open_classes = F.pad(~annotated, (1, 0), value=True)  # (N, 1 + K): background and what nobody annotated
    rest = log_probs.masked_fill(~open_classes[:, :, None, None], -torch.inf).logsumexp(dim=1)  # (N, H, W)
    labelled = target.sum(dim=1)  # (N, H, W) in {0, 1}
    named = log_probs[:, 1:]  # (N, K, H, W)
    if focal_gamma:
        rest, named = rest * _focus(rest, focal_gamma), named * _focus(named, focal_gamma)
    of_class = torch.cat([-((1 - labelled) * rest)[:, None], -target * named], dim=1)  # (N, 1 + K, H, W)
    members = torch.cat([(1 - labelled)[:, None], target], dim=1)  # (N, 1 + K, H, W)
    counted = annotated.any(dim=1)[:, None, None, None].to(log_probs.dtype)
    dims = (0, 2, 3)
    loss, number = (of_class * counted).sum(dims), (members * counted).sum(dims)  # (1 + K,)
    if balanced:
        loss, number = sum_over_ranks(torch.stack([loss, number])).unbind()  # of the whole batch
        return _mean(loss / number.clamp(min=1), number > 0)
    return loss.sum() / number.sum().clamp(min=1)


def released_segmentation_loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
    """The released supervised loss: one half Dice, one half class-balanced binary cross entropy."""
    return 0.5 * dice_loss_from_logits(logits, target, annotated) + 0.5 * class_balanced_bce_from_logits(
        logits, target, annotated
    )


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor | None = None,
    *,
    mode: str = "binary",
    dice_weight: float = 0.5,
    ce_weight: float = 0.5,
    ce_balance: str = "balanced",
    dice: str = "squared",
    focal_gamma: float = 0.0,
) -> dict[str, Tensor]:
    """The supervised objective: `loss` = dice_weight * Dice + ce_weight * cross entropy, and its two parts, detached.

    Args:
        logits: (N, K, H, W); with mode="multiclass" (N, 1 + K, H, W), background first.
        target: (N, K, H, W) in {0, 1}; anything where not annotated.
        annotated: (N, K) bool; None = all.
        mode: "binary" and "multilabel" (one sigmoid per class) or "multiclass" (one softmax with background).
        ce_balance: "balanced" (foreground and background, or the classes, weigh the same) or "plain" (the pixels do).
        dice: "squared" (per row and class), "batch" (1 - D over the batch) or "log_batch" (-log D over the batch).
        focal_gamma: 0 = cross entropy, above = focal loss.

    MGCA's MixedLoss is dice="log_batch", dice_weight=1, ce_weight=10, focal_gamma=2, ce_balance="plain".
    """
    balanced = ce_balance == "balanced"
    if mode == "multiclass":
        overlap = multiclass_dice_loss_from_logits(logits, target, annotated, form=dice)
        ce = cross_entropy_from_logits(logits, target, annotated, balanced=balanced, focal_gamma=focal_gamma)
    else:
        if dice == "squared":
            overlap = dice_loss_from_logits(logits, target, annotated)
        else:
            overlap = batch_dice_loss_from_logits(logits, target, annotated, log=dice == "log_batch")
        entropy = class_balanced_bce_from_logits if balanced else bce_from_logits
        ce = entropy(logits, target, annotated, focal_gamma=focal_gamma)
    return {"loss": dice_weight * overlap + ce_weight * ce, "dice_loss": overlap.detach(), "ce_loss": ce.detach()}


def deep_supervision_weights(num_heads: int) -> tuple[float, ...]:
    """2**-s of head s = 0, 1, ... from the full resolution down, normalised to sum 1 (nnU-Net, arXiv 1904.08128)."""
    if num_heads < 1:
        raise InputError(f"deep supervision of {num_heads} heads", expected="at least 1")
    total = 2 - 2 ** (1 - num_heads)
    return tuple(2**-head / total for head in range(num_heads))


def deep_supervision(loss: Callable[[Tensor], dict[str, Tensor]], logits: Tensor) -> dict[str, Tensor]:
    """The loss of every head of a deeply supervised network, weighted by `deep_supervision_weights`.

    Every head is compared with the whole target at full resolution, the lower ones brought there by nearest neighbour;
    nnU-Net brings the target down instead.

    Args:
        loss: from logits (N, K, H, W) to named scalars, e.g. `functools.partial(segmentation_loss, target=target)`.
        logits: (N, S, K, H, W), the head of full resolution first; or (N, K, H, W) of a network with one head, whose
            loss is returned as it is.

    Returns:
        The named scalars, each the weighted sum over the heads.

    Raises:
        InputError: logits of another number of dimensions.
    """
    if logits.ndim == 4:
        return loss(logits)
    if logits.ndim != 5:
        raise InputError(f"logits of shape {tuple(logits.shape)}", expected="(N, K, H, W) or (N, S, K, H, W)")
    weights = deep_supervision_weights(logits.shape[1])
    losses = [loss(head) for head in logits.unbind(dim=1)]  # S x (N, K, H, W)
    return {
        name: torch.stack([weight * one[name] for weight, one in zip(weights, losses, strict=True)]).sum()
        for name in losses[0]
    }


def _dice(probs: Tensor, target: Tensor, annotated: Tensor) -> Tensor:
    w, e = RELEASED_PIXEL_WEIGHT, RELEASED_EPSILON
    p, t = probs.flatten(2), target.flatten(2)  # (N, K, H*W)
    overlap = 2 * w * (p * t).sum(dim=2) + e
    loss = 1 - overlap / (w * (p * p).sum(dim=2) + w * (t * t).sum(dim=2) + e)  # (N, K)
    return _mean(loss, annotated)


def _batch_dice(probs: Tensor, target: Tensor, annotated: Tensor, log: bool) -> Tensor:
    counts = annotated[:, :, None, None].to(probs.dtype)  # (N, K, 1, 1)
    dims = (0, 2, 3)
    p, t = probs * counts, target.to(probs.dtype)
    parts = torch.stack([(p * t).sum(dims), p.sum(dims) + t.sum(dims), counts.sum(dims)])
    overlap, total, num = sum_over_ranks(parts).unbind()  # (K,) each, of the whole batch
    dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
    return _mean(-dice.log() if log else 1 - dice, num > 0)


def _pixel_bce(logits: Tensor, target: Tensor, focal_gamma: float) -> Tensor:
    """Binary cross entropy per pixel, times (1 - p_t) ** gamma, whose gradient is finite whatever the logit."""
    pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if focal_gamma:
        pixel = pixel * (focal_gamma * F.logsigmoid(-logits * (2 * target - 1))).exp()
    return pixel


def _focus(log_probs: Tensor, gamma: float) -> Tensor:
    """(1 - p) ** gamma; the bound keeps the gradient finite at p = 1 for a gamma below 1."""
    return (-torch.expm1(log_probs)).clamp(min=torch.finfo(log_probs.dtype).eps) ** gamma


def _known(
    logits: Tensor, target: Tensor, annotated: Tensor | None, *, background: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in float32 at least, the target with zeros where not annotated in their type, `annotated` as a tensor.

    `background`: the logits' first class is it, and the target has none.
    """
    logits = full_floats(logits)
    shape = (logits.shape[0], logits.shape[1] - background, *logits.shape[2:])
    if target.shape != shape:
        raise InputError(f"a target of shape {tuple(target.shape)}", expected=f"{shape}, as the classes' logits")
    if annotated is None:
        annotated = torch.ones(shape[:2], dtype=torch.bool, device=logits.device)
    elif annotated.shape != shape[:2]:
        raise InputError(f"annotated of shape {tuple(annotated.shape)}", expected=str(shape[:2]))
    known = torch.where(annotated[:, :, None, None], target.to(logits.dtype), 0)  # (N, K, H, W), NaN-free
    return logits, known, annotated


def _mean(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of the kept entries; 0 with a zero gradient where there is none."""
    return torch.where(keep, values, 0).sum() / keep.sum().clamp(min=1)
