"""Every network, in every variant, through the one tester."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import check_model

from medvl.models.registry import build_model

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "slots": ("lvit", {"text_merge": "slots"}),
    "slots-fine": ("lvit", {"text_merge": "slots", "patch": 8, "num_slots": 12, "mlp_tail": "plain"}),
    "attention": ("lvit", {"text_merge": "attention", "mlp_tail": "plain"}),
    "attention-fine": ("lvit", {"text_merge": "attention", "patch": 8, "plam": "avg"}),
    "attention-alone": ("lvit", {"text_merge": "attention", "attention_bias": False, "plam": "max"}),
    "deeper": ("lvit", {"text_merge": "attention", "depth": 2}),
    "no-text": ("lvit", {"text_merge": "none", "plam": "off"}),
    "unet": ("unet", {}),
}
EXPORTED = ("slots", "attention", "unet")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_variant(name: str, options: dict[str, Any], **given: Any) -> torch.nn.Module:
    if name == "unet":
        given.pop("text_dim")
    return build_model(name, size="nano", **options, **given)


@pytest.mark.parametrize("variant", VARIANTS)
def test_conformance(variant: str, tmp_path: Path) -> None:
    name, options = VARIANTS[variant]
    slots = options.get("text_merge") == "slots"
    check_model(
        partial(build_variant, name, options),
        tmp_path,
        any_size=not slots,
        text_lengths=(1, 7, options.get("num_slots", 10)) if slots else (1, 7, 40),
        export=variant in EXPORTED,
    )
