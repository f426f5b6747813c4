"""The contrastive bank of a run: labelled records or drawn captions, and which of them each unlabelled text is like.

Two texts are compared by the mean of their token features, or by the findings they name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the field's name)
from numpy.typing import NDArray
from torch import Tensor

from medvl.config import Config
from medvl.core.errors import InputError, warn
from medvl.core.files import write_json
from medvl.data.dataset import fit_image, mask_on_grid
from medvl.data.images import image_orientation
from medvl.data.masks import read_mask
from medvl.data.record import Record
from medvl.data.reports import findings
from medvl.data.reports.terms import canonical_term
from medvl.losses.language_vision import ContrastiveBank, caption_bank, empty_bank
from medvl.text.base import TextEncoder

FloatArray = NDArray[np.float32]
_AT_ONCE = 256


def check_bank(config: Config, labelled: Sequence[Record], classes: Sequence[str], encoder: TextEncoder | None) -> None:
    """InputError where `make_bank` would fail, found before there is a run folder."""
    semi = config.semi
    if semi.lv_bank == "none":
        return
    if semi.lv_similarity == "encoder" and encoder is None:
        raise InputError.conflict(
            "semi.lv_similarity: encoder without a text encoder", remedy="semi.lv_similarity: findings"
        )
    if semi.lv_bank == "captions" and len(classes) != 1:
        raise InputError.conflict(
            f"semi.lv_bank: captions has one class, and there are {len(classes)}", remedy="semi.lv_bank: labelled"
        )
    if semi.lv_bank == "labelled":
        if not any(_masks(record, classes, config).any() for record in labelled if record.text.strip()):
            raise empty_bank()


def make_bank(
    config: Config,
    labelled: Sequence[Record],
    classes: Sequence[str],
    queries: Sequence[str],
    encoder: TextEncoder | None,
    path: Path,
    *,
    resume: bool,
) -> ContrastiveBank:
    """The bank with its retrieval, which is kept in the run (`path`): a resumed run must retrieve the same.

    Args:
        queries: the texts of the unlabelled records.
        encoder: for `semi.lv_similarity: encoder`; as it is before training.
    """
    semi = config.semi
    if semi.lv_bank == "captions":
        texts, masks = caption_bank(config.data.image_size, config.data.laterality or "viewer")
    else:
        records = [record for record in labelled if record.text.strip()]
        texts, masks = [record.text for record in records], [_masks(record, classes, config) for record in records]
    bank = ContrastiveBank(texts, masks)
    if resume and path.is_file():
        bank.nearest = json.loads(path.read_text(encoding="utf-8"))
        return bank
    queries = sorted({text for text in queries if text.strip()})
    if semi.lv_similarity == "encoder":
        assert encoder is not None
        similarity = encoder_similarity(encoder, queries, bank.texts)
    else:
        similarity = findings_similarity(queries, bank.texts)
    bank.retrieve(queries, similarity)
    lost = sum(not entries for entries in bank.nearest.values())
    if lost:
        warn(f"{lost} of {len(queries)} unlabelled texts are like no text of the bank: no LV loss for them")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, bank.nearest)
    return bank


def record_mask(record: Record, name: str, config: Config) -> FloatArray | None:
    """(H, W) in [0, 1] on the model's grid, without augmentation; None where the class is not annotated."""
    reference = record.masks.get(name)
    if reference is None:
        return None
    if reference.path is None:
        return np.zeros(config.data.image_size, dtype=np.float32)
    rule, slice_index = config.data.mask_rule, config.data.slice_index
    mask = read_mask(reference.path, reference.values, slice_index=slice_index, rule=rule)
    size, turn = (mask.shape[0], mask.shape[1]), image_orientation(record.image).turn
    return mask_on_grid(mask, fit_image(size, turn, config.data), config.data).astype(np.float32)


def _masks(record: Record, classes: Sequence[str], config: Config) -> FloatArray:
    """(K, H, W) of a labelled record, which has every mask."""
    masks = []
    for name in classes:
        mask = record_mask(record, name, config)
        assert mask is not None
        masks.append(mask)
    return np.stack(masks)


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
    pieces: set[tuple[str, str, bool]] = set()
    for finding in findings(text):
        sides = ("left", "right") if finding.side == "bilateral" else (finding.side or "",)
        if finding.side is not None or finding.zones:
            pieces |= {(side, zone, finding.negated) for side in sides for zone in finding.zones or ("whole",)}
        if finding.term is not None:
            pieces.add(("term", canonical_term(finding.term), finding.negated))
    return frozenset(pieces)


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
