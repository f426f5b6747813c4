"""CLIPSeg from a local folder: equal to transformers' own, image encoded once, through training; random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conformance import refused

from medvl.config import load_config
from medvl.core.errors import FaultKind
from medvl.inference.predictor import Predictor
from medvl.models.clipseg import CLIPSeg
from medvl.text.registry import build_text_encoder
from medvl.train.run import train

TEXTS = ["the right lung", "left upper zone the lung"]


@pytest.fixture
def folder(clipseg_folder: Path) -> Path:
    return clipseg_folder


def encode(folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    encoder = build_text_encoder(f"hf:{folder}")
    assert encoder is not None
    return encoder.encode(texts)


def test_equal_to_transformers(folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPSegForImageSegmentation

    image = torch.randn(2, 3, 32, 32)
    theirs = CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(
            pixel_values=image, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).logits
        found = CLIPSeg(folder=str(folder), text_dim=24).eval()(image, *encode(folder, TEXTS))
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0


def test_many_phrases_ask_one_image_of_any_size(folder: Path) -> None:
    model = CLIPSeg(folder=str(folder), text_dim=24, in_channels=1).eval()
    image, (features, mask) = torch.randn(1, 1, 50, 41), encode(folder, TEXTS)
    calls: list[int] = []
    model.vision.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        both = model(image, features, mask, torch.tensor([0, 0]))
        assert both.shape == (2, 1, 50, 41) and len(calls) == 1
        torch.testing.assert_close(both[1:], model(image, features[1:], mask[1:]), rtol=0, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"decoder"}


def test_through_training_and_back(folder: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    options = [f"text.encoder=hf:{folder}", "model.name=clipseg", "model.size=null"]
    run = train(
        load_config(tiny_recipe, [*options, f"model.options.folder={folder}", "train.max_steps=2"]), tmp_path / "run"
    )
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
def test_what_it_refuses(folder: Path, options: dict[str, object], kind: FaultKind) -> None:
    options = {"folder": str(folder), "text_dim": 24, **options}
    assert refused(lambda: CLIPSeg(**options)).kind == kind  # type: ignore[arg-type]


def test_another_model_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert refused(lambda: CLIPSeg(folder=str(tmp_path))).kind == FaultKind.UNREADABLE


def test_padding_before_the_text_changes_nothing(folder: Path) -> None:
    network = CLIPSeg(folder=str(folder), text_dim=24).eval()
    image = torch.randn(2, 3, 32, 32)
    features, mask = encode(folder, ["the right lung", "left"])
    rolled = [torch.roll(x, 2, dims=0) for x in (features[1], mask[1])]  # two of padding move to the front
    assert not mask[1, -2:].any()
    before = (torch.stack([features[0], rolled[0]]), torch.stack([mask[0], rolled[1]]))
    torch.testing.assert_close(network(image, *before), network(image, features, mask))
