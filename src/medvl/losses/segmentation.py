"""The loss of segmentation on logits: a weighted sum of terms out of one registry.

A new term is one function with `@loss_term("name")` above it:

    @loss_term("jaccard")
    def jaccard_loss(logits, target, annotated=None, *, mode="binary", smooth: float = 1.0): ...

`objective: {terms: [{name: jaccard, weight: 0.5, smooth: 2}]}` then trains with it, on labelled and on unlabelled
records and on every head of a deeply supervised network. Its keyword arguments are its options: their annotations say
what a configuration may give them.

Shapes: N rows, K classes, H W pixels. Logits are (N, K, H, W), in mode "multiclass" (N, 1 + K, H, W) with the
background first; "binary" and "multilabel" have one sigmoid per class, "multiclass" has one softmax. Targets
(N, K, H, W) are in {0, 1}, in mode "multiclass" at most one class per pixel. `annotated` (N, K) bool says which
(row, class) pairs have a reference (None = all); the others add neither loss nor gradient, whatever their target holds
(NaN too). Nothing is read back from the device. Everything is computed in float32 at least: logits in half precision
give the value of the same logits in float32.

Over several ranks a term that pools the batch is that of the whole batch, the same number on every rank (see
`medvl.core.distributed`), so every rank must call it. The others are means over a rank's own annotated pairs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from medvl.config.objective import Gamma, Mode, ObjectiveConfig, TermConfig, numbered
from medvl.core.device import full_floats
from medvl.core.distributed import sum_over_ranks
from medvl.core.errors import InputError, nearest
from medvl.core.plain_yaml import validation_faults
from medvl.models.masks import probs_from_logits

RELEASED_PIXEL_WEIGHT = 0.25  # the released Dice weighs both factors of a product by 0.5; it scales only epsilon
RELEASED_EPSILON = 1e-5
SMOOTH = 1.0  # of the Dice of the batch: MGCA's and MedKLIP's programs
MODES: tuple[Mode, ...] = get_args(Mode)
Loss = TypeVar("Loss", bound=Callable[..., Tensor])


@dataclass(frozen=True)
class LossTerm:
    """A registered term: its function, what it is suited for, and its options."""

    name: str
    loss: Callable[..., Tensor]
    modes: tuple[Mode, ...]
    pools: bool | Mapping[str, Sequence[object]]
    log_name: str
    options: type[BaseModel]

    def pools_batch(self, options: Mapping[str, object]) -> bool:
        """Whether a row's loss depends on the other rows of the batch; else the loss is a mean over rows."""
        if isinstance(self.pools, bool):
            return self.pools
        given = {name: options.get(name, self.options.model_fields[name].default) for name in self.pools}
        return any(value in self.pools[name] for name, value in given.items())


@dataclass(frozen=True)
class WeightedTerm:
    """A term as a run uses it."""

    term: LossTerm
    weight: float
    options: dict[str, Any] = field(default_factory=dict)


TERMS: dict[str, LossTerm] = {}


def loss_term(
    name: str,
    *,
    modes: tuple[Mode, ...] = MODES,
    pools: bool | Mapping[str, Sequence[object]] = False,
    log_name: str | None = None,
) -> Callable[[Loss], Loss]:
    """Register a function as the term `name` of `objective.terms`.

    The function: (logits, target, annotated, *, mode, options with annotations and defaults) -> scalar.

    Args:
        modes: what it is defined for; another `objective.mode` is an error.
        pools: whether it pools the pixels of all rows of the batch, or the values of options with which it does. A term
            that does not is a mean over rows.
        log_name: in the log it is `<log_name>_loss`; None = `name`.
    """

    def register(loss: Loss) -> Loss:
        parameters = inspect.signature(loss, eval_str=True).parameters.values()
        options: dict[str, Any] = {
            one.name: (one.annotation, ... if one.default is one.empty else one.default)
            for one in parameters
            if one.kind is one.KEYWORD_ONLY and one.name != "mode"
        }
        model = create_model(name, __config__=ConfigDict(strict=True, allow_inf_nan=False), **options)
        TERMS[name] = LossTerm(name, loss, modes, pools, log_name or name, model)
        return loss

    return register


def weighted_terms(objective: ObjectiveConfig) -> tuple[WeightedTerm, ...]:
    """The terms of a configuration, with every option.

    Raises:
        InputError: an unknown term or option (the nearest is named), a value out of range, a mode that the term does
            not have.
    """
    return tuple(_weighted(term, objective.mode) for term in objective.terms)


