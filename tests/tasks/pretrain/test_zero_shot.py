"""Zero-shot grounding and classification: exact on a network whose vectors are known, and whole on a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from faults import refused
from PIL import Image
from torch import Tensor

from medvl.cli import app
from medvl.config import Config, load_config, make_config
from medvl.core.task import find_task
from medvl.data.dataset import prepare
from medvl.data.geometry import fit
from medvl.data.images import read_image
from medvl.tasks.pretrain.grounding import patient_halves
from medvl.tasks.pretrain.zero_shot import ZeroShot, largest_box, smooth, upsample, write_similarity
from medvl.tasks.pretrain.zero_shot_classification import _chosen
from medvl.text.prompts import PromptPair, load_prompts
from medvl.train.run import train

Grid = tuple[int, int]
TEXTS = {"x": (1.0, 0.0), "y": (0.0, 3.0), "xy": (2.0, 2.0), "-x": (-1.0, 0.0), "": (1.0, 1.0)}


class KnownNetwork:
    """Cells and pooled vector are given; `calls` counts what was asked of it."""

    def __init__(self, cells: Tensor, padded: Grid, pooled: tuple[float, float] = (0.6, 0.8)) -> None:
        self.cells, self.pooled = cells, torch.tensor([pooled])
        self.unet = SimpleNamespace(padded_size=lambda height, width: padded)
        self.attention_pool: object | None = object()
        self.calls: list[Any] = []

    def locate(self, image: Tensor, how: str) -> tuple[Tensor, Grid]:
        self.calls.append((tuple(image.shape), how))
        d, h, w = self.cells.shape
        return self.cells.reshape(1, d, h * w).transpose(1, 2) * (1.0 if how == "value" else -1.0), (h, w)

    def image_forward(self, image: Tensor, *, decode: bool) -> Any:
        assert not decode
        self.calls.append("image")
        return SimpleNamespace(pooled=self.pooled)

    def text_forward(self, features: Tensor, mask: Tensor) -> Tensor:
        self.calls.append(len(features))
        return features[:, 0]


class KnownEncoder:
    prefix_frozen, max_tokens = False, 9

    def tokenize(self, texts: Sequence[str]) -> Any:
        ids = torch.tensor([list(TEXTS).index(text) if text in TEXTS else 0 for text in texts])[:, None]
        return SimpleNamespace(ids=ids, mask=ids >= 0, num_truncated=sum(len(text) > 9 for text in texts))

    def unknown_words(self, texts: Sequence[str]) -> dict[str, int]:
        return {text: 1 for text in texts if text not in TEXTS}


class KnownModule:
    context = None

    def __init__(self, network: KnownNetwork) -> None:
        self.network = network

    def eval(self) -> KnownModule:
        return self

    def to(self, device: object) -> KnownModule:
        return self

    def text_features(self, ids: Tensor, mask: Tensor, context: None) -> tuple[Tensor, Tensor]:
        return torch.tensor(list(TEXTS.values()))[ids], mask  # (n, 1, 2)


def known(cells: Any, size: Grid, *, padded: Grid | None = None, resize: str = "stretch", **more: Any) -> ZeroShot:
    """A model of `size` pixels whose cells are the vectors of `cells` (2, h, w)."""
    config = make_config({"task": "pretrain", "data": {"image_size": list(size), "in_channels": 1, "resize": resize}})
    network = KnownNetwork(torch.as_tensor(np.asarray(cells), dtype=torch.float32), padded or size, **more)
    return ZeroShot(KnownModule(network), KnownEncoder(), config, {})  # type: ignore[arg-type]


def turning(height: int, width: int) -> Any:
    """Vectors whose cosine with "x" is any chosen map: (cosine map) -> (2, h, w) at it, of length 5."""
    rng = np.random.default_rng(3)
    cosine = rng.uniform(-1, 1, (height, width)).astype(np.float32)
    return cosine, 5 * np.stack([cosine, np.sqrt(1 - cosine**2)])


def test_the_similarity_is_the_cosine_of_each_cell_with_the_phrase() -> None:
    cosine, cells = turning(4, 6)
    model = known(cells, (4, 6)).set_image(np.zeros((4, 6), np.uint8))
    found = model.ground("x", sigma=0)
    np.testing.assert_allclose(found.similarity_map, cosine, atol=1e-6)
    np.testing.assert_allclose(model.ground("-x", sigma=0).similarity_map, -cosine, atol=1e-6)
    np.testing.assert_allclose(model.ground("x", sigma=0, how="projector").similarity_map, -cosine, atol=1e-6)
    other = (cosine + np.sqrt(1 - cosine**2)) / np.sqrt(2)
    np.testing.assert_allclose(model.ground("xy", sigma=0).similarity_map, other, atol=1e-6)
    assert found.similarity_map.dtype == np.float32 and np.abs(found.similarity_map).max() <= 1
    assert found.mask is None and found.box is None and found.warnings == ()


def test_smoothing_is_gaussian_in_cells() -> None:
    grid = np.zeros((15, 17), np.float32)
    grid[7, 8] = 1
    places = np.arange(-6, 7)
    kernel = np.exp(-(places**2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    np.testing.assert_allclose(smooth(grid, 1.5)[1:14, 2:15], np.outer(kernel, kernel), atol=1e-6)
    assert np.array_equal(smooth(grid, 0), grid)
    assert np.allclose(smooth(np.full((3, 3), 0.25, np.float32), 1.5), 0.25)  # edges do not pull to zero
    with refused("out_of_range"):
        smooth(grid, -1)
    cells = np.stack([np.where(grid > 0, 1.0, 0.0), np.where(grid > 0, 0.0, 1.0)])
    whole = known(cells, (15, 17)).set_image(np.zeros((15, 17))).ground("x").similarity_map
    np.testing.assert_allclose(whole, smooth(grid, 1.5), atol=1e-6)  # 1.5 is the default


def test_cells_grow_bilinearly_and_padding_is_cut_off() -> None:
    grid = np.array([[0, 1], [2, 3]], np.float32)
    rows = np.array([0, 0.25, 0.75, 1])  # pixel centres between cell centres, constant beyond them
    expected = 2 * rows[:, None] + rows[None]
    np.testing.assert_allclose(upsample(grid, (4, 4), (4, 4)), expected, atol=1e-6)
    np.testing.assert_allclose(upsample(grid, (4, 4), (3, 2)), expected[:3, :2], atol=1e-6)
    cells = np.stack([grid / 3, np.sqrt(1 - (grid / 3) ** 2)])
    cut = known(cells, (3, 2), padded=(4, 4)).set_image(np.zeros((3, 2))).ground("x", sigma=0).similarity_map
    np.testing.assert_allclose(cut, expected[:3, :2] / 3, atol=1e-6)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_the_map_returns_to_the_native_grid(resize: str) -> None:
    """One hot cell; a 40 x 20 image in a 16 x 16 model: its centre comes back where the affine says."""
    cosine = np.zeros((16, 16), np.float32)
    cosine[4, 9] = 1
    cells = np.stack([cosine, 1 - cosine])
    model = known(cells, (16, 16), resize=resize).set_image(np.zeros((40, 20), np.uint8))
    found = model.ground("x", sigma=0, threshold=0.5)
    assert found.similarity_map.shape == (40, 20) and found.mask is not None and found.mask.shape == (40, 20)
    affine = fit((40, 20), (16, 16), resize)  # type: ignore[arg-type]
    x, y = np.linalg.inv(np.vstack([affine.matrix, (0, 0, 1)])) @ (9, 4, 1) @ np.eye(3)[:, :2]
    rows, columns = np.nonzero(found.mask)
    assert abs(rows.mean() - y) < 0.6 and abs(columns.mean() - x) < 0.6
    assert found.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_mask_and_box_of_the_largest_component() -> None:
    mask = np.zeros((9, 12), bool)
    mask[1:3, 1:3] = True
    mask[4:8, 6:11] = True
    mask[8, 5] = True  # touches by a corner: 8-connected
    assert largest_box(mask) == (5, 4, 11, 9)
    assert largest_box(np.zeros((3, 3), bool)) is None
    assert largest_box(np.ones((3, 4), bool)) == (0, 0, 4, 3)
    cosine = np.where(mask, 0.8, 0.3)
    model = known(np.stack([cosine, np.sqrt(1 - cosine**2)]), (9, 12)).set_image(np.zeros((9, 12)))
    found = model.ground("x", threshold=0.5, sigma=0)
    assert found.mask is not None and np.array_equal(found.mask, mask) and found.box == (5, 4, 11, 9)
    above = model.ground("x", threshold=0.9, sigma=0)
    assert above.mask is not None and not above.mask.any() and above.box is None
    assert "no place is above 0.9: the highest is 0.800" in above.warnings[0]


def test_probability_is_the_softmax_of_the_two_cosines() -> None:
    model = known(turning(2, 2)[1], (2, 2)).set_image(np.zeros((2, 2)))  # pooled (0.6, 0.8)
    prompts = {"a": PromptPair(("x",), ("y",)), "b": PromptPair(("x", "y"), ("-x",))}
    plain = model.classify(prompts, "none")
    assert plain["a"] == pytest.approx(np.exp(0.6) / (np.exp(0.6) + np.exp(0.8)), abs=1e-6)
    mean = 1.4 / np.sqrt(2)  # of x and y, each normalised first: y is three times as long
    assert plain["b"] == pytest.approx(np.exp(mean) / (np.exp(mean) + np.exp(-0.6)), abs=1e-6)
    sigma = model.config.pretrain.sigma
    assert model.classify(prompts)["a"] == pytest.approx(1 / (1 + np.exp(0.2 / sigma)), abs=1e-6)
    assert float(model.ensemble(["x", "y"]).norm()) == pytest.approx(1)


def test_image_and_texts_are_encoded_once() -> None:
    model = known(turning(2, 2)[1], (2, 2)).set_image(np.zeros((2, 2)))
    network: Any = model.module.network
    for _ in range(2):
        model.ground("x")
        model.classify({"a": PromptPair(("x", "xy"), ("y",)), "b": PromptPair(("xy",), ("-x",))})
    assert network.calls == [1, ((1, 1, 2, 2), "value"), "image", 3]  # "x" alone, then the three that were new
    model.set_image(np.ones((2, 2))).ground("y")
    assert len(network.calls) == 5


def test_what_a_user_must_know() -> None:
    model = known(turning(2, 2)[1], (2, 2)).set_image(np.zeros((2, 2)))
    assert "empty" in model.ground("").warnings[0]
    notes = model.ground("unheard-of opacity").warnings
    assert "never seen: unheard-of opacity" in notes[0] and "cut to 9 tokens" in notes[1]
    model.module.network.attention_pool = None
    assert "average pooling" in model.ground("x").warnings[0]
    assert model.ground("x", how="projector").warnings == ()


def test_errors() -> None:
    model = known(turning(2, 2)[1], (2, 2))
    for ask in (lambda: model.ground("x"), lambda: model.classify({}), lambda: model.image):
        with refused("too_early"):
            ask()
    model.set_image(np.zeros((2, 2)))
    with refused("out_of_range", naming="1.5"):
        model.ground("x", threshold=1.5)
    with refused("unknown"):
        model.ground("x", how="pooled")  # type: ignore[arg-type]
    with refused("unknown"):
        model.classify({}, "some")  # type: ignore[arg-type]


def test_the_picture_has_the_map_the_contour_and_the_box(tmp_path: Path) -> None:
    cosine = np.zeros((20, 30))
    cosine[5:15, 10:20] = 0.9
    model = known(np.stack([cosine, np.sqrt(1 - cosine**2)]), (20, 30)).set_image(np.full((20, 30), 0.5))
    write_similarity(tmp_path / "map.png", model.image, model.ground("x", threshold=0.5, sigma=0))
    picture = np.asarray(Image.open(tmp_path / "map.png")).astype(int)
    scale = picture.shape[1] // 30
    assert picture.shape == (20 * scale + 28, 30 * scale, 3)
    inside, outside = picture[10 * scale, 15 * scale], picture[2 * scale, 2 * scale]
    assert inside[0] > inside[2] and outside[2] > outside[0]  # red where it is high, blue where it is low
    assert (picture == (0, 255, 0)).all(axis=2).any() and list(tmp_path.iterdir()) == [tmp_path / "map.png"]


@pytest.fixture(scope="module")
def run(tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trained for two steps, on images whose side is no multiple of the stride."""
    folder = tmp_path_factory.mktemp("zero_shot")
    (folder / "recipe.yaml").write_text(
        "task: pretrain\n"
        f"data: {{manifest: {tiny_manifest}, laterality: patient, image_size: [72, 56], in_channels: 1}}\n"
        "text: {dim: 16}\n"
        "model: {size: nano, options: {projection_dim: 16}}\n"
        "pretrain: {warmup_steps: 1, num_panels: 0}\n"
        "train: {max_steps: 2, batch_size: 8, accelerator: cpu}\n"
    )
    return train(load_config(folder / "recipe.yaml"), folder / "run")


