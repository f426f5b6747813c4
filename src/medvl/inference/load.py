"""`medvl.load`: a trained model of any task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvl.config import load_config
from medvl.core.task import find_task
from medvl.inference.model_folder import find_model


def load(folder: str | Path, device: str = "cpu") -> Any:
    """A trained model, by its task, to be applied to images:

    | task | object | how it is used |
    | --- | --- | --- |
    | segment | `Predictor` | `.set_image(image).segment(text)` |
    | pretrain | `ZeroShot` | `.set_image(image).ground(text)`, `.classify(prompts)` |
    | classify | `ClassPredictor` | `.classify(image)` |
    | detect | `BoxPredictor` | `.detect(image)` |

    Args:
        folder: of a RUN or a MODEL, or the name of a model that ships with medvl, `medvl:lvit_regions`.
        device: cpu, cuda, cuda:0 or mps.

    Raises:
        InputError: no model folder, or a damaged one.
    """
    return find_task(load_config(find_model(folder) / "config.yaml").task).load(folder, device)
