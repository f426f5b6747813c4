"""G2D: shapes, sizes, options, gradients, export, weights from elsewhere, and its way into segmentation networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import refused
from safetensors.torch import load_file, save_file
from torch import nn

from medvl.core.errors import FaultKind, InputError
from medvl.experiments.evidence import evidence_of
from medvl.models.classifier import ImageClassifier
from medvl.models.g2d import G2D
from medvl.models.registry import build_model
from medvl.text.huggingface import SplitLayers
from medvl.weights.transfer import continue_from, start_from_encoder


def make(encoder: str = "resnet18_nano", **options: Any) -> G2D:
    torch.manual_seed(0)
    return G2D(encoder, text_dim=12, projection_dim=16, image_size=64, **options).eval()


def inputs(num: int = 2, height: int = 64, width: int = 64, length: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(num, length, dtype=torch.bool)
    mask[0, length // 2 + 1 :] = False
    return {
        "image": torch.rand(num, 1, height, width, generator=generator),
        "text_features": torch.randn(num, length, 12, generator=generator),
        "text_mask": mask,
    }


@pytest.mark.parametrize("encoder", ["resnet18_nano", "ucnn_nano", "efficientnet_lite0"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (50, 70), (20, 33)])
def test_any_image_size(encoder: str, height: int, width: int) -> None:
    output, vectors = make(encoder)(**inputs(height=height, width=width))
    h, w = output.grid
    assert output.mask_logits is not None and output.mask_logits.shape == (2, 1, height, width)
    assert output.attention is not None and output.attention.shape == (2, 4, 1 + h * w)
    torch.testing.assert_close(output.attention.sum(dim=2), torch.ones(2, 4))
    assert output.pooled.shape == vectors.shape == (2, 16)


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16])
def test_any_divisor_of_the_joint_width_is_a_number_of_heads(heads: int) -> None:
    output = make(heads=heads).image_forward(inputs()["image"])
    assert output.attention is not None and output.attention.shape[1] == heads


def test_three_heads_do_not_divide_sixteen() -> None:
    assert refused(lambda: make(heads=3)).kind == FaultKind.MISMATCH


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "average"}, {"decoder": "none"}, {"num_outputs": 4}, {"text_pool": "first"}, {"text_pool": "mean"},
        {"text_norm": "tokens", "text_pool": "mean"}, {"pool_stride": 8}, {"pool_stride": 16, "decoder": "none"},
        {"text_norm": "tokens", "text_pool": "first"},
    ],
)  # fmt: skip
def test_options(options: dict[str, Any]) -> None:
    output, vectors = make(**options)(**inputs())
    assert vectors.isfinite().all() and vectors.shape == (2, 16)
    assert (output.attention is None) == (options.get("pool") == "average")
    if options.get("decoder") == "none":
        assert output.mask_logits is None
    else:
        assert output.mask_logits is not None and output.mask_logits.shape[1] == options.get("num_outputs", 1)


def test_a_finer_map_has_more_cells() -> None:
    assert make().image_forward(inputs()["image"]).grid == (2, 2)
    assert make(pool_stride=8).image_forward(inputs()["image"]).grid == (8, 8)
    assert refused(lambda: make(pool_stride=5)).kind == FaultKind.UNKNOWN


@pytest.mark.parametrize("option", ["pool", "text_pool", "text_norm", "decoder", "input_norm"])
def test_unknown_values_are_refused(option: str) -> None:
    assert refused(lambda: make(**{option: "nonsense"})).kind == FaultKind.UNKNOWN


def test_pads_do_not_matter() -> None:
    model, call = make(), inputs()
    text, mask = call["text_features"], call["text_mask"]
    garbage = torch.where(mask[:, :, None], text, 1e3)
    torch.testing.assert_close(model.text_forward(garbage, mask), model.text_forward(text, mask))
    longer = nn.functional.pad(text, (0, 0, 0, 3)), nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(model.text_forward(*longer), model.text_forward(text, mask))
    for pool in ("first", "mean", "attention"):
        model = make(text_pool=pool)
        before = nn.functional.pad(text, (0, 0, 3, 0), value=7.0), nn.functional.pad(mask, (3, 0))
        torch.testing.assert_close(model.text_forward(*before), model.text_forward(text, mask))


def test_exposure_does_not_matter() -> None:
    model, image = make(), inputs()["image"]
    first, second = model.image_forward(image), model.image_forward(0.3 * image + 0.2)
    torch.testing.assert_close(first.pooled, second.pooled, rtol=1e-4, atol=1e-4)


def test_every_weight_learns() -> None:
    model = make().train()
    output, vectors = model(**inputs(num=4))
    assert output.mask_logits is not None and output.attention is not None
    weights = [torch.randn_like(x) for x in (output.pooled, output.mask_logits, vectors)]
    sum((x * w).sum() for x, w in zip((output.pooled, output.mask_logits, vectors), weights, strict=True)).backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def test_the_values_of_the_cells_mix_to_the_pooled_vector() -> None:
    """With one head the pooled vector is the attention-weighted mean of what `locate` gives (and of the summary)."""
    model = make(heads=1)
    image = inputs()["image"]
    with torch.no_grad():
        output = model.image_forward(image)
        cells, grid = model.locate(image)
        projected = model.visual_projector(model.encode_image(image)[-1])
        pool = model.attention_pool
        assert pool is not None and output.attention is not None
        tokens = pool.tokens(projected)
        width = tokens.shape[2]
        summary = nn.functional.linear(
            tokens[:, :1], pool.mhsa.in_proj_weight[2 * width :], pool.mhsa.in_proj_bias[2 * width :]
        )
        summary = pool.c_proj(pool.mhsa.out_proj(summary))
    everything = torch.cat([summary, cells], dim=1)
    torch.testing.assert_close(
        (output.attention[:, 0, :, None] * everything).sum(dim=1), output.pooled, rtol=1e-4, atol=1e-5
    )
    assert grid == output.grid
    assert model.locate(image, "projector")[0].shape == cells.shape


def test_evidence_adds_up_to_the_similarity_with_the_text() -> None:
    model = make().eval()
    pool = model.attention_pool
    assert pool is not None
    with torch.no_grad():
        for bias in (pool.mhsa.in_proj_bias, pool.mhsa.out_proj.bias, pool.c_proj.bias):
            bias.normal_()
        output, vectors = model(**inputs())
        assert output.attention is not None
        evidence = evidence_of(pool, output.projected, output.attention, vectors)
        everywhere = pool.c_proj(pool.mhsa.out_proj.bias)  # what the biases give to every image
    assert evidence.shape == output.attention.shape
    expected = ((output.pooled - everywhere) * vectors).sum(dim=1)
    torch.testing.assert_close(evidence.sum(dim=(1, 2)), expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_read_back_from_the_device() -> None:
    model = make().train().to("meta")
    output, vectors = model(**{name: value.to("meta") for name, value in inputs().items()})
    assert output.mask_logits is not None
    (output.mask_logits.sum() + output.pooled.sum() + vectors.sum()).backward()


def test_save_and_load(tmp_path: Path) -> None:
    model = make().train()
    model(**inputs())  # moves the buffers
    save_file(model.state_dict(), str(tmp_path / "model.safetensors"))
    other = make()
    other.load_state_dict(load_file(str(tmp_path / "model.safetensors")))
    model.eval()
    assert torch.equal(other(**inputs())[0].pooled, model(**inputs())[0].pooled)


def test_export() -> None:
    class ImageSide(nn.Module):
        def __init__(self, model: G2D) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            output = self.model.image_forward(image)
            assert output.mask_logits is not None
            return output.pooled, output.mask_logits

    module, image = ImageSide(make()), inputs()["image"]
    program = torch.export.export(module, (image,))
    with torch.no_grad():
        for ours, theirs in zip(module(1 - image), program.module()(1 - image), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_batch_of_one_in_train_mode() -> None:
    output = make().train().image_forward(inputs(num=1)["image"])
    assert output.pooled.isfinite().all()


def test_released_weights_name_what_is_wrong() -> None:
    with pytest.raises(InputError) as caught:
        G2D.from_released({"nonsense": torch.zeros(1)})
    assert FaultKind.UNKNOWN in caught.value.kinds and FaultKind.MISSING in caught.value.kinds


# -- the way into segmentation networks


@pytest.mark.parametrize("parts", ["encoder", "encoder_decoder"])
def test_encoder_unet_starts_from_g2d(parts: Any) -> None:
    g2d, network = make(), build_model("encoder_unet", encoder="resnet18_nano", in_channels=1, num_classes=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    taken = start_from_encoder(network, g2d.unet, parts, "run")
    image = inputs()["image"]
    with torch.no_grad():
        same_maps = [
            torch.equal(a, b) for a, b in zip(network.eval().encode_image(image), g2d.encode_image(image), strict=True)
        ]
        same_logits = torch.equal(network(image), g2d.image_forward(image).mask_logits)  # type: ignore[arg-type]
    assert all(same_maps) and same_logits == (parts == "encoder_decoder")
    changed = [
        name
        for name, value in network.state_dict().items()
        if name.startswith("decoder") and not torch.equal(value, before[name])
    ]
    assert bool(changed) == (parts == "encoder_decoder")
    assert taken.num_new == (0 if parts == "encoder_decoder" else sum(not n.startswith("encoder.") for n in before))


def test_an_encoder_starts_from_a_classifier() -> None:
    classifier = ImageClassifier("resnet18_nano", num_classes=2)
    network = build_model("encoder_unet", encoder="resnet18_nano", in_channels=1)
    taken = start_from_encoder(network, classifier, "encoder_decoder", "run")
    assert all(
        torch.equal(value, network.encoder.state_dict()[name])
        for name, value in classifier.encoder.state_dict().items()
    )
    assert len(taken.taken) == len(network.encoder.state_dict())


def test_another_number_of_classes_keeps_its_own_head() -> None:
    network = build_model("encoder_unet", encoder="resnet18_nano", in_channels=1, num_classes=3)
    taken = start_from_encoder(network, make().unet, "encoder_decoder", "run")
    assert set(taken.other_shape) == {"outc.weight", "outc.bias"} and "outc.weight" in str(taken)


def test_lvit_starts_from_its_own_path_in_g2d() -> None:
    lvit = build_model("lvit", size="nano", in_channels=1, text_dim=12, text_merge="attention", image_size=64).eval()
    g2d = make("ucnn_nano", input_norm="none")
    taken = start_from_encoder(lvit, g2d.unet, "encoder_decoder", "run")
    image = inputs()["image"]
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(lvit.encode_image(image), g2d.encode_image(image), strict=True))
    ups = [name for name in lvit.state_dict() if name.startswith("up.")]
    assert ups and set(ups) <= set(taken.taken)


def test_lvit_on_a_resnet_starts_from_g2d() -> None:
    lvit = build_model("lvit", size="nano", encoder="resnet18_nano", in_channels=1, text_dim=12, text_merge="attention")
    start_from_encoder(lvit, make().unet, "encoder_decoder", "run")
    theirs = make().unet.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in lvit.encoder.backbone.state_dict().items())


def test_an_encoder_that_is_fed_otherwise_is_refused() -> None:
    """The paper's and the released preset feed [0, 1]: the same weights would see other numbers, without a word."""
    g2d = make(input_norm="none")
    networks = {
        "encoder_unet": {"encoder": "resnet18_nano", "in_channels": 1},
        "lvit": {"size": "nano", "encoder": "resnet18_nano", "in_channels": 1, "text_merge": "none"},
    }
    for name, options in networks.items():
        fed_otherwise = build_model(name, **options)  # type: ignore[arg-type]
        fault = refused(lambda network=fed_otherwise: start_from_encoder(network, g2d.unet, "encoder", "run"))
        assert fault.kind == FaultKind.MISMATCH and "options.input_norm=none" in str(fault.remedy)
        network = build_model(name, **options, input_norm="none").eval()  # type: ignore[arg-type]
        start_from_encoder(network, g2d.unet, "encoder", "run")
    lvit = build_model(
        "lvit", size="nano", encoder="resnet18_nano", in_channels=1, text_merge="none", input_norm="none"
    ).eval()
    image = inputs()["image"]
    with torch.no_grad():
        plain = lvit.encode_image(image)
        lvit.encoder.input_norm = "image"
        assert not torch.allclose(plain[-1], lvit.encode_image(image)[-1])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"heads": 2}, ["heads"]),
        ({"input_norm": "none"}, ["input_norm"]),
        ({"text_pool": "mean"}, ["text_pool"]),
        ({"encoder": "resnet18_mini"}, ["model.encoder"]),
        ({"pool_stride": 4, "pool_deeper": False}, ["pool_stride", "pool_deeper"]),
    ],
)
def test_a_pre_training_goes_on_with_the_same_options_only(options: dict[str, Any], names: list[str]) -> None:
    """Also those that show in no tensor's shape."""
    fault = refused(lambda: continue_from(make(**options), make(), "run"))
    assert fault.kind == FaultKind.MISMATCH and all(f"{name}: " in fault.what for name in names)
    assert fault.what.count(": ") == len(names)


