"""What the pseudo mask costs, against the full-size training step it belongs to.

    python benchmarks/pseudo_mask.py [--step]

Prints milliseconds per image of each stage at 224 and 256 px (batch 8, 4 heads; the median of 7 runs, CPU time of this
process, so that other work on the machine does not count). With `--step` it also times the rest of a full-size step
(ResNet-50 with decoder, both losses, backward; the text encoder left out, which only makes the share larger).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medvl.core.provenance import machine
from medvl.data.body_mask import body_mask
from medvl.losses.contrastive import info_nce
from medvl.losses.pixel_alignment import pixel_alignment_loss
from medvl.losses.pseudo_mask import PseudoMaskConfig, pseudo_mask
from medvl.models.g2d import G2D

BATCH, HEADS, RUNS = 8, 4, 7


def cpu_ms(call: Callable[[], Any], runs: int = RUNS) -> float:
    """Median CPU milliseconds of a call, after one to warm up."""
    call()
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--step", action="store_true")
    words = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {BATCH}")
    variants = {
        "upsample, threshold": PseudoMaskConfig(body_mask=False, smooth="none"),
        "+ body": PseudoMaskConfig(smooth="none"),
        "+ smoothing (default)": PseudoMaskConfig(),
        "gmm instead of p85": replace(PseudoMaskConfig(), threshold="gmm"),
        "released": PseudoMaskConfig(upsample="nearest", strict=True, body_mask=False, smooth="none"),
    }
    costs: dict[int, float] = {}
    for side in (224, 256):
        cells = side // 32
        attention = (3 * torch.randn(BATCH, HEADS, cells * cells)).softmax(dim=2).reshape(BATCH, HEADS, cells, cells)
        y, x = np.mgrid[:side, :side] / side
        film = np.where((abs(x - 0.5) < 0.42) & (y > 0.08), 0.7, 0.0).astype(np.float32)
        film[((x - 0.3) ** 2 + (y - 0.5) ** 2 < 0.03) | ((x - 0.7) ** 2 + (y - 0.5) ** 2 < 0.03)] = 0.2
        body = torch.from_numpy(np.stack([body_mask(film)] * BATCH))
        for name, config in variants.items():
            ms = cpu_ms(lambda c=config, a=attention, b=body, s=side: pseudo_mask(a, (s, s), b, c)) / BATCH
            print(f"{side} px  {name:<24}{ms:8.2f} ms an image")
            if "default" in name:
                costs[side] = ms
        print(f"{side} px  {'body mask (in a worker)':<24}{cpu_ms(lambda f=film: body_mask(f)):8.2f} ms an image")
    if not words.step:
        return
    side = 256
    model = G2D("resnet50", in_channels=3, image_size=side, text_pool="mean")
    image, text = torch.rand(BATCH, 3, side, side), torch.randn(BATCH, 60, 768)
    target = (torch.rand(BATCH, 1, side, side) < 0.15).float()

    def step() -> None:
        output, vectors = model(image, text)
        loss = info_nce(output.pooled, vectors)["loss"] + pixel_alignment_loss(output.mask_logits, target)["loss"]
        loss.backward()

    ms = cpu_ms(step, runs=3) / BATCH
    share = costs[side] / ms
    print(f"{side} px  step without text encoder{ms:10.0f} ms an image; the pseudo mask is {share:.2%} of it")


if __name__ == "__main__":
    main()
