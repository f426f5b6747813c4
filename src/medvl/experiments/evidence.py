"""`pretrain.mask.source: evidence`: pseudo masks of the cells' parts in the similarity of an image with its report.

On phantoms they overlap with lesions more than the attention does; no better segmentation came of them. Whether they
are worth more than shuffled ones has not been measured (docs/results.md).

Shapes: B pairs, h w the attention's grid, P = h*w, d joint width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from medvl.core.device import full_precision
from medvl.models.g2d import AttentionPool


def evidence(pool: AttentionPool, projected: Tensor, weights: Tensor, vectors: Tensor | None) -> Tensor:
    """The mask source, see `MASK_SOURCES`: `evidence_of` the direction of each image's own text, in float32."""
    assert vectors is not None
    with full_precision(weights.device):
        direction = normalize(vectors.float(), dim=1)
        return evidence_of(pool, projected.float(), weights.float(), direction)


def evidence_of(pool: AttentionPool, x: Tensor, weights: Tensor, direction: Tensor) -> Tensor:
    """(B, d, h, w), weights (B, heads, 1 + P), direction (B, d) -> parts of pooled . direction (B, heads, 1 + P).

    From the weights to the pooled vector everything is linear, so pooled . direction is the sum of these parts over
    heads and tokens, plus what the biases give to every image alike (as CLIP is taken apart by Gandelsman et al., ICLR
    2024). With the direction of a text they say which cells make the image agree with it; the weights alone do not know
    the text.
    """
    value = pool.value(pool.tokens(x))  # (B, 1 + P, d)
    heads = weights.shape[1]
    back = direction @ pool.c_proj.weight @ pool.mhsa.out_proj.weight  # (B, d)
    parts = (value * back[:, None]).reshape(*value.shape[:2], heads, -1).sum(dim=3)  # (B, 1 + P, heads)
    return weights * parts.transpose(1, 2)
