"""The released G2D's pseudo masks, bit for bit (see README.md here)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medvl.config.fidelity import preset_values
from medvl.config.sections import PseudoMaskConfig
from medvl.losses.pseudo_mask import pseudo_mask

GOLDEN = Path(__file__).parent / "g2d_mask_fixture.npz"
THRESHOLDS = {"quantil0.85": "p85", "quantil0.75": "p75", "median": "median", "mean": "mean"}


def released(**own: Any) -> PseudoMaskConfig:
    """The mask of `fidelity: released`, but for what a case varies."""
    preset = preset_values("released", method="g2d").items()
    mask = {key.removeprefix("pretrain.mask."): value for key, value in preset if key.startswith("pretrain.mask.")}
    return PseudoMaskConfig(**{**mask, **own})


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize(("grid", "side"), [(8, 256), (7, 224)])
@pytest.mark.parametrize("name", [*THRESHOLDS, "noagg_quantil0.85"])
def test_released_settings_give_the_released_masks(
    golden: dict[str, np.ndarray], name: str, grid: int, side: int
) -> None:
    config = released(aggregate=not name.startswith("noagg_"), threshold=THRESHOLDS[name.removeprefix("noagg_")])
    made = pseudo_mask(torch.from_numpy(golden[f"att_{grid}"]), (side, side), None, config)
    expected = golden[f"{name}_{grid}"]
    assert made.mask.dtype == torch.float32
    assert np.array_equal(made.mask.numpy(), expected.astype(np.float32))  # shapes too: one mask, or one per head
    assert made.valid.all()


def test_the_preset_is_the_program_as_it_was_released(golden: dict[str, np.ndarray]) -> None:
    """Nothing of it left to a case: the released default is the 85th percentile of the mean over the heads."""
    made = pseudo_mask(torch.from_numpy(golden["att_8"]), (256, 256), None, released())
    assert np.array_equal(made.mask.numpy(), golden["quantil0.85_8"].astype(np.float32))


def test_paper_threshold_adds_the_cell_of_the_percentile(golden: dict[str, np.ndarray]) -> None:
    """>= instead of >: 10 of 64 cells instead of 9 (reference notes, 2b)."""
    config = PseudoMaskConfig(upsample="nearest", body_mask=False, smooth="none")
    made = pseudo_mask(torch.from_numpy(golden["att_8"]), (256, 256), None, config)
    assert made.mask.mean(dim=(1, 2, 3)).tolist() == [10 / 64] * 4
    assert (made.mask.numpy() >= golden["quantil0.85_8"]).all()
