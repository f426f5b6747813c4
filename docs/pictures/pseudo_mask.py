"""From the attention of a pre-trained G2D to the pseudo mask of its decoder, step by step, on a phantom.

No pre-trained model is shipped, so a small one is trained first: alignment alone on 1,000 phantoms, about two minutes
on two cores; phantoms and run are kept in runs/pictures/pseudo_mask.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import style
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import medvl
from medvl.config import load_config
from medvl.data.body_mask import body_mask
from medvl.data.masks import read_mask
from medvl.data.record import Record
from medvl.inference.model_folder import load_model
from medvl.inference.predictor import as_image, on_grid
from medvl.losses.pseudo_mask import PERCENTILES, PseudoMask, pseudo_mask
from medvl.phantom.dataset import make_phantoms
from medvl.train.run import train

ROOT = Path(__file__).resolve().parents[2]
RECIPE, RUNS = ROOT / "recipes" / "g2d_phantom.yaml", ROOT / "runs" / "pictures" / "pseudo_mask"
NUM, KINDS = 1000, ("consolidation", "nodule")
EPOCHS = 24
HEAT = "cividis"  # grows lighter with the value, in grey too


def draw() -> Figure:
    """Six tiles: phantom, cells, image size, body, threshold, smoothed."""
    record = _record()
    pixels, cells, masks = _steps(record)
    body = body_mask(pixels)
    reference = record.masks["mask"]
    assert reference is not None and reference.path is not None
    lesion = read_mask(reference.path)
    figure, axes = plt.subplots(1, 6, figsize=(11.5, 3.35))
    config = load_config(RECIPE).pretrain.mask
    rows, columns = cells.shape
    tiles = (
        ("image", "PHANTOM"),
        ("1 attention", f"mean of the heads,\n{rows} × {columns} cells"),
        ("2 image size", f"{config.upsample}\nupsampling"),
        ("3 body", "outside it\nnothing counts"),
        ("4 threshold", f"from percentile {PERCENTILES[config.threshold]}\nof the body's pixels"),
        ("5 smoothed", "bilateral filter:\nthe decoder's target"),
    )
    for one, (name, note) in zip(axes, tiles, strict=True):
        style.show(one, pixels, name)
        one.text(0.5, -0.05, note, transform=one.transAxes, ha="center", va="top", linespacing=1.3)
    side = pixels.shape[0]
    extent = (-0.5, side - 0.5, side - 0.5, -0.5)
    axes[1].imshow(cells, cmap=HEAT, extent=extent, interpolation="nearest")
    axes[2].imshow(masks.attention_map[0, 0], cmap=HEAT)
    axes[3].imshow(np.ma.masked_where(~body, masks.attention_map[0, 0]), cmap=HEAT)
    style.outline(axes[3], body, "white")
    style.paint(axes[4], masks.raw[0, 0].numpy() > 0)
    style.paint(axes[5], masks.mask[0, 0].numpy() > 0)
    for one in (axes[0], axes[5]):
        style.outline(one, lesion, style.TRUTH, 1.5, "dashed")
    figure.subplots_adjust(left=0.005, right=0.995, top=0.93, bottom=0.31, wspace=0.04)
    words = fill(f"Report: “{record.text}”", 150)
    more = f"Blue: the drawn lesion, not used. A small G2D after {EPOCHS} epochs of alignment on {NUM:,} phantoms."
    style.footnote(figure, f"{words}\n{more}")
    return figure


def _steps(record: Record) -> tuple[NDArray[np.float32], NDArray[np.float32], PseudoMask]:
    """The image (H, W), the attention of its cells (h, w), and the masks made of it."""
    module, _, config, _ = load_model(RUNS / "run")
    tensor, _ = on_grid(as_image(record.image, config), config.data)
    pixels = np.asarray(medvl.read_image(record.image).pixels, dtype=np.float32).squeeze()
    with torch.inference_mode():
        output = module.network.image_forward(tensor, decode=False)
    cells = output.attention[:, :, 1:].unflatten(2, output.grid)  # (1, heads, h, w)
    body = torch.from_numpy(body_mask(pixels))[None]
    masks = pseudo_mask(cells, (pixels.shape[0], pixels.shape[1]), body, load_config(RECIPE).pretrain.mask)
    return pixels, cells.mean(dim=1)[0].numpy(), masks


def _record() -> Record:
    """The first validation phantom with one lesion."""
    table = RUNS / "phantoms" / "manifest.csv"
    if not table.is_file():
        make_phantoms(table.parent, num=NUM, size=96, seed=1, kinds=KINDS)
    if not (RUNS / "run" / "model").is_dir():
        words = [f"data.manifest={table}", "pretrain.decoder=none", "pretrain.warmup_steps=0", f"train.epochs={EPOCHS}"]
        train(load_config(RECIPE, words), RUNS / "run")
    rows = medvl.load_manifest(table).split("val")
    return next(row for row in rows if row.extra["lesions"] and "|" not in row.extra["lesions"])
