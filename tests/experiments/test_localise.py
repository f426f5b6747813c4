"""medvl x localise on a model that has nothing to look with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faults import refused
from typer.testing import CliRunner

from medvl.cli import app
from medvl.config import DataConfig, load_config, make_config
from medvl.data.dataset import SegmentDataset
from medvl.data.masks import read_mask
from medvl.data.records import load_manifest
from medvl.experiments.localise import _maps
from medvl.train.run import train


@pytest.mark.parametrize("decoder", ["none", "reconstruction"])
def test_a_model_without_attention_looks_nowhere(tiny_manifest: Path, tmp_path: Path, decoder: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "task: pretrain\n"
        f"data: {{manifest: {tiny_manifest}, laterality: patient, image_size: [64, 64], in_channels: 1}}\n"
        "text: {dim: 32}\n"
        "model: {size: nano, options: {projection_dim: 32, pool: average}}\n"
        f"pretrain: {{decoder: {decoder}, same_is_no_negative: false, num_panels: 0}}\n"
        "train: {max_steps: 1, batch_size: 4, accelerator: cpu}\n"
    )
    run = train(load_config(recipe), tmp_path / "run")
    other = tiny_manifest.parent / "names.csv"  # read by the command line, with names of its own
    other.write_text(tiny_manifest.read_text().replace("id,image,text", "id,Path,Report", 1))
    words = ["x", "localise", str(run), str(other), "data.columns={image: Path, text: Report}"]
    with refused("unsupported"):
        raise CliRunner().invoke(app, words).exception


def test_the_id_is_that_of_the_row_that_was_scored(tiny_manifest: Path) -> None:
    """Of an image's two rows one is drawn: its mask, its id."""
    data = DataConfig(laterality="patient", image_size=(48, 40), in_channels=1, val_phrases_per_image=1)
    rows = load_manifest(tiny_manifest).split("val")
    dataset = SegmentDataset(rows, ("mask",), data, seed=0, train=False, body=True)
    silent = SimpleNamespace(attention=None, mask_logits=None)
    network = SimpleNamespace(image_forward=lambda image: silent)
    task: Any = SimpleNamespace(
        config=make_config({"task": "pretrain"}), module=SimpleNamespace(network=network, eval=lambda: None)
    )
    maps = _maps(task, dataset)
    by_id = {row.id: row for row in rows}
    assert len(maps) == 4 and {found["id"] for found in maps} != {rows[2 * i].id for i in range(4)}
    for found in maps:
        row = by_id[found["id"]]
        mask = row.masks["mask"]
        assert mask is not None and mask.path is not None
        np.testing.assert_array_equal(found["target"], read_mask(mask.path, mask.values))
        assert (found["patient"], found["split"]) == (row.patient, "val")