def _weighted(given: TermConfig, mode: Mode) -> WeightedTerm:
    term = TERMS.get(given.name)
    if term is None:
        remedy = _remedy(given.name, TERMS)
        raise InputError.unknown(
            f"objective.terms: unknown term {given.name}", expected=", ".join(TERMS), remedy=remedy
        )
    if mode not in term.modes:
        what = f"objective.terms: {term.name} is not defined for objective.mode: {mode}"
        raise InputError.unsupported(what, expected=", ".join(term.modes))
    fields = term.options.model_fields
    for name in given.options.keys() - fields.keys():
        what = f"objective.terms: {term.name} has no option {name}"
        raise InputError.unknown_key(what, expected=", ".join(fields) or None, remedy=_remedy(name, fields))
    try:
        options = term.options(**given.options)
    except ValidationError as error:
        raise InputError(validation_faults(error, None, f"objective.terms: {term.name}.")) from None
    return WeightedTerm(term, given.weight, {name: getattr(options, name) for name in fields})


def _remedy(name: str, known: Iterable[str]) -> str | None:
    like = nearest(name, known)
    return f"did you mean {like}?" if like else None


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor | None = None,
    *,
    mode: Mode = "binary",
    terms: Sequence[WeightedTerm] | None = None,
) -> dict[str, Tensor]:
    """`loss`, the sum of the terms times their weights, with graph; and each term, unweighted and detached.

    Args:
        terms: as `weighted_terms` gives them; None = those of the released LViT, one half Dice and one half balanced
            cross entropy. MGCA's MixedLoss is {name: dice, form: log_batch, weight: 1} and {name: cross_entropy,
            balance: plain, focal_gamma: 2, weight: 10}.
    """
    terms = weighted_terms(ObjectiveConfig(mode)) if terms is None else terms
    names = numbered([one.term.log_name for one in terms])
    values = [one.term.loss(logits, target, annotated, mode=mode, **one.options) for one in terms]
    total = terms[0].weight * values[0]
    for one, value in zip(terms[1:], values[1:], strict=True):
        total = total + one.weight * value
    return {"loss": total, **{f"{name}_loss": value.detach() for name, value in zip(names, values, strict=True)}}


@loss_term("dice", pools={"form": ("batch", "log_batch")})
def dice_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor | None = None,
    *,
    mode: Mode = "binary",
    form: Literal["squared", "batch", "log_batch"] = "squared",
) -> Tensor:
    """Soft Dice loss of the K classes; 0 where nothing is annotated.

    "squared": 1 - (2 w sum(p t) + e) / (w sum(p^2) + w sum(t^2) + e) with w = 0.25, e = 1e-5 per (row, class), averaged
    over the annotated pairs: the released WeightedDiceLoss, in [0, 1].

    "batch", "log_batch": 1 - D, or -log D, of D = (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) per class over all pixels of
    the batch (of all ranks), averaged over the classes that are annotated anywhere in it. 1 - D is the Dice term of
    MedKLIP's DiceBCELoss, -log D that of MGCA's MixedLoss. Without a foreground anywhere D falls with sum(p).
    """
    logits, target, annotated = known_pairs(logits, target, annotated, mode)
    probs = probs_from_logits(logits, mode)
    if form == "squared":
        w, e = RELEASED_PIXEL_WEIGHT, RELEASED_EPSILON
        p, t = probs.flatten(2), target.flatten(2)  # (N, K, H*W)
        overlap = 2 * w * (p * t).sum(dim=2) + e
        loss = 1 - overlap / (w * (p * p).sum(dim=2) + w * (t * t).sum(dim=2) + e)  # (N, K)
        return mean_where(loss, annotated)
    counts = annotated[:, :, None, None].to(probs.dtype)  # (N, K, 1, 1)
    dims = (0, 2, 3)
    p, t = probs * counts, target.to(probs.dtype)
    parts = torch.stack([(p * t).sum(dims), p.sum(dims) + t.sum(dims), counts.sum(dims)])
    overlap, total, num = sum_over_ranks(parts).unbind()  # (K,) each, of the whole batch
    dice = (2 * overlap + SMOOTH) / (total + SMOOTH)
    return mean_where(-dice.log() if form == "log_batch" else 1 - dice, num > 0)


