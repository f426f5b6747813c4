"""Could another threshold make a teacher's pseudo labels better? Dice and foreground at thresholds, on validation.

    python benchmarks/teacher.py MANIFEST RUN [RUN ...]

EPI learns from a prediction above 0.5. For each run: the mean Dice per image (native grid, both masks empty = 1) and
the mean share of the picture above each threshold, beside the share of the true masks. Where no threshold is much
better than 0.5, it is not the threshold that makes the pseudo labels poor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from medvl.core.progress import track
from medvl.evaluation.cases import by_image, load_true_mask
from medvl.evaluation.model_inputs import open_inputs
from medvl.evaluation.prediction_sources import PredictorSource

THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def main() -> None:
    """One line per run."""
    manifest, runs = Path(sys.argv[1]), sys.argv[2:]
    print(f"{'run':<44}" + "".join(f"{t:>16}" for t in THRESHOLDS) + f"{'true share':>12}")
    for run in runs:
        dice, share, true = scores(manifest, run)
        cells = "".join(f"{f'{d:.3f} ({s:.3f})':>16}" for d, s in zip(dice, share, strict=True))
        print(f"{Path(run).name:<44}{cells}{true:>12.3f}")


def scores(manifest: Path, run: str) -> tuple[list[float], list[float], float]:
    """Dice and share above each threshold, and the share of the true masks: means over the validation rows."""
    inputs = open_inputs(run)
    assert isinstance(inputs.source, PredictorSource)
    rows, truths = [], []
    groups = by_image(inputs.manifest(manifest).split("val"))
    for group in track(groups, Path(run).name, len(groups)):
        for record, found in zip(group, inputs.source.probs(group, [row.text for row in group]), strict=True):
            for name, probs in found.items():
                reference = record.masks[name]
                if reference is None:
                    continue
                true = load_true_mask(reference, probs.shape, record)
                rows.append([overlap(probs > t, true) for t in THRESHOLDS])
                truths.append(true.mean())
    dice, share = np.mean(rows, axis=0).T
    return list(dice), list(share), float(np.mean(truths))


def overlap(mask: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Dice of two (H, W) masks, and the share of the picture that the first one covers."""
    total = mask.sum() + true.sum()
    return (2 * (mask & true).sum() / total if total else 1.0), float(mask.mean())


if __name__ == "__main__":
    main()
