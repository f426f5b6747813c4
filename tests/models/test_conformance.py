"""Every network, in every variant, through the one tester."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import check_detector, check_model
from torch import Tensor

from medvl.models.monai import DynUNet
from medvl.models.registry import MODELS, build_model, option_names
from medvl.models.unet import PixelTextAttention
from medvl.models.yolo import YOLO

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "slots": ("lvit", {"text_merge": "slots"}),
    "slots-fine": ("lvit", {"text_merge": "slots", "patch": 8, "num_slots": 12, "mlp_tail": "plain"}),
    "attention": ("lvit", {"text_merge": "attention", "mlp_tail": "plain"}),
    "attention-fine": ("lvit", {"text_merge": "attention", "patch": 8, "plam": "avg"}),
    "attention-alone": ("lvit", {"text_merge": "attention", "attention_bias": False, "plam": "max"}),
    "deeper": ("lvit", {"text_merge": "attention", "depth": 2}),
    "no-text": ("lvit", {"text_merge": "none", "plam": "none"}),
    "pyramid": ("lvit", {"text_merge": "attention", "encoder": "resnet18_nano"}),
    "unet": ("unet", {}),
    # input_norm: image makes an answer depend on the whole image, padding by the tester included
    "encoder_unet": ("encoder_unet", {"encoder": "resnet18_nano", "input_norm": "none"}),
    "encoder_unet-ucnn": ("encoder_unet", {"encoder": "ucnn_nano", "input_norm": "none"}),
    "encoder_unet-efficientnet": ("encoder_unet", {"encoder": "efficientnet_lite0", "input_norm": "none"}),
    "text_unet": ("text_unet", {}),
    "text_unet-all-levels": ("text_unet", {"text_levels": 5}),
    "unet_plus_plus": ("unet_plus_plus", {}),
    "attention_unet": ("attention_unet", {}),
    "dynunet": ("dynunet", {}),
    "swin_unetr": ("swin_unetr", {"size": "mini"}),
}
SLOW_EXPORT = (  # as the others of their network
    "slots-fine", "attention-fine", "attention-alone", "deeper", "no-text", "pyramid", "encoder_unet-efficientnet",
)  # fmt: skip


class AveragedDynUNet(DynUNet):
    """The mean of its heads, so that the tester sees logits of four dimensions and every weight counts."""

    def decode(self, *args: Any, **kwargs: Any) -> Tensor:
        logits = super().decode(*args, **kwargs)
        return logits.mean(dim=1) if logits.ndim == 5 else logits


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_variant(name: str, options: dict[str, Any], **given: Any) -> torch.nn.Module:
    if "text_dim" not in option_names(name):
        given.pop("text_dim")
    given = {**({"size": "nano"} if "size" in option_names(name) else {}), **options, **given}
    model = AveragedDynUNet(**given) if name == "dynunet" else build_model(name, **given)
    for module in model.modules():
        if isinstance(module, PixelTextAttention):
            module.proj.reset_parameters()  # it starts at zero, where neither text nor gradient passes
    return model


def test_every_network_is_tested() -> None:
    elsewhere = {"clipseg"}  # of one class and from a folder: test_clipseg.py
    assert {name for name, _ in VARIANTS.values()} == set(MODELS) - elsewhere


@pytest.mark.parametrize("variant", VARIANTS)
def test_conformance(variant: str, tmp_path: Path) -> None:
    name, options = VARIANTS[variant]
    slots = options.get("text_merge") == "slots"
    check_model(
        partial(build_variant, name, options),
        tmp_path,
        any_size=not slots,
        text_lengths=(1, 7, options.get("num_slots", 10)) if slots else (1, 7, 40),
        export=variant not in SLOW_EXPORT,
    )


@pytest.mark.parametrize("encoder", ["resnet18_nano", "efficientnet_lite0", "ucnn_nano"])
def test_detector_conformance(encoder: str, tmp_path: Path) -> None:
    check_detector(partial(YOLO, encoder, head_channels=16), tmp_path)
