"""YOLOv3's head: published geometry, order of places, decoding, anchors, encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conformance import refused

from medvl.core.errors import FaultKind
from medvl.models.yolo import ANCHORS, YOLO, published_anchors


def test_the_published_head_on_resnet50() -> None:
    with torch.device("meta"):
        model = YOLO("resnet50", in_channels=3, image_size=224)
        logits = model(torch.empty(2, 3, 224, 224))
    assert model.grids(224, 224) == [(32, 7, 7), (16, 14, 14), (8, 28, 28)]
    assert logits.shape == (2, 3 * (7 * 7 + 14 * 14 + 28 * 28), 6)
    assert [block.out.out_channels for block in model.embed] == [18, 18, 18]
    assert [block.blocks[0][0].in_channels for block in model.embed] == [2048, 1024 + 256, 512 + 128]
    assert [block.blocks[1][0].out_channels for block in model.embed] == [1024, 512, 256]
    assert [conv[0].kernel_size[0] for conv in model.embed[0].blocks] == [1, 3, 1, 3, 1, 3]


def test_the_published_anchors_are_yolov3s() -> None:
    flat = "10 13 16 30 33 23 30 61 62 45 59 119 116 90 156 198 373 326"  # as yolov3.cfg lists them, finest map first
    pairs = torch.tensor([float(number) for number in flat.split()]).reshape(3, 3, 2)
    assert torch.equal(torch.tensor(ANCHORS, dtype=torch.float32), pairs.flip(0))


def test_a_finer_map_takes_the_coarser_one_pixel_by_pixel() -> None:
    """Nearest: each cell of the coarser map stands fourfold, two by two."""
    model = YOLO("resnet18_nano", image_size=64).eval()
    seen: list[torch.Tensor] = []
    for embed in model.embed[1:]:
        embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(torch.rand(1, 1, 64, 64))
    for i, x in enumerate(seen):
        above = x[:, : model.up[i][0].out_channels]
        small = above[..., ::2, ::2]
        assert torch.equal(above, small.repeat_interleave(2, 2).repeat_interleave(2, 3)) and small.std() > 0
    assert [x.shape[-1] for x in seen] == [4, 8]


def test_anchors_scale_with_each_side() -> None:
    anchors = published_anchors((104, 208))
    assert anchors[0, 0].tolist() == [116 / 2, 90 / 4] and anchors.shape == (3, 3, 2)
    model = YOLO("resnet18_nano", image_size=(416, 416))
    assert torch.equal(model.anchors, torch.tensor(ANCHORS, dtype=torch.float32))
    model.set_anchors([pair for group in reversed(ANCHORS) for pair in group])  # in any order
    assert torch.equal(model.anchors.sum(dim=(1, 2)), torch.tensor(ANCHORS, dtype=torch.float32).sum(dim=(1, 2)))
    for wrong in ([[1, 2]] * 8, [[1, 0]] * 9, [[1, 2, 3]] * 9):
        assert refused(lambda wrong=wrong: model.set_anchors(wrong)).kind == FaultKind.MALFORMED


@pytest.mark.parametrize("num_classes", [1, 2])
def test_decoding_by_hand(num_classes: int) -> None:
    model = YOLO("resnet18_nano", image_size=64, num_classes=num_classes)
    places = model.places(60, 64)  # padded to 64
    logits = torch.full((1, len(places), 5 + num_classes), -20.0)
    place = 12 + 3 * (1 * 4 + 2) + 1  # after 2x2 cells of 3 anchors: middle map, row 1, column 2, second anchor
    anchor = model.anchors[1, 1]
    assert places[place].tolist() == pytest.approx([32, 16, 16, *anchor.tolist()])
    logits[0, place, :5] = torch.tensor([0.0, 1.0986123, 0.6931472, 0.0, 0.0])  # middle, 3/4; twice as wide; 1/2
    logits[0, place, 5:] = torch.tensor([1.0986123, 0.0])[:num_classes]
    boxes, scores = model.decode_boxes(logits, 60, 64)
    cx, cy, w, h = 32 + 8, 16 + 12, 2 * float(anchor[0]), float(anchor[1])
    assert boxes[0, place].tolist() == pytest.approx([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], rel=1e-5)
    assert scores[0, place].tolist() == pytest.approx([0.5] if num_classes == 1 else [0.5 * 0.75, 0.25], rel=1e-5)
    logits[0, place, 2:4] = 50.0  # as large as can be: clipped to the picture
    assert model.decode_boxes(logits, 60, 64)[0][0, place].tolist() == [0, 0, 64, 60]


def test_a_place_sees_its_own_part_of_the_picture() -> None:
    """A change at one spot changes the logits of the finest map's places there the most."""
    torch.manual_seed(0)
    model = YOLO("resnet18_nano", image_size=256, input_norm="none").eval().double()
    image = torch.zeros(1, 1, 256, 256, dtype=torch.float64)
    other = image.clone()
    other[:, :, 40:48, 200:208] = 5.0
    with torch.no_grad():
        change = (model(image) - model(other)).abs().sum(dim=2)[0]
    finest = change[-32 * 32 * 3 :].view(32, 32, 3).sum(dim=2)  # the order: cell by cell, anchor by anchor
    row, column = divmod(int(finest.argmax()), 32)
    assert abs(row - 5) <= 2 and abs(column - 25) <= 2


def test_encoders_and_their_errors(tmp_path: Path) -> None:
    assert refused(lambda: YOLO("resnet18_nano", head_channels=30)).kind == FaultKind.MALFORMED
    config = {
        "model_type": "convnext", "num_channels": 3, "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32],
        "architectures": ["ConvNextBackbone"],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = YOLO(f"hf:{tmp_path}", in_channels=1, image_size=64).eval()
    assert model.grids(64, 64)[0] == (32, 2, 2) and model(torch.rand(1, 1, 64, 64)).shape == (1, 3 * 84, 6)
    vit = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(vit))
    assert refused(lambda: YOLO(f"hf:{tmp_path}", in_channels=3, image_size=224)).kind == FaultKind.UNSUPPORTED