@loss_term("cross_entropy", pools={"balance": ("balanced",)}, log_name="ce")
def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    annotated: Tensor | None = None,
    *,
    mode: Mode = "binary",
    balance: Literal["balanced", "plain"] = "balanced",
    focal_gamma: Gamma = 0.0,
) -> Tensor:
    """Cross entropy of each class (one sigmoid per class), or of background and classes (mode "multiclass").

    One sigmoid per class, "balanced": 0.5 sum_fg(bce) / (N_fg + 1e-12) + 0.5 sum_bg(bce) / (N_bg + 1e-12) per class
    over the batch of all ranks, the released WeightedBCE, then averaged over the classes that are annotated anywhere in
    it (without foreground half of the mean remains). "plain": the mean over the pixels of the annotated pairs.

    One softmax, "balanced": background and every class present in the batch (of all ranks) have the same weight.
    "plain": every pixel does. Where classes of a row are not annotated, a pixel outside the annotated ones is
    background or one of them, and nobody knows which: its loss is -log of their summed probability (the
    marginal loss of partly labelled sets). A row without any annotated class counts nothing.

    Args:
        focal_gamma: above 0 each pixel weighs (1 - p_t) ** gamma, p_t the (summed) probability of what is true: the
            focal loss without alpha (Lin et al., arXiv 1708.02002).
    """
    logits, target, annotated = known_pairs(logits, target, annotated, mode)
    if mode == "multiclass":
        return _categorical(logits, target, annotated, balance == "balanced", focal_gamma)
    pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # (N, K, H, W)
    if focal_gamma:  # whose gradient is finite whatever the logit
        pixel = pixel * (focal_gamma * F.logsigmoid(-logits * (2 * target - 1))).exp()
    if balance == "plain":
        return mean_where(pixel.mean(dim=(2, 3)), annotated)
    counts = annotated[:, :, None, None].to(pixel.dtype)  # (N, K, 1, 1)
    foreground = (target > 0.5).to(pixel.dtype) * counts
    background = counts - foreground  # (N, K, H, W) in {0, 1}
    dims = (0, 2, 3)
    parts = [(pixel * foreground).sum(dims), foreground.sum(dims), (pixel * background).sum(dims), background.sum(dims)]
    of_fg, num_fg, of_bg, num_bg = sum_over_ranks(torch.stack(parts)).unbind()  # (K,) each, of the whole batch
    loss = 0.5 * of_fg / (num_fg + 1e-12) + 0.5 * of_bg / (num_bg + 1e-12)  # (K,)
    return mean_where(loss, num_fg + num_bg > 0)


def _categorical(logits: Tensor, target: Tensor, annotated: Tensor, is_balanced: bool, focal_gamma: float) -> Tensor:
    """The cross entropy of one softmax over background and K classes."""
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
    if is_balanced:
        loss, number = sum_over_ranks(torch.stack([loss, number])).unbind()  # of the whole batch
        return mean_where(loss / number.clamp(min=1), number > 0)
    return loss.sum() / number.sum().clamp(min=1)


def _focus(log_probs: Tensor, gamma: float) -> Tensor:
    """(1 - p) ** gamma; the bound keeps the gradient finite at p = 1 for a gamma below 1."""
    return (-torch.expm1(log_probs)).clamp(min=torch.finfo(log_probs.dtype).eps) ** gamma


def deep_supervision_weights(num_heads: int) -> tuple[float, ...]:
    """2**-s of head s = 0, 1, ... from the full resolution down, normalised to sum 1 (nnU-Net, arXiv 1904.08128)."""
    if num_heads < 1:
        raise InputError.out_of_range(f"deep supervision of {num_heads} heads", expected="at least 1")
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
        raise InputError.wrong_shape(
            f"logits of shape {tuple(logits.shape)}", expected="(N, K, H, W) or (N, S, K, H, W)"
        )
    weights = deep_supervision_weights(logits.shape[1])
    losses = [loss(head) for head in logits.unbind(dim=1)]  # S x (N, K, H, W)
    return {
        name: torch.stack([weight * one[name] for weight, one in zip(weights, losses, strict=True)]).sum()
        for name in losses[0]
    }


def known_pairs(
    logits: Tensor, target: Tensor, annotated: Tensor | None, mode: Mode = "binary"
) -> tuple[Tensor, Tensor, Tensor]:
    """What a term starts with: logits in float32 at least; the target in their type, zeros where not annotated;
    `annotated` as a tensor. InputError where the shapes do not fit.
    """
    logits = full_floats(logits)
    shape = (logits.shape[0], logits.shape[1] - (mode == "multiclass"), *logits.shape[2:])
    if target.shape != shape:
        raise InputError.wrong_shape(
            f"a target of shape {tuple(target.shape)}", expected=f"{shape}, as the classes' logits"
        )
    if annotated is None:
        annotated = torch.ones(shape[:2], dtype=torch.bool, device=logits.device)
    elif annotated.shape != shape[:2]:
        raise InputError.wrong_shape(f"annotated of shape {tuple(annotated.shape)}", expected=str(shape[:2]))
    known = torch.where(annotated[:, :, None, None], target.to(logits.dtype), 0)  # (N, K, H, W), NaN-free
    return logits, known, annotated


def mean_where(values: Tensor, keep: Tensor) -> Tensor:
    """Mean of the kept entries; 0 with a zero gradient where there is none."""
    return torch.where(keep, values, 0).sum() / keep.sum().clamp(min=1)