def test_a_pre_training_goes_on_at_another_image_size() -> None:
    """The learned positions are interpolated, as they are for an image of another size."""
    torch.manual_seed(1)
    other, network = make(), G2D("resnet18_nano", text_dim=12, projection_dim=16, image_size=(96, 128)).eval()
    assert continue_from(network, other, "run").endswith(", 0 are new")
    image = inputs(height=96, width=128)["image"]
    with torch.no_grad():
        assert torch.allclose(network.image_forward(image).pooled, other.image_forward(image).pooled, atol=1e-6)


def test_another_encoder_is_refused() -> None:
    """It says what to write for that of the pre-training."""
    lvit = build_model("lvit", size="nano", in_channels=1, text_merge="none")
    for network, encoder, words in (
        (
            build_model("encoder_unet", encoder="resnet18_mini", in_channels=1),
            "resnet18_nano",
            ["encoder=resnet18_nano"],
        ),
        (lvit, "resnet18_nano", ["model.encoder=resnet18_nano"]),
        (lvit, "ucnn_mini", ["model.encoder=ucnn_mini", "model.size=mini"]),
    ):
        fault = refused(lambda a=network, b=encoder: start_from_encoder(a, make(b).unet, "encoder", "run"))
        assert fault.kind == FaultKind.MISMATCH and all(word in str(fault.expected) for word in words)
    fault = refused(lambda: start_from_encoder(build_model("unet", size="nano"), make().unet, "encoder", "run"))
    assert fault.kind == FaultKind.UNSUPPORTED


def test_a_step_makes_fewer_flops_than_the_released_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/g2d_flops.py at full size, on tensors without content; the released step was counted as 168.9."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "g2d_flops.py"
    spec = importlib.util.spec_from_file_location("g2d_flops", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(SplitLayers, "_compare", lambda self: None)  # needs numbers; tests/text compares the halves
    bert = benchmark.bert

    def without_content() -> nn.Module:
        with torch.device("meta"):
            return bert()

    monkeypatch.setattr(benchmark, "bert", without_content)
    released = benchmark.released()
    assert released == pytest.approx(168.9, abs=0.1)
    assert released / benchmark.ours(benchmark.lengths_of(None, "text"), cached=False) >= 1.8
