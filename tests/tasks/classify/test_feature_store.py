"""Features of frozen encoders on disk: computed once, and never read for anything else than they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medvl.config import Config, DataConfig, ModelConfig
from medvl.data.class_labels import ClassDataset, class_labels
from medvl.data.records import load_manifest
from medvl.tasks.classify.feature_store import FeatureStore
from medvl.tasks.classify.learner import pooled_features
from medvl.tasks.classify.model import Classifier, build_classifier


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Six noise images of 32 px, and the configuration of a nano classifier."""
    rng = np.random.default_rng(0)
    rows = ["id,image,labels,patient,split"]
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        rows.append(f"c{i},{i}.png,{'a' if i % 2 else 'b'},p{i},train")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    data = DataConfig(manifest=str(tmp_path / "manifest.csv"), image_size=(32, 32), in_channels=1, normalize="none")
    model = ModelConfig("classifier", None, "resnet18_nano")
    return Config(task="classify", data=data, model=model)


class Counted(FeatureStore):
    """Keeps which images were asked for."""

    asked: list[int]

    def features(self, images: Sequence[Path], compute: object) -> np.ndarray:  # type: ignore[override]
        self.asked = []

        def counting(indices: Sequence[int]) -> np.ndarray:
            self.asked += list(indices)
            return compute(indices)  # type: ignore[operator]

        return super().features(images, counting)


def features(config: Config, module: Classifier, folder: Path, num: int = 6) -> tuple[np.ndarray, list[int]]:
    """Features of the first `num` images, and which of them were computed."""
    records = load_manifest(config.data.manifest).records[:num]
    dataset = ClassDataset(class_labels(records, ["a", "b"], config.classify), config.data, seed=0, train=False)
    store = Counted(folder, module, config, config.data)
    how = {"batch_size": 4, "num_workers": 0, "label": "x"}
    found = pooled_features(module, dataset, torch.device("cpu"), store=store, **how)
    plain = pooled_features(module, dataset, torch.device("cpu"), **how)
    np.testing.assert_allclose(found, plain, atol=1e-5)  # whatever the store did, they are the encoder's own
    return found, store.asked


def test_an_image_is_computed_once_whatever_part_of_the_set_is_asked_for(config: Config, tmp_path: Path) -> None:
    module = build_classifier(config, 2)
    part, asked = features(config, module, tmp_path / "store", 2)
    assert asked == [0, 1]
    whole, asked = features(config, module, tmp_path / "store")
    assert asked == [0, 2, 3, 4, 5]  # one is looked at anew, to see that the program computes what it did
    np.testing.assert_array_equal(whole[:2], part)
    again, asked = features(config, module, tmp_path / "store")
    assert asked == [0] and np.array_equal(again, whole)
    with torch.no_grad():
        module.network.head.weight.add_(1)  # no feature passes through the head
    assert features(config, module, tmp_path / "store")[1] == [0]
    other = replace(config.data, label_fraction=0.5, label_by="image", balance="siim", boxes_from="masks")
    assert features(replace(config, data=other), module, tmp_path / "store")[1] == [0]  # the same pixels
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_what_differs_in_encoder_reading_or_image_is_another_feature(config: Config, tmp_path: Path) -> None:
    module, folder = build_classifier(config, 2), tmp_path / "store"
    features(config, module, folder)
    stretched = replace(config, data=replace(config.data, resize="letterbox"))
    assert features(stretched, module, folder)[1] == list(range(6))
    with torch.no_grad():  # a running statistic counts, for the encoder is in eval mode
        next(b for name, b in module.network.named_buffers() if name.endswith("running_mean")).add_(0.1)
    assert features(config, module, folder)[1] == list(range(6))
    assert len(list(folder.iterdir())) == 3
    Image.fromarray(np.full((32, 32), 9, dtype=np.uint8)).save(tmp_path / "3.png")
    assert features(config, module, folder)[1] == [0, 3]


def test_features_of_another_state_of_the_program_are_thrown_away(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, folder = build_classifier(config, 2), tmp_path / "store"
    features(config, module, folder)
    (path,) = folder.iterdir()
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path.open("wb"), **{**content, "features": content["features"] + 1})
    assert features(config, module, folder)[1] == [0, *range(6)]
    assert "made anew" in capsys.readouterr().err
    path.write_bytes(b"broken")
    assert features(config, module, folder)[1] == list(range(6))
