"""One tester for every network: what the rest of medvl takes for granted about a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medvl.config.sections import DetectConfig
from medvl.core.errors import Fault, FaultKind, InputError
from medvl.losses.detection import detection_loss
from medvl.losses.segmentation import deep_supervision, segmentation_loss
from medvl.models.base import SegmentationNetwork
from medvl.models.clipseg import CLIPSeg
from medvl.models.encoders.registry import ENCODERS, build_image_encoder
from medvl.models.registry import MODELS, option_names

TEXT_DIM = 24
randn = partial(torch.randn, dtype=torch.float64)
same = partial(torch.testing.assert_close, rtol=0, atol=1e-8)
Build = Callable[..., nn.Module]  # takes in_channels, num_classes, image_size, and text_dim where there is text


def refused(call: Callable[[], object]) -> Fault:
    """The first fault of the InputError that `call` must raise."""
    with pytest.raises(InputError) as caught:
        call()
    return caught.value.faults[0]


def smallest(name: str) -> dict[str, Any]:
    """The options of the smallest network `name` of the registry."""
    known, network = option_names(name), MODELS[name]
    options: dict[str, Any] = {}
    if "size" in known:
        sizes = network.SIZES
        options["size"] = min(sizes, key=lambda size: np.ravel(sizes[size])[0])
    elif "encoder" in known:
        options["encoder"] = smallest_encoders()[0]
        options["input_norm"] = "none"  # "image" makes an answer depend on the padding by the tester
    return options


@cache
def smallest_encoders() -> list[str]:
    """The smallest registered image encoder of each kind, by name, the smallest first."""
    sizes: dict[type[nn.Module], tuple[int, str]] = {}
    for name in ENCODERS:
        with torch.device("meta"):
            encoder = build_image_encoder(name)
        entry = (sum(p.numel() for p in encoder.parameters()), name)
        sizes[type(encoder)] = min(sizes.get(type(encoder), entry), entry)
    return [name for _, name in sorted(sizes.values())]


def check_model(build: Build, folder: Path, *, export: bool = True) -> None:
    """Run every check on the network that `build(in_channels=, num_classes=, image_size=, text_dim=)` returns.

    Args:
        export: also check `torch.export`, which takes seconds.
    """
    tester = Conformance(build)
    for name, check in inspect.getmembers(tester, inspect.ismethod):
        if name.startswith("check_") and (export or name != "check_export"):
            torch.manual_seed(0)
            check(folder) if "folder" in inspect.signature(check).parameters else check()


class Conformance:
    """The checks, one method each. Images are 32 px at training; N rows, K classes.

    In double precision, so that two ways to the same result must agree far better than any real effect is large.
    """

    side = 32

    def __init__(self, build: Build) -> None:
        self.build = build
        self.built: dict[tuple[int, int], SegmentationNetwork] = {}
        self.any_size = self.model().fixed_size is None
        try:
            self.model(num_classes=3)
            self.classes: tuple[int, ...] = (1, 3)
        except InputError as error:
            assert error.kinds == (FaultKind.UNSUPPORTED,)
            self.classes = (1,)

    def model(self, num_classes: int = 1, in_channels: int = 3) -> Any:
        """A fresh copy in eval mode, its norms fitted to random input: activations and logits are O(1)."""
        key = (num_classes, in_channels)
        if key not in self.built:
            torch.manual_seed(1)
            model = self.build(
                in_channels=in_channels, num_classes=num_classes, image_size=self.side, text_dim=TEXT_DIM
            ).double()
            assert isinstance(model, SegmentationNetwork) and model.ABOUT and model.SOURCE
            norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    # zeros would hide a mistake in the layout of a table, or what is behind a projection
                    if "position" in name or (parameter.ndim > 1 and not parameter.any()):
                        nn.init.normal_(parameter, std=0.5)
                for norm in norms:
                    norm.momentum = 1.0
                logits = model.train()(**self.inputs(model, num_images=4))
                for norm in norms:
                    norm.momentum = 0.1
                model.outc.weight /= logits.std()
            self.built[key] = model.eval()
        return deepcopy(self.built[key])

    def inputs(
        self, model: nn.Module, num_images: int = 2, num_rows: int | None = None, length: int = 7, side: int = side
    ) -> dict[str, Tensor | None]:
        """Image, text, mask and image_index, of which the last is None for one row per image."""
        rows = num_images if num_rows is None else num_rows
        channels = model.in_channels
        mask = torch.ones(rows, length, dtype=torch.bool)
        mask[0, (length + 1) // 2 :] = False
        return {
            "image": randn(num_images, channels, side, side),
            "text_features": randn(rows, length, TEXT_DIM) if model.uses_text else None,
            "text_mask": mask if model.uses_text else None,
            "image_index": None if num_rows is None else torch.arange(num_rows) % num_images,
        }

    def check_classes_and_channels(self) -> None:
        for num_classes in self.classes:
            for channels in (1, 3):
                model = self.model(num_classes, channels)
                call = self.inputs(model)
                logits = model(**call)
                assert logits.shape == (2, num_classes, self.side, self.side)
                assert logits.isfinite().all()
                with torch.no_grad():
                    model.outc.bias += 5
                torch.testing.assert_close(model(**call), logits + 5)  # logits, not probabilities

    def check_sizes_and_wrong_channels(self) -> None:
        model = self.model()
        for height, width in ((32, 32), (48, 32), (33, 47), (16, 80), (9, 20), (64, 64)):
            call = {**self.inputs(model), "image": randn(2, 3, height, width)}
            if self.any_size or (height, width) == (self.side, self.side):
                assert model(**call).shape == (2, 1, height, width)
            else:
                assert refused(lambda call=call: model(**call)).kind == FaultKind.WRONG_SHAPE
        call["image"] = randn(2, 2, self.side, self.side)  # of two channels
        assert refused(lambda: model(**call)).kind == FaultKind.WRONG_SHAPE

    def check_padding_is_cropped_from_the_same_corner(self) -> None:
        model, call = self.model(), self.inputs(self.model(), side=40)
        if not self.any_size or model.stride is None:
            return
        image = call["image"]
        whole = model(**{**call, "image": nn.functional.pad(image, (0, 8, 0, 8), mode="replicate")})
        torch.testing.assert_close(model(**call), whole[:, :, :40, :40])

    def check_text(self) -> None:
        """The text matters; masked tokens, padding on either side and a text without tokens do not."""
        model = self.model()
        call = self.inputs(model)
        other = randn(2, 7, TEXT_DIM)
        if not model.uses_text:
            assert refused(lambda: model(call["image"], other)).kind == FaultKind.CONFLICT
            return
        for length in (1, 7, model.slots.num_slots if hasattr(model, "slots") else 40):
            assert model(**self.inputs(model, length=length)).isfinite().all()
        logits, text, mask = model(**call), call["text_features"], call["text_mask"]
        assert (logits - model(**{**call, "text_features": other})).abs().mean() > 1e-2
        garbage = torch.where(mask[:, :, None], text, 1e3 * other)
        same(model(**{**call, "text_features": garbage}), logits)
        for pads in ((0, 2), (2, 0)):  # behind the text and before it
            longer, its_mask = nn.functional.pad(text, (0, 0, *pads)), nn.functional.pad(mask, pads)
            same(model(**{**call, "text_features": longer, "text_mask": its_mask}), logits)
        empty = {**call, "text_mask": torch.zeros_like(mask)}
        assert model(**empty).isfinite().all()
        if not isinstance(model, CLIPSeg):  # which reads one token, the last one
            same(model(**empty), model(**{**empty, "text_features": other}))
        assert refused(lambda: model(**{**call, "text_features": None})).kind == FaultKind.MISSING
        for change in (
            {"text_features": randn(2, 7, TEXT_DIM + 1)},
            {"text_features": randn(3, 7, TEXT_DIM), "text_mask": None},
            {"text_mask": torch.ones(2, 6, dtype=torch.bool)},
        ):
            assert refused(lambda change=change: model(**{**call, **change})).kind == FaultKind.WRONG_SHAPE

    def check_encode_then_decode_equals_forward(self) -> None:
        num_classes = self.classes[-1]
        model = self.model(num_classes)
        call = self.inputs(model, num_images=2, num_rows=5)
        image, index = call.pop("image"), call["image_index"]
        with torch.no_grad():
            together = model(image, **call)
            apart = model.decode(model.encode_image(image), **call, size=(self.side, self.side))
            repeated = model(image[index], **{**call, "image_index": None})
        assert together.shape == (5, num_classes, self.side, self.side)
        same(apart, together)
        same(repeated, together)

    def check_gradient_reaches_every_parameter(self) -> None:
        model = self.model().train()
        call = self.inputs(model, num_images=4, length=7)
        (model(**call) * randn(4, 1, self.side, self.side)).sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        dead = {name for name, grad in grads.items() if grad is None or not grad.abs().sum() > 0}
        # A bias before BatchNorm has no gradient but rounding, which on some processors is exactly none.
        dead -= {f"{name}.bias" for name in {n.rpartition(".")[0] for n in grads} if f"{name}.weight" in grads} - {
            f"{name.removesuffix('.weight')}.bias" for name in dead if name.endswith(".weight")
        }
        assert not dead, f"dead weights: {sorted(dead)}"

    def check_rows_are_independent_in_eval_mode(self) -> None:
        model = self.model()
        call = self.inputs(model, num_images=3)
        whole = model(**call)
        for i in range(3):
            one = model(**{name: None if value is None else value[i : i + 1] for name, value in call.items()})
            same(one, whole[i : i + 1])

    def check_save_and_load(self, folder: Path) -> None:
        """After a step in train mode, which must do with a single image."""
        model = self.model().train()
        model(**self.inputs(model, num_images=1)).mean().backward()  # moves the buffers
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        assert all(b.isfinite().all() for b in model.buffers())
        save_file(model.state_dict(), str(folder / "model.safetensors"))
        torch.manual_seed(2)
        other = self.build(in_channels=3, num_classes=1, image_size=self.side, text_dim=TEXT_DIM).double().eval()
        other.load_state_dict(load_file(str(folder / "model.safetensors")))
        call = self.inputs(model)
        assert torch.equal(other(**call), model.eval()(**call))

    def check_nothing_is_read_back_from_the_device(self) -> None:
        """On the meta device there is nothing to read: a `.item()` or a branch on a value would raise."""
        model = self.model().train().to("meta")
        call = self.inputs(model, num_images=2, num_rows=5)
        call = {name: None if value is None else value.to("meta") for name, value in call.items()}
        logits = model(**call)
        target = torch.empty(5, 1, self.side, self.side, device="meta")
        loss = partial(segmentation_loss, target=target, annotated=torch.ones(5, 1, device="meta") > 0)
        deep_supervision(loss, logits)["loss"].backward()  # of a network with one head its loss
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)

    def check_export(self) -> None:
        model = self.model()
        call = self.inputs(model, num_images=2, num_rows=3)
        program = torch.export.export(model, args=(), kwargs=call)
        other = self.inputs(model, num_images=2, num_rows=3)
        with torch.no_grad():
            same(program.module()(**other), model(**other))


def check_detector(build: Build, folder: Path) -> None:
    """What the rest of medvl takes for granted about a detector: `build(in_channels=, num_classes=, image_size=)`."""
    torch.manual_seed(0)
    side = 64
    for num_classes, channels in ((1, 1), (3, 3)):
        model = build(in_channels=channels, num_classes=num_classes, image_size=side).double()
        # In train mode a single image must do, and every weight must learn.
        model.train()(randn(1, channels, side, side)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert all(b.isfinite().all() for b in model.buffers())
        model.zero_grad()
        model(randn(4, channels, side, side)).pow(3).sum().backward()
        dead = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert not dead, f"dead weights: {sorted(dead)}"
        model.eval()
        for height, width in ((64, 64), (96, 64), (33, 70), (20, 130)):
            image = randn(2, channels, height, width)
            logits = model(image)
            places = model.places(height, width)
            assert logits.shape == (2, len(places), 5 + num_classes) and logits.isfinite().all()
            boxes, scores = model.decode_boxes(logits, height, width)
            assert boxes.shape == (2, len(places), 4) and scores.shape == (2, len(places), num_classes)
            assert (boxes >= 0).all() and (boxes[..., 0::2] <= width).all() and (boxes[..., 1::2] <= height).all()
            assert (boxes[..., 2:] >= boxes[..., :2]).all() and ((scores >= 0) & (scores <= 1)).all()
            same(model(image[1:]), logits[1:])  # images are independent
        assert refused(lambda: model(randn(2, 4 - channels, side, side))).kind == FaultKind.WRONG_SHAPE  # noqa: B023
        model.set_anchors([[i + 1, 2 * i + 1] for i in range(9)])
        save_file(model.state_dict(), str(folder / "model.safetensors"))
        other = build(in_channels=channels, num_classes=num_classes, image_size=side).double().eval()
        other.load_state_dict(load_file(str(folder / "model.safetensors")))
        image = randn(1, channels, side, side)
        for a, b in zip(*(m.decode_boxes(m(image), side, side) for m in (model, other)), strict=True):
            assert torch.equal(a, b)
    model = model.float().train().to("meta")  # nothing to read there: a branch on a value would raise
    logits = model(torch.empty(2, channels, side, side, device="meta"))
    boxes = torch.empty(2, 3, 5, device="meta")
    detection_loss(logits, boxes, model.anchors, model.grids(side, side), DetectConfig())["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
