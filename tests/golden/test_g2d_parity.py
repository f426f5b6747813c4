"""G2D against the released program, for weights and inputs that are pure functions of names (see README.md here)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medvl.losses.contrastive import info_nce
from medvl.losses.pixel_alignment import pixel_alignment_loss, released_pixel_alignment_loss
from medvl.models.g2d import G2D

GOLDEN = Path(__file__).parent / "g2d_parity.npz"


def golden_tensor(name: str, shape: list[int]) -> Tensor:
    """The golden value of the upstream tensor `name`."""
    u = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).uniform(-1, 1, shape)
    if name.endswith("running_var"):
        value = 1 + 0.5 * u
    elif name.endswith(("running_mean", "positional_embedding")):
        value = 0.2 * u
    elif name.endswith(".weight") and len(shape) == 1:
        value = 1 + 0.2 * u
    elif name.endswith("bias"):
        value = 0.1 * u
    elif name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    else:
        value = u * np.sqrt(3 * 1.5 / np.prod(shape[1:]))
    if name.startswith("img_model.encoder") and name.endswith("bn3.weight"):
        value = value * 0.25
    return torch.from_numpy(np.asarray(value).astype(np.float32))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def meta(golden: dict[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(str(golden["meta"]))


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Image (2, 3, 256, 256), text features (2, 12, 768), target (2, 1, 256, 256)."""
    r = np.random.RandomState(1000)
    image = torch.from_numpy(r.uniform(0, 1, (2, 3, 256, 256)).astype(np.float32))
    text = torch.from_numpy(r.uniform(-1.5, 1.5, (2, 12, 768)).astype(np.float32))
    cells = torch.from_numpy((r.uniform(0, 1, (2, 1, 8, 8)) < 0.15).astype(np.float32))
    return image, text, torch.nn.functional.interpolate(cells, size=(256, 256), mode="nearest")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_g2d_equals_the_released_program(
    mode: str, golden: dict[str, np.ndarray], meta: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    model = G2D.from_released({name: golden_tensor(name, shape) for name, shape in meta["names"].items()})
    model.train(mode == "train")
    image, text, target = inputs
    with torch.no_grad():
        maps = model.encode_image(image)
        projected = model.visual_projector(maps[-1])
        assert model.attention_pool is not None
        pooled, attention = model.attention_pool(projected)
        logits = model.unet.decode(maps, size=(256, 256))
        vectors = model.text_forward(text)
    found = {
        "pool": pooled, "text": vectors, "att": attention, "decoder_logits_s4": logits[:, :, ::4, ::4],
        "pyramid_last": maps[-1][:, ::64], "proj_map": projected[:, ::8],
    }  # fmt: skip
    for name, value in found.items():
        expected = torch.from_numpy(golden[f"{mode}_{name}"])
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    scalars = meta["scalars"][mode]
    vla = info_nce(pooled, vectors, reduction="sum")["loss"]
    ours, theirs = pixel_alignment_loss(logits, target), released_pixel_alignment_loss(logits, target)
    for name, value in (
        ("vla_sum", vla),
        ("seg_loss_on_logits", theirs["loss"]),
        ("paper_seg_loss", ours["loss"]),
        ("soft_dice", ours["dice_loss"]),
        ("bce", ours["bce_loss"]),
    ):
        assert float(value) == pytest.approx(scalars[name], abs=1e-5), name


def test_image_forward_is_the_same_pass(meta: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    model = G2D.from_released({name: golden_tensor(name, shape) for name, shape in meta["names"].items()})
    image = inputs[0][:, :, :128, :96]  # another size than the positions were learned at
    with torch.no_grad():
        out = model.image_forward(image)
        maps = model.encode_image(image)
        assert model.attention_pool is not None
        pooled, attention = model.attention_pool(model.visual_projector(maps[-1]))
    assert out.attention is not None and out.mask_logits is not None
    assert out.grid == (4, 3) and out.mask_logits.shape == (2, 1, 128, 96)
    assert torch.equal(out.pooled, pooled) and torch.equal(out.attention, attention)
    torch.testing.assert_close(out.attention.sum(dim=2), torch.ones(2, 4))
    assert model.image_forward(image, decode=False).mask_logits is None
