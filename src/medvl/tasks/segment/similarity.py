"""How alike two texts are: by the mean of their token features, or by the findings they name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from torch import Tensor

from medvl.data.reports import findings
from medvl.data.reports.terms import canonical_term
from medvl.text.base import TextEncoder

_AT_ONCE = 256


def encoder_similarity(encoder: TextEncoder, texts: Sequence[str], others: Sequence[str]) -> Tensor:
    """Cosine of mean token features: (len(texts), len(others)) in [-1, 1], on the CPU."""
    return _mean_features(encoder, texts) @ _mean_features(encoder, others).T


def findings_similarity(texts: Sequence[str], others: Sequence[str]) -> Tensor:
    """How far two texts name the same sides, and then the same places and terms: (len(texts), len(others)) in [0, 1].

    (12 J(sides) + J(atoms)) / 13, J the shared over all of them (Jaccard; 1 where neither text names a side), and 0 for
    texts that share no atom. Two values of J(sides) differ by 1/12 or more, so that of two texts the one whose sides
    agree better is always the nearer. Else a text of one zone would be as near to drawings of both lungs as of its own.

    "Bilateral" counts as left and right, a side without a zone as the whole side. A text that names nothing is like
    no other.
    """
    first, second = [(atoms(text), sides(text)) for text in texts], [(atoms(text), sides(text)) for text in others]
    rows = [[(12 * _jaccard(s, t) + _jaccard(a, b)) / 13 if a & b else 0.0 for b, t in second] for a, s in first]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(texts), len(others))


def sides(text: str) -> frozenset[tuple[str, bool]]:
    """The sides that a text names: (side, denied)."""
    return frozenset((side, denied) for side, _, denied in atoms(text) if side in ("left", "right"))


def _jaccard(a: frozenset[Any], b: frozenset[Any]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def atoms(text: str) -> frozenset[tuple[str, str, bool]]:
    """What a text says, in comparable pieces: (side, zone, denied) and ("term", word, denied)."""
    found: set[tuple[str, str, bool]] = set()
    for finding in findings(text):
        sides = ("left", "right") if finding.side == "bilateral" else (finding.side or "",)
        if finding.side is not None or finding.zones:
            found |= {(side, zone, finding.negated) for side in sides for zone in finding.zones or ("whole",)}
        if finding.term is not None:
            found.add(("term", canonical_term(finding.term), finding.negated))
    return frozenset(found)


@torch.inference_mode()
def _mean_features(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    was_training = encoder.training
    encoder.eval()
    means = []
    for start in range(0, len(texts), _AT_ONCE):
        features, mask = encoder.encode(list(texts[start : start + _AT_ONCE]))  # (n, L, D), (n, L)
        weight = mask[:, :, None].to(features.dtype)
        means.append((features * weight).sum(dim=1) / weight.sum(dim=1))  # (n, D)
    encoder.train(was_training)
    return F.normalize(torch.cat(means).float().cpu(), dim=1)
