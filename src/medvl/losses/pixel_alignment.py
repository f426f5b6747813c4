"""What G2D's decoder is trained with: against its pseudo mask, or against the pixels.

Shapes: B images, M masks an image, C channels, H W pixels. `valid` (B, M) bool: pairs with a target; the others add
neither loss nor gradient. With several ranks the mean is over the valid pairs of all of them. Of a part of a batch,
`num_valid` (or `num_images`) is that of the whole batch on this rank: the losses of the parts then add up to its loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor

from medvl.core.device import full_floats
from medvl.core.distributed import sum_over_ranks

EPSILON = 1e-5


def pixel_alignment_loss(
    mask_logits: Tensor, target: Tensor, valid: Tensor | None = None, *, num_valid: Tensor | None = None
) -> dict[str, Tensor]:
    """(soft Dice + BCE) / 2, equation 4 of the paper with the usual soft Dice for its misprint.

    Dice of probabilities per (image, mask) over the pixels: 1 - (2 sum(p t) + 1e-5) / (sum p + sum t + 1e-5).

    Args:
        mask_logits: (B, M, H, W), any range.
        target: (B, M, H, W) in [0, 1].
        num_valid: scalar; None = as many as `valid` says.

    Returns:
        `loss` with graph, `dice_loss` and `bce_loss` detached.
    """
    mask_logits, target = full_floats(mask_logits), full_floats(target)
    dice = _soft_dice(mask_logits.sigmoid(), target)  # (B, M)
    bce = F.binary_cross_entropy_with_logits(mask_logits, target, reduction="none").mean(dim=(2, 3))  # (B, M)
    dice_loss, bce_loss = (_mean_valid(values, valid, num_valid) for values in (dice, bce))
    return {
        "loss": 0.5 * (dice_loss + bce_loss),
        "dice_loss": dice_loss.detach(),
        "bce_loss": bce_loss.detach(),
    }


def released_pixel_alignment_loss(
    mask_logits: Tensor, target: Tensor, valid: Tensor | None = None, *, num_valid: Tensor | None = None
) -> dict[str, Tensor]:
    """Dice of the RAW LOGITS + 0.2 BCE, as released: not a Dice loss, unbounded; only to compare with it."""
    mask_logits, target = full_floats(mask_logits), full_floats(target)
    dice = _mean_valid(_soft_dice(mask_logits, target), valid, num_valid)
    bce = F.binary_cross_entropy_with_logits(mask_logits, target, reduction="none").mean(dim=(2, 3))
    bce_loss = _mean_valid(bce, valid, num_valid)
    return {"loss": dice + 0.2 * bce_loss, "dice_loss": dice.detach(), "bce_loss": bce_loss.detach()}


def reconstruction_loss(pixels: Tensor, image: Tensor, *, num_images: int | None = None) -> dict[str, Tensor]:
    """Mean squared error of the decoder's output (B, C, H, W) against the image in [0, 1] (the paper's table 5a).

    With several ranks the mean is over the images of all of them.
    """
    whole = torch.full((), float(len(pixels) if num_images is None else num_images), device=pixels.device)
    share = len(pixels) / sum_over_ranks(whole)  # of these images in the whole batch
    return {"loss": sum_over_ranks(F.mse_loss(full_floats(pixels), full_floats(image)) * share)}


def _soft_dice(probs: Tensor, target: Tensor) -> Tensor:
    """(B, M, H, W) x 2 -> (B, M)."""
    both = (probs * target).sum(dim=(2, 3))
    total = probs.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    return 1 - (2 * both + EPSILON) / (total + EPSILON)


def _mean_valid(values: Tensor, valid: Tensor | None, num_valid: Tensor | None) -> Tensor:
    """Mean over the valid entries of all ranks; 0 with a zero gradient where there is none."""
    if valid is None:
        valid = torch.ones_like(values, dtype=torch.bool)
    total = sum_over_ranks(torch.where(valid, values, 0).sum())
    num = valid.sum() if num_valid is None else num_valid
    return total / sum_over_ranks(num.to(values.dtype)).clamp(min=1)