def test_a_trained_model_by_hand(run: Path, tiny_manifest: Path) -> None:
    film = tiny_manifest.parent / "i9.png"
    model = ZeroShot.load(run)
    found = model.set_image(film).ground("the right lung", threshold=0.0, sigma=0)
    assert found.similarity_map.shape == (48, 40) and found.mask is not None
    network, data = model.module.network, model.config.data
    affine = fit((48, 40), (72, 56))
    image = torch.from_numpy(prepare(affine.apply_image(read_image(film).as_channels(1)), data))[None]
    with torch.no_grad():
        cells, grid = network.locate(image)
        tokens = model.encoder.tokenize(["the right lung"])
        text = network.text_forward(model.module.encode_text(tokens.ids, tokens.mask), tokens.mask)  # (1, d)
        pooled = network.image_forward(image, decode=False).pooled
    cosine = F.cosine_similarity(cells[0], text, dim=1).reshape(1, 1, *grid)
    stride = network.unet.stride
    large = F.interpolate(cosine, scale_factor=float(stride), mode="bilinear", align_corners=False)[0, 0, :72, :56]
    np.testing.assert_allclose(found.similarity_map, affine.invert_map(large.numpy()), atol=1e-5)
    pair = load_prompts().prompts(["right_lung"])
    with torch.no_grad():
        tokens = model.encoder.tokenize(["right lung", "no right lung"])
        vectors = network.text_forward(model.module.encode_text(tokens.ids, tokens.mask), tokens.mask)
    gap = F.cosine_similarity(vectors, pooled, dim=1) / 0.07
    assert model.classify(pair)["right_lung"] == pytest.approx(float(gap.softmax(0)[0]), abs=1e-5)
    again = ZeroShot.load(run / "model").set_image(np.asarray(Image.open(film))).ground("the right lung", 0.0, 0)
    np.testing.assert_allclose(again.similarity_map, found.similarity_map, atol=1e-6)


