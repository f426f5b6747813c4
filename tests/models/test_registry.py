"""Networks by name."""

from __future__ import annotations

import pytest

from medvl.core.errors import InputError
from medvl.models.lvit import LViT
from medvl.models.registry import build_model
from medvl.models.unet import UNet


def test_known_names() -> None:
    assert isinstance(build_model("lvit", size="nano"), LViT)
    assert isinstance(build_model("unet", size="nano", in_channels=1), UNet)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Lvit", {}, "did you mean lvit"),
        ("resnet", {}, "expected lvit | unet"),
        ("lvit", {"text_merg": "slots"}, "did you mean text_merge"),
        ("unet", {"text_merge": "slots"}, "has no option 'text_merge'"),
        ("unet", {"size": "tiny"}, "nano | mini | T"),
        ("lvit", {"self": 1}, "has no option 'self'"),
    ],
)
def test_unknown_names_and_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build_model(name, **options)
    assert message in str(caught.value)
