"""LViT against the released program, for weights and inputs that are pure functions of names (see README.md here)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medvl.losses.segmentation import cross_entropy_loss, dice_loss, segmentation_loss
from medvl.models.lvit import LViT
from medvl.weights.released_lvit import released_name

GOLDEN = Path(__file__).parent / "lvit_parity.npz"


def golden_tensor(name: str, shape: list[int]) -> Tensor:
    """The golden value of the upstream tensor `name`."""
    u = np.random.RandomState(zlib.crc32(name.encode()) % 2**32).uniform(-1, 1, shape)
    if name.endswith("running_var"):
        value = 1 + 0.5 * u
    elif name.endswith("running_mean"):
        value = 0.2 * u
    elif name.endswith("position_embeddings"):
        value = 0.2 * u
    elif name.endswith(".weight") and len(shape) == 1:
        value = 1 + 0.2 * u
    elif name.endswith("bias"):
        value = 0.1 * u
    elif name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    else:
        gain = 0.1 if name == "outc.weight" else 0.02 if name.endswith("bottleneck.2.weight") else 1.5
        value = u * np.sqrt(3 * gain / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value).astype(np.float32))


def released_checkpoint(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    return {name: golden_tensor(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def meta(golden: dict[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(str(golden["meta"]))


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Image (2, 3, 224, 224), text (2, 10, 768), target (2, 1, 224, 224)."""
    r = np.random.RandomState(1000)
    image = torch.from_numpy(r.uniform(0, 1, (2, 3, 224, 224)).astype(np.float32))
    text = torch.from_numpy(r.uniform(-1.5, 1.5, (2, 10, 768)).astype(np.float32))
    y, x = np.mgrid[:224, :224]
    discs = [(y - 60 - 40 * (b % 3)) ** 2 + (x - 70 - 30 * (b % 4)) ** 2 < 35**2 for b in range(2)]
    return image, text, torch.from_numpy(np.stack(discs)[:, None].astype(np.float32))


def build(meta: dict[str, Any]) -> LViT:
    model = LViT.from_released(released_checkpoint(meta["shapes"]))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the golden results were computed without dropout
    return model


def module_of(model: LViT, upstream: str) -> nn.Module:
    """Our module whose output is that of the upstream module."""
    if upstream == "inc":
        return model.encoder.inc
    level = {"": 0, "1": 0, "2": 1, "3": 2, "4": 3}
    if upstream.startswith("text_module"):
        return model.slots.cascade[4 - int(upstream[-1])]
    if upstream.startswith(("downVit", "upVit")):
        stages = model.vit_down if upstream.startswith("down") else model.vit_up
        return stages[int(upstream.removeprefix("downVit").removeprefix("upVit") or 0)]
    if upstream.startswith("down"):
        return model.encoder.down[int(upstream[4]) - 1]
    if upstream.startswith("reconstruct"):
        return model.reconstruct[level[upstream[-1]]]
    return (model.plam if upstream.endswith("pixModule") else model.up)[level[upstream[2]]]


