"""The networks to compare LViT with: sizes, optional packages, deep supervision, text; equal to their originals."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conformance import refused
from torch import Tensor, nn

from medvl.config import load_config
from medvl.core.errors import FaultKind
from medvl.inference.predictor import Predictor
from medvl.losses.segmentation import segmentation_loss
from medvl.models.clipseg import CLIPSeg
from medvl.models.monai import DynUNet, monai_networks
from medvl.models.registry import build_model, option_names
from medvl.models.unet import PixelTextAttention, TextUNet, UNet, place_waves
from medvl.text.registry import build_text_encoder
from medvl.train.run import train

MONAI = ("unet_plus_plus", "attention_unet", "dynunet", "swin_unetr")
PARAMETERS = {  # three channels, one class, text features of width 768
    ("text_unet", "nano"): 559_665, ("text_unet", "mini"): 3_004_849, ("text_unet", "T"): 17_953_409,
    ("unet_plus_plus", "nano"): 571_441, ("unet_plus_plus", "mini"): 2_281_185, ("unet_plus_plus", "T"): 9_115_585,
    ("attention_unet", "nano"): 498_245, ("attention_unet", "mini"): 1_987_705, ("attention_unet", "T"): 31_740_337,
    ("dynunet", "nano"): 670_804, ("dynunet", "mini"): 2_901_244, ("dynunet", "T"): 20_612_164,
    ("swin_unetr", "mini"): 1_590_451, ("swin_unetr", "T"): 25_139_275,
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), PARAMETERS)
def test_parameter_counts(name: str, size: str) -> None:
    text = {"text_dim": 768} if "text_dim" in option_names(name) else {}
    assert sum(p.numel() for p in build_model(name, size=size, **text).parameters()) == PARAMETERS[name, size]


# --- the optional dependency


def test_monai_is_not_imported_before_a_network_of_its_is_built() -> None:
    code = "import sys, medvl.cli, medvl.models.registry; sys.exit(bool({'monai', 'einops'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MONAI)
@pytest.mark.parametrize("missing", ["monai.networks.nets", "einops"])
def test_without_monai_one_line_says_how_to_get_it(name: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # what `import` takes for "not there"
    fault = refused(lambda: build_model(name))
    assert fault.kind == FaultKind.MISSING_PACKAGE and "medvl[baselines]" in str(fault.remedy)


def test_a_torchvision_that_does_not_fit_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist\nand much more")

    monkeypatch.setattr(importlib, "import_module", fail)
    fault = refused(lambda: build_model("dynunet"))
    assert fault.kind == FaultKind.MISSING_PACKAGE and "much more" not in str(fault)


# --- deep supervision


def test_deep_supervision_shapes() -> None:
    torch.manual_seed(0)
    model = DynUNet("nano", num_classes=2)
    image, index = torch.randn(2, 3, 40, 70), torch.tensor([0, 1, 1])
    heads = model(image, image_index=index)
    assert heads.shape == (3, 4, 2, 40, 70)
    torch.testing.assert_close(heads[1], heads[2], rtol=0, atol=0)
    for s in range(4):  # the head of stride 2**s is constant over blocks of that side, and of no larger one
        for stride in (2**s, 2 ** (s + 1)):
            blocks = heads[:, s, :, :32, :64].unfold(2, stride, stride).unfold(3, stride, stride)
            assert ((blocks == blocks[..., :1, :1]).all().item()) == (stride == 2**s)
    assert model.eval()(image, image_index=index).shape == (3, 2, 40, 70)
    assert len(model.encode_image(image)) == 1
    plain = DynUNet("nano", deep_supervision=False)
    assert plain(image).shape == (2, 1, 40, 70)
    assert not [name for name in plain.state_dict() if "lower_heads" in name]


def test_dynunet_computes_what_monais_own_module_computes() -> None:
    torch.manual_seed(3)
    model = DynUNet("nano", num_classes=2).double()
    torch.manual_seed(3)
    theirs = monai_networks().DynUNet(
        2, 3, 2, kernel_size=[3] * 6, strides=[1, 2, 2, 2, 2, 2], upsample_kernel_size=[2] * 5,
        filters=[8, 16, 32, 64, 80, 80], deep_supervision=True, deep_supr_num=3,
    )  # fmt: skip
    theirs = theirs.double()
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(model(image), theirs(image), rtol=0, atol=1e-10)
    torch.testing.assert_close(model.eval()(image), theirs.eval()(image), rtol=0, atol=1e-10)


# --- a U-Net with text


def text_unet(**options: Any) -> TextUNet:
    torch.manual_seed(0)
    return TextUNet("nano", text_dim=12, in_channels=1, **options)


def opened(model: TextUNet) -> TextUNet:
    """The same network, no longer at its start, where the text adds nothing."""
    for module in model.modules():
        if isinstance(module, PixelTextAttention):
            nn.init.normal_(module.proj.weight)
    return model


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_it_starts_as_a_plain_unet(levels: int) -> None:
    model, plain = text_unet(text_levels=levels), UNet("nano", in_channels=1)
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(name.startswith("attend.") for name in unexpected)
    image, text = torch.randn(2, 1, 40, 33), torch.randn(2, 5, 12)
    before = model(image, text)
    torch.testing.assert_close(before, plain(image), rtol=0, atol=1e-6)
    assert (opened(model)(image, text) - before).abs().mean() > 1e-2


def test_every_place_has_its_own_code_in_any_size() -> None:
    codes = place_waves(8, 6, like=torch.zeros(()))
    assert codes.shape == (48, 32)
    assert torch.cdist(codes, codes).fill_diagonal_(9).min() > 0.5
    fine = place_waves(24, 18, like=torch.zeros(())).view(24, 18, 32)[1::3, 1::3]  # the same centres
    torch.testing.assert_close(fine.flatten(0, 1), codes, rtol=0, atol=1e-4)


def test_it_learns_the_place_that_a_word_names() -> None:
    """Four texts, one image of noise: nothing but the text and the place tells which quadrant is meant."""
    model = text_unet()
    words = torch.randn(4, 3, 12)
    target = torch.zeros(4, 1, 32, 32)
    for i in range(4):
        top, left = 16 * (i // 2), 16 * (i % 2)
        target[i, :, top : top + 16, left : left + 16] = 1
    rows = torch.zeros(4, dtype=torch.int64)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)

    def step() -> Tensor:
        return segmentation_loss(model(torch.randn(1, 1, 32, 32), words, None, rows), target)["loss"]

    first = step().item()
    for _ in range(80):
        optimiser.zero_grad()
        loss = step()
        loss.backward()
        optimiser.step()
    assert first > 0.5
    assert loss.item() < 0.2


# --- CLIPSeg from a local folder, with random weights


TEXTS = ["the right lung", "left upper zone the lung"]


def encode(folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return build_text_encoder(f"hf:{folder}").encode(texts)  # type: ignore[union-attr]


def test_clipseg_is_equal_to_that_of_transformers(clipseg_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPSegForImageSegmentation

    image = torch.randn(2, 3, 32, 32)
    theirs = CLIPSegForImageSegmentation.from_pretrained(clipseg_folder).eval()
    tokens = AutoTokenizer.from_pretrained(clipseg_folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(pixel_values=image, **{k: tokens[k] for k in ("input_ids", "attention_mask")}).logits
        found = CLIPSeg(folder=str(clipseg_folder), text_dim=24).eval()(image, *encode(clipseg_folder, TEXTS))
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0


def test_many_phrases_ask_one_image_of_any_size(clipseg_folder: Path) -> None:
    model = CLIPSeg(folder=str(clipseg_folder), text_dim=24, in_channels=1).eval()
    image, (features, mask) = torch.randn(1, 1, 50, 41), encode(clipseg_folder, TEXTS)
    calls: list[int] = []
    model.vision.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        both = model(image, features, mask, torch.tensor([0, 0]))
        assert both.shape == (2, 1, 50, 41) and len(calls) == 1
        torch.testing.assert_close(both[1:], model(image, features[1:], mask[1:]), rtol=0, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"decoder"}


def test_through_training_and_back(clipseg_folder: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    options = [f"text.encoder=hf:{clipseg_folder}", "model.name=clipseg", "model.size=null", "train.max_steps=2"]
    config = load_config(tiny_recipe, [*options, f"model.options.folder={clipseg_folder}"])
    run = train(config, tmp_path / "run")
    image = next(tiny_recipe.parent.glob("i*.png"))
    assert Predictor.load(run).set_image(image).segment("right lung").mask.shape == (48, 40)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"folder": "nowhere/at-all"}, FaultKind.MISSING_FILE),
        ({"num_classes": 2}, FaultKind.UNSUPPORTED),
        ({"text_dim": 128}, FaultKind.MISMATCH),
    ],
)
def test_what_clipseg_refuses(clipseg_folder: Path, options: Any, kind: FaultKind, tmp_path: Path) -> None:
    options = {"folder": str(clipseg_folder), "text_dim": 24, **options}
    assert refused(lambda: CLIPSeg(**options)).kind == kind
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # another model in the folder
    assert refused(lambda: CLIPSeg(folder=str(tmp_path))).kind == FaultKind.UNREADABLE
