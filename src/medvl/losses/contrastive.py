"""Vision-language alignment (VLA) of image and report: InfoNCE over all ranks, large batches in pieces, retrieval.

G2D (arXiv 2312.01522) Eq. 1: L = -1/B sum_i log( exp(v_i.l_i / sigma) / sum_j exp(v_i.l_j / sigma) ) with unit vectors
v (image) and l (text); the released program adds the same from text to image. Temperature sigma 0.07, not learned.

Shapes: B pairs of the whole batch, B_r of rank r, B_i of micro-batch i, N pairs of an evaluation, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from medvl.core.device import full_floats, full_precision, to_device
from medvl.core.distributed import gather_with_grad
from medvl.core.errors import InputError

SIGMA = 0.07  # G2D, section 4
RECALL_AT = (1, 5, 10)
ZERO = 1e-15  # a vector whose entries are all smaller is one of length zero; its squares still fit in float32
TIE = 1e-6  # similarities this close are equal
_QUERIES_AT_ONCE = 1024  # bounds the memory of `retrieval`


def info_nce(
    image: Tensor,
    text: Tensor,
    *,
    sigma: float = SIGMA,
    same: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> dict[str, Tensor]:
    """InfoNCE in both directions; the positive of each image is its own text, the negatives are the batch's others.

    Computed in float32 at least, under autocast too. A vector of length zero has no direction: it is as similar (0) to
    everything, and gets no gradient.

    Args:
        image, text: (B, D), any length; they are normalised here.
        same: (B, B) bool, image i and text j that are no negatives of each other (`same_pairs`): such a pair stands in
            no denominator, in neither direction. The diagonal is always the positive, whatever `same` says there.
            None = all others are negatives.
        reduction: of the two directions; "sum" is the released program's.

    Returns:
        `loss` with graph; `image_to_text` and `text_to_image` (Eq. 1 and its mirror, means over the batch), detached.

    Raises:
        InputError: shapes that do not fit, an empty batch, a sigma that is not positive.
    """
    if image.ndim != 2 or image.shape != text.shape or image.shape[0] == 0:
        raise InputError.wrong_shape(
            f"image and text vectors of shape {tuple(image.shape)} and {tuple(text.shape)}", expected="(B, D) twice"
        )
    if sigma <= 0:
        raise InputError.out_of_range(f"a temperature sigma of {sigma}", expected="a number above 0")
    num = image.shape[0]
    with full_precision(image.device):
        logits = _unit(image) @ _unit(text).T / sigma  # (B, B), images down
        if same is not None:
            if same.shape != logits.shape or same.dtype != torch.bool:
                raise InputError.wrong_shape(
                    f"same: {same.dtype} {tuple(same.shape)}", expected=f"torch.bool {(num, num)}"
                )
            others = same & ~torch.eye(num, dtype=torch.bool, device=same.device)
            logits = logits.masked_fill(others, -torch.inf)
        image_to_text = -logits.log_softmax(dim=1).diagonal().mean()
        text_to_image = -logits.log_softmax(dim=0).diagonal().mean()
        loss = image_to_text + text_to_image
        loss = loss if reduction == "sum" else loss / 2
    return {"loss": loss, "image_to_text": image_to_text.detach(), "text_to_image": text_to_image.detach()}


def gathered_info_nce(
    image: Tensor,
    text: Tensor,
    *,
    sigma: float = SIGMA,
    same: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    equal_rows: bool = False,
) -> dict[str, Tensor]:
    """`info_nce` of the whole batch: the negatives of every rank, with gradient to all of them.

    Every rank calls it and gets the same numbers. Under DDP's mean of gradients this trains exactly as one process with
    the whole batch does (see `medvl.core.distributed`); the ranks may have different numbers of pairs.

    Args:
        image, text: (B_r, D), this rank's.
        same: (B, B) bool over all ranks, as `same_pairs` gives it.
        equal_rows: as in `gather_with_grad`.
    """
    image, text = (gather_with_grad(full_floats(x), equal_rows=equal_rows) for x in (image, text))  # (B, D)
    return info_nce(image, text, sigma=sigma, same=same, reduction=reduction)


def same_pairs(
    texts: Sequence[str], patients: Sequence[str], device: torch.device | str, *, equal_rows: bool = False
) -> Tensor:
    """Which pairs of the whole batch have the same text (but for case and white space) or the same patient.

    64-bit hashes are exchanged between ranks, never the texts.

    Args:
        texts, patients: of this rank's pairs. Records without a patient must carry distinct ones, as a manifest does.
        device: of the result, and of the exchange.
        equal_rows: as in `gather_with_grad`.

    Returns:
        (B, B) bool, symmetric, true on the diagonal.
    """
    rows = [[_hash(plain_text(text)), _hash(patient)] for text, patient in zip(texts, patients, strict=True)]
    hashes = to_device(torch.tensor(rows, dtype=torch.int64).view(-1, 2), device)  # (B_r, 2)
    keys = gather_with_grad(hashes, equal_rows=equal_rows)  # (B, 2)
    return (keys[:, None] == keys[None]).any(dim=2)  # (B, B)


def plain_text(text: str) -> str:
    """What two texts share that count as the same: case and white space make no difference."""
    return " ".join(text.split()).casefold()


class CachedEmbeddings:
    """A contrastive loss of a batch that does not fit in memory (GradCache, arXiv 2101.06983), with its exact gradient.

    1. All micro-batches are embedded without graph; 2. the loss of the whole batch gives the gradient of every
    embedding; 3. each micro-batch is embedded again, with graph, and that gradient flows on into the weights.

        cached = CachedEmbeddings(len(chunks), module)
        image, text = cached.embed(lambda i: module(chunks[i]))         # (B, D) each, of all micro-batches
        gathered_info_nce(image, text)["loss"].backward()
        for i, chunk in enumerate(chunks):
            with cached.replay(i):                                      # the random numbers of the first time
                image_i, text_i = module(chunk)
            cached.surrogate(i, (image_i, text_i)).backward()

    Further losses of a micro-batch may be added to its surrogate, divided by the number of micro-batches where they are
    means. The gradients of the surrogates equal those of the whole batch as long as a row's embedding does not depend
    on the other rows: BatchNorm normalises by the micro-batch, so with it they equal those of a model that does.

    With DDP every surrogate's backward averages the gradients over the ranks: one all-reduce per micro-batch, and the
    sum is right. (Within `no_sync` for all but the last it would be one in all.) With a gradient scaler (float16)
    step 2 goes without it and step 3 with it.
    """

    def __init__(self, num_chunks: int, module: nn.Module | None = None) -> None:
        """`module`: its buffers (running statistics) are put back after step 1, so that step 3 updates them once."""
        if num_chunks < 1:
            raise InputError.out_of_range(f"{num_chunks} micro-batches", expected="at least 1")
        self.num_chunks = num_chunks
        self.embeddings: tuple[Tensor, ...] = ()
        self._module = module
        self._sizes: list[int] = []
        self._random: list[tuple[Tensor, Tensor | None]] = []
        self._replayed = -1

    def embed(self, forward: Callable[[int], Tensor | Sequence[Tensor]]) -> tuple[Tensor, ...]:
        """Run `forward(i)` of every micro-batch without graph.

        Args:
            forward: from the number of a micro-batch to one or several embeddings (B_i, D).

        Returns:
            As many embeddings (B, D) as `forward` gives, each a leaf that collects its gradient; float32 at least.
        """
        buffers = [] if self._module is None else list(self._module.buffers())
        kept = [buffer.clone() for buffer in buffers]
        self._random, parts = [], []
        with torch.no_grad():
            for index in range(self.num_chunks):
                self._random.append(_random_state())
                out = forward(index)
                parts.append((out,) if isinstance(out, Tensor) else tuple(out))
            for buffer, old in zip(buffers, kept, strict=True):
                buffer.copy_(old)
        torch.clear_autocast_cache()  # older torch keeps casts of the weights without graph, and step 3 would use them
        self._sizes = [part[0].shape[0] for part in parts]
        if any(x.shape[0] != part[0].shape[0] for part in parts for x in part):
            raise InputError.mismatch("embeddings of one micro-batch differ in length", expected="(B_i, D) each")
        whole = (torch.cat([full_floats(x) for x in column]) for column in zip(*parts, strict=True))
        self.embeddings = tuple(x.requires_grad_() for x in whole)  # (B, D) each
        return self.embeddings

    @contextmanager
    def replay(self, index: int) -> Iterator[None]:
        """Within it, micro-batch `index` draws the random numbers (dropout) that it drew in `embed`.

        Afterwards the generators stand where they stood before.
        """
        if not self._random:
            raise InputError.too_early("replay before embed", expected="embed, the loss's backward, then replay")
        before = _random_state()
        _set_random_state(*self._random[index])
        try:
            yield
        finally:
            _set_random_state(*before)
        self._replayed = index

    def surrogate(self, index: int, embeddings: Tensor | Sequence[Tensor]) -> Tensor:
        """A scalar with the gradient of the whole batch's loss through micro-batch `index`; its value has no meaning.

        Args:
            embeddings: (B_i, D) each, computed again under `replay(index)`, as many as `embed` returned.
        """
        if self._replayed != index:
            raise InputError.too_early(
                f"the surrogate of micro-batch {index} without replay",
                expected="its embeddings computed within `with cached.replay(index):`",
            )
        if any(whole.grad is None for whole in self.embeddings):
            raise InputError.too_early(
                "the embeddings have no gradient yet", remedy="call backward of their loss before"
            )
        start = sum(self._sizes[:index])
        given = (embeddings,) if isinstance(embeddings, Tensor) else tuple(embeddings)
        total = torch.zeros((), device=given[0].device)
        for whole, part in zip(self.embeddings, given, strict=True):
            assert whole.grad is not None
            grad = whole.grad[start : start + self._sizes[index]]  # (B_i, D)
            if part.shape != grad.shape:
                raise InputError.wrong_shape(
                    f"embeddings of shape {tuple(part.shape)}", expected=f"{tuple(grad.shape)}, as before"
                )
            total = total + (part.to(grad.dtype) * grad).sum()
        return total


@torch.no_grad()
def retrieval(image: Tensor, text: Tensor, same_text: Tensor) -> dict[str, float]:
    """Recall at 1, 5 and 10 from image to text and back, with what chance would give.

    A hit is anything that belongs to the query's own text: for an image any text equal to its own, for a text any image
    that has it. Items equally similar (within `TIE`) count as in random order, on average, so that a model that maps
    all to one point scores exactly chance.

    Args:
        image, text: (N, D), any length.
        same_text: (N, N) bool, pairs i and j with the same text: symmetric, true on the diagonal.

    Returns:
        `i2t_r1`, `i2t_r5`, `i2t_r10`, `t2i_r1`, ... in [0, 1]; `chance_r1`, ...: the mean over queries of the exact
        (hypergeometric) chance of a hit among k items drawn of N, the same in both directions.

    Raises:
        InputError: shapes that do not fit, no pair at all, or a `same_text` that cannot be one.
    """
    num = image.shape[0]
    if image.ndim != 2 or image.shape != text.shape or same_text.shape != (num, num) or num == 0:
        raise InputError.wrong_shape(
            f"image {tuple(image.shape)}, text {tuple(text.shape)}, same_text {tuple(same_text.shape)}",
            expected="(N, D) twice and (N, N)",
        )
    same = same_text.bool()
    if not bool(same.diagonal().all()) or not torch.equal(same, same.T):
        raise InputError.malformed(
            "same_text is no equality", expected="a symmetric matrix that is true on its diagonal"
        )
    if not bool(image.isfinite().all() and text.isfinite().all()):
        raise InputError.not_finite(
            "embeddings that are not finite", expected="numbers", remedy="a lower learning rate, float32"
        )
    image, text = _unit(image.double()), _unit(text.double())
    result: dict[str, float] = {}
    for direction, queries, items in (("i2t", image, text), ("t2i", text, image)):
        parts = [
            _hit_probs(queries[start : start + _QUERIES_AT_ONCE] @ items.T, same[start : start + _QUERIES_AT_ONCE])
            for start in range(0, num, _QUERIES_AT_ONCE)
        ]
        hits = torch.cat(parts)  # (N, 3)
        result |= {f"{direction}_r{k}": float(p) for k, p in zip(RECALL_AT, hits.mean(dim=0), strict=True)}
    relevant_num = same.sum(dim=1)  # (N,)
    for k in RECALL_AT:
        chance = _p_hit(torch.full_like(relevant_num, num), relevant_num, torch.full_like(relevant_num, min(k, num)))
        result[f"chance_r{k}"] = float(chance.mean())
    return result


def _hit_probs(scores: Tensor, relevant: Tensor) -> Tensor:
    """(n, N) scores and bool -> (n, 3): how probable a relevant item is among the first 1, 5, 10 of each row."""
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)  # (n, 1): of the relevant
    tied = (scores - best).abs() <= TIE  # (n, N)
    num_above = (scores > best + TIE).sum(dim=1)  # (n,): all irrelevant
    num_tied, num_hits = tied.sum(dim=1), (tied & relevant).sum(dim=1)
    draws = [torch.minimum((k - num_above).clamp(min=0), num_tied) for k in RECALL_AT]
    return torch.stack([_p_hit(num_tied, num_hits, places) for places in draws], dim=1)


def _p_hit(total: Tensor, hits: Tensor, draws: Tensor) -> Tensor:
    """1 - C(total - hits, draws) / C(total, draws), exactly: of at most max(RECALL_AT) draws without replacement.

    (n,) integers each, with draws <= total.
    """
    miss = torch.ones_like(total, dtype=torch.float64)
    for turn in range(max(RECALL_AT)):
        one = (total - hits - turn).clamp(min=0) / (total - turn).clamp(min=1).double()
        miss = torch.where(turn < draws, miss * one, miss)
    return 1 - miss


def _unit(x: Tensor) -> Tensor:
    """(B, D) -> unit vectors in float32 at least; a vector of zeros becomes one, without gradient."""
    x = full_floats(x)
    is_zero = (x.abs() < ZERO).all(dim=1, keepdim=True)
    x = x.masked_fill(is_zero, 1)  # before the norm, whose gradient at zero is not finite
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return unit.masked_fill(is_zero, 0)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _random_state() -> tuple[Tensor, Tensor | None]:
    """Of the CPU and, where there is CUDA, of its current device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(cpu: Tensor, cuda: Tensor | None) -> None:
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
