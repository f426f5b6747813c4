"""Networks by name: each, and every variant of its options, through the one tester; and what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import TEXT_DIM, check_detector, check_model, refused, smallest, smallest_encoders

from medvl.config import ModelConfig
from medvl.core.errors import FaultKind
from medvl.models.base import SegmentationNetwork
from medvl.models.g2d import G2D
from medvl.models.lvit import LViT
from medvl.models.registry import MODELS, build_model, configured_options, option_names
from medvl.models.yolo import YOLO

# Options beside the defaults; the networks themselves are those of the registry.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("lvit", {"patch": 8, "num_slots": 12, "mlp_tail": "plain"}),
    ("lvit", {"text_merge": "attention", "mlp_tail": "plain"}),
    ("lvit", {"text_merge": "attention", "patch": 8, "plam": "avg"}),
    ("lvit", {"text_merge": "attention", "attention_bias": False, "plam": "max"}),
    ("lvit", {"text_merge": "attention", "depth": 2}),
    ("lvit", {"text_merge": "attention", "encoder": "resnet18_nano"}),
    ("lvit", {"text_merge": "none", "plam": "none"}),
    ("text_unet", {"text_levels": 5}),
    *(("encoder_unet", {"encoder": encoder}) for encoder in smallest_encoders()[1:]),
]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_variant(name: str, options: dict[str, Any], **given: Any) -> SegmentationNetwork:
    if "text_dim" not in option_names(name):
        given.pop("text_dim")
    return build_model(name, **smallest(name) | options | given)


@pytest.mark.parametrize("name", MODELS)
def test_every_network(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from_folder = "folder" in option_names(name)  # of which the weights and their width are
    options = {"folder": str(request.getfixturevalue("clipseg_folder"))} if from_folder else {}
    check_model(partial(build_variant, name, options), tmp_path)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_every_variant(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    exported = options == {"text_merge": "attention", "mlp_tail": "plain"}  # the others as their network
    check_model(partial(build_variant, name, options), tmp_path, export=exported)


@pytest.mark.parametrize("encoder", smallest_encoders())
def test_detector(encoder: str, tmp_path: Path) -> None:
    check_detector(partial(YOLO, encoder, head_channels=16), tmp_path)


def test_text_features_are_asked_of_the_networks_that_take_text() -> None:
    for name, network in MODELS.items():
        assert ("text_dim" in option_names(name)) == (network.uses_text or name == "lvit"), name  # by its options
    assert TEXT_DIM != 768  # no network's default


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