@pytest.fixture(scope="module")
def evaluated(meta: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Eval-mode probabilities, and the activations by upstream name."""
    model = build(meta)
    found: dict[str, Tensor] = {}
    for name in meta["acts"]:
        module_of(model, name).register_forward_hook(
            lambda module, arguments, output, name=name: found.__setitem__(name, output.clone())
        )
    with torch.no_grad():
        probs = model(inputs[0], inputs[1]).sigmoid()
    return probs, found


@pytest.fixture(scope="module")
def trained(meta: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor]) -> dict[str, Any]:
    """Adam in train mode: the first step's outputs, gradients and buffers, and the losses of three."""
    model = build(meta).train()
    image, text, target = inputs
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    result: dict[str, Any] = {"losses": []}
    for step in range(3):
        last = step == 2
        with torch.set_grad_enabled(not last):
            logits = model(image, text)
            loss = segmentation_loss(logits, target)["loss"]
        result["losses"].append(loss.item())
        if step == 0:
            result["logits"] = logits.detach()
            result["buffers"] = {name: value.clone() for name, value in model.named_buffers()}
        if not last:
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                result["grad_norms"] = {name: p.grad.norm().item() for name, p in model.named_parameters()}
            optimizer.step()
    return result


def test_eval_output(golden: dict[str, np.ndarray], evaluated: tuple[Tensor, dict[str, Tensor]]) -> None:
    np.testing.assert_allclose(evaluated[0][:, 0, ::2, ::2].numpy(), golden["eval_out_s2"], atol=1e-4, rtol=0)


def test_activations(
    golden: dict[str, np.ndarray], meta: dict[str, Any], evaluated: tuple[Tensor, dict[str, Tensor]]
) -> None:
    assert set(evaluated[1]) == set(meta["acts"])
    for name, statistics in meta["acts"].items():
        found = evaluated[1][name]
        if name.startswith("reconstruct"):  # ours is upsampled where it is added
            found = nn.functional.interpolate(found, size=statistics["shape"][2:])
        assert list(found.shape) == statistics["shape"], name
        assert found.mean().item() == pytest.approx(statistics["mean"], abs=1e-4), name
        assert found.std().item() == pytest.approx(statistics["std"], rel=1e-4), name
        sampled = found[:, ::16, ::16, ::16] if found.ndim == 4 else found[:, ::28, ::16]
        scale = statistics["absmax"]
        np.testing.assert_allclose(sampled.numpy(), golden[f"act_{name}"], atol=1e-5 * scale, rtol=0, err_msg=name)


def test_two_texts_ask_one_encoded_image(meta: dict[str, Any], inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    model, index = build(meta), torch.tensor([0, 0])
    with torch.no_grad():
        expected = model(inputs[0][index], inputs[1])
        logits = model.decode(model.encode_image(inputs[0][:1]), inputs[1], image_index=index, size=(224, 224))
    assert (expected[0] - expected[1]).abs().max() > 0.1  # the text matters
    torch.testing.assert_close(logits.sigmoid(), expected.sigmoid(), rtol=0, atol=1e-5)


def test_train_output_and_loss(
    golden: dict[str, np.ndarray],
    meta: dict[str, Any],
    trained: dict[str, Any],
    inputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    logits, target = trained["logits"], inputs[2]
    np.testing.assert_allclose(logits.sigmoid()[:, 0, ::4, ::4].numpy(), golden["train_out_s4"], atol=1e-4, rtol=0)
    assert segmentation_loss(logits, target)["loss"].item() == pytest.approx(meta["loss"], rel=1e-6)
    assert dice_loss(logits, target).item() == pytest.approx(meta["dice"], rel=1e-6)
    assert cross_entropy_loss(logits, target).item() == pytest.approx(meta["bce"], rel=1e-6)


def test_gradient_norms(meta: dict[str, Any], trained: dict[str, Any]) -> None:
    expected = {released_name(name): norm for name, norm in meta["grad_norms"].items()}
    assert set(expected) == set(trained["grad_norms"])  # every parameter here is alive there, and the reverse
    checked = [name for name, norm in expected.items() if norm > 1e-4]
    assert len(checked) > 180
    for name in checked:
        assert trained["grad_norms"][name] == pytest.approx(expected[name], rel=0.01), name


def test_adam_trajectory(meta: dict[str, Any], trained: dict[str, Any]) -> None:
    found, expected = trained["losses"], meta["adam_traj"]
    assert found[:2] == pytest.approx(expected[:2], abs=1e-4)
    # Adam's first steps are signs, which rounding flips: with one or two threads the third loss scatters from 0.53346
    # to 0.53385, exact (float64) arithmetic gives 0.53406, and 0.53362 was recorded.
    assert found[2] == pytest.approx(expected[2], abs=5e-4)


def test_batch_norm_buffers(golden: dict[str, np.ndarray], trained: dict[str, Any]) -> None:
    names = [name.removeprefix("bn_") for name in golden if name.startswith("bn_")]
    assert len(names) == 3
    for name in names:
        found = trained["buffers"][released_name(name)].numpy()
        np.testing.assert_allclose(found, golden[f"bn_{name}"], rtol=1e-5, atol=1e-7, err_msg=name)
