"""What the run that `init` names fixes, so that a recipe need not say it again.

A run of the same task and network fixes the sections `model` and `text` and how an image is fed; a pre-trained run
fixes the image encoder and how it is fed. What a recipe says stays: where it contradicts the run, training is refused
(see `weights/init.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvl.assets import SHIPPED
from medvl.core.task import find_task

if TYPE_CHECKING:
    from medvl.config.config import Config

G2D_PREFIX = "g2d:"
_UCNN = "ucnn_"  # the image encoder of a G2D on LViT's own contracting path: ucnn_SIZE


def init_config(tree: Mapping[str, Any]) -> Path | None:
    """config.yaml of the RUN or MODEL that `init` names; None where it names none, or nothing is open."""
    init, model, text = tree.get("init"), tree.get("model"), tree.get("text")
    if not isinstance(init, str) or not init or not isinstance(model, Mapping):
        return None
    if isinstance(text, Mapping) and {"name", "options"} <= set(model) and {"encoder", "dim", "layers"} <= set(text):
        return None  # a stored configuration has every key
    path = init.removeprefix(G2D_PREFIX)
    folder = Path(path)
    if path.startswith(SHIPPED):
        folder = Path(__file__).parents[1] / "assets" / path.removeprefix(SHIPPED)
    places = (folder / "config.yaml", folder / "model" / "config.yaml")
    return next((place for place in places if place.is_file()), None)  # weights:FILE is no folder


def has_network(run: Config, task: str, name: str | None) -> bool:
    """Whether a run is of this task, and of the network of that name (None: of any)."""
    return (run.task, run.model.name) == (task, name or run.model.name)


def fixed_by(run: Config, task: str, name: str) -> dict[str, Any]:
    """Dotted keys and values that a run fixes for a recipe of `task` with the network `name`."""
    fed = {f"data.{key}": getattr(run.data, key) for key in ("in_channels", "channel_order")}
    if has_network(run, task, name):
        values: dict[str, Any] = {f"model.{key}": value for key, value in run.model.keys.items() if key != "name"}
        values |= {f"model.options.{key}": value for key, value in run.model.options.items()}
        values |= {f"text.{key}": value for key, value in vars(run.text).items() if not key.startswith("_")}
        if "objective" in run.sections:
            values["objective.mode"] = run.objective.mode
        return {**values, **fed, "data.normalize": run.data.normalize}
    encoder = run.model.encoder
    if has_network(run, task, None) or encoder is None or not find_task(run.task).gives_encoder:
        return {}
    norm = run.model.options.get("input_norm", "image")
    if name == "lvit" and encoder.startswith(_UCNN):  # its own path is normalised by the configuration
        normalize = "zscore" if norm == "image" else "none"
        size = encoder.removeprefix(_UCNN)
        return {"model.encoder": "ucnn", "model.size": size, "data.normalize": normalize, **fed}
    if name not in ("lvit", "encoder_unet", "classifier", "yolo"):
        return {}
    return {"model.encoder": encoder, **fed, **({} if norm == "image" else {"model.options.input_norm": norm})}


@cache  # once, however often a configuration is read
def say_taken(init: str, taken: str) -> None:
    """Print which keys were taken from the run."""
    print(f"init {init} fixes {taken}", file=sys.stderr)
