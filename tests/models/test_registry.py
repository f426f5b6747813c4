"""Networks by name, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from conformance import refused

from medvl.config import ModelConfig
from medvl.core.errors import FaultKind
from medvl.models.g2d import G2D
from medvl.models.lvit import LViT
from medvl.models.registry import MODELS, build_model, configured_options


@pytest.mark.parametrize(
    ("name", "options", "kind", "like"),
    [
        ("Lvit", {}, FaultKind.UNKNOWN, "lvit"),
        ("dynnet", {}, FaultKind.UNKNOWN, "dynunet"),
        ("lvit", {"text_merg": "slots"}, FaultKind.UNKNOWN_KEY, "text_merge"),
        ("dynunet", {"deep_supervison": True}, FaultKind.UNKNOWN_KEY, "deep_supervision"),
        ("unet", {"text_merge": "slots"}, FaultKind.UNKNOWN_KEY, ""),
        ("dynunet", {"text_dim": 8}, FaultKind.UNKNOWN_KEY, ""),
        ("lvit", {"self": 1}, FaultKind.UNKNOWN_KEY, ""),
        ("swin_unetr", {"size": "nano"}, FaultKind.UNKNOWN, ""),
        ("text_unet", {"text_levels": 6}, FaultKind.OUT_OF_RANGE, ""),
        ("text_unet", {"text_dim": 0}, FaultKind.OUT_OF_RANGE, ""),
        ("lvit", {"dropout": "much"}, FaultKind.MALFORMED, ""),
        *[(name, {"size": "Mini"}, FaultKind.UNKNOWN, "mini") for name in MODELS if MODELS[name].SIZES],
        *[(name, {"num_classes": 0}, FaultKind.OUT_OF_RANGE, "") for name in MODELS if MODELS[name].SIZES],
    ],
)
def test_unknown_names_and_options(name: str, options: dict[str, Any], kind: FaultKind, like: str) -> None:
    fault = refused(lambda: build_model(name, **options))
    assert fault.kind == kind and like in (fault.remedy or "")


def test_size_and_encoder_go_where_they_belong() -> None:
    both, one = ModelConfig("lvit", "nano", "resnet18"), ModelConfig("g2d", None, "resnet18", {"heads": 2})
    assert configured_options(LViT, both, {}, plam="avg") == {"size": "nano", "encoder": "resnet18", "plam": "avg"}
    assert configured_options(G2D, one, {"text_dim": 8}) == {"encoder": "resnet18", "text_dim": 8, "heads": 2}
    for network, model, kind in (
        (G2D, ModelConfig("g2d", "nano", "resnet18"), FaultKind.UNSUPPORTED),
        (MODELS["unet"], ModelConfig("unet", "nano", "resnet18"), FaultKind.UNSUPPORTED),
        (MODELS["clipseg"], ModelConfig("clipseg", "nano", None), FaultKind.UNSUPPORTED),
        (LViT, ModelConfig("lvit", "nano", "ucnn", {"encoder": "resnet18"}), FaultKind.UNKNOWN_KEY),
        (LViT, ModelConfig("lvit", "nano", "ucnn", {"text_dim": 9}), FaultKind.UNKNOWN_KEY),  # of section text
    ):
        fault = refused(lambda network=network, model=model: configured_options(network, model, {"text_dim": 8}))
        assert fault.kind == kind
