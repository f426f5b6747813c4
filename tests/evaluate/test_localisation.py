"""medvl localise on a model that has nothing to look with."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvl.config import load_config
from medvl.data.records import load_manifest
from medvl.errors import InputError
from medvl.evaluate.localisation import localisation
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
    with pytest.raises(InputError, match=r"run: the model looks nowhere.*pool: average"):
        localisation(str(run), load_manifest(tiny_manifest), split="val", target="mask")
