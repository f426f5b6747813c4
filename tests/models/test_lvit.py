"""LViT: sizes, options, released checkpoints, and what of it must be exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance import refused
from torch import Tensor, nn

from medvl.core.errors import FaultKind, InputError
from medvl.models.lvit import PLAM, LViT
from medvl.models.text_merge import cosine_basis, sincos_positions
from medvl.models.unet import UNet
from medvl.models.vit import PatchEmbedding, UpsampledBatchNorm2d, num_heads
from medvl.weights.released_lvit import released_name


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameter_counts() -> None:
    with torch.device("meta"):
        full, without = LViT("T"), LViT("T", text_merge="none")
        assert num_parameters(full) == 29_908_033  # the released model's live parameters
        assert num_parameters(without) == 28_204_861 == num_parameters(full) - num_parameters(full.slots)
        assert num_parameters(UNet("T")) == 14_751_873
        assert num_parameters(LViT("T", depth=4)) == num_parameters(LViT("S"))
        assert num_parameters(LViT("nano")) < num_parameters(LViT("mini")) < num_parameters(LViT("T"))
        tables = [LViT("mini", encoder=encoder).state_dict() for encoder in ("ucnn", "ucnn_mini")]  # either name
    one, other = ({name: value.shape for name, value in table.items()} for table in tables)
    assert one == other
    assert set(full.state_dict()) - set(without.state_dict()) == {f"slots.{name}" for name in full.slots.state_dict()}


def test_heads_divide_every_width() -> None:
    for base in (8, 16, 64):
        for width in (base, 2 * base, 4 * base, 8 * base):
            assert width % num_heads(width) == 0
    assert [num_heads(width) for width in (64, 128, 256, 512)] == [8, 8, 8, 8]  # as released


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"text_merge": "slot"}, FaultKind.UNKNOWN), ({"plam": "sum"}, FaultKind.UNKNOWN),
        ({"mlp_tail": "relased"}, FaultKind.UNKNOWN), ({"patch": 4}, FaultKind.UNKNOWN),
        ({"image_size": 100}, FaultKind.WRONG_SHAPE),
        ({"text_merge": "attention", "num_slots": 4}, FaultKind.CONFLICT),
        ({"attention_bias": True}, FaultKind.CONFLICT), ({"encoder": "ucnn_mini"}, FaultKind.CONFLICT),
        ({"input_norm": "none"}, FaultKind.CONFLICT), ({"pretrained": "imagenet"}, FaultKind.UNSUPPORTED),
        ({"depth": 0}, FaultKind.OUT_OF_RANGE),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], kind: FaultKind) -> None:
    assert refused(lambda: LViT(**{"size": "nano", **options})).kind == kind


def test_slots_have_an_order_and_an_end() -> None:
    model = LViT("nano", image_size=32, text_dim=8).eval()
    image, text = torch.randn(1, 3, 32, 32), torch.randn(1, 11, 8)
    assert not torch.allclose(model(image, text[:, :5]), model(image, text[:, :5].flip(1)))
    fault = refused(lambda: model(image, text))
    assert fault.kind == FaultKind.OUT_OF_RANGE and "10" in str(fault.expected)


# --- released checkpoints


@pytest.fixture
def checkpoint() -> dict[str, Tensor]:
    """541 upstream names, the tensors without memory of their own."""
    with np.load(Path(__file__).parents[1] / "golden" / "lvit_parity.npz") as file:
        shapes = json.loads(str(file["meta"]))["shapes"]
    zero = torch.zeros(())
    return {name: (zero.long() if name.endswith("tracked") else zero).expand(shape) for name, shape in shapes.items()}


def test_from_released_drops_dead_weights(checkpoint: dict[str, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    model = LViT.from_released({"state_dict": {f"module.{name}": value for name, value in checkpoint.items()}})
    assert num_parameters(model) == 29_908_033
    assert not model.training
    assert "dropped 10,025,312 dead parameters in 152 tensors" in capsys.readouterr().err
    assert sum(released_name(name) == "" for name in checkpoint) + len(model.state_dict()) == len(checkpoint) == 541


def test_from_released_reads_classes_channels_and_depth(checkpoint: dict[str, Tensor]) -> None:
    checkpoint["outc.weight"], checkpoint["outc.bias"] = torch.zeros(3, 64, 1, 1), torch.zeros(3)
    checkpoint["inc.conv.weight"] = torch.zeros(64, 1, 3, 3)
    for name in [name for name in checkpoint if ".Encoder_blocks.0." in name]:
        checkpoint[name.replace("blocks.0.", "blocks.1.")] = checkpoint[name]
    model = LViT.from_released(checkpoint)
    assert model.outc.out_channels == 3
    assert model.encoder.in_channels == 1
    assert all(len(stage.blocks) == 2 for stage in [*model.vit_down, *model.vit_up])


def test_from_released_reports_every_fault_at_once(checkpoint: dict[str, Tensor]) -> None:
    checkpoint["down2.nConvs.0.conv.weight"] = torch.zeros(256, 128, 5, 5)
    checkpoint["downVit.embeddings.position_embeddings"] = torch.zeros(1, 256, 64)
    checkpoint["encoder.layer.0.weight"] = torch.zeros(3)
    del checkpoint["reconstruct3.norm.bias"]
    with pytest.raises(InputError) as caught:
        LViT.from_released(checkpoint)
    names = {
        "down2.nConvs.0.conv.weight": FaultKind.MISMATCH,
        "downVit.embeddings.position_embeddings": FaultKind.MISMATCH,
        "encoder.layer.0.weight": FaultKind.UNKNOWN,
        "reconstruct3.norm.bias": FaultKind.MISSING,
    }
    assert {(fault.kind, *(n for n in names if n in fault.what)) for fault in caught.value.faults} == {
        (kind, name) for name, kind in names.items()
    }


@pytest.mark.parametrize("nonsense", [{}, {"state_dict": 3}, {"weight": torch.zeros(3)}, {"epoch": 3}])
def test_from_released_refuses_what_is_no_checkpoint(nonsense: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        LViT.from_released(nonsense)


# --- parts


def test_norm_before_upsampling_equals_norm_after_it_with_its_buffers() -> None:
    torch.manual_seed(0)
    before, after = UpsampledBatchNorm2d(5, repeats=16).double(), nn.BatchNorm2d(5).double()
    for _ in range(3):
        x = torch.randn(2, 5, 2, 3, dtype=torch.float64).requires_grad_()
        y = x.detach().clone().requires_grad_()
        weight = torch.randn(2, 5, 8, 12, dtype=torch.float64)
        first = nn.functional.interpolate(before(x), scale_factor=4.0)
        second = after(nn.functional.interpolate(y, scale_factor=4.0))
        torch.testing.assert_close(first, second)
        (first * weight).sum().backward()
        (second * weight).sum().backward()
        torch.testing.assert_close(x.grad, y.grad)
    for name, value in after.state_dict().items():
        torch.testing.assert_close(before.state_dict()[name], value)


def test_plam_is_the_formula_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    plam, x = PLAM(4), torch.randn(1, 4, 2, 3)
    out = plam(x)
    for row in range(2):
        for column in range(3):
            pixel = x[0, :, row, column]
            a = (plam.conv_avg.weight[:, :, 0, 0] @ pixel).relu().mean()
            m = (plam.conv_max.weight[:, :, 0, 0] @ pixel).relu().max()
            expected = plam.bottleneck(torch.stack([a, m, a + m])) * pixel
            torch.testing.assert_close(out[0, :, row, column], expected)


def test_positions_follow_the_image_when_the_grid_changes() -> None:
    embed = PatchEmbedding(4, patch=2, grid=(4, 4), dropout=0.0)
    nn.init.zeros_(embed.projection.weight)
    nn.init.zeros_(embed.projection.bias)
    ramp = torch.arange(4.0)[:, None].expand(4, 4).reshape(1, 16, 1).expand(1, 16, 4)  # grows downwards
    embed.position_embeddings.data.copy_(ramp)
    table = embed(torch.zeros(1, 4, 16, 24)).view(8, 12, 4)
    assert (table[1:] > table[:-1] - 0.15).all()  # bicubic: it may overshoot a little at the border
    torch.testing.assert_close(table[:, 0], table[:, 11])
    assert torch.equal(embed(torch.zeros(1, 4, 8, 8)), ramp)


def test_tables_of_positions_tell_every_place_apart() -> None:
    table = sincos_positions(64, (8, 8))[0].flatten(1).T
    assert torch.cdist(table, table).fill_diagonal_(9).min() > 0.5
    basis = cosine_basis(4, (8, 6))[0].flatten(1)
    assert basis.shape == (16, 48)
    gram = basis @ basis.T
    torch.testing.assert_close(gram, torch.diag(gram.diag()), atol=1e-4, rtol=0)  # orthogonal
