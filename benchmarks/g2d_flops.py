"""How many FLOPs does a pre-training step make, against the released program's?

    python benchmarks/g2d_flops.py [MANIFEST] [--text-column text]

Both are the full-size models (ResNet-50, BERT-base, 256 px, batch 8), counted by torch's FLOP counter on tensors
without content (2 per multiply-add), backward included. Released: every text padded to 256 tokens, text projector over
all of them, BERT's embeddings trained under nine frozen layers, so that backward runs through all twelve. medvl:
padding to the longest of the batch, the nine frozen layers without gradient, the text's vector projected alone; the
frozen layers counted both as run in the step and as cached (computed once per distinct text). Token lengths: those of
the MANIFEST's texts in word pieces of the packaged MiniLM, or, without one, 30 to 110 as in the notes on the released
program.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medvl.losses.contrastive import info_nce
from medvl.losses.pixel_alignment import pixel_alignment_loss
from medvl.models.g2d import G2D
from medvl.text.huggingface import SplitLayers

BATCH, SIDE, PADDED, TRAINED = 8, 256, 256, 3


def bert() -> Any:
    """BERT-base with random weights."""
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=28996), add_pooling_layer=False)


def lengths_of(manifest: Path | None, column: str) -> list[int]:
    """Tokens of each text, sorted."""
    if manifest is None:
        return sorted(np.random.default_rng(0).integers(30, 111, 512).tolist())
    from medvl.data.tables import read_table
    from medvl.text.huggingface import PretrainedEncoder

    table = read_table(manifest)
    texts = [row.get(column, "") for _, row in table.rows]
    texts = [text for text in texts if text.strip()]
    encoder = PretrainedEncoder.from_spec("minilm")
    return sorted(int(n) for n in encoder.tokenize(texts).mask.sum(dim=1))


def count(step: Any) -> float:
    """GFLOP of one call."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def image_side(model: G2D, text: Tensor) -> None:
    """Image pass, both losses, backward."""
    image = torch.rand(BATCH, 3, SIDE, SIDE, device="meta")
    output = model.image_forward(image)
    assert output.mask_logits is not None
    target = torch.zeros_like(output.mask_logits)
    loss = info_nce(output.pooled, model.text_forward(text))["loss"]
    (loss + pixel_alignment_loss(output.mask_logits, target)["loss"]).backward()


def released() -> float:
    """GFLOP per pair of the released step."""
    model = G2D("resnet50", in_channels=3, image_size=SIDE, text_norm="tokens", text_pool="first").to("meta")
    text: nn.Module = bert().to("meta")
    for layer in text.encoder.layer[:9]:
        layer.requires_grad_(False)
    ids = torch.zeros(BATCH, PADDED, dtype=torch.int64, device="meta")
    return count(lambda: image_side(model, text(input_ids=ids).last_hidden_state)) / BATCH


def ours(lengths: list[int], *, cached: bool) -> float:
    """GFLOP per pair of our step, the mean over the quartiles of batches of similar length."""
    model = G2D("resnet50", in_channels=3, image_size=SIDE).to("meta")
    layers = SplitLayers(bert().eval(), TRAINED, "bert-base")  # it compares the halves with the whole, on real numbers
    layers.model.to("meta").requires_grad_(False)
    for part in layers.trained:
        part.requires_grad_(True)
    found = []
    for quantile in (0.125, 0.375, 0.625, 0.875):  # length-bucketed batches: a batch is as long as its longest
        length = min(PADDED, int(np.quantile(lengths, quantile)))
        ids = torch.zeros(BATCH, length, dtype=torch.int64, device="meta")
        mask = torch.ones(BATCH, length, dtype=torch.bool, device="meta")

        def step(ids: Tensor = ids, mask: Tensor = mask, length: int = length) -> None:
            if cached:
                hidden = torch.randn(BATCH, length, 768, device="meta")
            else:
                with torch.no_grad():
                    hidden = layers.prefix(ids, mask)
            image_side(model, layers.suffix(hidden, mask))

        found.append(count(step) / BATCH)
    return float(np.mean(found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", nargs="?", type=Path)
    parser.add_argument("--text-column", default="text")
    words = parser.parse_args()
    lengths = lengths_of(words.manifest, words.text_column)
    torch.manual_seed(0)
    print(
        f"{len(lengths)} texts, {lengths[0]} to {lengths[-1]} tokens, median {int(np.median(lengths))}; "
        f"ResNet-50, BERT-base, {SIDE} px, batch {BATCH}"
    )
    base = released()
    print(f"{'step':<44}{'GFLOP a pair':>14}{'fewer':>8}")
    print(f"{'released (256 tokens, embeddings trained)':<44}{base:>14.1f}{'':>8}")
    for name, cached in (("medvl, frozen layers in every step", False), ("medvl, frozen layers cached", True)):
        value = ours(lengths, cached=cached)
        print(f"{name:<44}{value:>14.1f}{base / value:>7.2f}x")


if __name__ == "__main__":
    main()