def test_only_a_pre_trained_model_will_do(tmp_path: Path) -> None:
    for task in get_args(get_type_hints(Config)["task"]):  # every remedy names a verb of the command line
        words = find_task(task).usage("RUN").split()
        assert words[0] == "medvl" and words[1] in {command.name for command in app.registered_commands}
    with refused("unsupported", naming="medvl:lvit_regions"):
        ZeroShot.load("medvl:lvit_regions")
    with refused("missing_file"):
        ZeroShot.load(tmp_path / "absent")


def test_on_val_each_half_of_the_patients_is_decided_at_the_threshold_of_the_other() -> None:
    """Any case of the half that is drawn first scores higher: its own best threshold is no good for the other half."""
    patients = [f"p{i}" for i in range(8)]
    first = patient_halves(patients, 0)
    labels = np.array([[float(list(np.flatnonzero(first == side)).index(i) < 2)] for i, side in enumerate(first)])
    probs = 0.2 + 0.5 * first[:, None] + 0.1 * labels  # first half 0.8 and 0.7, second 0.3 and 0.2
    prompts = {"nodule": PromptPair(("nodule",), ("no nodule",))}
    manifest: Any = None  # asked for on other splits only
    found = _chosen(manifest, manifest, prompts, "val", "val", "model", (probs, labels, patients), ("f1",), 0)
    (rules,) = found.values()
    row = rules["max f1"]["by_class"]["nodule"]
    assert row["threshold"] == [pytest.approx(0.25), pytest.approx(0.75)]  # for the first half, for the second
    assert row["sensitivity"]["mean"] == 0.5 and row["specificity"]["mean"] == 0.5
